"""A model and its processor from a folder or the Hub."""

import json
from pathlib import Path

import torch
from transformers import AutoModel, AutoProcessor

import cell2text  # noqa: F401  registers the classes
from modeling_cell2text import Cell2TextForConditionalGeneration, check_encoder_fits
from processing_cell2text import Cell2TextProcessor


def load_model(name: str, device: str) -> tuple[Cell2TextForConditionalGeneration, Cell2TextProcessor]:
    """Load a Cell2Text model onto a device.

    Raises
    ------
    ValueError
        If it is none, has no processor, or its encoder and its gene vocabulary do not belong together.
    """
    folder = Path(name)
    if folder.is_dir():
        config = folder / "config.json"
        if not config.is_file():
            raise ValueError(f"--model {name} is a folder without config.json: no model that can be loaded.")
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        if kind != "cell2text":
            raise ValueError(f"--model {name} is a {kind} model: expected one of Cell2Text.")
        if not (folder / "processor_config.json").is_file():
            raise ValueError(
                f"--model {name} has no processor: save it beside the model with processor.save_pretrained({name!r})."
            )
    elif name.startswith((".", "/")) or name.count("/") > 1:
        raise ValueError(f"--model {name} does not exist.")
    model = AutoModel.from_pretrained(name)
    processor = AutoProcessor.from_pretrained(name)
    check_encoder_fits(model.config.cell_config, processor)
    if model.config.num_cell_tokens != processor.num_cell_tokens:
        raise ValueError(
            f"--model {name}: the model makes {model.config.num_cell_tokens} features of a cell, its processor expects "
            f"{processor.num_cell_tokens}: they do not belong together."
        )
    return model.to(torch.device(device)).eval(), processor

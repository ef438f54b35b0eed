"""A model and its processor: from a folder, the Hub, or this package, which brings one."""

import json
import os
from pathlib import Path

import torch
from transformers import AutoModel, AutoProcessor

import cell2text  # noqa: F401  registers the classes
from assembly_cell2text import check_encoder_fits
from cell2text.errors import UserError
from cell2text.models import MINI, MINI_NAME
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor


def load(
    model: str | os.PathLike | None = None, device: str | None = None
) -> tuple[Cell2TextForConditionalGeneration, Cell2TextProcessor]:
    """Load a Cell2Text model and its processor, ready to describe cells.

    Parameters
    ----------
    model
        Folder or Hub id; the small model that ships with the package if left out, which needs no network.
    device
        Such as `cuda:1`; the best there is if left out.

    Returns
    -------
    The model, in evaluation mode, and its processor; both together are a `model` for :func:`cell2text.tl.describe`.

    Raises
    ------
    ValueError
        If it is no Cell2Text model, has no processor, or its encoder and its gene vocabulary do not belong together.
    """
    return load_model(None if model is None else os.fspath(model), device or default_device())


def default_device() -> str:
    """This process's own GPU, or the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def model_name(model: str | os.PathLike | None) -> str:
    """What a model is called in what it wrote."""
    return MINI_NAME if model is None else str(model)


def load_model(name: str | None, device: str) -> tuple[Cell2TextForConditionalGeneration, Cell2TextProcessor]:
    """Load a model onto a device; see :func:`load`."""
    if name is None:
        if not (MINI / "config.json").is_file():
            raise UserError("This installation of Cell2Text has lost its own model: install it again, or pass --model.")
        name = str(MINI)
    folder = Path(name)
    if folder.is_dir():
        config = folder / "config.json"
        if not config.is_file():
            raise UserError(f"--model {name} is a folder without config.json: no model that can be loaded.")
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        if kind != "cell2text":
            raise UserError(f"--model {name} is a {kind} model: expected one of Cell2Text.")
        if not (folder / "processor_config.json").is_file():
            raise UserError(
                f"--model {name} has no processor: save it beside the model with processor.save_pretrained({name!r})."
            )
    elif name.startswith((".", "/")) or name.count("/") > 1:
        raise UserError(f"--model {name} does not exist.")
    model = AutoModel.from_pretrained(name)
    if folder == MINI:  # what it wrote is to say whose it is, not where it was installed
        model.config._name_or_path = model.name_or_path = MINI_NAME
    processor = AutoProcessor.from_pretrained(name)
    check_encoder_fits(model.config.cell_config, processor)
    if model.config.num_cell_tokens != processor.num_cell_tokens:
        raise UserError(
            f"--model {name}: the model makes {model.config.num_cell_tokens} features of a cell, its processor expects "
            f"{processor.num_cell_tokens}: they do not belong together."
        )
    return model.to(torch.device(device)).eval(), processor

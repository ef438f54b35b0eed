"""What trains in a run, and what a run leaves behind."""

from pathlib import Path

import torch
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging
from trl import ModelConfig

from cell2text.training.arguments import Cell2TextArguments
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor


logger = logging.get_logger(__name__)


def apply_stage(model: Cell2TextForConditionalGeneration, args: Cell2TextArguments, model_args: ModelConfig) -> str:
    """Freeze what does not train, point LoRA at the language model, and return the stage's name."""
    stage = args.stage or ("lora" if model_args.use_peft else "full")
    if stage == "lora":
        model_args.use_peft = True
        model_args.lora_target_modules = model_args.lora_target_modules or lora_pattern(model)  # type: ignore[assignment]
        trained = ["projector"] if model.config.freeze_cell_encoder else ["projector", "cell_encoder"]
        model_args.lora_modules_to_save = model_args.lora_modules_to_save or trained
    elif stage == "projector":
        model.requires_grad_(False)
        model.model.freeze_cell_encoder()
        model.model.projector.requires_grad_(True)
    if stage != "lora":
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        logger.warning(f"Stage {stage}: {trainable:,} of {model.num_parameters():,} parameters train.")
    return stage


def lora_pattern(model: Cell2TextForConditionalGeneration) -> str:
    """A regular expression for all linear layers of the language model, and of nothing else."""
    modules = model.model.language_model.named_modules()
    names = {name.rsplit(".", 1)[-1] for name, module in modules if isinstance(module, (torch.nn.Linear, Conv1D))}
    return rf".*language_model\..*\.({'|'.join(sorted(names))})"


def save_base(model, processor: Cell2TextProcessor, model_args: ModelConfig, folder: Path, training_args) -> None:
    """Save what an adapter is an adapter of, unless it was loaded from a place of its own."""
    if model.config._name_or_path and Path(model.config._name_or_path) == Path(model_args.model_name_or_path or ""):
        return
    if training_args.process_index == 0:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    model.config._name_or_path = model.name_or_path = str(folder)


def save_final(trainer, processor: Cell2TextProcessor) -> Cell2TextForConditionalGeneration:
    """Save a model that loads with `AutoModel` into the output folder, its adapter beside it, and return the model."""
    output_dir = trainer.args.output_dir
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        trainer.save_model(str(Path(output_dir, "adapter")))
        model = model.merge_and_unload()
        if trainer.args.should_save:
            model.save_pretrained(output_dir)
            processor.save_pretrained(output_dir)
    else:
        trainer.save_model(output_dir)
    return model

"""What trains in a run, and what a run leaves behind."""

from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from transformers.initialization import no_init_weights
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


def is_sharded(trainer) -> bool:
    """Whether no rank holds the whole model: FSDP, DeepSpeed."""
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


def save_final(trainer, processor: Cell2TextProcessor) -> Cell2TextForConditionalGeneration | None:
    """Save a model that loads with `AutoModel` into the output folder, its adapter beside it.

    All ranks call it, since a sharded model is gathered.

    Returns
    -------
    The whole model, its adapter merged, on the main rank; None on the others.
    """
    model = gathered_model(trainer) if is_sharded(trainer) else trainer.accelerator.unwrap_model(trainer.model)
    if not trainer.accelerator.is_main_process:
        return None
    output_dir = trainer.args.output_dir
    if isinstance(model, PeftModel):
        model.save_pretrained(str(Path(output_dir, "adapter")))
        processor.save_pretrained(str(Path(output_dir, "adapter")))
        model = model.merge_and_unload()
    model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    return model.to(trainer.args.device)


def gathered_model(trainer):
    """The whole of a sharded model on the main rank's CPU, as it was before it was cut; None on the other ranks."""
    state = trainer.accelerator.get_state_dict(trainer.deepspeed if trainer.is_deepspeed_enabled else trainer.model)
    if not trainer.accelerator.is_main_process:
        return None
    cut = trainer.accelerator.unwrap_model(trainer.model)
    plain = cut.get_base_model() if isinstance(cut, PeftModel) else cut
    with no_init_weights():
        whole = Cell2TextForConditionalGeneration(plain.config)
    whole.generation_config = plain.generation_config
    whole.name_or_path = plain.name_or_path
    if isinstance(cut, PeftModel):
        whole = get_peft_model(whole, cut.peft_config[cut.active_adapter])
    else:  # sharding made float32 copies of what trains
        state = {name: value.to(plain.config.dtype) for name, value in state.items()}
    whole.load_state_dict(state, assign=True)
    whole.tie_weights()
    return whole.eval()

"""What trains in a run, and what a run leaves behind."""

import shutil
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from transformers.initialization import no_init_weights
from transformers.integrations.liger import apply_liger_kernel
from transformers.pytorch_utils import Conv1D
from transformers.utils import is_liger_kernel_available
from trl import ModelConfig, get_peft_config

from cell2text.errors import UserError
from cell2text.training.arguments import Cell2TextArguments
from cell2text.training.checkpoints import is_sharded, saved_whole
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor


def apply_stage(model: Cell2TextForConditionalGeneration, args: Cell2TextArguments, model_args: ModelConfig) -> str:
    """Freeze what does not train, point LoRA at the language model, and return the stage's name.

    Raises
    ------
    ValueError
        If LoRA's target modules match nothing, or the encoder has not the layers that are to train.
    """
    stage = args.stage or ("lora" if model_args.use_peft else "full")
    encoder = ["cell_encoder"] if not model.config.freeze_cell_encoder else []
    if stage == "projector":
        model.requires_grad_(False)
        model.model.freeze_cell_encoder()
        model.model.projector.requires_grad_(True)
        encoder = []
    if args.unfreeze_encoder_layers:
        encoder = unfreeze_last_layers(model, args.unfreeze_encoder_layers)
    if stage == "lora":
        model_args.use_peft = True
        model_args.lora_target_modules = model_args.lora_target_modules or lora_pattern(model)  # type: ignore[assignment]
        model_args.lora_modules_to_save = model_args.lora_modules_to_save or ["projector", *encoder]
        check_lora_targets(model, model_args)
    return stage


def unfreeze_last_layers(model: Cell2TextForConditionalGeneration, n_layers: int) -> list[str]:
    """Train the encoder's last layers, of those that the projected states pass, and return the layers' names."""
    encoder, layer = model.model.cell_encoder, model.config.cell_feature_layer
    depth = encoder.config.num_hidden_layers
    stacks = [
        (name, part)
        for name, part in encoder.named_modules()
        if isinstance(part, torch.nn.ModuleList) and len(part) == depth
    ]
    used = layer if layer >= 0 else depth + 1 + layer
    if not stacks or not 0 < n_layers <= used:
        raise UserError(
            f"unfreeze_encoder_layers={n_layers}: the encoder has {depth} layers, and its states are taken after "
            f"{used} of them (cell_feature_layer={layer})."
        )
    name, stack = stacks[0]
    model.model.freeze_cell_encoder(False)
    encoder.requires_grad_(False)
    chosen = range(used - n_layers, used)
    for i in chosen:
        stack[i].requires_grad_(True)
    return [f"cell_encoder.{name}.{i}" for i in chosen]


def check_lora_targets(model: Cell2TextForConditionalGeneration, model_args: ModelConfig) -> None:
    config = get_peft_config(model_args)
    linear = [name for name, module in model.named_modules() if isinstance(module, (torch.nn.Linear, Conv1D))]
    if not any(check_target_module_exists(config, name) for name in linear):
        kinds = sorted({name.rsplit(".", 1)[-1] for name in linear if "language_model" in name})
        raise UserError(
            f"lora_target_modules={model_args.lora_target_modules} matches no linear layer of the model. The language "
            f"model's are called {', '.join(kinds)}; leave the option out for all of them."
        )


def lora_pattern(model: Cell2TextForConditionalGeneration) -> str:
    """A regular expression for all linear layers of the language model, and of nothing else."""
    modules = model.model.language_model.named_modules()
    names = {name.rsplit(".", 1)[-1] for name, module in modules if isinstance(module, (torch.nn.Linear, Conv1D))}
    return rf".*language_model\..*\.({'|'.join(sorted(names))})"


def use_liger_kernels(model: Cell2TextForConditionalGeneration, options: dict | None) -> None:
    """Liger's Triton kernels in the language model's layers; the head and the loss stay TRL's.

    Raises
    ------
    ValueError
        If they are not installed.
    """
    if not is_liger_kernel_available():
        raise UserError("--use_liger_kernel needs Liger's kernels, and a GPU: pip install liger-kernel.")
    apply_liger_kernel(model.model.language_model, {**(options or {}), "fused_linear_cross_entropy": False})


def save_base(model, processor: Cell2TextProcessor, model_args: ModelConfig, folder: Path, training_args) -> None:
    """Save what an adapter is an adapter of, unless it was loaded from a place of its own."""
    found, wanted = model.config._name_or_path, model_args.model_name_or_path
    loaded = found and wanted and Path(found) == Path(wanted)
    if training_args.process_index == 0:
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier run
    if loaded:
        return
    if training_args.process_index == 0:
        with saved_whole(folder) as partial:
            model.save_pretrained(partial)
            processor.save_pretrained(partial)
    model.config._name_or_path = model.name_or_path = str(folder)


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
    output_dir = Path(trainer.args.output_dir)
    if isinstance(model, PeftModel):
        with saved_whole(output_dir / "adapter") as folder:
            model.save_pretrained(str(folder))
            processor.save_pretrained(str(folder))
        model = model.merge_and_unload()
    with saved_whole(output_dir) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
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

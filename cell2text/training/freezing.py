"""Freeze what a run does not train, and select the layers that LoRA adapts."""

import torch
from peft.tuners.tuners_utils import check_target_module_exists
from transformers.integrations.liger import apply_liger_kernel
from transformers.pytorch_utils import Conv1D
from transformers.utils import is_liger_kernel_available
from trl import ModelConfig, get_peft_config

from cell2text.errors import UserError
from cell2text.training.arguments import Cell2TextArguments
from modeling_cell2text import Cell2TextForConditionalGeneration


def apply_stage(model: Cell2TextForConditionalGeneration, args: Cell2TextArguments, model_args: ModelConfig) -> str:
    """Freeze the parts that do not train, select LoRA's layers, and return the name of the stage.

    Raises
    ------
    UserError
        If LoRA's target modules match no layer, or the encoder has fewer layers than should train.
    """
    stage = args.stage or ("lora" if model_args.use_peft else "full")
    trained_encoder = ["cell_encoder"] if not model.config.freeze_cell_encoder else []
    if stage == "projector":
        model.requires_grad_(False)
        model.model.freeze_cell_encoder()
        model.model.projector.requires_grad_(True)
        trained_encoder = []
    if args.unfreeze_encoder_layers:
        trained_encoder = _unfreeze_last_layers(model, args.unfreeze_encoder_layers)
    if stage == "lora":
        model_args.use_peft = True
        model_args.lora_target_modules = model_args.lora_target_modules or lora_pattern(model)  # type: ignore[assignment]
        model_args.lora_modules_to_save = model_args.lora_modules_to_save or ["projector", *trained_encoder]
        _check_lora_targets(model, model_args)
    return stage


def _unfreeze_last_layers(model: Cell2TextForConditionalGeneration, n_layers: int) -> list[str]:
    """Train the last encoder layers below `cell_feature_layer`, freeze the rest, and return the layers' names."""
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
            f"unfreeze_encoder_layers={n_layers}: the encoder has {depth} layers, and its states are read after "
            f"{used} of them (cell_feature_layer={layer}). Pass a number from 1 to {used}."
        )
    name, stack = stacks[0]
    model.model.freeze_cell_encoder(False)
    encoder.requires_grad_(False)
    chosen = range(used - n_layers, used)
    for i in chosen:
        stack[i].requires_grad_(True)
    return [f"cell_encoder.{name}.{i}" for i in chosen]


def _check_lora_targets(model: Cell2TextForConditionalGeneration, model_args: ModelConfig) -> None:
    config = get_peft_config(model_args)
    linear = [name for name, module in model.named_modules() if isinstance(module, (torch.nn.Linear, Conv1D))]
    if not any(check_target_module_exists(config, name) for name in linear):
        kinds = sorted({name.rsplit(".", 1)[-1] for name in linear if "language_model" in name})
        raise UserError(
            f"lora_target_modules={model_args.lora_target_modules} matches no linear layer of the model. The language "
            f"model's layers are called {', '.join(kinds)}. Omit the option to adapt all of them."
        )


def lora_pattern(model: Cell2TextForConditionalGeneration) -> str:
    """Return a regular expression that matches every linear layer of the language model and nothing else."""
    modules = model.model.language_model.named_modules()
    names = {name.rsplit(".", 1)[-1] for name, module in modules if isinstance(module, (torch.nn.Linear, Conv1D))}
    return rf".*language_model\..*\.({'|'.join(sorted(names))})"


def use_liger_kernels(model: Cell2TextForConditionalGeneration, options: dict | None) -> None:
    """Use Liger's Triton kernels in the language model's layers. The output head and the loss remain TRL's.

    Raises
    ------
    UserError
        If Liger is not installed.
    """
    if not is_liger_kernel_available():
        raise UserError("use_liger_kernel=True needs Liger's kernels and a GPU: pip install liger-kernel.")
    apply_liger_kernel(model.model.language_model, {**(options or {}), "fused_linear_cross_entropy": False})

"""Estimate the memory of a run, and advise what to change when it is exhausted."""

import torch
from trl import ModelConfig, SFTConfig

from cell2text.training.arguments import Cell2TextArguments


UNTRAINED_COPY = ".original_module."  # PEFT's copy of a module before training
# Values per trained weight that an optimizer stores, in the precision of the weight; Adam's two for any other
# optimizer.
OPTIMIZER_STATES = {"8bit": 0.5, "sgd": 0.0, "adafactor": 0.0, "lion": 1.0, "rmsprop": 1.0, "adagrad": 1.0}
GIB = 2**30


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports exhausted memory, on a GPU or a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def static_bytes(model: torch.nn.Module, optimizer: str) -> tuple[int, int, int]:
    """Return the bytes of the weights, of the gradients of trained weights, and of the optimizer's states."""
    per_weight = next((states for name, states in OPTIMIZER_STATES.items() if name in str(optimizer).lower()), 2.0)
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    trained = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    return weights, trained, int(per_weight * trained)


def memory_advice(
    model, shapes: dict[str, tuple[int, ...]], args: Cell2TextArguments, training_args: SFTConfig,
    model_args: ModelConfig,
) -> str:  # fmt: skip
    """Return what used the memory, and the options that reduce it, most useful first.

    Parameters
    ----------
    shapes
        Shapes of the tensors in the batch that did not fit; empty if no batch was reached.
    """
    weights, gradients, states = static_bytes(model, training_args.optim)
    training = gradients + states
    batch = training_args.per_device_train_batch_size
    shown = f" ({', '.join(f'{name} {tuple(shape)}' for name, shape in shapes.items())})" if shapes else ""
    lines = [
        f"Out of memory. Weights {weights / GIB:.2f} GiB, gradients and optimizer {training / GIB:.2f} GiB; the rest "
        f"are activations of {batch} rows{shown}."
    ]
    if torch.cuda.is_available() and not training_args.use_cpu:
        free, total = torch.cuda.mem_get_info()
        lines[0] += f" The device has {total / GIB:.1f} GiB, {free / GIB:.1f} free."
    options = _smaller_options(model, args, training_args, model_args, training / GIB)
    return "\n".join([*lines, "Any of these options helps:", *(f"  {line}" for line in options)])


def _smaller_options(
    model, args: Cell2TextArguments, training_args: SFTConfig, model_args: ModelConfig, training_gib: float
) -> list[str]:
    batch, steps = training_args.per_device_train_batch_size, training_args.gradient_accumulation_steps
    options = []
    if batch % 2 == 0:
        options.append(
            f"--per_device_train_batch_size {batch // 2} --gradient_accumulation_steps {2 * steps}: half the "
            "activations, the same training"
        )
    if not training_args.activation_checkpointing:
        options.append("--activation_checkpointing true: activations of one layer at a time, about a third slower")
    if not training_args.bf16 and not training_args.fp16:
        options.append("--bf16 true: half the activations")
    if not model.config.freeze_cell_encoder:
        options.append("--freeze_cell_encoder true: no gradients of the encoder")
    elif model.config.projector_type == "mlp" and not args.cache_cell_states:
        options.append("--cache_cell_states true: the encoder does not run during training")
    if not model_args.use_peft:
        options.append(f"--stage lora: saves most of the {training_gib:.2f} GiB of gradients and optimizer")
    if training_args.world_size > 1:
        options.append("accelerate launch --config_file configs/accelerate/fsdp2.yaml: shards weights and states")
    options.append(f"--max_genes below {args.max_genes or 2048}: shorter cells, on data prepared with that maximum")
    return options

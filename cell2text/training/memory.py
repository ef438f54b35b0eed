"""What a run needs of memory, in numbers, and what to change when there is not enough."""

import torch
from trl import ModelConfig, SFTConfig

from cell2text.training.arguments import Cell2TextArguments


ORIGINAL = ".original_module."  # PEFT's copy of a part before training, which is not used
# Values that an optimiser keeps for every trained weight, in the weight's own precision; Adam's two for any other.
OPTIMISER_STATES = {"8bit": 0.5, "sgd": 0.0, "adafactor": 0.0, "lion": 1.0, "rmsprop": 1.0, "adagrad": 1.0}
GIB = 2**30


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says so, on a GPU or on a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def static_bytes(model: torch.nn.Module, optimiser: str) -> tuple[int, int, int]:
    """Bytes of the weights, of the gradients of those that train, and of the optimiser's states."""
    kept = next((states for name, states in OPTIMISER_STATES.items() if name in str(optimiser).lower()), 2.0)
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    trained = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    return weights, trained, int(kept * trained)


def advice(
    model, shapes: dict[str, tuple[int, ...]], args: Cell2TextArguments, training_args: SFTConfig,
    model_args: ModelConfig,
) -> str:  # fmt: skip
    """What took the memory, and what to change, most useful first.

    Parameters
    ----------
    shapes
        Of the tensors of the batch that did not fit; empty where none was reached.
    """
    weights, gradients, states = static_bytes(model, training_args.optim)
    training = gradients + states
    batch, steps = training_args.per_device_train_batch_size, training_args.gradient_accumulation_steps
    lines = [
        f"Out of memory. Weights {weights / GIB:.2f} GiB, gradients and optimiser {training / GIB:.2f} GiB; the "
        f"rest are activations of {batch} rows"
        + (f" ({', '.join(f'{name} {tuple(shape)}' for name, shape in shapes.items())})." if shapes else ".")
    ]
    if torch.cuda.is_available() and not training_args.use_cpu:
        free, total = torch.cuda.mem_get_info()
        lines[0] += f" The device has {total / GIB:.1f} GiB, {free / GIB:.1f} free."
    tried = []
    if batch % 2 == 0:
        tried.append(
            f"--per_device_train_batch_size {batch // 2} --gradient_accumulation_steps {2 * steps}: half the "
            "activations, the same training"
        )
    if not training_args.gradient_checkpointing:
        tried.append("--gradient_checkpointing true: activations of one layer at a time, about a third slower")
    if not training_args.bf16 and not training_args.fp16:
        tried.append("--bf16 true: half the activations")
    if not model.config.freeze_cell_encoder:
        tried.append("--freeze_cell_encoder true: no gradients of the encoder")
    elif model.config.projector_type == "mlp" and not args.cache_cell_states:
        tried.append("--cache_cell_states true: the encoder is not run at all")
    if not model_args.use_peft:
        tried.append(f"--stage lora: most of the {training / GIB:.2f} GiB of gradients and optimiser")
    if training_args.world_size > 1:
        tried.append("--config_file configs/accelerate/fsdp2.yaml: weights and states cut over the ranks")
    tried.append(f"--max_genes below {args.max_genes or 2048}: shorter cells, on data prepared so")
    return "\n".join([*lines, "Any of these helps:", *(f"  {line}" for line in tried)])

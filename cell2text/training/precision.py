"""Choose the precision that the machine computes in, before TRL and transformers check it.

TRL's configurations default to bfloat16 and raise on a machine without a GPU. The classes here are the scripts'
versions of `SFTConfig`, `GRPOConfig` and `TrainingArguments`. They differ in the default of `bf16`, and for GRPO in
dropout and the length of texts.
"""

import logging
from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available
from trl import GRPOConfig, SFTConfig

from cell2text.errors import UserError


logger = logging.getLogger(__name__)

BF16_HELP = "Train in bfloat16. Default: true if the GPU supports it, otherwise float32."


@dataclass
class SFTArguments(SFTConfig):
    """TRL's `SFTConfig` with a precision that the machine supports."""

    bf16: bool | None = field(default=None, metadata={"help": BF16_HELP})  # type: ignore[assignment]

    def __post_init__(self):
        _choose_precision(self)
        _use_new_names(self)
        super().__post_init__()


@dataclass
class GRPOArguments(GRPOConfig):
    """TRL's `GRPOConfig` with a precision that the machine supports, without dropout, for texts of moderate length."""

    bf16: bool | None = field(default=None, metadata={"help": BF16_HELP})  # type: ignore[assignment]
    disable_dropout: bool = field(
        default=True, metadata={"help": "Sample and score texts without dropout, so that both see the same model."}
    )
    max_completion_length: int | None = field(default=160, metadata={"help": "Maximum number of tokens of a text."})

    def __post_init__(self):
        _choose_precision(self)
        _use_new_names(self)
        super().__post_init__()


@dataclass
class EncoderTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments` with a precision that the machine supports."""

    bf16: bool | None = field(default=None, metadata={"help": BF16_HELP})  # type: ignore[assignment]

    def __post_init__(self):
        _choose_precision(self)
        super().__post_init__()


def _use_new_names(args: SFTConfig | GRPOConfig) -> None:
    """Rename the option of gradient checkpointing: TRL sets transformers' old name, and every run would warn of it."""
    if args.activation_checkpointing is None:
        args.activation_checkpointing, args.gradient_checkpointing = args.gradient_checkpointing, None  # type: ignore[assignment]


def _choose_precision(args: TrainingArguments) -> None:
    """Fill in `bf16`.

    Raises
    ------
    UserError
        If bfloat16 is requested on a GPU that is missing or too old.
    """
    supported = is_torch_bf16_gpu_available()
    if args.bf16 and not args.use_cpu and not supported:
        raise UserError(
            "bf16=True needs a GPU that computes in bfloat16, and none was found: omit it to train in float32, or pass "
            "use_cpu=True to train in bfloat16 on the CPU."
        )
    if args.bf16 is None:
        args.bf16 = supported and not args.use_cpu and not args.fp16
        if not args.bf16 and not args.fp16:
            found = "on the CPU" if args.use_cpu else "since no GPU that computes in bfloat16 was found"
            logger.info("Precision: float32, %s.", found)

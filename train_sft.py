"""Fine-tune Cell2Text with TRL's SFTTrainer.

    accelerate launch train_sft.py                                           # the default run, minutes on a CPU
    accelerate launch train_sft.py --config configs/NAME.yaml [--key value]  # any other run

The run ends with a model that loads from its output folder, descriptions of the held-out cells and their evaluation.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cell2text.training.arguments import Cell2TextArguments
from cell2text.training.launch import parse, run_script


if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig

DEFAULT_CONFIG = Path(__file__).resolve().parent / "configs" / "default.yaml"


def main(args: Cell2TextArguments, training_args: "SFTConfig", model_args: "ModelConfig") -> None:
    """Train, and leave a model, its card and its evaluation in the output folder."""
    from cell2text.training.sft import finish, freeze, initialise, load, train

    run = load(args, training_args, model_args)
    initialise(run)
    freeze(run)
    trainer = train(run)
    finish(run, trainer)


def parse_arguments(argv: list[str]) -> tuple:
    """Parse options; without any, use the default configuration."""
    from trl import ModelConfig

    from cell2text.training.precision import SFTArguments

    return parse(argv or ["--config", str(DEFAULT_CONFIG)], (Cell2TextArguments, SFTArguments, ModelConfig))


if __name__ == "__main__":
    sys.exit(run_script("train_sft.py", str(__doc__), main, parse_arguments, Cell2TextArguments))

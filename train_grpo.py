"""Continue training with rewards that are computed from labels, the ontology and counts, with TRL's GRPOTrainer.

    accelerate launch train_grpo.py                                           # from the model of the default run
    accelerate launch train_grpo.py --config configs/NAME.yaml [--key value]  # any other run

The run starts from a model of train_sft.py and ends with a model that loads from its output folder.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cell2text.training.arguments import ReinforcementArguments
from cell2text.training.launch import parse, run_script


if TYPE_CHECKING:
    from trl import GRPOConfig, ModelConfig

DEFAULT_CONFIG = Path(__file__).resolve().parent / "configs" / "grpo.yaml"


def main(args: ReinforcementArguments, training_args: "GRPOConfig", model_args: "ModelConfig") -> None:
    """Train, and leave a model, its card and its evaluation in the output folder."""
    from cell2text.training.grpo import finish, load, train

    run = load(args, training_args, model_args)
    trainer = train(run)
    finish(run, trainer)


def parse_arguments(argv: list[str]) -> tuple:
    """Parse options; without any, use the default configuration."""
    from trl import ModelConfig

    from cell2text.training.precision import GRPOArguments

    return parse(argv or ["--config", str(DEFAULT_CONFIG)], (ReinforcementArguments, GRPOArguments, ModelConfig))


if __name__ == "__main__":
    sys.exit(run_script("train_grpo.py", str(__doc__), main, parse_arguments, ReinforcementArguments))

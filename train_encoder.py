"""Pretrain a cell encoder by masked-gene modelling, with transformers' Trainer.

    accelerate launch train_encoder.py --config configs/encoder.yaml [--key value]

The output folder is what `train_sft.py --cell_encoder` takes: weights in Geneformer's format and the gene vocabulary.
"""

import sys
from typing import TYPE_CHECKING

from cell2text.training.arguments import MaskedGeneArguments
from cell2text.training.launch import parse, run_script


if TYPE_CHECKING:
    from transformers import TrainingArguments


def main(args: MaskedGeneArguments, training_args: "TrainingArguments") -> None:
    """Pretrain, and leave an encoder, its vocabulary and its held-out loss in the output folder."""
    from cell2text.training.encoder_pretraining import finish, load, train

    run = load(args, training_args)
    trainer = train(run)
    finish(run, trainer)


def parse_arguments(argv: list[str]) -> tuple:
    """Parse options."""
    from cell2text.training.precision import EncoderTrainingArguments

    return parse(argv, (MaskedGeneArguments, EncoderTrainingArguments))


if __name__ == "__main__":
    sys.exit(run_script("train_encoder.py", str(__doc__), main, parse_arguments, MaskedGeneArguments))

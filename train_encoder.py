"""Pretrain a cell encoder by masked-gene modelling, with transformers' Trainer.

    accelerate launch train_encoder.py --config configs/encoder.yaml [--key value]

Leaves a folder for `train_sft.py --cell_encoder`: weights in Geneformer's format, and the vocabulary of the genes.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from transformers import TrainingArguments, set_seed
from trl import TrlParser

from cell2text.errors import UserError
from cell2text.files import write_atomically
from cell2text.training.arguments import MaskedGeneArguments
from cell2text.training.checkpoints import find_checkpoint
from cell2text.training.launch import destroy_process_group, run, use_threads
from cell2text.training.masked_gene_modeling import (
    EncoderTrainer,
    GeneMasker,
    cells_of,
    load_encoder,
    plain_encoder,
    without_context,
)
from cell2text.training.rows import (
    check_encoder_vocabulary,
    encoder_folder,
    has_vocabulary,
    load_rows,
    vocabulary_of,
)
from cell2text.training.saving import is_sharded, saved_whole


OPTIONS = (MaskedGeneArguments, TrainingArguments)


def main(args: MaskedGeneArguments, training_args: TrainingArguments) -> None:
    use_threads(args.cpu_threads)
    set_seed(training_args.seed)
    output_dir = Path(str(training_args.output_dir))
    training_args.remove_unused_columns, training_args.include_num_input_tokens_seen = False, "no"
    resume = find_checkpoint(training_args.resume_from_checkpoint, str(output_dir))
    if args.gene_vocab is None and has_vocabulary(args):
        args.gene_vocab = str(encoder_folder(args))
    with training_args.main_process_first(desc="preparing the data"):
        rows = load_rows(args, str(output_dir), prepares=training_args.local_process_index == 0)
    vocabulary = vocabulary_of(rows, args)
    check_encoder_vocabulary(args, vocabulary)
    max_genes = args.max_genes or vocabulary.max_genes
    model = load_encoder(args, vocabulary, max_genes)
    max_genes = min(max_genes, model.config.max_position_embeddings)
    train, held_out = (
        cells_of(part, max_genes)
        for part in (rows.train, rows.held_out if rows.validation is None else rows.validation)
    )
    trainer = EncoderTrainer(
        model=model,
        args=training_args,
        data_collator=GeneMasker(vocabulary, args.mask_share),
        eval_collator=GeneMasker(vocabulary, args.mask_share, seed=training_args.seed),
        train_dataset=train,
        eval_dataset=held_out,
    )
    if is_sharded(trainer):
        raise UserError("Sharding is not supported here, and an encoder needs none: use many_gpus.yaml.")
    trainer.train(resume_from_checkpoint=resume)
    found = trainer.evaluate()
    if trainer.accelerator.is_main_process:
        save(trainer.accelerator.unwrap_model(trainer.model), vocabulary, output_dir, max_genes)
        reached = {"loss": found["eval_gene_loss"], "guessed": found["eval_guessed"]}
        blind = without_context(train, held_out, vocabulary)
        metrics = {"held_out_cells": len(held_out), "encoder": reached, "without_context": blind}
        write_atomically(output_dir / "metrics.json", json.dumps(metrics, indent=1) + "\n")
        print(
            f"{output_dir}: of the hidden genes of {len(held_out):,} held-out cells {reached['guessed']:.1%} are "
            f"guessed (loss {reached['loss']:.3f}); without looking at a cell {blind['guessed']:.1%} (loss "
            f"{blind['loss']:.3f})."
        )
    destroy_process_group(trainer)


def save(model, vocabulary, folder: Path, max_genes: int) -> None:
    with saved_whole(folder) as partial:
        plain_encoder(model).save_pretrained(partial)
        replace(vocabulary, max_genes=max_genes).save_pretrained(partial)


def parse_arguments(argv: list[str]) -> tuple[MaskedGeneArguments, TrainingArguments]:
    parser = TrlParser(OPTIONS)  # type: ignore[arg-type]
    return parser.parse_args_and_config(argv)  # type: ignore[return-value]


if __name__ == "__main__":
    sys.exit(run("train_encoder.py", lambda: main(*parse_arguments(sys.argv[1:])), OPTIONS))

"""The steps of `train_encoder.py`: load, train, finish."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import Dataset
from transformers import TrainingArguments, set_seed

from cell2text.errors import UserError
from cell2text.files import write_atomically
from cell2text.training.arguments import MaskedGeneArguments
from cell2text.training.checkpoints import find_checkpoint
from cell2text.training.launch import destroy_process_group
from cell2text.training.masked_gene_modeling import (
    EncoderTrainer,
    GeneMasker,
    MaskedGeneModel,
    as_bert,
    cells_of,
    context_free_baseline,
    load_encoder,
)
from cell2text.training.rows import check_encoder_vocabulary, encoder_folder, has_vocabulary, load_rows, vocabulary_of
from cell2text.training.saving import is_sharded, saved_whole
from cell2text.training.threads import set_cpu_threads
from vocabulary_cell2text import GeneVocabulary


@dataclass
class EncoderRun:
    """Options and parts of a pretraining run.

    Parameters
    ----------
    checkpoint
        Checkpoint to resume; None starts from the beginning.
    max_genes
        Maximum gene tokens per cell.
    train, held_out
        Cells as `input_ids`.
    """

    args: MaskedGeneArguments
    training_args: TrainingArguments
    checkpoint: str | None
    vocabulary: GeneVocabulary
    max_genes: int
    model: MaskedGeneModel
    train: Dataset
    held_out: Dataset


def load(args: MaskedGeneArguments, training_args: TrainingArguments) -> EncoderRun:
    """Fix threads and seed, find the checkpoint to resume, and load cells, vocabulary and encoder."""
    output_dir = str(training_args.output_dir)
    training_args.remove_unused_columns, training_args.include_num_input_tokens_seen = False, "no"
    checkpoint = find_checkpoint(training_args.resume_from_checkpoint, output_dir)
    set_cpu_threads(args.cpu_threads, checkpoint if training_args.device.type == "cpu" else None)
    set_seed(training_args.seed)
    if args.gene_vocab is None and has_vocabulary(args):
        args.gene_vocab = str(encoder_folder(args))
    with training_args.main_process_first(desc="preparing the data"):
        rows = load_rows(args, output_dir, prepares=training_args.local_process_index == 0)
    vocabulary = vocabulary_of(rows, args)
    check_encoder_vocabulary(args, vocabulary)
    max_genes = args.max_genes or vocabulary.max_genes
    model = load_encoder(args, vocabulary, max_genes)
    max_genes = min(max_genes, model.config.max_position_embeddings)
    held_out = rows.held_out if rows.validation is None else rows.validation
    train, held_out = (cells_of(part, max_genes) for part in (rows.train, held_out))
    return EncoderRun(args, training_args, checkpoint, vocabulary, max_genes, model, train, held_out)


def train(run: EncoderRun) -> EncoderTrainer:
    """Train the encoder.

    Raises
    ------
    UserError
        If accelerate shards the model.
    """
    trainer = EncoderTrainer(
        model=run.model,
        args=run.training_args,
        data_collator=GeneMasker(run.vocabulary, run.args.mask_share),
        eval_collator=GeneMasker(run.vocabulary, run.args.mask_share, seed=run.training_args.seed),
        train_dataset=run.train,
        eval_dataset=run.held_out,
    )
    if is_sharded(trainer):
        raise UserError("An encoder is too small to shard: launch with configs/accelerate/many_gpus.yaml.")
    trainer.train(resume_from_checkpoint=run.checkpoint)
    return trainer


def finish(run: EncoderRun, trainer: EncoderTrainer) -> None:
    """Evaluate on the held-out cells, and save the encoder, its vocabulary and `metrics.json`."""
    figures = trainer.evaluate()
    if trainer.accelerator.is_main_process:
        output_dir = Path(str(run.training_args.output_dir))
        with saved_whole(output_dir) as partial:
            as_bert(trainer.accelerator.unwrap_model(trainer.model)).save_pretrained(partial)
            replace(run.vocabulary, max_genes=run.max_genes).save_pretrained(partial)
        encoder = {"loss": figures["eval_gene_loss"], "guessed": figures["eval_guessed"]}
        baseline = context_free_baseline(run.train, run.held_out, run.vocabulary)
        metrics = {"held_out_cells": len(run.held_out), "encoder": encoder, "without_context": baseline}
        write_atomically(output_dir / "metrics.json", json.dumps(metrics, indent=1) + "\n")
        print(
            f"{output_dir}: the encoder predicts {encoder['guessed']:.1%} of the masked genes of "
            f"{len(run.held_out):,} held-out cells (loss {encoder['loss']:.3f}). Gene frequencies alone predict "
            f"{baseline['guessed']:.1%} (loss {baseline['loss']:.3f})."
        )
    destroy_process_group(trainer)

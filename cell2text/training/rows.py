"""Load training rows: from files of counts, which are prepared first, or from a prepared data set."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
from datasets import Dataset, DatasetDict

from cell2text.errors import UserError
from cell2text.example import example_cells_path
from cell2text.paths import check_folder
from cell2text.preparation.run import prepare
from cell2text.prepared_rows import load_splits
from cell2text.training.arguments import Cell2TextArguments, DataArguments, EncoderArguments, ReinforcementArguments
from cell2text.training.row_columns import arrow_column, column_values
from prompts_cell2text import SYSTEM_PROMPT
from vocabulary_cell2text import VOCABULARY_FILE, GeneVocabulary


EXAMPLE_NAME = "example_cells"
COUNT_SUFFIXES = (".h5ad", ".zarr")


@dataclass
class TrainingRows:
    """Rows of a run, by split, and where they come from.

    Parameters
    ----------
    train, held_out
        Dataset rows.
    vocabulary
        Folder of the gene vocabulary that ranked the cells; None if the data set has none.
    files
        Files of counts that this run prepared the rows from; empty for a data set prepared before.
    report
        `report.json` of the preparation; None if the data set has none.
    validation
        Rows that may choose a checkpoint; never rows of the test. None if there are none. With `hold_out='validation'`
        they are the held-out rows.
    """

    train: Dataset
    held_out: Dataset
    vocabulary: Path | None
    files: list[str]
    report: dict | None = None
    validation: Dataset | None = None

    def texts(self) -> Iterable[str]:
        """Yield every prompt and completion of the training rows, to train a tokenizer on."""
        for column in ("prompt", "completion"):
            for messages in column_values(self.train, column):
                for message in messages:
                    yield from (block["text"] for block in message["content"] if block["text"])


def load_rows(args: DataArguments, output_dir: str, *, prepares: bool = True) -> TrainingRows:
    """Prepare or load the rows of `dataset`.

    Parameters
    ----------
    prepares
        Whether this process prepares files of counts. With several processes one does, before the others load.

    Raises
    ------
    UserError
        If `dataset` is empty, mixes files and data sets, or lacks a split.
    """
    if not args.dataset:
        raise UserError(
            "No training data: pass dataset='FILE.h5ad' (one or more h5ad or zarr files), one prepared data set (a "
            "folder or a Hub id), or dataset=example_cells."
        )
    files = [str(example_cells_path()) if name == EXAMPLE_NAME else name for name in args.dataset]
    if all(name.endswith(COUNT_SUFFIXES) for name in files):
        return _prepare_rows(files, args, Path(output_dir), prepares)
    if len(files) > 1:
        raise UserError(f"dataset mixes files of counts and data sets: {args.dataset}. Pass files, or one data set.")
    check_folder(files[0])
    dataset = load_splits(files[0])
    vocabulary = Path(files[0], "vocabulary")
    return _select_splits(dataset, args, vocabulary if vocabulary.is_dir() else None, [])


def _prepare_rows(files: list[str], args: DataArguments, output_dir: Path, prepares: bool) -> TrainingRows:
    """Prepare files of counts into the run's own folder."""
    folder = output_dir / "data"
    validation = args.test_share * (1 - args.test_share) if args.hold_out == "validation" else args.validation_share
    if prepares:
        prepare(
            files,
            folder,
            progress=False,
            layer=args.layer,
            gene_key=args.gene_key,
            allow_fractional=args.allow_fractional,
            gene_vocab=args.gene_vocab,
            max_genes=args.max_genes,
            gene_sets=args.gene_sets,
            split=args.split,
            stratify=list(args.stratify),
            shares={"train": 1 - args.test_share - validation, "validation": validation, "test": args.test_share},
            system_prompt=SYSTEM_PROMPT if args.system_prompt is None else args.system_prompt,
            seed=args.split_seed,
        )
    dataset = load_splits(str(folder), str(output_dir / "data_cache"))
    return _select_splits(dataset, args, folder / "vocabulary", files)


def _select_splits(dataset: DatasetDict, args: DataArguments, vocabulary: Path | None, files) -> TrainingRows:
    missing = {"train", args.hold_out} - set(dataset)
    if missing:
        raise UserError(
            f"The data set {args.dataset[0]!r} has the splits {sorted(dataset)} and lacks {sorted(missing)}."
        )
    empty = [name for name, rows in dataset.items() if name in ("train", "validation", args.hold_out) and not len(rows)]
    if empty:
        raise UserError(f"The data set {args.dataset[0]!r} has no row in {' and '.join(empty)}.")
    path = None if vocabulary is None else vocabulary.parent / "report.json"
    report = json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else None
    return TrainingRows(dataset["train"], dataset[args.hold_out], vocabulary, files, report, dataset.get("validation"))


def vocabulary_of(rows: TrainingRows, args: DataArguments) -> GeneVocabulary:
    """Return the gene vocabulary that ranked the cells.

    Raises
    ------
    UserError
        If neither the data set nor `gene_vocab` has one, or the two differ.
    """
    folder = args.gene_vocab if rows.vocabulary is None else rows.vocabulary
    if folder is None:
        raise UserError(
            "The data set has no folder `vocabulary`: pass the one that ranked its cells as gene_vocab='...'."
        )
    vocabulary = GeneVocabulary.from_pretrained(folder)
    if args.gene_vocab is not None and rows.vocabulary is not None:
        _check_same_genes(vocabulary, GeneVocabulary.from_pretrained(args.gene_vocab), f"gene_vocab={args.gene_vocab}")
    return vocabulary


def check_vocabulary(
    rows: TrainingRows, args: Cell2TextArguments | ReinforcementArguments, model_vocabulary: GeneVocabulary
) -> None:
    """Check that the gene tokens of the data mean the same genes to the model.

    Raises
    ------
    UserError
        If the vocabulary of the data set, or the one beside `cell_encoder`, differs from the model's; or a cell holds a
        token that the model's vocabulary lacks.
    """
    if rows.vocabulary is not None:
        _check_same_genes(GeneVocabulary.from_pretrained(rows.vocabulary), model_vocabulary, "the model")
    if isinstance(args, EncoderArguments):
        check_encoder_vocabulary(args, model_vocabulary)
    tokens = pc.list_flatten(pc.list_flatten(arrow_column(rows.train, "cells")))
    largest = pc.max(tokens).as_py() or 0
    if largest >= len(model_vocabulary):
        raise UserError(
            f"The cells hold the gene token {largest:,}, but the model's vocabulary has "
            f"{len(model_vocabulary):,} tokens: another vocabulary ranked them. Prepare the data with the model's: "
            "cell2text prepare --gene-vocab FOLDER."
        )


def encoder_folder(args: EncoderArguments) -> Path:
    """Return the folder of `cell_encoder`, its subfolder included."""
    return Path(args.cell_encoder or "", args.cell_encoder_subfolder or "")


def has_vocabulary(args: EncoderArguments) -> bool:
    """Return whether `cell_encoder` is a folder with its own gene vocabulary, as `train_encoder.py` writes it."""
    return args.cell_encoder is not None and (encoder_folder(args) / VOCABULARY_FILE).is_file()


def check_encoder_vocabulary(args: EncoderArguments, data: GeneVocabulary) -> None:
    """Raise a `UserError` if another vocabulary than the one beside `cell_encoder` ranked the data."""
    if has_vocabulary(args):
        encoder = GeneVocabulary.from_pretrained(encoder_folder(args))
        _check_same_genes(data, encoder, f"cell_encoder={args.cell_encoder}")


def _check_same_genes(data: GeneVocabulary, other: GeneVocabulary, owner: str) -> None:
    if data.fingerprint == other.fingerprint:
        return
    differ = sum(first != second for first, second in zip(data.tokens, other.tokens))
    raise UserError(
        f"The cells were ranked with another gene vocabulary ({len(data):,} tokens) than that of {owner} "
        f"({len(other):,} tokens; {differ:,} of the first {min(len(data), len(other)):,} differ, or their medians do). "
        "Rank the data with the model's vocabulary: gene_vocab='FOLDER' for files, `cell2text prepare --gene-vocab "
        "FOLDER` for a data set."
    )

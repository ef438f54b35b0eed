"""Where training rows come from: counts, which `cell2text.data` prepares, or a data set that is prepared already."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from cell2text.errors import UserError
from cell2text.example import example_cells_path
from cell2text.preparation.run import prepare
from cell2text.training.arguments import Cell2TextArguments, DataArguments, EncoderArguments
from processing_cell2text import SYSTEM_PROMPT
from vocabulary_cell2text import VOCABULARY_FILE, GeneVocabulary


EXAMPLE = "example_cells"
COUNT_FILES = (".h5ad", ".zarr")


@dataclass
class TrainingRows:
    """Rows to train on and rows to hold out, and where their counts are.

    Parameters
    ----------
    train, held_out
        Dataset rows.
    vocabulary
        Folder of the gene vocabulary that ranked the cells; None where the data set has none.
    files
        Files of counts that the rows were prepared from here; empty for a data set that was prepared elsewhere.
    report
        `report.json` of their preparation; None where the data set has none.
    validation
        Rows that a checkpoint may be chosen by, never those of the test; None where there are none. With
        `hold_out=validation` they are the held-out rows themselves.
    """

    train: Dataset
    held_out: Dataset
    vocabulary: Path | None
    files: list[str]
    report: dict | None = None
    validation: Dataset | None = None

    def texts(self) -> Iterable[str]:
        """All questions and answers of training, for a tokenizer of their own."""
        for column in ("prompt", "completion"):
            for messages in self.train[column]:
                for message in messages:
                    yield from (block["text"] for block in message["content"] if block["text"])


def load_rows(args: DataArguments, output_dir: str, *, prepares: bool = True) -> TrainingRows:
    """Prepare or load what `--dataset` names; with several processes one `prepares`, before the others load.

    Raises
    ------
    ValueError
        If it names nothing, mixes files and data sets, or a data set lacks a split.
    """
    if not args.dataset:
        raise UserError(
            "--dataset names nothing: pass h5ad files, a data set's folder or Hub id, or example_cells; train_sft.py "
            "runs the embedded default without any argument."
        )
    files = [str(example_cells_path()) if name == EXAMPLE else name for name in args.dataset]
    if all(name.endswith(COUNT_FILES) for name in files):
        return prepare_rows(files, args, Path(output_dir), prepares)
    if len(files) > 1:
        raise UserError(f"--dataset mixes files of counts and data sets: {args.dataset}. Pass files, or one data set.")
    saved = Path(files[0], "dataset_dict.json").exists()
    dataset = load_from_disk(files[0]) if saved else load_dataset(files[0])
    vocabulary = Path(files[0], "vocabulary")
    return chosen_splits(dataset, args, vocabulary if vocabulary.is_dir() else None, [])


def prepare_rows(files: list[str], args: DataArguments, output_dir: Path, prepares: bool) -> TrainingRows:
    """Rows of counts, prepared into the run's own folder."""
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
    dataset = load_dataset(str(folder), cache_dir=str(output_dir / "data_cache"))
    return chosen_splits(dataset, args, folder / "vocabulary", files)


def chosen_splits(dataset: DatasetDict, args: DataArguments, vocabulary: Path | None, files) -> TrainingRows:
    missing = {"train", args.hold_out} - set(dataset)
    if missing:
        raise UserError(
            f"The data set {args.dataset[0]!r} has the splits {sorted(dataset)}, but lacks {sorted(missing)}."
        )
    empty = [name for name, rows in dataset.items() if name in ("train", "validation", args.hold_out) and not len(rows)]
    if empty:
        raise UserError(f"The data set {args.dataset[0]!r} has no row in {' and '.join(empty)}.")
    folder = None if vocabulary is None else vocabulary.parent / "report.json"
    report = json.loads(folder.read_text(encoding="utf-8")) if folder and folder.is_file() else None
    return TrainingRows(dataset["train"], dataset[args.hold_out], vocabulary, files, report, dataset.get("validation"))


def vocabulary_of(rows: TrainingRows, args: DataArguments) -> GeneVocabulary:
    """The vocabulary that ranked the cells.

    Raises
    ------
    ValueError
        If neither the data set nor `--gene_vocab` has one, or they differ.
    """
    folder = args.gene_vocab if rows.vocabulary is None else rows.vocabulary
    if folder is None:
        raise UserError("The data set has no folder `vocabulary`: pass --gene_vocab, the one that ranked its cells.")
    vocabulary = GeneVocabulary.from_pretrained(folder)
    if args.gene_vocab is not None and rows.vocabulary is not None:
        check_same_genes(vocabulary, GeneVocabulary.from_pretrained(args.gene_vocab), f"--gene_vocab {args.gene_vocab}")
    return vocabulary


def check_vocabulary(rows: TrainingRows, args: Cell2TextArguments, ours: GeneVocabulary) -> None:
    """Refuse data whose gene tokens mean other genes to the model.

    Parameters
    ----------
    ours
        The model's vocabulary.

    Raises
    ------
    ValueError
        If the data set's vocabulary, or the one beside `--cell_encoder`, is another; or a cell holds a token that the
        model's does not have.
    """
    if rows.vocabulary is not None:
        check_same_genes(GeneVocabulary.from_pretrained(rows.vocabulary), ours, "the model")
    check_encoder_vocabulary(args, ours)
    tokens = pc.list_flatten(pc.list_flatten(arrow_column(rows.train, "cells")))
    largest = pc.max(tokens).as_py() or 0
    if largest >= len(ours):
        raise UserError(
            f"The cells hold the gene token {largest:,}, the model's vocabulary {len(ours):,} tokens: they were ranked "
            "with another vocabulary. Prepare the data with the model's: --gene-vocab FOLDER."
        )


def encoder_folder(args: EncoderArguments) -> Path:
    return Path(args.cell_encoder or "", args.cell_encoder_subfolder or "")


def has_vocabulary(args: EncoderArguments) -> bool:
    """Whether `--cell_encoder` is a folder with a gene vocabulary of its own, as `train_encoder.py` leaves it."""
    return args.cell_encoder is not None and (encoder_folder(args) / VOCABULARY_FILE).is_file()


def check_encoder_vocabulary(args: EncoderArguments, data: GeneVocabulary) -> None:
    """Refuse data that were ranked with another vocabulary than the one beside `--cell_encoder`."""
    if has_vocabulary(args):
        theirs = GeneVocabulary.from_pretrained(encoder_folder(args))
        check_same_genes(data, theirs, f"--cell_encoder {args.cell_encoder}")


def arrow_column(dataset: Dataset, name: str):
    """A column without its way through Python."""
    return dataset.select_columns([name]).with_format("arrow")[:][name]


def check_same_genes(data: GeneVocabulary, other: GeneVocabulary, owner: str) -> None:
    if data.fingerprint == other.fingerprint:
        return
    differ = sum(first != second for first, second in zip(data.tokens, other.tokens))
    raise UserError(
        f"The data's cells were ranked with another gene vocabulary ({len(data):,} tokens) than that of {owner} "
        f"({len(other):,} tokens; {differ:,} of the first {min(len(data), len(other)):,} differ, or their medians do). "
        "Rank the data with the model's vocabulary: --gene_vocab FOLDER for files, `cell2text prepare --gene-vocab "
        "FOLDER` for a data set."
    )

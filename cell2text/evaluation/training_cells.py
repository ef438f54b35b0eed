"""The cells that baselines learn from: the training split of a prepared data set, with its counts where they are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import anndata as ad
import numpy as np

from cell2text.errors import UserError
from cell2text.evaluation.baselines import METHODS, Cells, Training, log_normalise, rank_features
from cell2text.evaluation.predictions import truth_rows
from cell2text.language.writing import describe_row
from cell2text.ontology.definitions import term_definition
from cell2text.sources.files import find_sources, open_source


if TYPE_CHECKING:
    from datasets import Dataset

NEEDED = ("cell_id", "cells", "source", "source_row")


def load_training(
    dataset: str, cell_ids: Sequence[str], *, counts: Sequence[str] = (), layer: str | None = None,
    methods: Sequence[str] = METHODS, embeddings: "Embeddings | None" = None,
) -> Training:  # fmt: skip
    """Training cells of a prepared data set, and the cells that were predicted.

    Parameters
    ----------
    dataset
        Folder or Hub id.
    cell_ids
        The predicted cells, which the data set's validation or test split holds.
    counts
        The files that the data set was prepared from; ranked genes are the features where they are not named.
    embeddings
        Of training and predicted cells alike, for the linear head.

    Raises
    ------
    ValueError
        If the data set has no training split, or does not hold the predicted cells, or holds them in training.
    """
    from datasets import concatenate_datasets, load_dataset, load_from_disk

    splits = load_from_disk(dataset) if Path(dataset, "dataset_dict.json").exists() else load_dataset(dataset)
    if "train" not in splits or len(splits) < 2:
        raise UserError(f"{dataset} has the splits {sorted(splits)}: expected train and at least one more.")
    train = splits["train"]
    others = concatenate_datasets([part for name, part in splits.items() if name != "train"])
    missing = [name for name in NEEDED if name not in train.column_names]
    if missing:
        raise UserError(f"{dataset} has no column {', '.join(missing)}: expected what cell2text prepare writes.")
    place = {cell: i for i, cell in enumerate(others["cell_id"])}
    absent = [cell for cell in cell_ids if cell not in place]
    if absent:
        trained_on = set(train["cell_id"]) & set(absent)
        where = f"; {len(trained_on):,} of them are training cells" if trained_on else ""
        raise UserError(
            f"{len(absent):,} of {len(cell_ids):,} predicted cells are not held out in {dataset} (first: "
            f"{absent[0]!r}){where}. Baselines have to answer for the very same cells."
        )
    held_out = others.select([place[cell] for cell in cell_ids])
    both = None if embeddings is None else (embeddings.of(train["cell_id"]), embeddings.of(cell_ids))
    return training_of(train, held_out, counts=counts, layer=layer, methods=methods, embeddings=both)


def training_of(
    train: "Dataset",
    held_out: "Dataset",
    *,
    counts: Sequence[str] = (),
    layer: str | None = None,
    methods: Sequence[str] = METHODS,
    embeddings: tuple[np.ndarray, np.ndarray] | None = None,
) -> Training:
    """Both kinds of cells with their features, descriptions and embeddings; `held_out` in the predictions' order."""
    parts = (train, held_out)
    if counts:
        matrix = log_normalise(read_counts(parts, counts, layer).X)
    else:
        cells = [ranked[0] for part in parts for ranked in part["cells"]]
        matrix = rank_features(cells, 1 + max((max(cell, default=0) for cell in cells), default=0))
    features = matrix[: len(train)], matrix[len(train) :]
    cells_of = [
        Cells(rows, feature, [description(row) for row in rows], embedding)
        for rows, feature, embedding in zip(map(truth_rows, parts), features, embeddings or (None, None))
    ]
    return Training(
        train=cells_of[0],
        test=cells_of[1],
        features="counts" if counts else "ranked genes",
        methods=methods,
    )


@dataclass
class Embeddings:
    """Cells' embeddings by their ids.

    Parameters
    ----------
    path
        Where they were read, for messages.
    place
        Row of each cell.
    values
        Shape (n_cells, n_dimensions).
    """

    path: str
    place: dict[str, int]
    values: np.ndarray

    def of(self, cell_ids: Sequence[str]) -> np.ndarray:
        missing = [cell for cell in cell_ids if cell not in self.place]
        if missing:
            raise UserError(
                f"{self.path} has no embedding of {len(missing):,} of {len(cell_ids):,} cells (first: {missing[0]!r})."
            )
        return self.values[[self.place[cell] for cell in cell_ids]]


def read_embeddings(path: str) -> Embeddings:
    """Embeddings from an npz file with the arrays `cell_id` (text) and `embedding` (n_cells, n_dimensions).

    Raises
    ------
    ValueError
        If it is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, values = file["cell_id"].astype(str), np.asarray(file["embedding"], dtype=np.float32)
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise UserError(f"{path} holds no embeddings ({error}): expected npz with cell_id and embedding.") from error
    if values.ndim != 2 or len(ids) != len(values) or not np.isfinite(values).all():
        raise UserError(
            f"{path} holds {len(ids):,} ids and embeddings of shape {values.shape}: expected a finite row for each id."
        )
    return Embeddings(str(path), {cell: i for i, cell in enumerate(ids.tolist())}, values)


def description(row: Mapping) -> str:
    definition = term_definition(row["cell_type_ontology_term_id"] or "")
    return describe_row({**row, "cell_type_definition": definition}) or ""


def read_counts(parts: Iterable["Dataset"], files: Sequence[str], layer: str | None) -> ad.AnnData:
    """Counts of rows, read from their files, in the order of the rows; genes of all files, absent ones zero.

    Raises
    ------
    ValueError
        If a row's file is not among the files.
    """
    wanted = [pair for part in parts for pair in zip(part["source"], part["source_row"])]
    sources = {source.name: source for source in find_sources(files)}
    missing = sorted({name for name, _ in wanted} - sources.keys())
    if missing:
        raise UserError(f"No file for the cells of {missing}: the files are {sorted(sources)}.")
    found = []
    for name, source in sources.items():
        numbers = np.unique([row for of, row in wanted if of == name]).astype(np.int64)
        if len(numbers):
            with open_source(source, layer) as reader:
                part = ad.AnnData(reader.counts_of(numbers), var=reader.var()[[]])
            part.var_names_make_unique()  # symbols often stand twice
            part.obs_names = [f"{name}|{number}" for number in numbers]
            found.append(part)
    return ad.concat(found, join="outer", fill_value=0)[[f"{name}|{row}" for name, row in wanted]]

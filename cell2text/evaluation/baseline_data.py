"""Input of the baselines: training and predicted cells of a prepared data set, with counts if their files are given."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from cell2text.errors import UserError
from cell2text.evaluation.baselines import METHODS, BaselineData, Cells
from cell2text.evaluation.expression_features import log_normalise, rank_features
from cell2text.evaluation.predictions import label_rows
from cell2text.language.writing import describe_row
from cell2text.ontology.definitions import term_definition
from cell2text.paths import check_folder
from cell2text.prepared_rows import load_splits


if TYPE_CHECKING:
    from anndata import AnnData
    from datasets import Dataset

REQUIRED_COLUMNS = ("cell_id", "cells", "source", "source_row")


def load_baseline_data(
    dataset: str, cell_ids: Sequence[str], *, counts: Sequence[str] = (), layer: str | None = None,
    methods: Sequence[str] = METHODS, embeddings: "Embeddings | None" = None,
) -> BaselineData:  # fmt: skip
    """Load the training cells of a prepared data set and the predicted cells.

    Parameters
    ----------
    dataset
        Folder or Hub id of a data set that `cell2text prepare` wrote.
    cell_ids
        Ids of the predicted cells, which are in the validation or test split.
    counts
        Files that the data set was prepared from. If omitted, the features are ranked genes.
    layer
        Layer with the counts; see :func:`cell2text.prepare`.
    methods
        Baselines to fit.
    embeddings
        Embeddings of training and predicted cells. If omitted, the linear head is skipped.

    Raises
    ------
    UserError
        If the data set has no training split or lacks a column, or a predicted cell is not held out.
    """
    from datasets import concatenate_datasets

    check_folder(dataset)
    splits = load_splits(dataset)
    if "train" not in splits or len(splits) < 2:
        raise UserError(f"{dataset} has the splits {sorted(splits)}. Expected train and at least one more.")
    train = splits["train"]
    held_out = concatenate_datasets([split for name, split in splits.items() if name != "train"])
    missing = [name for name in REQUIRED_COLUMNS if name not in train.column_names]
    if missing:
        raise UserError(f"{dataset} has no column {', '.join(missing)}. Expected the output of cell2text prepare.")
    position = {cell: i for i, cell in enumerate(held_out["cell_id"])}
    absent = [cell for cell in cell_ids if cell not in position]
    if absent:
        in_training = set(train["cell_id"]) & set(absent)
        where = f"; {len(in_training):,} of them are training cells" if in_training else ""
        raise UserError(
            f"{len(absent):,} of {len(cell_ids):,} predicted cells are not held out in {dataset} (first: "
            f"{absent[0]!r}){where}. Pass the data set that the predicted cells were held out of."
        )
    selected = held_out.select([position[cell] for cell in cell_ids])
    both = None if embeddings is None else (embeddings.of(train["cell_id"]), embeddings.of(cell_ids))
    return baseline_data(train, selected, counts=counts, layer=layer, methods=methods, embeddings=both)


def baseline_data(
    train: "Dataset",
    test: "Dataset",
    *,
    counts: Sequence[str] = (),
    layer: str | None = None,
    methods: Sequence[str] = METHODS,
    embeddings: tuple[np.ndarray, np.ndarray] | None = None,
) -> BaselineData:
    """Combine training and predicted cells with their features, descriptions and embeddings.

    Parameters
    ----------
    train, test
        Rows of a prepared data set; `test` in the order of the predictions.
    counts, layer, methods
        See :func:`load_baseline_data`.
    embeddings
        Embeddings of the training and of the predicted cells.
    """
    splits = (train, test)
    if counts:
        matrix = log_normalise(read_counts(splits, counts, layer).X)
    else:
        cells = [ranked[0] for split in splits for ranked in split["cells"]]
        matrix = rank_features(cells, 1 + max((max(cell, default=0) for cell in cells), default=0))
    features = matrix[: len(train)], matrix[len(train) :]
    train_cells, test_cells = (
        Cells(rows, feature, [_description(row) for row in rows], embedding)
        for rows, feature, embedding in zip(map(label_rows, splits), features, embeddings or (None, None))
    )
    name = "counts" if counts else "ranked genes"
    return BaselineData(train=train_cells, test=test_cells, features=name, methods=methods)


@dataclass
class Embeddings:
    """Embeddings by cell id.

    Parameters
    ----------
    path
        File that they were read from, for error messages.
    position
        Row of each cell in `values`.
    values
        Embeddings, shape (n_cells, n_dimensions).
    """

    path: str
    position: dict[str, int]
    values: np.ndarray

    def of(self, cell_ids: Sequence[str]) -> np.ndarray:
        """Return the embeddings of some cells, shape (len(cell_ids), n_dimensions).

        Raises
        ------
        UserError
            If a cell has no embedding.
        """
        missing = [cell for cell in cell_ids if cell not in self.position]
        if missing:
            raise UserError(
                f"{self.path} has no embedding of {len(missing):,} of {len(cell_ids):,} cells (first: {missing[0]!r})."
            )
        return self.values[[self.position[cell] for cell in cell_ids]]


def read_embeddings(path: str) -> Embeddings:
    """Read an npz file with the arrays `cell_id` (text) and `embedding` (n_cells, n_dimensions).

    Raises
    ------
    UserError
        If the file is not such a file, or an embedding is not finite.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, values = file["cell_id"].astype(str), np.asarray(file["embedding"], dtype=np.float32)
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise UserError(f"{path} holds no embeddings ({error}). Expected npz with cell_id and embedding.") from error
    if values.ndim != 2 or len(ids) != len(values) or not np.isfinite(values).all():
        raise UserError(
            f"{path} holds {len(ids):,} ids and embeddings of shape {values.shape}. Expected one finite row per id."
        )
    return Embeddings(str(path), {cell: i for i, cell in enumerate(ids.tolist())}, values)


def read_counts(splits: Iterable["Dataset"], files: Sequence[str], layer: str | None) -> "AnnData":
    """Read the counts of rows from their files.

    Returns
    -------
    Counts in the order of the rows, over the genes of all files. Genes that a file lacks are zero.

    Raises
    ------
    UserError
        If the file of a row is not among the files.
    """
    import anndata as ad

    from cell2text.sources.containers import open_source
    from cell2text.sources.discovery import find_sources

    needed = [pair for split in splits for pair in zip(split["source"], split["source_row"])]
    sources = {source.name: source for source in find_sources(files)}
    missing = sorted({name for name, _ in needed} - sources.keys())
    if missing:
        raise UserError(f"The cells come from {missing}, which counts= does not list. The files are {sorted(sources)}.")
    parts = []
    for name, source in sources.items():
        numbers = np.unique([row for of, row in needed if of == name]).astype(np.int64)
        if len(numbers):
            with open_source(source, layer=layer, allow_fractional=True) as reader:
                part = ad.AnnData(reader.read_counts(numbers), var=reader.read_var()[[]])
            part.var_names_make_unique()  # gene symbols may repeat
            part.obs_names = [f"{name}|{number}" for number in numbers]
            parts.append(part)
    return ad.concat(parts, join="outer", fill_value=0)[[f"{name}|{row}" for name, row in needed]]


def _description(row: Mapping) -> str:
    definition = term_definition(row["cell_type_ontology_term_id"] or "")
    return describe_row({**row, "cell_type_definition": definition}) or ""

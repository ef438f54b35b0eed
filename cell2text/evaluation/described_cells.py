"""Read the predictions that `cell2text describe` and `cell2text.tl.describe` wrote, and other columns of the cells.

Depends on `sources` for h5ad files and zarr stores; tables are read with pandas and pyarrow.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from cell2text.errors import UserError
from cell2text.evaluation.predictions import read_rows
from cell2text.language.described import CANDIDATES, TEXT, has_description, has_result
from cell2text.language.fields import FIELDS, TERM_FIELDS
from cell2text.sources.amounts import read_element
from cell2text.sources.anndata_files import ANNDATA_SUFFIXES, open_anndata
from cell2text.sources.containers import index_name, read_column
from cell2text.sources.stored_columns import column_names
from errors_cell2text import first_line


TABLE_SUFFIXES = (".jsonl", ".parquet", ".csv", ".tsv")
DESCRIBED_SUFFIXES = (*ANNDATA_SUFFIXES, ".jsonl", ".parquet", ".csv")
ID, EMBEDDING, PREDICTION = "cell_id", "embedding", "prediction"
TERM_COLUMNS = tuple(f"{name}_ontology_term_id" for name in TERM_FIELDS)
SCORES = ("type_probability",)
READING_ERRORS = (KeyError, OSError, RuntimeError, ValueError, TypeError, AttributeError, IndexError)
CELL_NAME_COLUMNS = (ID, "barcode", "barcodes", "cell", "cell_name", "index")
MAX_COLUMNS_NAMED = 30


@dataclass
class CellTable:
    """Cells by row, and the columns that describe them.

    Parameters
    ----------
    name
        Name of the file, for messages.
    cell_ids
        Name of each cell. Names may repeat: barcodes often do in files of several samples.
    columns
        Names of all columns.
    read
        Read a column of all cells.
    embeddings
        Read a matrix of `obsm`; None if it does not exist.
    is_anndata
        Whether the columns are those of `obs`.
    """

    name: str
    cell_ids: list[str]
    columns: list[str]
    read: Callable[[str], pd.Series] = field(repr=False)
    embeddings: Callable[[str], np.ndarray | None] = field(default=lambda key: None, repr=False)
    is_anndata: bool = True

    def where(self, column: str) -> str:
        """Return how messages name a column."""
        return f"obs[{column!r}]" if self.is_anndata else f"column {column!r}"

    def column(self, name: str) -> pd.Series:
        """Return a column of all cells, missing values as None, indexed from 0."""
        try:
            values = pd.Series(np.asarray(self.read(name), dtype=object))
        except READING_ERRORS as error:
            raise UserError(f"{self.name}: {self.where(name)} cannot be read ({first_line(error)}).") from error
        return values.where(values.notna(), None)

    def aligned(self, cell_ids: Sequence[str]) -> "CellTable":
        """Return the same columns for other cells: by position if all names are equal in order, otherwise by name.

        Cells that the table lacks have missing values.

        Raises
        ------
        UserError
            If no cell is found, or a name that is needed occurs more than once.
        """
        if list(cell_ids) == self.cell_ids:
            return self
        wanted = set(cell_ids)
        for names, what in ((cell_ids, "the described file"), (self.cell_ids, self.name)):
            repeated = [name for name, n in Counter(names).items() if n > 1 and name in wanted]
            if repeated and wanted & set(self.cell_ids):
                raise UserError(
                    f"{len(repeated):,} cell names occur more than once in {what} (first: {repeated[0]!r}), so labels "
                    f"cannot be matched by name. Make the names unique, or give {self.name} the same cells in the same "
                    "order as the described file."
                )
        row_of = {name: row for row, name in enumerate(self.cell_ids)}
        rows = np.array([row_of.get(name, -1) for name in cell_ids])
        if (rows < 0).all():
            raise UserError(
                f"{self.name} has none of the {len(cell_ids):,} described cells: it names cells like "
                f"{self.cell_ids[0]!r}, the described file like {cell_ids[0]!r}."
            )

        def read(name: str) -> pd.Series:
            return self.column(name).take(np.maximum(rows, 0)).reset_index(drop=True).where(rows >= 0, None)

        return replace(self, cell_ids=list(cell_ids), read=read)


@dataclass
class DescribedCells:
    """The predictions of a described experiment.

    Parameters
    ----------
    table
        The cells with all their columns.
    predictions
        One row per cell: the columns of `FIELDS`, of their term ids and `type_probability`, None or NaN where missing;
        `text` and `cell_type_candidates` if the file has them.
    """

    table: CellTable
    predictions: pd.DataFrame

    @property
    def has_prediction(self) -> np.ndarray:
        """Whether the model described each cell, bool, shape (n_cells,)."""
        return has_description(self.predictions)

    @property
    def has_result(self) -> np.ndarray:
        """Whether each cell has a description or the reason for having none, bool, shape (n_cells,)."""
        return has_result(self.predictions)


def read_described_cells(source: str | os.PathLike | ad.AnnData, key: str = "cell2text") -> DescribedCells:
    """Read the predictions of a described file or AnnData.

    Parameters
    ----------
    source
        h5ad file, zarr store, or jsonl, parquet or csv table that `cell2text describe` wrote, or an AnnData that
        `cell2text.tl.describe` has changed.
    key
        Name under which the cells of an AnnData were described.

    Raises
    ------
    UserError
        If the file is damaged, or holds no descriptions.
    """
    table = read_cell_table(source)
    prefix = f"{key}_" if table.is_anndata else ""
    names = {name: f"{prefix}{name}" for name in (*FIELDS, *TERM_COLUMNS, *SCORES)}
    names |= {TEXT: key if table.is_anndata else TEXT, CANDIDATES: f"{prefix}{CANDIDATES}"}
    required = [names["cell_type"], *([] if table.is_anndata else ["type_probability"])]
    if any(name not in table.columns for name in required):
        raise UserError(_not_described(table, key, required))
    found = {name: table.column(column) for name, column in names.items() if column in table.columns}
    columns = [name for name in names if name in found or name not in (TEXT, CANDIDATES)]
    predictions = pd.DataFrame({name: found.get(name, pd.Series([None] * len(table.cell_ids))) for name in columns})
    for name in SCORES:
        predictions[name] = _scores(predictions[name], table, names[name])
    own = set(names.values())
    table.columns = [name for name in table.columns if name not in own and not (prefix and name.startswith(prefix))]
    return DescribedCells(table, predictions)


def read_cell_table(source: str | os.PathLike | ad.AnnData) -> CellTable:
    """Open a file with one row per cell: h5ad, zarr, jsonl, parquet, csv or tsv; or an AnnData.

    A csv or tsv file names the cells in the column `cell_id`, `barcode`, `cell` or `index`, otherwise in its first.
    """
    if isinstance(source, ad.AnnData):
        return CellTable(
            "the AnnData", list(map(str, source.obs_names)), list(map(str, source.obs.columns)),
            lambda name: source.obs[name].astype(object), lambda key: _matrix(source.obsm.get(key)),
        )  # fmt: skip
    path = Path(source)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in ANNDATA_SUFFIXES:
        return _read_anndata(path)
    if suffix not in TABLE_SUFFIXES:
        raise UserError(f"{path}: expected a file that ends in {', '.join((*ANNDATA_SUFFIXES, *TABLE_SUFFIXES))}.")
    if not path.is_file():
        raise UserError(f"{path} does not exist." if not path.exists() else f"{path} is a folder, expected a file.")
    frame = _read_frame(path, suffix)
    if not len(frame):
        raise UserError(f"{path} has no rows.")
    id_column = next((name for name in CELL_NAME_COLUMNS if name in frame), frame.columns[0])
    ids = frame[id_column].astype(str).tolist()
    columns = [str(name) for name in frame.columns if name != id_column]
    return CellTable(str(path), ids, columns, lambda name: frame[name], is_anndata=False)


def _read_anndata(path: Path) -> CellTable:
    def read(name: str) -> pd.Series:
        with open_anndata(path) as root:
            return pd.Series(np.asarray(read_column(root["obs"], name), dtype=object))

    def embeddings(key: str) -> np.ndarray | None:
        with open_anndata(path) as root:
            return _matrix(read_element(root["obsm"][key])) if key in root.get("obsm", {}) else None

    with open_anndata(path) as root:
        try:
            names = np.asarray(read_element(root["obs"][index_name(root["obs"])]), dtype=object)
            ids = list(map(str, names))
            columns = column_names(root["obs"])
        except READING_ERRORS as error:
            raise UserError(f"{path} is damaged: its obs cannot be read ({first_line(error)}).") from error
    return CellTable(str(path), ids, columns, read, embeddings)


def _read_frame(path: Path, suffix: str) -> pd.DataFrame:
    """Read a table without its embeddings; texts stay as they are written, empty ones are missing."""
    try:
        if suffix == ".jsonl":
            return pd.DataFrame(read_rows(path), dtype=object)
        if suffix == ".parquet":
            file = pq.ParquetFile(path)
            return file.read(columns=[name for name in file.schema_arrow.names if name != EMBEDDING]).to_pandas()
        separator = "\t" if suffix == ".tsv" else ","
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, na_values=[""])
    except UserError:
        raise
    except READING_ERRORS as error:
        raise UserError(f"{path} cannot be read as {suffix.removeprefix('.')} ({first_line(error)}).") from error


def _scores(values: pd.Series, table: CellTable, column: str) -> pd.Series:
    """Return a confidence measure as numbers from 0 to 1, NaN where missing."""
    numbers = pd.to_numeric(values, errors="coerce")
    wrong = (numbers.isna() & values.notna()) | (numbers < 0) | (numbers > 1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{table.name}: {table.where(column)} is {values[row]!r} for cell {table.cell_ids[row]!r}. Expected a "
            "number from 0 to 1, or nothing if it is missing."
        )
    return numbers.astype(float)


def _matrix(values) -> np.ndarray | None:
    if values is None:
        return None
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float32)


def _not_described(table: CellTable, key: str, required: list[str]) -> str:
    """Return the message for a file without predictions."""
    missing = [name for name in required if name not in table.columns]
    if not table.is_anndata:
        if PREDICTION in table.columns:
            return (
                f"{table.name} is a predictions file, which holds its labels: leave out truth=. (A table that "
                "`cell2text describe` wrote has the columns cell_type and type_probability.)"
            )
        return (
            f"{table.name} lacks the columns {missing} of a table that `cell2text describe` wrote; it has "
            f"{name_columns(table.columns)}. Describe the experiment first: cell2text describe FILE.h5ad."
        )
    suffix = "_cell_type"
    keys = [name.removesuffix(suffix) for name in table.columns if name.endswith(suffix)]
    keys = [name for name in keys if f"{name}_type_probability" in table.columns]
    advice = f"Pass key={keys[0]!r}" if keys else f"Describe it first: cell2text describe {table.name}"
    return f"{table.name} holds no descriptions under key={key!r}: obs lacks {missing}. {advice}."


def name_columns(columns: list[str]) -> str:
    """Return the names of columns for a message, at most `MAX_COLUMNS_NAMED`.

    Examples
    --------
    >>> name_columns(["leiden", "sample"])
    "'leiden', 'sample'"
    """
    shown = ", ".join(map(repr, columns[:MAX_COLUMNS_NAMED]))
    left = len(columns) - MAX_COLUMNS_NAMED
    return (shown or "no others") + (f" and {left:,} more" if left > 0 else "")

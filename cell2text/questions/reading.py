"""Read and rank the cells that a question is about. Depends on `describe`, which reads any source."""

from collections.abc import Mapping, Sequence

import numpy as np
from anndata import AnnData

from cell2text.describe.gene_lists import GeneListReader
from cell2text.describe.inputs import CellReader, cell_positions, some_names
from cell2text.describe.options import DescribeOptions
from cell2text.describe.ranked_cells import RankedCells
from cell2text.errors import UserError, UserKeyError
from source_cell2text import AnnDataContainer, CellSource


def rank_cells(adata: AnnData, model, processor, options: DescribeOptions | None = None) -> RankedCells:
    """Rank all cells of an AnnData, with the concepts that their counts show.

    Raises
    ------
    UserError
        If the AnnData holds no cells or no counts, or its genes are not in the vocabulary.

    Examples
    --------
    >>> import cell2text
    >>> len(rank_cells(cell2text.example_cells(unseen=True)[:3], *cell2text.load()).cells)
    3
    """
    reader = CellReader(open_anndata(adata, options), processor, options or DescribeOptions(), model.config.concepts)
    return reader.read(0, reader.n_cells)


def open_anndata(adata: AnnData, options: DescribeOptions | None = None) -> CellSource:
    """Open an AnnData for reading.

    Raises
    ------
    UserError
        If it is not an AnnData, or holds no cells or no counts.
    """
    options = options or DescribeOptions()
    if not isinstance(adata, AnnData):
        raise UserError(f"adata: expected an AnnData, found {type(adata).__name__}.")
    if not adata.n_obs:
        raise UserError("The AnnData holds no cells.")
    return CellSource(AnnDataContainer(adata), layer=options.layer, allow_fractional=options.allow_fractional)


def read_selected(
    reader: CellReader | GeneListReader, cells: str | Sequence[str] | None = None,
    where: Mapping[str, str] | None = None, *, parameter: str = "cells",
) -> RankedCells:  # fmt: skip
    """Return the chosen cells of a reader, in its order; all cells without a choice.

    Parameters
    ----------
    reader
        The cells.
    cells
        Name of a cell, or names of several.
    where
        Value of columns of `obs` that the cells must have, such as `{"leiden": "3"}`.
    parameter
        Name of the parameter `cells` in messages.

    Raises
    ------
    UserError
        If a name or a column does not exist, a name is not unique, or no cell has the values.
    """
    rows = np.arange(reader.n_cells) if cells is None else np.sort(cell_positions(cell_names(reader), cells, parameter))
    for column, value in (where or {}).items():
        rows = _rows_with_value(reader, rows, column, str(value))
    if isinstance(reader, GeneListReader):
        return reader.read(0, reader.n_cells).take(rows)
    return reader.read_rows(rows)


def cell_names(reader: CellReader | GeneListReader) -> np.ndarray:
    """Return the names of all cells of a reader, shape (n_cells,)."""
    if isinstance(reader, GeneListReader):
        return np.asarray(reader.names, dtype=object)
    return np.asarray(reader.source.read_cell_names(np.arange(reader.n_cells)), dtype=object)


def _rows_with_value(reader: CellReader | GeneListReader, rows: np.ndarray, column: str, value: str) -> np.ndarray:
    if isinstance(reader, GeneListReader):
        raise UserError(f"where={column}={value!r}: ranked gene lists have no columns. Choose cells by name.")
    columns = reader.source.obs_columns()
    if column not in columns:
        raise UserKeyError(f"where={column!r}: obs has no such column, it has {sorted(columns)}.")
    values = reader.source.read_obs([column])[column].astype(str).to_numpy()[rows]
    if not (values == value).any():
        raise UserError(
            f"where={column!r}: none of {len(rows):,} cells has the value {value!r}. The column holds "
            f"{some_names(sorted(set(values)))}."
        )
    return rows[values == value]

"""Read ranked cells of an experiment: a range at a time from a file, or all cells of an AnnData in memory.

Depends on `sources`, which reads files, and on the processor's vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from cell2text.describe.groups import Groups, find_groups
from cell2text.describe.options import DescribeOptions
from cell2text.describe.ranked_cells import RankedCells
from cell2text.errors import UserError, UserKeyError
from cell2text.sources.blocks import stream_checked_blocks
from cell2text.sources.containers import FileReader
from cell2text.sources.discovery import SourceLocation, find_sources
from counts_cell2text import count_blocks, select_counts
from processing_cell2text import Cell2TextProcessor
from ranking_cell2text import CellRanker


GROUPS_PER_BLOCK = 64


def find_input(path: str) -> SourceLocation:
    """Return the one file of counts that a path or address names.

    Raises
    ------
    UserError
        If the path holds no file of counts, or several.
    """
    found = find_sources([path])
    if len(found) != 1:
        raise UserError(f"{path} holds {len(found)} files of counts, expected one. Describe them one by one.")
    return found[0]


class CellFile:
    """Read and rank the cells of an h5ad file or zarr store, a range at a time.

    Parameters
    ----------
    source
        The file or store.
    processor
        Provides the gene vocabulary and the length of a ranked cell.
    options
        Where counts, gene names and groups are found.

    Raises
    ------
    UserError
        If the file is not an AnnData, its values are not counts, its genes are not in the vocabulary, or a layer or
        column does not exist.
    """

    def __init__(self, source: SourceLocation, processor: Cell2TextProcessor, options: DescribeOptions):
        self.reader = FileReader(source, options.layer)
        self.options, self.processor, self.n_cells = options, processor, self.reader.n_cells
        self.groups = self._find_groups() if options.groupby is not None and self.n_cells else None
        self.ranker = CellRanker(
            self.reader.read_var(), processor.gene_vocabulary, gene_key=options.gene_key, max_genes=processor.max_genes
        )

    def read(self, start: int, stop: int) -> RankedCells:
        """Return the cells of the rows from `start` to before `stop`."""
        rows = np.arange(start, stop)
        ranked = self._rank(block for _, block in self._blocks(rows))
        names = self.reader.read_cell_names(rows).tolist()
        to_describe = None if self.groups is None else self.groups.to_describe[start:stop]
        return RankedCells(names, *ranked, to_describe)

    def comparison_cell(self) -> np.ndarray | None:
        """Return the ranked cell named by `options.compare_to`, None if cells are not compared.

        Raises
        ------
        UserError
            If no cell or several have the name, or the cell has no counts on the vocabulary.
        """
        if self.options.compare_to is None:
            return None
        row = find_cell(self.reader.read_cell_names(np.arange(self.n_cells)), self.options.compare_to)
        cell = self.read(row, row + 1).cells[0]
        check_comparison_cell(cell, self.processor, self.options)
        return cell

    def pseudobulk(self, groups: Groups) -> RankedCells:
        """Return the summed counts of each group as a cell.

        Takes one pass over the file and holds a dense matrix of groups by genes.
        """
        sums, rows = np.zeros((len(groups.names), len(self.reader.read_var()))), np.arange(self.n_cells)
        for positions, block in self._blocks(rows):
            groups.add_counts(sums, int(positions[0]), block)
        blocks = (sp.csr_matrix(sums[i : i + GROUPS_PER_BLOCK]) for i in range(0, len(sums), GROUPS_PER_BLOCK))
        return RankedCells(groups.names, *self._rank(blocks))

    def close(self) -> None:
        """Close the file."""
        self.reader.close()

    def _rank(self, blocks: Iterable[sp.csr_matrix]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Return token ids, numbers of expressed genes and mapped fractions of the cells of some blocks."""
        cells: list[np.ndarray] = []
        n_genes, mapped = [], []
        for block in blocks:
            tokens, lengths, expressed, fraction = self.ranker.rank(block)
            cells += np.split(tokens, np.cumsum(lengths)[:-1])
            n_genes.append(expressed)
            mapped.append(fraction)
        return cells, np.concatenate(n_genes), np.concatenate(mapped)

    def _find_groups(self) -> Groups:
        column, options = str(self.options.groupby), self.options
        _check_column(column, self.reader.obs_columns())
        return find_groups(self.reader.read_obs([column])[column], column, options.cells_per_group, options.seed)

    def _blocks(self, rows: np.ndarray) -> Iterator:
        return stream_checked_blocks(self.reader, rows, allow_fractional=self.options.allow_fractional)


def find_cell(names: Sequence[str] | np.ndarray, name: str) -> int:
    """Return the row of the cell that `compare_to` names.

    Raises
    ------
    UserError
        If no cell or several have the name.
    """
    found = np.flatnonzero(np.asarray(names, dtype=object) == name)
    if len(found) != 1:
        raise UserError(
            f"compare_to={name!r}: {len(found)} of {len(names):,} cells have this name (first cell: {names[0]!r})."
        )
    return int(found[0])


def check_comparison_cell(cell: np.ndarray, processor: Cell2TextProcessor, options: DescribeOptions) -> None:
    """Raise a `UserError` if the comparison cell has no genes."""
    if processor.is_empty(cell):
        raise UserError(
            f"compare_to={options.compare_to!r} has no counts on genes in the model's vocabulary. Choose another cell."
        )


def rank_adata(adata: AnnData, processor: Cell2TextProcessor, options: DescribeOptions) -> RankedCells:
    """Return all cells of an AnnData, in memory or backed.

    Raises
    ------
    UserError
        If its values are not counts, its genes are not in the vocabulary, or a layer or column does not exist.
    """
    cells, report = processor.rank_encode_with_report(
        adata, layer=options.layer, gene_key=options.gene_key, allow_fractional=options.allow_fractional
    )
    return RankedCells(adata.obs_names.astype(str).tolist(), cells, report.n_genes, report.mapped_fraction)


def groups_in_adata(adata: AnnData, options: DescribeOptions) -> Groups:
    """Return the groups of an AnnData's cells by `options.groupby`.

    Raises
    ------
    UserError
        If the column does not exist, is empty, or has too many different values.
    """
    column = str(options.groupby)
    _check_column(column, list(adata.obs))
    return find_groups(adata.obs[column], column, options.cells_per_group, options.seed)


def pseudobulk_of_adata(
    adata: AnnData, groups: Groups, processor: Cell2TextProcessor, options: DescribeOptions
) -> RankedCells:
    """Return the summed counts of each group as a cell."""
    matrix, var, _ = select_counts(adata, options.layer)
    sums = np.zeros((len(groups.names), matrix.shape[1]))
    for start, block in count_blocks(matrix):
        groups.add_counts(sums, start, block)
    bulk = AnnData(sp.csr_matrix(sums), obs=pd.DataFrame(index=pd.Index(groups.names)), var=var)
    return rank_adata(bulk, processor, replace(options, layer=None))


def _check_column(column: str, columns: Sequence[str]) -> None:
    if column not in columns:
        raise UserKeyError(f"groupby={column!r}: obs has no such column, it has {sorted(map(str, columns))}.")

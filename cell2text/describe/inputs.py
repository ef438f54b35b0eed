"""Ranked cells of an experiment: a file read a range at a time, or an AnnData in memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from cell2text.describe.engine import RankedCells
from cell2text.describe.groups import Groups, find_groups
from cell2text.describe.options import DescribeOptions
from cell2text.errors import UserError, UserKeyError
from cell2text.sources.blocks import stream_checked_blocks
from cell2text.sources.containers import FileReader
from cell2text.sources.discovery import SourceLocation, find_sources
from counts_cell2text import count_blocks, select_counts
from processing_cell2text import Cell2TextProcessor
from ranking_cell2text import CellRanker


RANKED_AT_ONCE = 64  # groups


def find_file(path: str) -> SourceLocation:
    """The one experiment that an input names.

    Raises
    ------
    ValueError
        If there is none, or several.
    """
    found = find_sources([path])
    if len(found) != 1:
        raise UserError(f"{path} holds {len(found)} files of counts: expected one; describe them one by one.")
    return found[0]


class CellFile:
    """An h5ad file or zarr store whose cells are ranked a range at a time.

    Raises
    ------
    ValueError
        If it is no AnnData, its values are no counts, or its genes are not the vocabulary's.
    KeyError
        If a layer or a column does not exist.
    """

    def __init__(self, source: SourceLocation, processor: Cell2TextProcessor, options: DescribeOptions):
        self.reader = FileReader(source, options.layer)
        self.options, self.n_cells = options, self.reader.n_cells
        self.groups = self._find_groups() if options.groupby is not None and self.n_cells else None
        self.ranker = CellRanker(
            self.reader.read_var(), processor.gene_vocabulary, gene_key=options.gene_key, max_genes=processor.max_genes
        )

    def read(self, start: int, stop: int) -> RankedCells:
        """Cells of a range of rows."""
        rows = np.arange(start, stop)
        ranked = self._rank(block for _, block in self._blocks(rows))
        names = self.reader.read_cell_names(rows).tolist()
        asked = None if self.groups is None else self.groups.drawn[start:stop]
        return RankedCells(names, *ranked, asked)

    def pseudobulk(self, groups: Groups) -> RankedCells:
        """The summed counts of each group as a cell, in one pass over the file. Memory: groups times genes."""
        sums, rows = np.zeros((len(groups.names), len(self.reader.read_var()))), np.arange(self.n_cells)
        for part, block in self._blocks(rows):
            groups.add_counts(sums, int(part[0]), block)
        parts = (sp.csr_matrix(sums[i : i + RANKED_AT_ONCE]) for i in range(0, len(sums), RANKED_AT_ONCE))
        return RankedCells(groups.names, *self._rank(parts))

    def _rank(self, blocks: Iterable[sp.csr_matrix]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Gene tokens, expressed genes and mapped share of the cells of some blocks of counts."""
        cells: list[np.ndarray] = []
        n_genes, mapped = [], []
        for block in blocks:
            tokens, lengths, expressed, share = self.ranker.rank(block)
            cells += np.split(tokens, np.cumsum(lengths)[:-1])
            n_genes.append(expressed)
            mapped.append(share)
        return cells, np.concatenate(n_genes), np.concatenate(mapped)

    def _find_groups(self) -> Groups:
        column, options = str(self.options.groupby), self.options
        check_column(column, self.reader.obs_columns())
        return find_groups(self.reader.read_obs([column])[column], column, options.cells_per_group, options.seed)

    def _blocks(self, rows: np.ndarray) -> Iterator:
        return stream_checked_blocks(self.reader, rows, allow_fractional=self.options.allow_fractional)

    def find(self, name: str) -> int:
        """Row of a cell by its name.

        Raises
        ------
        ValueError
            If no cell, or more than one, has it.
        """
        names = self.reader.read_cell_names(np.arange(self.n_cells))
        found = np.flatnonzero(names == name)
        if len(found) != 1:
            raise UserError(
                f"compare_to={name!r}: {len(found)} cells of {self.n_cells:,} have this name (first: {names[0]!r})."
            )
        return int(found[0])

    def close(self) -> None:
        self.reader.close()


def check_second(cell: np.ndarray, processor: Cell2TextProcessor, options: DescribeOptions) -> None:
    """Refuse to compare to a cell that has nothing to compare."""
    if processor.is_empty(cell):
        raise UserError(f"compare_to={options.compare_to!r} has no counts on the genes that the model knows.")


def check_column(column: str, there: Sequence[str]) -> None:
    if column not in there:
        raise UserKeyError(f"groupby={column!r}: obs has no such column, it has {sorted(map(str, there))}.")


def ranked_anndata(adata, processor: Cell2TextProcessor, options: DescribeOptions) -> RankedCells:
    """All cells of an AnnData in memory, or backed.

    Raises
    ------
    ValueError
        If its values are no counts, or its genes are not the vocabulary's.
    KeyError
        If a layer or a column does not exist.
    """
    cells, report = processor.rank_encode_with_report(
        adata, layer=options.layer, gene_key=options.gene_key, allow_fractional=options.allow_fractional
    )
    return RankedCells(adata.obs_names.astype(str).tolist(), cells, report.n_genes, report.mapped_fraction)


def groups_of(adata, options: DescribeOptions) -> Groups:
    """The groups of an AnnData's cells.

    Raises
    ------
    KeyError
        If the column does not exist.
    ValueError
        If it is no grouping.
    """
    column = str(options.groupby)
    check_column(column, list(adata.obs))
    return find_groups(adata.obs[column], column, options.cells_per_group, options.seed)


def pseudobulk_of(adata, groups: Groups, processor: Cell2TextProcessor, options: DescribeOptions) -> RankedCells:
    """The summed counts of each group as a cell."""
    matrix, var, _ = select_counts(adata, options.layer)
    sums = np.zeros((len(groups.names), matrix.shape[1]))
    for start, block in count_blocks(matrix):
        groups.add_counts(sums, start, block)
    bulk = AnnData(sp.csr_matrix(sums), obs=pd.DataFrame(index=pd.Index(groups.names)), var=var)
    return ranked_anndata(bulk, processor, replace(options, layer=None))

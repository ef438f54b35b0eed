"""Ranked cells of an experiment: a file read a range at a time, or an AnnData in memory."""

from collections.abc import Iterator

import numpy as np

from cell2text.data.reading import checked_blocks
from cell2text.data.sources import FileReader, Source, find_sources, open_source
from cell2text.describe.engine import RankedCells
from cell2text.describe.options import DescribeOptions
from processing_cell2text import Cell2TextProcessor
from ranking_cell2text import CellRanker


def find_file(path: str) -> Source:
    """The one experiment that an input names.

    Raises
    ------
    ValueError
        If there is none, or several.
    """
    found = find_sources([path])
    if len(found) != 1:
        raise ValueError(f"{path} holds {len(found)} files of counts: expected one; describe them one by one.")
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

    def __init__(self, source: Source, processor: Cell2TextProcessor, options: DescribeOptions):
        self.reader: FileReader = open_source(source, options.layer)
        self.options, self.n_cells = options, self.reader.n_cells
        self.ranker = CellRanker(
            self.reader.var(), processor.gene_vocabulary, gene_key=options.gene_key, max_genes=processor.max_genes
        )

    def read(self, start: int, stop: int) -> RankedCells:
        """Cells of a range of rows."""
        rows = np.arange(start, stop)
        cells: list[np.ndarray] = []
        n_genes, mapped = [], []
        for _, block in self._blocks(rows):
            tokens, lengths, expressed, share = self.ranker.rank(block)
            cells += np.split(tokens, np.cumsum(lengths)[:-1])
            n_genes.append(expressed)
            mapped.append(share)
        return RankedCells(
            self.reader.cell_names(rows).tolist(), cells, np.concatenate(n_genes), np.concatenate(mapped)
        )

    def _blocks(self, rows: np.ndarray) -> Iterator:
        return checked_blocks(self.reader, rows, self.options.allow_fractional)

    def find(self, name: str) -> int:
        """Row of a cell by its name.

        Raises
        ------
        ValueError
            If no cell, or more than one, has it.
        """
        names = self.reader.cell_names(np.arange(self.n_cells))
        found = np.flatnonzero(names == name)
        if len(found) != 1:
            raise ValueError(
                f"compare_to={name!r}: {len(found)} cells of {self.n_cells:,} have this name (first: {names[0]!r})."
            )
        return int(found[0])

    def close(self) -> None:
        self.reader.close()


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

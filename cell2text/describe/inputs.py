"""Read ranked cells of an experiment, a range at a time, from any source, with the concepts that their counts show.

Depends on the processor's vocabulary and on the model's concept names.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import scipy.sparse as sp

from cell2text.describe.group_markers import WITHOUT_SCANPY, has_scanpy
from cell2text.describe.groups import Groups, find_groups
from cell2text.describe.options import DescribeOptions
from cell2text.describe.own_concepts import OwnConcepts, OwnReading
from cell2text.describe.ranked_cells import RankedCells
from cell2text.errors import UserError, UserKeyError
from concepts_cell2text import ConceptNames
from processing_cell2text import Cell2TextProcessor
from ranking_cell2text import CellRanker
from source_cell2text import CellSource


GROUPS_PER_BLOCK = 64
SHOWN_NAMES = 5  # of cells or values in a message


class CellReader:
    """Read and rank the cells of a source, a range at a time.

    Parameters
    ----------
    source
        An open file, or an AnnData.
    processor
        Provides the gene vocabulary and the length of a ranked cell.
    options
        Where gene names and groups are found, and whether pathways and sex come from the counts.
    concepts
        Concepts of the model that describes the cells. None for a model without concepts.

    Raises
    ------
    UserError
        If the genes are not in the vocabulary, or a column does not exist.
    """

    def __init__(
        self, source: CellSource, processor: Cell2TextProcessor, options: DescribeOptions,
        concepts: ConceptNames | None = None,
    ):  # fmt: skip
        self.source, self.options, self.processor, self.n_cells = source, options, processor, source.n_cells
        self.groups = self._find_groups() if options.groupby is not None and self.n_cells else None
        self.ranker = CellRanker.of_source(
            source, processor.gene_vocabulary, max_genes=processor.max_genes, gene_key=options.gene_key,
            species=options.species,
        )  # fmt: skip
        concepts = concepts or ConceptNames()
        self.own = OwnConcepts(concepts, source.read_var(), self.ranker, options) if concepts.n_concepts else None

    def reading(self) -> dict:
        """Return where counts and genes were found, with notes for the user, ready for JSON."""
        reading = self.ranker.reading(self.source)
        if self.own is not None:
            reading |= self.own.reading()
            reading["notes"] += self.own.notes
        if self.groups is not None and (n := int((self.groups.codes < 0).sum())):
            reading["notes"].append(f"{n:,} of {self.n_cells:,} cells have no value in {self.groups.column!r}.")
        if self.groups is not None and not has_scanpy():
            reading["notes"].append(WITHOUT_SCANPY)
        return reading

    def read(self, start: int, stop: int) -> RankedCells:
        """Return the cells of the rows from `start` to before `stop`."""
        return self.read_rows(np.arange(start, stop))

    def read_rows(self, rows: np.ndarray) -> RankedCells:
        """Return the cells of ascending rows."""
        names = [str(name) for name in self.source.read_cell_names(rows)]
        cells = self._rank(names, (block for _, block in self.source.blocks(rows)))
        cells.to_describe = None if self.groups is None else self.groups.to_describe[rows]
        return cells

    def _rank(self, names: Sequence[str], blocks: Iterable[sp.csr_matrix]) -> RankedCells:
        """Rank blocks of counts, and compute the concepts they show in the same pass."""
        own: list[OwnReading] = []
        expressed: list[np.ndarray] = []
        if self.options.evidence is not None:
            blocks = self._with_expressed(blocks, expressed)
        blocks = blocks if self.own is None else self.own.score_blocks(blocks, own)
        cells, n_genes, counts_used = self.ranker.rank_blocks(blocks)
        return RankedCells(
            names, cells, n_genes, counts_used, self.ranker.coverage,
            concept_overrides=np.concatenate([reading.overrides for reading in own]) if own else None,
            measured=self.ranker.token_ids, expressed=expressed or None,
            own_evidence=[row for reading in own for row in reading.evidence or ()] or None,
        )  # fmt: skip

    def _with_expressed(self, blocks: Iterable[sp.csr_matrix], expressed: list[np.ndarray]) -> Iterator[sp.csr_matrix]:
        """Yield blocks of counts unchanged, and append the expressed genes of each cell to a list."""
        for block in blocks:
            tokens = np.where(block.data > 0, self.ranker.token_ids[block.indices], -1)
            expressed += [np.unique(row[row >= 0]) for row in np.split(tokens, block.indptr[1:-1])]
            yield block

    def comparison_cell(self) -> RankedCells | None:
        """Return the cell named by `options.compare_to`, None if cells are not compared.

        Raises
        ------
        UserError
            If no cell or several have the name, or the cell cannot be described.
        """
        if self.options.compare_to is None:
            return None
        row = find_cell(self.source.read_cell_names(np.arange(self.n_cells)), self.options.compare_to)
        cell = self.read(row, row + 1)
        reason = self.processor.reason_not_described(cell.cells[0])
        if reason is not None:
            raise UserError(f"compare_to={self.options.compare_to!r}: {reason} Choose another cell.")
        return cell

    def pseudobulk(self, groups: Groups) -> RankedCells:
        """Return the summed counts of each group as a cell.

        Takes one pass over the source and holds a dense matrix of groups by genes.
        """
        sums = np.zeros((len(groups.names), len(self.source.read_var())))
        for positions, block in self.source.blocks():
            groups.add_counts(sums, int(positions[0]), block)
        blocks = (sp.csr_matrix(sums[i : i + GROUPS_PER_BLOCK]) for i in range(0, len(sums), GROUPS_PER_BLOCK))
        return self._rank(groups.names, blocks)

    def _find_groups(self) -> Groups:
        column, options = str(self.options.groupby), self.options
        columns = self.source.obs_columns()
        if column not in columns:
            raise UserKeyError(f"groupby={column!r}: obs has no such column, it has {sorted(columns)}.")
        return find_groups(self.source.read_obs([column])[column], column, options.cells_per_group, options.seed)


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


def cell_positions(names: np.ndarray, cells: str | Sequence[str], parameter: str = "cells") -> np.ndarray:
    """Return the rows of cells by their names, in the order given; a single name is a list of one.

    Parameters
    ----------
    names
        Names of all cells.
    cells
        The names to find. A name that is given twice counts once.
    parameter
        Name of the parameter in messages.

    Raises
    ------
    UserError
        If no name is given, a cell does not exist, or several cells have one of the names.

    Examples
    --------
    >>> cell_positions(np.array(["a", "b", "c"]), ["c", "a"]).tolist()
    [2, 0]
    """
    wanted = [cells] if isinstance(cells, str) else list(cells)
    if not wanted or not all(isinstance(name, str) for name in wanted):
        raise UserError(f"{parameter}={wanted[:SHOWN_NAMES]}: expected the name of a cell, or a list of names.")
    wanted, texts = list(dict.fromkeys(wanted)), np.asarray(names).astype(str)
    found = np.flatnonzero(np.isin(texts, wanted))
    missing = sorted(set(wanted) - set(texts[found]))
    if missing:
        raise UserError(
            f"{parameter}: {len(missing):,} of {len(wanted):,} names do not match any cell: {some_names(missing)}. The "
            f"first cell is {texts[0]!r}."
        )
    if len(found) > len(wanted):
        raise UserError(
            f"{parameter}: several cells have the same name among {some_names(wanted)}. Make the names unique."
        )
    row_of = dict(zip(texts[found].tolist(), found.tolist()))
    return np.array([row_of[name] for name in wanted], dtype=np.int64)


def some_names(values: Sequence[str]) -> str:
    """Return the first values as text."""
    shown = ", ".join(repr(str(value)[:80]) for value in values[:SHOWN_NAMES])
    return shown if len(values) <= SHOWN_NAMES else f"{shown}, ... ({len(values):,} values)"

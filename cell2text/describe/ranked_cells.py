"""Ranked cells of an experiment with their names and gene statistics. Depends on NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class RankedCells:
    """Ranked cells of one experiment, in its order.

    Parameters
    ----------
    names
        Cell names, shape (n_cells,).
    cells
        Gene token ids of each cell.
    n_genes
        Number of expressed genes in the vocabulary, shape (n_cells,).
    counts_used
        Fraction of the counts on genes in the vocabulary, shape (n_cells,).
    coverage
        Fraction of the vocabulary's genes that the experiment has.
    to_describe
        Whether each cell gets a text, shape (n_cells,); all cells if None. The others get an embedding only.
    concept_overrides
        Concept values that each cell's own counts show, float32, shape (n_cells, n_concepts); NaN keeps the model's
        prediction. None to keep all predictions.
    measured
        Token ids of the genes that the experiment measures, in any order; None if unknown, as for gene lists.
    expressed
        Token ids of all expressed genes of each cell, also of those that rank too low for the model. None if evidence
        is not needed.
    own_evidence
        Per cell, the genes behind the concepts that its own counts show, by field and value; see
        :class:`cell2text.evidence.counts.CountEvidence`. None if evidence is not needed.
    """

    names: Sequence[str]
    cells: list[np.ndarray]
    n_genes: np.ndarray
    counts_used: np.ndarray
    coverage: float
    to_describe: np.ndarray | None = None
    concept_overrides: np.ndarray | None = None
    measured: np.ndarray | None = None
    expressed: list[np.ndarray] | None = None
    own_evidence: list[dict] | None = None

    def __getitem__(self, rows: slice) -> "RankedCells":
        """Return a range of the cells."""
        return self.take(np.arange(len(self.cells))[rows])

    def take(self, rows: np.ndarray) -> "RankedCells":
        """Return the cells of rows, in their order."""
        arrays = (self.to_describe, self.concept_overrides)
        to_describe, overrides = (None if values is None else values[rows] for values in arrays)
        lists = (self.expressed, self.own_evidence)
        expressed, evidence = (None if values is None else [values[row] for row in rows] for values in lists)
        return RankedCells(
            [self.names[row] for row in rows], [self.cells[row] for row in rows], self.n_genes[rows],
            self.counts_used[rows], self.coverage, to_describe, overrides, self.measured, expressed, evidence,
        )  # fmt: skip

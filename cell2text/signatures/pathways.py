"""Score gene sets in the cells of one file, and name the most active ones of each cell.

`prepare` writes the names into the texts of its rows, and `describe` gives them to the model, by the same definition.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from cell2text.signatures.aucell import MIN_COVERAGE, MIN_GENES, aucell
from cell2text.signatures.gene_sets import GeneSets, match_columns
from ranking_cell2text import MappedGenes


TOP_SHARE = 0.05  # share of the gene sets that counts as active in a cell
N_NAMED = 2  # gene sets that a text names


class PathwayScorer:
    """Gene sets, matched to the genes of a file.

    Parameters
    ----------
    gene_sets
        Gene sets.
    var
        `var` of the file.
    genes
        The file's genes, mapped to the vocabulary.
    ties, seed
        See :func:`cell2text.signatures.aucell.aucell`.

    Attributes
    ----------
    columns
        Columns of each set's genes in `genes.collapse(counts)`.
    coverage
        Share of each set's genes that the file has, shape (n_sets,).
    nameable
        Whether a text may name a set, which takes `MIN_COVERAGE` of its genes, shape (n_sets,).

    Examples
    --------
    >>> from cell2text.example import example_cells
    >>> from cell2text.loading import load
    >>> from ranking_cell2text import CellRanker
    >>> from cell2text.signatures.gene_sets import hallmark_gene_sets
    >>> adata, (_, processor) = example_cells(unseen=True)[:2], load()
    >>> genes = CellRanker(adata.var, processor.gene_vocabulary, max_genes=512)
    >>> scorer = PathwayScorer(hallmark_gene_sets(), adata.var, genes)
    >>> scorer.score(adata.X).shape
    (2, 50)
    """

    def __init__(
        self, gene_sets: GeneSets, var, genes: MappedGenes, *, ties: str = "expected", seed: int | None = None
    ):
        self.gene_sets, self.genes, self.ties, self.seed = gene_sets, genes, ties, seed
        self.columns = match_columns(gene_sets, var, genes)
        self.coverage = np.array([len(own) / len(all_) for own, all_ in zip(self.columns, gene_sets.genes)])
        self.nameable = self.coverage >= MIN_COVERAGE
        self.n_genes = len(np.unique(genes.columns))

    @property
    def has_enough_genes(self) -> bool:
        """Whether the file has enough genes for AUCell, `MIN_GENES`."""
        return self.n_genes >= MIN_GENES

    def score(self, counts: sp.csr_matrix) -> np.ndarray:
        """Return the AUCell scores of raw counts of all genes of the file, float32, shape (n_cells, n_sets)."""
        collapsed = self.genes.collapse(counts)
        return aucell(collapsed, self.columns, ties=self.ties, seed=self.seed).astype(np.float32)


def top_pathways(
    scores: np.ndarray, names: Sequence[str], nameable: np.ndarray, *, top_share: float = TOP_SHARE
) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Name the most active gene sets of each cell.

    Parameters
    ----------
    scores
        AUCell scores, shape (n_cells, n_sets).
    names
        Names of the sets.
    nameable
        Sets that may be named, boolean, shape (n_sets,). Sets that score 0 are never named.
    top_share
        Share of the sets that counts as active, 0 to 1.

    Returns
    -------
    For each cell the names of the two highest sets, and of all sets in its top share (at least two), highest first.
    Equal scores keep the order of the sets.
    """
    if not len(names):
        return [()] * len(scores), [()] * len(scores)
    masked = np.where(nameable & (scores > 0), scores, 0.0)
    n_active = max(N_NAMED, int(np.ceil(top_share * len(names))))
    order = np.argsort(-masked, axis=1, kind="stable")[:, :n_active]
    positive = np.take_along_axis(masked, order, axis=1) > 0
    names_array = np.asarray(names, dtype=object)
    active = [tuple(names_array[columns[mask]]) for columns, mask in zip(order, positive)]
    return [cell[:N_NAMED] for cell in active], active

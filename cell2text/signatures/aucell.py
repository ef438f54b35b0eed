"""Score gene sets in single cells with AUCell.

A cell's genes are ranked by count. A set scores by how many of its genes are among the top 5 % and how high they rank,
from 0 to 1. Most counts are tied. By default a tied gene contributes the mean over all orders of its ties, so a score
depends on the cell alone: not on a random seed, nor on the other cells of a batch. `ties="seeded"` breaks ties by one
shuffle of the genes, as pySCENIC does. Depends on numba.

Reference: Aibar et al. 2017, Nature Methods 14:1083.
"""

from collections.abc import Sequence
from functools import cache

import numba
import numpy as np
import scipy.sparse as sp

from cell2text.errors import UserError
from ranking_cell2text import csr_arrays


TOP_FRACTION = 0.05
MIN_GENES = 50  # with fewer genes, the top 5 % contain at most one rank that counts
MIN_COVERAGE = 0.8  # sets with a smaller share of their genes in the file are scored but never named (pySCENIC's bound)
HISTOGRAM_SIZE = 16384  # integer counts below this are sorted by counting


def aucell(
    counts,
    set_columns: Sequence[np.ndarray],
    *,
    top_fraction: float = TOP_FRACTION,
    ties: str = "expected",
    seed: int | None = None,
) -> np.ndarray:
    """Score gene sets in every cell.

    Parameters
    ----------
    counts
        Raw counts, CSR, shape (n_cells, n_genes). Pass all genes of the file, since removing genes changes the scores.
        A transformation that preserves the order within each cell, such as log1p, does not.
    set_columns
        Columns of each set's genes, one integer array per set.
    top_fraction
        Share of the genes that counts as the top of the ranking.
    ties
        `"expected"`: mean over all orders of tied genes. `"seeded"`: one order, by a shuffle of the genes with `seed`.
    seed
        Random seed of the shuffle, equal to `random_state` of pySCENIC's ranking. Only for `ties="seeded"`.

    Returns
    -------
    Scores from 0 to 1, float64, shape (n_cells, n_sets); NaN for a set without a gene in the file.

    Raises
    ------
    UserError
        If `ties` and `seed` do not fit together, or the file has too few genes.

    Examples
    --------
    Genes 0 and 1 rank first and second of 60; only the first two ranks count.

    >>> counts = np.zeros((1, 60))
    >>> counts[0, :2] = [9, 5]
    >>> aucell(counts, [np.array([0, 1]), np.array([7])]).round(2)
    array([[0.5, 0. ]])
    """
    if ties not in ("expected", "seeded") or (ties == "seeded") == (seed is None):
        raise UserError(f"ties={ties!r}, seed={seed!r}: expected ties='expected', or ties='seeded' with a seed.")
    counts = sp.csr_matrix(counts)
    n_genes = counts.shape[1]
    cutoff = round(top_fraction * n_genes) - 1  # as in AUCell for R and pySCENIC, the last rank does not count
    if not 0 < cutoff < n_genes:
        raise UserError(f"{n_genes} genes are too few: no rank counts among the top {top_fraction:.0%} of them.")
    sizes = np.array([len(columns) for columns in set_columns], dtype=np.int64)
    members = np.concatenate([*set_columns, np.zeros(0, dtype=np.int64)]).astype(np.int64)
    sets = np.repeat(np.arange(len(sizes)), sizes)[np.argsort(members, kind="stable")]
    starts = np.searchsorted(np.sort(members), np.arange(n_genes + 1))
    scores = np.zeros((counts.shape[0], len(sizes)))
    arrays = (*csr_arrays(counts), starts, sets, sizes, n_genes, cutoff, scores)
    if ties == "expected":
        _compiled(_score_rows_expected)(*arrays)
    else:
        order = np.random.RandomState(seed).choice(n_genes, size=n_genes, replace=False)
        _compiled(_score_rows_seeded)(*arrays, order.astype(np.int64))
    with np.errstate(invalid="ignore"):
        return scores / ((cutoff + 1.0) * sizes)


def gene_gains(counts: np.ndarray, columns: np.ndarray, *, top_fraction: float = TOP_FRACTION) -> np.ndarray:
    """Return how much each gene of a set adds to the set's score in one cell; they add up to the score.

    Parameters
    ----------
    counts
        Raw counts of one cell, shape (n_genes,).
    columns
        Columns of the set's genes.
    top_fraction
        See :func:`aucell`.

    Returns
    -------
    Shape (n_set_genes,), float64. Tied genes gain equally, as with `ties="expected"`.

    Examples
    --------
    >>> counts = np.zeros(60)
    >>> counts[:2] = [9, 5]
    >>> gene_gains(counts, np.array([0, 1])).round(3)
    array([0.333, 0.167])
    """
    cutoff = round(top_fraction * len(counts)) - 1
    ascending, values = np.sort(counts), counts[columns]
    above = len(counts) - np.searchsorted(ascending, values, side="right")
    tied = len(counts) - np.searchsorted(ascending, values, side="left") - above
    last = np.minimum(above + tied, cutoff)
    gains = np.maximum(0, last - above) * (2 * cutoff - above - last + 1) / 2 / tied
    return gains / ((cutoff + 1.0) * max(1, len(columns)))


@cache
def _compiled(kernel):
    return numba.njit(nogil=True, cache=True)(kernel)


def _score_rows_expected(indptr, indices, data, starts, sets, sizes, n_genes, cutoff, scores):
    """Add the contribution of every gene to `scores`, the mean over all orders for tied genes. Compiled by numba."""
    histogram = np.zeros(HISTOGRAM_SIZE, dtype=np.int64)
    gains = np.zeros(HISTOGRAM_SIZE)  # contribution of a gene by its count
    hits = np.zeros(len(sizes), dtype=np.int64)
    for row in range(len(indptr) - 1):
        begin, end = indptr[row], indptr[row + 1]
        n, highest, countable = 0, 0.0, True
        for position in range(begin, end):
            value = data[position]
            if value > 0:
                n += 1
                highest = max(highest, value)
                if value >= HISTOGRAM_SIZE or value != np.floor(value):
                    countable = False
        zero_gain = 0.0
        if n < cutoff:
            zero_gain = (cutoff - n) * (cutoff - n + 1) / 2 / (n_genes - n)
        hits[:] = 0
        if countable:
            for position in range(begin, end):
                histogram[int(data[position])] += 1
            above = 0
            for value in range(int(highest), 0, -1):
                size = histogram[value]
                histogram[value] = 0
                if size:
                    last = min(above + size, cutoff)
                    gains[value] = max(0, last - above) * (2 * cutoff - above - last + 1) / 2 / size
                    above += size
            histogram[0] = 0
            for position in range(begin, end):
                value = int(data[position])
                if value > 0:
                    column = indices[position]
                    for k in range(starts[column], starts[column + 1]):
                        scores[row, sets[k]] += gains[value]
                        hits[sets[k]] += 1
        else:
            order = np.argsort(-data[begin:end])
            first = 0
            while first < n:
                last = first
                while last < n and data[begin + order[last]] == data[begin + order[first]]:
                    last += 1
                top = min(last, cutoff)
                gain = max(0, top - first) * (2 * cutoff - first - top + 1) / 2 / (last - first)
                for i in range(first, last):
                    column = indices[begin + order[i]]
                    for k in range(starts[column], starts[column + 1]):
                        scores[row, sets[k]] += gain
                        hits[sets[k]] += 1
                first = last
        for s in range(len(sizes)):
            scores[row, s] += (sizes[s] - hits[s]) * zero_gain


def _score_rows_seeded(indptr, indices, data, starts, sets, sizes, n_genes, cutoff, scores, order):
    """Add the contribution of every gene to `scores`, with tied genes in the order `order`. Compiled by numba."""
    place = np.empty(n_genes, dtype=np.int64)
    for i in range(n_genes):
        place[order[i]] = i
    values = np.zeros(n_genes, dtype=data.dtype)  # the row's counts in the shuffled order
    histogram = np.zeros(HISTOGRAM_SIZE, dtype=np.int64)
    for row in range(len(indptr) - 1):
        begin, end = indptr[row], indptr[row + 1]
        n, highest, countable = 0, 0.0, True
        for position in range(begin, end):
            value = data[position]
            values[place[indices[position]]] = value
            if value > 0:
                n += 1
                highest = max(highest, value)
                if value >= HISTOGRAM_SIZE or value != np.floor(value):
                    countable = False
        if countable:
            for position in range(begin, end):
                histogram[int(data[position])] += 1
            above = 0
            for value in range(int(highest), 0, -1):
                histogram[value], above = above, above + histogram[value]
            next_zero = n
            for i in range(n_genes):
                value = int(values[i])
                if value > 0:
                    rank = histogram[value]
                    histogram[value] += 1
                else:
                    rank = next_zero
                    next_zero += 1
                if rank < cutoff:
                    for k in range(starts[order[i]], starts[order[i] + 1]):
                        scores[row, sets[k]] += cutoff - rank
            histogram[: int(highest) + 1] = 0
        else:
            by_value = np.argsort(-values, kind="mergesort")
            for rank in range(cutoff):
                column = order[by_value[rank]]
                for k in range(starts[column], starts[column + 1]):
                    scores[row, sets[k]] += cutoff - rank
        for position in range(begin, end):
            values[place[indices[position]]] = 0

"""Expression features for the baselines: log-normalised counts, or ranks where there are no counts."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp


def log_normalise(counts: sp.csr_matrix, *, target_sum: float = 10_000) -> sp.csr_matrix:
    """Scale the counts of each cell to a total of `target_sum` and apply log1p. Cells without counts stay empty.

    Examples
    --------
    >>> log_normalise(sp.csr_matrix([[1, 3]]), target_sum=4).expm1().toarray().tolist()
    [[1.0, 3.0]]
    """
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    scaled = sp.diags_array(target_sum / np.where(totals == 0, 1, totals)).tocsr() @ counts.astype(np.float64)
    return scaled.log1p().tocsr()


def rank_features(cells: Sequence[Sequence[int]], n_tokens: int) -> sp.csr_matrix:
    """Turn ranked genes into features, for use without counts: 1 / log2(1 + rank), with ranks from 1.

    Parameters
    ----------
    cells
        Gene token ids of each cell, highest rank first.
    n_tokens
        Size of the gene vocabulary.

    Returns
    -------
    Features, shape (n_cells, n_tokens).
    """
    lengths = np.array([len(cell) for cell in cells], dtype=np.int64)
    tokens = np.concatenate([np.asarray(cell, dtype=np.int64) for cell in cells]) if len(cells) else np.zeros(0, int)
    ranks = np.concatenate([np.arange(1, length + 1) for length in lengths]) if len(cells) else np.zeros(0, int)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return sp.csr_matrix((1 / np.log2(1 + ranks), tokens, offsets), shape=(len(cells), n_tokens))

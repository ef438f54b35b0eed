"""Intervals by resampling donors: cells of one donor are no independent evidence."""

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse as sp


LEVEL = 0.95
DRAWN_AT_ONCE = 50


class Resampler:
    """Draws whole donors with replacement; single cells where fewer than two donors are known.

    Parameters
    ----------
    donors
        One a row, None where unknown: such a row is a group of its own.
    n_resamples
        Replicates of every figure.
    seed
        The same seed draws the same donors, for every figure and every system.
    """

    def __init__(self, donors: Sequence[str | None], *, n_resamples: int = 1000, seed: int = 0):
        self.unit = "donor" if len({donor for donor in donors if donor is not None}) > 1 else "cell"
        names = [
            f"donor {donor}" if donor is not None and self.unit == "donor" else f"row {row}"
            for row, donor in enumerate(donors)
        ]
        _, self._group = np.unique(names, return_inverse=True)
        self.n_groups = int(self._group.max()) + 1 if len(names) else 0
        self.n_resamples, self.seed = n_resamples, seed

    def _weights(self) -> Iterator[np.ndarray]:
        """How often each group is drawn, some replicates at a time, shape (n_drawn, n_groups)."""
        rng = np.random.default_rng(self.seed)
        shares = np.full(self.n_groups, 1 / self.n_groups)
        for start in range(0, self.n_resamples, DRAWN_AT_ONCE):
            yield rng.multinomial(self.n_groups, shares, size=min(DRAWN_AT_ONCE, self.n_resamples - start))

    def sums(self, contributions: np.ndarray | sp.spmatrix, rows: np.ndarray) -> np.ndarray:
        """Sums over the drawn rows of what each row contributes.

        Parameters
        ----------
        contributions
            Shape (len(rows), n_values).
        rows
            Which rows of the evaluation they belong to.

        Returns
        -------
        Shape (1 + n_resamples, n_values), the first over all rows as they are.
        """
        n = len(rows)
        membership = sp.csr_matrix((np.ones(n), (self._group[rows], np.arange(n))), shape=(self.n_groups, n))
        by_group = membership @ contributions
        by_group = by_group.toarray() if sp.issparse(by_group) else np.asarray(by_group)
        return np.vstack([by_group.sum(axis=0)[None], *(weights @ by_group for weights in self._weights())])

    def means(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Mean of one value a row, and its replicates, shape (1 + n_resamples,); NaN values are left out."""
        there = np.isfinite(values)
        sums = self.sums(np.column_stack([np.where(there, values, 0.0), there]), rows)
        with np.errstate(invalid="ignore"):
            return sums[:, 0] / sums[:, 1]


def interval(replicates: np.ndarray) -> list[float] | None:
    """The middle 95 % of a figure's replicates, whose first entry is the figure itself; None where it is undefined."""
    drawn = replicates[1:][np.isfinite(replicates[1:])]
    if not len(drawn) or not np.isfinite(replicates[0]):
        return None
    return [float(bound) for bound in np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def paired_difference(first: np.ndarray, second: np.ndarray) -> dict:
    """Difference of a figure between two systems on the same draws: estimate, interval, and two-sided p value.

    The p value is twice the smaller share of draws on either side of zero; it is at least 2 / (n_resamples + 1).
    """
    difference = first - second
    drawn = difference[1:][np.isfinite(difference[1:])]
    if not len(drawn) or not np.isfinite(difference[0]):
        return {"difference": None, "interval": None, "p": None}
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (len(drawn) + 1))
    return {"difference": float(difference[0]), "interval": interval(difference), "p": float(p)}

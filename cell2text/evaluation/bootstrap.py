"""Intervals by resampling donors: cells of one donor are no independent evidence."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import scipy.sparse as sp


LEVEL = 0.95
DRAWN_AT_ONCE = 50


class Resampler:
    """Draws whole donors with replacement; single cells where fewer than two donors are known.

    What is drawn is decided for the rows of each figure: a field that one donor's cells alone have is drawn by cell.

    Parameters
    ----------
    donors
        One a row, None where unknown: such a row is a group of its own.
    n_resamples
        Replicates of every figure.
    seed
        The same seed draws the same donors, for every figure of the same rows and every system.
    """

    def __init__(self, donors: Sequence[str | None], *, n_resamples: int = 1000, seed: int = 0):
        self._donors = list(donors)
        self.n_resamples, self.seed = n_resamples, seed
        self._parts: dict[bytes, tuple[str, np.ndarray]] = {}

    def groups(self, rows: np.ndarray) -> tuple[str, np.ndarray]:
        """What is drawn for some rows, `donor` or `cell`, and the number of each row's group."""
        key = np.asarray(rows, dtype=np.int64).tobytes()
        if key not in self._parts:
            donors = [self._donors[row] for row in rows]
            unit = "donor" if len({donor for donor in donors if donor is not None}) > 1 else "cell"
            names = [
                f"donor {donor}" if donor is not None and unit == "donor" else f"row {row}"
                for row, donor in zip(rows, donors)
            ]
            self._parts[key] = unit, np.unique(names, return_inverse=True)[1].ravel() if names else np.zeros(0, int)
        return self._parts[key]

    def weights(self, n_groups: int) -> Iterator[np.ndarray]:
        """How often each group is drawn, some replicates at a time, shape (n_drawn, n_groups)."""
        rng = np.random.default_rng(self.seed)
        shares = np.full(n_groups, 1 / n_groups)
        for start in range(0, self.n_resamples, DRAWN_AT_ONCE):
            yield rng.multinomial(n_groups, shares, size=min(DRAWN_AT_ONCE, self.n_resamples - start))

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
        _, group = self.groups(rows)
        n, n_groups = len(rows), int(group.max()) + 1 if len(group) else 0
        membership = sp.csr_matrix((np.ones(n), (group, np.arange(n))), shape=(n_groups, n))
        by_group = sp.csr_matrix(membership @ sp.csr_matrix(contributions))
        drawn = [np.asarray(weights @ by_group) for weights in self.weights(n_groups)] if n_groups else []
        return np.vstack([np.asarray(by_group.sum(axis=0)), *drawn])

    def means(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Mean of one value a row, and its replicates, shape (1 + n_resamples,); NaN values are left out."""
        return next(iter(self.all_means({"value": values}, rows).values()))

    def all_means(self, values: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Means of several values a row, on one set of draws."""
        there = {name: np.isfinite(value) for name, value in values.items()}
        known = np.column_stack([np.where(there[name], value, 0.0) for name, value in values.items()])
        sums = self.sums(np.hstack([known, np.column_stack(list(there.values()))]), rows)
        n = len(values)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {name: sums[:, i] / sums[:, n + i] for i, name in enumerate(values)}


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

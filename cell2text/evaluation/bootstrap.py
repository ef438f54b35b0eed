"""Bootstrap intervals over donors.

Cells of one donor are not independent, so the bootstrap resamples whole donors. Depends on NumPy and SciPy only.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import scipy.sparse as sp


CONFIDENCE_LEVEL = 0.95
REPLICATES_PER_BLOCK = 50  # bounds the memory of the dense replicate-by-group weights


class Resampler:
    """Resample donors with replacement, or single cells if fewer than two donors are known.

    The unit is chosen for the rows of each metric: a field that only one donor's cells have is resampled by cell.

    Parameters
    ----------
    donors
        Donor of each row. A row with None forms a group of its own.
    n_resamples
        Number of bootstrap replicates.
    seed
        Random seed. The same seed draws the same donors for every metric and system on the same rows.

    Examples
    --------
    >>> resampler = Resampler(["d1", "d1", "d2", "d2"], n_resamples=200)
    >>> accuracy = resampler.means(np.array([1.0, 1.0, 0.0, 1.0]), np.arange(4))
    >>> accuracy.shape, float(accuracy[0])
    ((201,), 0.75)
    >>> interval(accuracy)
    [0.5, 1.0]
    """

    def __init__(self, donors: Sequence[str | None], *, n_resamples: int = 1000, seed: int = 0):
        self._donors = list(donors)
        self.n_resamples, self.seed = n_resamples, seed
        self._groups: dict[bytes, tuple[str, np.ndarray]] = {}

    def groups(self, rows: np.ndarray) -> tuple[str, np.ndarray]:
        """Return the resampling unit for some rows, `"donor"` or `"cell"`, and the group number of each row."""
        key = np.asarray(rows, dtype=np.int64).tobytes()
        if key not in self._groups:
            donors = [self._donors[row] for row in rows]
            unit = "donor" if len({donor for donor in donors if donor is not None}) > 1 else "cell"
            names = [
                f"donor {donor}" if donor is not None and unit == "donor" else f"row {row}"
                for row, donor in zip(rows, donors)
            ]
            self._groups[key] = unit, np.unique(names, return_inverse=True)[1].ravel() if names else np.zeros(0, int)
        return self._groups[key]

    def weights(self, n_groups: int) -> Iterator[np.ndarray]:
        """Yield how often each replicate draws each group, in blocks of shape (n_replicates_in_block, n_groups)."""
        rng = np.random.default_rng(self.seed)
        shares = np.full(n_groups, 1 / n_groups)
        for start in range(0, self.n_resamples, REPLICATES_PER_BLOCK):
            yield rng.multinomial(n_groups, shares, size=min(REPLICATES_PER_BLOCK, self.n_resamples - start))

    def sums(self, contributions: np.ndarray | sp.spmatrix, rows: np.ndarray) -> np.ndarray:
        """Sum what each row contributes, over all rows and over the rows of each replicate.

        Parameters
        ----------
        contributions
            Values of each row, shape (len(rows), n_values).
        rows
            Row numbers in the evaluation.

        Returns
        -------
        Sums of shape (1 + n_resamples, n_values). The first entry is the sum over the rows as they are.
        """
        _, group = self.groups(rows)
        n, n_groups = len(rows), int(group.max()) + 1 if len(group) else 0
        membership = sp.csr_matrix((np.ones(n), (group, np.arange(n))), shape=(n_groups, n))
        by_group = sp.csr_matrix(membership @ sp.csr_matrix(contributions))
        replicates = [np.asarray(weights @ by_group) for weights in self.weights(n_groups)] if n_groups else []
        return np.vstack([np.asarray(by_group.sum(axis=0)), *replicates])

    def means(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the mean of one value per row and its replicates, shape (1 + n_resamples,). NaN values are skipped."""
        return next(iter(self.all_means({"value": values}, rows).values()))

    def all_means(self, values: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the means of several values per row, on the same replicates. NaN values are skipped."""
        finite = {name: np.isfinite(value) for name, value in values.items()}
        filled = np.column_stack([np.where(finite[name], value, 0.0) for name, value in values.items()])
        sums = self.sums(np.hstack([filled, np.column_stack(list(finite.values()))]), rows)
        n = len(values)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {name: sums[:, i] / sums[:, n + i] for i, name in enumerate(values)}


def interval(replicates: np.ndarray) -> list[float] | None:
    """Return the 95 % percentile interval of a metric, or None if the metric is undefined.

    Parameters
    ----------
    replicates
        The metric followed by its bootstrap replicates, shape (1 + n_resamples,). Replicates that are NaN are skipped.
    """
    finite = replicates[1:][np.isfinite(replicates[1:])]
    if not len(finite) or not np.isfinite(replicates[0]):
        return None
    tail = (1 - CONFIDENCE_LEVEL) / 2
    return [float(bound) for bound in np.quantile(finite, [tail, 1 - tail])]


def paired_difference(first: np.ndarray, second: np.ndarray) -> dict:
    """Compare a metric between two systems on the same replicates.

    Parameters
    ----------
    first, second
        The metric of each system followed by its replicates, shape (1 + n_resamples,).

    Returns
    -------
    `difference` (first minus second), its 95 % `interval`, and the two-sided `p` value: twice the smaller share of
    replicates on either side of zero, at least 2 / (n_resamples + 1). All are None if the difference is undefined.
    """
    difference = first - second
    finite = difference[1:][np.isfinite(difference[1:])]
    if not len(finite) or not np.isfinite(difference[0]):
        return {"difference": None, "interval": None, "p": None}
    tail = min(int((finite <= 0).sum()), int((finite >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (len(finite) + 1))
    return {"difference": float(difference[0]), "interval": interval(difference), "p": float(p)}

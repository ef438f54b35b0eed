"""Scale features and reduce them to principal components, fitted on training samples only.

Depends on NumPy and SciPy only.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from cell2text.donors.features import CellFeatures


MIN_SCALE = 0.01  # of a feature; rare concepts would otherwise be amplified to the variance of common ones
MIN_GROUP_SIZE = 50  # features; smaller groups, such as the three values of sex, have less total variance than others
N_COMPONENTS = 30
MIN_VARIANCE = 1e-9  # of a component


@dataclass(frozen=True)
class FeatureSpace:
    """Principal components of scaled features.

    Large groups of features have the same total variance, and every sample the same weight, however many cells it has.

    Parameters
    ----------
    mean, scale
        Mean and divisor of each feature, shape (n_features,).
    loadings
        Components in scaled features, shape (n_features, n_components).
    """

    mean: np.ndarray
    scale: np.ndarray
    loadings: np.ndarray

    @classmethod
    def fit(cls, features: CellFeatures, codes: np.ndarray, n_components: int = N_COMPONENTS) -> "FeatureSpace":
        """Fit the space to training cells.

        Parameters
        ----------
        features
            Features of the cells, without NaN.
        codes
            Sample of each cell, shape (n_cells,).
        n_components
            Maximum number of components.

        Examples
        --------
        >>> values = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
        >>> features = CellFeatures(values, np.array(list("aaabb")), np.array(list("vwxyz")))
        >>> space = FeatureSpace.fit(features, np.repeat([0, 1], 20), n_components=2)
        >>> space.transform(values).shape
        (40, 2)
        """
        weights = 1.0 / np.bincount(codes)[codes]
        weights /= weights.sum()
        values = features.values.astype(np.float64)
        mean = weights @ values
        deviation = np.sqrt(weights @ (values - mean) ** 2)
        sizes = dict(zip(*np.unique(features.groups, return_counts=True)))
        size = np.maximum([sizes[group] for group in features.groups], MIN_GROUP_SIZE)
        scale = np.maximum(deviation, MIN_SCALE) * np.sqrt(size)
        scaled = (values - mean) / scale
        covariance = (scaled * weights[:, None]).T @ scaled
        first = max(0, len(covariance) - n_components)
        variances, vectors = eigh(covariance, subset_by_index=[first, len(covariance) - 1])
        kept = np.flatnonzero(variances >= min(MIN_VARIANCE, variances[-1]))[::-1]  # largest first, at least one
        loadings = vectors[:, kept] * _signs(vectors[:, kept])
        return cls(mean, scale, loadings)

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Return components of cells, float32, shape (n_cells, n_components)."""
        return (((values - self.mean) / self.scale) @ self.loadings).astype(np.float32)

    def feature_weights(self, component_weights: np.ndarray) -> np.ndarray:
        """Return the weight of each unscaled feature from the weights of the components, shape (n_features,)."""
        return (self.loadings @ component_weights) / self.scale


def _signs(vectors: np.ndarray) -> np.ndarray:
    """Return signs that make the largest entry of each column positive."""
    largest = np.abs(vectors).argmax(axis=0)
    return np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)

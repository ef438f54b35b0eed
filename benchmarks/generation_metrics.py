"""Compare sets of cells: distances in PCA space, a forest that classifies them, correlations of genes, zeros.

Used by benchmarks/generation.py. All functions take normalised logarithmic expression, or components of it.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score


N_GENES, N_COMPONENTS = 2_000, 30
N_TREES, FOLDS = 100, 5
CORRELATED_GENES = 100


@dataclass
class Space:
    """Variable genes and principal components of the real training cells of a study.

    Parameters
    ----------
    genes
        Columns of the variable genes, shape (n_genes,).
    pca
        Components of their logarithmic expression.
    """

    genes: np.ndarray
    pca: PCA

    @classmethod
    def of(cls, counts: sp.csr_matrix) -> "Space":
        """Choose variable genes by their dispersion among genes of the same mean, and fit the components."""
        values = log_normalised(counts)
        mean = np.asarray(values.mean(axis=0)).ravel()
        variance = np.asarray(values.multiply(values).mean(axis=0)).ravel() - mean**2
        excess = np.where(mean > 0, variance / np.maximum(mean, 1e-12), 0)
        bins = np.digitize(mean, np.quantile(mean[mean > 0], np.linspace(0, 1, 21)[1:-1]))
        medians = np.array([np.median(excess[(bins == i) & (mean > 0)]) for i in range(20)])
        score = np.where(mean > 0, excess / np.maximum(medians[bins], 1e-12), 0)
        genes = np.sort(np.argsort(-score, kind="stable")[:N_GENES])
        return cls(genes, PCA(N_COMPONENTS, random_state=0).fit(values[:, genes].toarray()))

    def expression(self, counts: sp.csr_matrix) -> np.ndarray:
        """Return the logarithmic expression of the variable genes, shape (n_cells, n_genes)."""
        return log_normalised(counts)[:, self.genes].toarray()

    def components(self, expression: np.ndarray) -> np.ndarray:
        """Return principal components, shape (n_cells, n_components)."""
        return self.pca.transform(expression)


def log_normalised(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Return log(1 + counts per 10,000), CSR."""
    total = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    values = sp.csr_matrix(sp.diags_array(1e4 / total) @ counts)
    values.data = np.log1p(values.data)
    return values


def compare(real: np.ndarray, other: np.ndarray, space: Space, seed: int = 0) -> dict[str, float]:
    """Compare equally many real and other cells, given the logarithmic expression of the variable genes.

    Returns
    -------
    `mmd` (maximum mean discrepancy, Gaussian kernels around the median distance), `wasserstein_1`, `wasserstein_2`
    (exact, by assignment), `auroc` and `auroc_genes` (cross-validated forest on components and on genes),
    `correlation` (between the correlations of gene pairs), `zeros` and `zeros_real` (shares of zeros).
    """
    one, two = space.components(real), space.components(other)
    distances = cdist(one, two)
    return {
        "mmd": mmd(one, two),
        "wasserstein_1": assigned(distances),
        "wasserstein_2": float(np.sqrt(assigned(distances**2))),
        "auroc": auroc(one, two, seed),
        "auroc_genes": auroc(real, other, seed),
        "correlation": correlation_agreement(real, other),
        "zeros": float((other == 0).mean()),
        "zeros_real": float((real == 0).mean()),
    }


def mmd(one: np.ndarray, two: np.ndarray) -> float:
    """Return the maximum mean discrepancy with the mean of five Gaussian kernels around the median distance."""
    both = np.concatenate([one, two])
    squared = cdist(both, both, "sqeuclidean")
    median = np.median(squared[squared > 0])
    kernel = np.mean([np.exp(-squared / (median * scale)) for scale in (0.25, 0.5, 1, 2, 4)], axis=0)
    n = len(one)
    value = kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()
    return float(np.sqrt(max(value, 0.0)))


def assigned(costs: np.ndarray) -> float:
    """Return the mean cost of the best assignment of equally many cells."""
    return float(costs[linear_sum_assignment(costs)].mean())


def auroc(one: np.ndarray, two: np.ndarray, seed: int) -> float:
    """Return the cross-validated AUROC of a random forest trained to distinguish two sets of cells."""
    labels = np.repeat([0, 1], [len(one), len(two)])
    forest = RandomForestClassifier(N_TREES, min_samples_leaf=2, random_state=seed, n_jobs=1)
    order = np.random.default_rng(seed).permutation(len(labels))
    features = np.concatenate([one, two])[order]
    return float(cross_val_score(forest, features, labels[order], cv=FOLDS, scoring="roc_auc").mean())


def correlation_agreement(real: np.ndarray, other: np.ndarray) -> float:
    """Return the correlation between the correlations of pairs of the genes most expressed in real cells."""
    varying = (real.std(axis=0) > 0) & (other.std(axis=0) > 0)
    genes = np.argsort(-np.where(varying, real.mean(axis=0), -1))[:CORRELATED_GENES]
    upper = np.triu_indices(len(genes), 1)
    pairs = [np.corrcoef(values[:, genes], rowvar=False)[upper] for values in (real, other)]
    return float(np.corrcoef(*pairs)[0, 1])

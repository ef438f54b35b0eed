"""Measure how well probabilities tell two classes of donors apart. Depends on SciPy and scikit-learn only."""

import numpy as np
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score


NORMAL_QUANTILE = 1.959964  # of a 95 % interval
STEP = 1e-9


def auroc_interval(auroc: float, n_positive: int, n_negative: int) -> list[float]:
    """Return the 95 % interval of an AUROC.

    It stays informative for few donors and for an AUROC of 1, where a bootstrap interval has no width.

    Parameters
    ----------
    auroc
        Area under the receiver operating characteristic.
    n_positive, n_negative
        Number of independent units of each class: donors.

    References
    ----------
    Newcombe 2006, Statistics in Medicine 25:559, method 5.

    Examples
    --------
    >>> [round(bound, 2) for bound in auroc_interval(1.0, 8, 8)]
    [0.76, 1.0]
    >>> [round(bound, 2) for bound in auroc_interval(0.5, 200, 200)]
    [0.44, 0.56]
    """
    n_star = (n_positive + n_negative) / 2 - 1

    def excess(theta: float) -> float:
        factor = 1 + n_star * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        variance = theta * (1 - theta) * factor / (n_positive * n_negative)
        return (theta - auroc) ** 2 - NORMAL_QUANTILE**2 * variance

    # At 0 and 1 the variance is zero, so that the AUROC itself would be a root.
    low = 0.0 if auroc <= STEP else float(brentq(excess, 0.0, auroc - STEP))
    high = 1.0 if auroc >= 1 - STEP else float(brentq(excess, auroc + STEP, 1.0))
    return [low, high]


def donor_metrics(labels: np.ndarray, probabilities: np.ndarray, n_positive: int, n_negative: int) -> dict:
    """Return AUROC with its interval, balanced accuracy at 0.5 and Brier score.

    Parameters
    ----------
    labels, probabilities
        Label and predicted probability of each sample.
    n_positive, n_negative
        Donors with samples of each class.

    Examples
    --------
    >>> donor_metrics(np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9]), 2, 2)["auroc"]
    0.75
    """
    labels = np.asarray(labels, dtype=bool)
    auroc = float(roc_auc_score(labels, probabilities))
    right = (probabilities > 0.5) == labels
    return {
        "auroc": auroc,
        "auroc_interval": auroc_interval(auroc, n_positive, n_negative),
        "balanced_accuracy": float((right[labels].mean() + right[~labels].mean()) / 2),
        "brier": float(np.mean((probabilities - labels) ** 2)),
    }

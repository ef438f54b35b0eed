"""Metrics of predicted pathways: the sets of gene sets that texts name, compared with the highest-scoring ones."""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from cell2text.evaluation.bootstrap import Resampler


def membership(sets: Sequence[Sequence[str]], names: Sequence[str]) -> np.ndarray:
    """Return which names each set contains, bool, shape (n_sets, n_names).

    Examples
    --------
    >>> membership([["A"], ["A", "B"]], ["A", "B"]).tolist()
    [[True, False], [True, True]]
    """
    number = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(sets), len(names)), dtype=bool)
    for row, members in enumerate(sets):
        matrix[row, [number[name] for name in members if name in number]] = True
    return matrix


def pathway_metrics(
    truths: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]], rows: np.ndarray, resampler: Resampler
) -> dict[str, np.ndarray]:
    """Compute subset accuracy, Jaccard index, F1, AUROC and AUPRC with their replicates, shape (1 + n_resamples,).

    AUROC and AUPRC are macro averages over the gene sets that some but not all cells have, with predictions of 0 and 1.
    They have no replicates (NaN).

    Parameters
    ----------
    truths, predictions
        Gene sets of each row.
    rows
        Row numbers in the evaluation.
    """
    names = sorted({name for sets in (truths, predictions) for members in sets for name in members})
    truth, predicted = membership(truths, names), membership(predictions, names)
    both, either = (truth & predicted).sum(axis=1), (truth | predicted).sum(axis=1)
    metrics = {
        "subset_accuracy": resampler.means((truth == predicted).all(axis=1).astype(float), rows),
        "jaccard": resampler.means(np.where(either > 0, both / np.maximum(either, 1), 1.0), rows),
    }
    n = len(names)
    sums = resampler.sums(np.hstack([truth & predicted, truth, predicted]).astype(float), rows)
    correct, support, n_predicted = sums[:, :n], sums[:, n : 2 * n], sums[:, 2 * n :]
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(support + n_predicted > 0, 2 * correct / (support + n_predicted), 0.0)
        union = support + n_predicted > 0
        metrics |= {
            "micro_f1": 2 * correct.sum(axis=1) / (support + n_predicted).sum(axis=1),
            "macro_f1": (f1 * union).sum(axis=1) / union.sum(axis=1),
            "weighted_f1": (f1 * support).sum(axis=1) / support.sum(axis=1),
        }
    varying = truth.any(axis=0) & ~truth.all(axis=0)
    for name, score in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        value = np.nan
        if varying.any():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = score(truth[:, varying], predicted[:, varying].astype(float), average="macro")
        metrics[name] = np.append(float(value), np.full(resampler.n_resamples, np.nan))
    return metrics

"""Pathways that texts name, against those that were scored highest: sets against sets."""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from cell2text.evaluation.bootstrap import Resampler


def membership(sets: Sequence[Sequence[str]], names: Sequence[str]) -> np.ndarray:
    """Which names each set holds, bool, shape (n_sets, n_names)."""
    number = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(sets), len(names)), dtype=bool)
    for row, members in enumerate(sets):
        matrix[row, [number[name] for name in members if name in number]] = True
    return matrix


def pathway_metrics(
    truths: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]], rows: np.ndarray, resampler: Resampler
) -> dict[str, np.ndarray]:
    """Subset accuracy, Jaccard, F1, AUROC and AUPRC, each with its replicates, shape (1 + n_resamples,).

    The areas are of the named sets as 0 and 1, macro over the sets that some but not all cells have; they have no
    replicates (NaN).
    """
    names = sorted({name for sets in (truths, predictions) for members in sets for name in members})
    truth, said = membership(truths, names), membership(predictions, names)
    both, either = (truth & said).sum(axis=1), (truth | said).sum(axis=1)
    metrics = {
        "subset_accuracy": resampler.means((truth == said).all(axis=1).astype(float), rows),
        "jaccard": resampler.means(np.where(either > 0, both / np.maximum(either, 1), 1.0), rows),
    }
    n = len(names)
    sums = resampler.sums(np.hstack([truth & said, truth, said]).astype(float), rows)
    hits, support, called = sums[:, :n], sums[:, n : 2 * n], sums[:, 2 * n :]
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(support + called > 0, 2 * hits / (support + called), 0.0)
        union = support + called > 0
        metrics |= {
            "micro_f1": 2 * hits.sum(axis=1) / (support + called).sum(axis=1),
            "macro_f1": (f1 * union).sum(axis=1) / union.sum(axis=1),
            "weighted_f1": (f1 * support).sum(axis=1) / support.sum(axis=1),
        }
    varied = truth.any(axis=0) & ~truth.all(axis=0)
    for name, score in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = score(truth[:, varied], said[:, varied].astype(float), average="macro") if varied.any() else np.nan
        metrics[name] = np.append(float(value), np.full(resampler.n_resamples, np.nan))
    return metrics

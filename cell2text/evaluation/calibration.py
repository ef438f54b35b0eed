"""How well a model knows when it is right: how sure it is of a cell, against whether it names its type rightly."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from sklearn.metrics import roc_auc_score

from cell2text.evaluation.classification import FieldPairs


SURENESS = {"type_probability": "probability of the named type", "confidence": "confidence of the text"}
EDGES = (0.0, 0.5, 0.7, 0.9, 0.99, 1.0)


def score_certainty(pairs: FieldPairs, rows: Sequence[Mapping]) -> dict[str, dict]:
    """Whether each measure of sureness that some row has tells right types from wrong, and how often it is right.

    Parameters
    ----------
    pairs
        Types as labelled and as named.
    rows
        All rows of the evaluation, each with the keys of `SURENESS`, None where it tells none.

    Returns
    -------
    Of each measure `n`, the cells that have it; its `mean`; `accuracy`, the share of their types that is right; `auroc`
    of right types against wrong, None where all are right or all wrong; and `bins`, each from `from` to below `to` (the
    last with its end) with `n` and `accuracy`, None where it is empty.
    """
    right, found = pairs.correct(), {}
    for name in SURENESS:
        sure = np.array([rows[row][name] for row in pairs.rows], dtype=float)
        told = np.isfinite(sure)
        if told.any():
            found[name] = figures_of(sure[told], right[told])
    return found


def figures_of(sure: np.ndarray, right: np.ndarray) -> dict:
    """See :func:`score_certainty`; both of shape (n_cells,)."""
    bins = np.digitize(sure, EDGES[1:-1])
    inside = [right[bins == number] for number in range(len(EDGES) - 1)]
    return {
        "n": len(sure),
        "mean": float(sure.mean()),
        "accuracy": float(right.mean()),
        "auroc": float(roc_auc_score(right, sure)) if 0 < right.sum() < len(right) else None,
        "bins": [
            {"from": low, "to": high, "n": len(cells), "accuracy": float(cells.mean()) if len(cells) else None}
            for (low, high), cells in zip(pairwise(EDGES), inside)
        ],
    }

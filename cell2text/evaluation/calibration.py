"""Calibration of the type probability against the correctness of the predicted cell type."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from sklearn.metrics import roc_auc_score

from cell2text.evaluation.classification import FieldPairs


# Key of a prediction row and its title in reports.
CONFIDENCE_MEASURES = {"type_probability": "type probability"}
BIN_EDGES = (0.0, 0.5, 0.7, 0.9, 0.99, 1.0)


def score_calibration(pairs: FieldPairs, rows: Sequence[Mapping]) -> dict[str, dict]:
    """Score how well each confidence measure separates correct cell types from wrong ones.

    Parameters
    ----------
    pairs
        Annotated and predicted cell types.
    rows
        All rows of the evaluation, with the keys of `CONFIDENCE_MEASURES`, None where a value is missing.

    Returns
    -------
    One entry per measure that occurs in any row:

    - `n`: number of cells with a value.
    - `mean`: mean of the measure.
    - `accuracy`: share of these cells whose cell type is correct.
    - `auroc`: area under the ROC curve of correct against wrong cell types; None if all are correct or all are wrong.
    - `bins`: cells by the value of the measure, each with `from` (included), `to` (excluded, except in the last bin),
      `n` and `accuracy` (None in an empty bin).
    """
    correct, scores = pairs.correct(), {}
    for name in CONFIDENCE_MEASURES:
        values = np.array([rows[row][name] for row in pairs.rows], dtype=float)
        present = np.isfinite(values)
        if present.any():
            scores[name] = _score_measure(values[present], correct[present])
    return scores


def _score_measure(values: np.ndarray, correct: np.ndarray) -> dict:
    bin_numbers = np.digitize(values, BIN_EDGES[1:-1])
    by_bin = [correct[bin_numbers == number] for number in range(len(BIN_EDGES) - 1)]
    return {
        "n": len(values),
        "mean": float(values.mean()),
        "accuracy": float(correct.mean()),
        "auroc": float(roc_auc_score(correct, values)) if 0 < correct.sum() < len(correct) else None,
        "bins": [
            {"from": low, "to": high, "n": len(cells), "accuracy": float(cells.mean()) if len(cells) else None}
            for (low, high), cells in zip(pairwise(BIN_EDGES), by_bin)
        ],
    }

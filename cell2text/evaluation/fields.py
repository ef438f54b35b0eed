"""Read metadata back from a description."""

import re
from collections.abc import Sequence


CELL_TYPE = re.compile(r"This cell is an? (?P<name>.+?)(?=: |\. |\.?$)")


def read_cell_type(text: str) -> str | None:
    """The cell type that a description names; None where it names none."""
    match = CELL_TYPE.match(text.strip())
    return match["name"] if match else None


def accuracy(predictions: Sequence[str | None], labels: Sequence[str]) -> float:
    """Share of predictions that equal their label; a prediction that was not found is wrong.

    Raises
    ------
    ValueError
        If the lists differ in length or are empty.
    """
    if len(predictions) != len(labels) or not labels:
        raise ValueError(
            f"{len(predictions)} predictions for {len(labels)} labels: expected one for each, and at least one."
        )
    return sum(prediction is not None and prediction == label for prediction, label in zip(predictions, labels)) / len(
        labels
    )

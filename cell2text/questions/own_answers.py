"""Answers to the questions of own tasks: the most probable value, or how many cells of a group have each."""

import numpy as np

from cell2text.language.own_tasks import OwnTask
from cell2text.questions.answer import AnswerValue, Wording


NOT_CALIBRATED = (
    "The probability is the model's likelihood of the answer among the answers of the task. It is not calibrated."
)


def own_task(task: OwnTask, probabilities: np.ndarray) -> Wording:
    """Answer the question of an own task.

    Parameters
    ----------
    task
        The task.
    probabilities
        Probability of each value, shape (n_cells, n_values); NaN for cells that cannot be described.

    Examples
    --------
    >>> from cell2text.language.own_tasks import parse_task
    >>> task = parse_task("drug_response", "response:sensitive,resistant")
    >>> own_task(task, np.array([[0.2, 0.8]])).text
    'Drug response: resistant. Its probability is 0.80.'
    >>> own_task(task, np.array([[0.2, 0.8], [0.4, 0.6], [0.9, 0.1], [np.nan, np.nan]])).text
    'Drug response: resistant for 2 of 3 cells, sensitive for 1. Cells with too few genes: 1.'
    """
    known = probabilities[~np.isnan(probabilities).any(axis=1)]
    if not len(known):
        return Wording("No cell has enough genes of the model to answer.")
    counts, mean = np.bincount(known.argmax(axis=1), minlength=len(task.values)), known.mean(axis=0)
    order = sorted(range(len(task.values)), key=lambda place: (-counts[place], -mean[place]))
    alone = len(probabilities) == 1
    values = [
        AnswerValue(task.name, task.values[place], None, float(mean[place]), None if alone else int(counts[place]))
        for place in order
    ]
    if alone:
        text = f"{task.completion(values[0].name)} Its probability is {mean[order[0]]:.2f}."
        return Wording(text, values, notes=[NOT_CALIBRATED])
    rest = "".join(f", {task.values[place]} for {counts[place]:,}" for place in order[1:] if counts[place])
    text = f"{task.label.capitalize()}: {values[0].name} for {counts[order[0]]:,} of {len(known):,} cells{rest}."
    if len(known) < len(probabilities):
        text += f" Cells with too few genes: {len(probabilities) - len(known):,}."
    return Wording(text, values, notes=[NOT_CALIBRATED])

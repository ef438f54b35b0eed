"""Probability of each answer to the question of an own task. Depends on `completions`."""

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from cell2text.inference.completions import CompletionScorer
from cell2text.language.own_tasks import OwnTask


class OwnTaskScorer:
    """Score the answers of an own task by the likelihood of their texts, normalised over the answers.

    Parameters
    ----------
    model, processor
        A Cell2Text model that was trained on the task, and its processor.
    task
        The task; see :func:`cell2text.language.own_tasks.tasks_of`.
    """

    def __init__(self, model, processor, task: OwnTask):
        self.task = task
        completions = [task.completion(value) for value in task.values]
        self._scorer = CompletionScorer(model, processor, completions, task.question)

    def __call__(self, cells: Sequence, concept_overrides: np.ndarray | None = None) -> np.ndarray:
        """Return the probability of each value, shape (n_cells, n_values); NaN for cells that cannot be described.

        Parameters
        ----------
        cells
            Ranked cells: gene token ids, one sequence per cell.
        concept_overrides
            Values that replace predicted concepts, float32, shape (n_cells, n_concepts); NaN keeps the prediction.
        """
        return softmax(self._scorer(cells, concept_overrides), axis=1)

"""Record the own tasks of a data set in the model, and score its answers on the held-out cells.

Depends on `inference.own_tasks`, which computes the probability of each answer.
"""

import json
from pathlib import Path

import numpy as np

from cell2text.errors import UserError
from cell2text.evaluation.bootstrap import Resampler, interval
from cell2text.files import write_atomically
from cell2text.inference.own_tasks import OwnTaskScorer
from cell2text.language.own_tasks import OwnTask, tasks_of
from cell2text.training.row_columns import column_values
from cell2text.training.rows import TrainingRows


OWN_TASKS_FILE = "own_tasks.json"
N_RESAMPLES = 1000


def add_own_tasks(model, rows: TrainingRows) -> None:
    """Record the own tasks of the training rows in the configuration of a model, in place.

    Raises
    ------
    UserError
        If the model passes only its concepts to the language model, which cannot learn other questions.
    """
    found = (rows.report or {}).get("own_tasks", {})
    if not found:
        return
    if model.config.projector_type == "concepts":
        raise UserError(
            f"The data set has the own tasks {', '.join(found)}, but projector_type=concepts passes only the concepts "
            "of the model to its language model, so it cannot learn them. Train a model with projector_type=pooled, "
            "mlp or perceiver."
        )
    own = {name: {"values": entry["values"], "question": entry["question"]} for name, entry in found.items()}
    model.config.own_tasks = {**(model.config.own_tasks or {}), **own}


def answer_held_out(model, processor, rows: TrainingRows, output_dir: str, *, seed: int) -> dict:
    """Answer the own tasks for the held-out cells with a known answer; write and print the scores.

    Parameters
    ----------
    rows
        Rows of the run. Their columns named after the tasks hold the answers.
    seed
        Random seed of the intervals, which resample donors.

    Returns
    -------
    By task `n`, `accuracy`, `balanced_accuracy`, `majority` (accuracy of the most frequent training answer) and
    `intervals`: the content of `own_tasks.json`. Empty without own tasks.
    """
    tasks = [task for task in tasks_of(model.config) if task.name in rows.held_out.column_names]
    found = {task.name: scores for task in tasks if (scores := _score(model, processor, rows, task, seed))}
    if found:
        write_atomically(Path(output_dir, OWN_TASKS_FILE), json.dumps(found, indent=1) + "\n")
    for name, scores in found.items():
        print(f"{name}: accuracy {scores['accuracy']:.1%} on {scores['n']:,} held-out cells")
    return found


def _score(model, processor, rows: TrainingRows, task: OwnTask, seed: int) -> dict:
    answers = column_values(rows.held_out, task.name)
    known = [i for i, answer in enumerate(answers) if answer is not None]
    trained = [answer for answer in column_values(rows.train, task.name) if answer is not None]
    if not known or not trained:
        return {}
    held_out = rows.held_out.select(known)
    cells = [cells[0] for cells in column_values(held_out, "cells")]
    probabilities = np.nan_to_num(OwnTaskScorer(model.eval(), processor, task)(cells), nan=-1.0)
    places = np.where(probabilities.max(axis=1) < 0, -1, probabilities.argmax(axis=1))
    truth = np.array([task.values.index(answers[i]) for i in known])
    right = (places == truth).astype(float)
    majority = task.values.index(max(task.values, key=trained.count))
    resampler = Resampler(column_values(held_out, "donor_id"), seed=seed, n_resamples=N_RESAMPLES)
    accuracy = resampler.means(right, np.arange(len(known)))
    return {
        "n": len(known),
        "accuracy": float(accuracy[0]),
        "balanced_accuracy": float(np.mean([right[truth == value].mean() for value in np.unique(truth)])),
        "majority": float((truth == majority).mean()),
        "intervals": {"accuracy": interval(accuracy)},
    }

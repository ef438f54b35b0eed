"""Read the columns of own tasks, and report their answers by split and the donors that splits share.

Depends on `language.own_tasks` for the tasks.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cell2text.language.own_tasks import OwnTask
from cell2text.ontology.terms import clean_label
from cell2text.preparation.config import PrepareConfig
from cell2text.preparation.names import SPLITS


MISSING = "(missing)"
MOST_VALUES = 20  # values outside a task that the report lists per file


def read_own_columns(reader, tasks: Mapping[str, OwnTask]) -> tuple[dict[str, pd.Series], dict[str, dict[str, int]]]:
    """Read the answer of every cell to each task.

    Parameters
    ----------
    reader
        Open source.
    tasks
        Tasks by name.

    Returns
    -------
    By task a categorical column, missing where a cell has no answer of the task; and the number of cells by value that
    is no answer, the most frequent first.

    Raises
    ------
    BadFileError
        If the file lacks a column, or no cell has an answer of a task.
    """
    present, columns, left_out = list(reader.obs_columns()), {}, {}
    for name, task in tasks.items():
        if task.column not in present:
            raise reader.container.error(
                f"has no column {task.column!r} in obs, which the task {name} asks for; it has {present}. "
                "Add the column, or name one of these."
            )
        values = reader.read_obs([task.column])[task.column]
        labels = [str(value) if str(value) in task.values else clean_label(value) for value in values.cat.categories]
        counts = np.bincount(values.cat.codes.to_numpy() + 1, minlength=len(labels) + 1)  # the first of missing values
        outside: Counter = Counter()
        for label, n in zip([None, *labels], counts.tolist()):
            if n and label not in task.values:
                outside[label or MISSING] += n
        if outside.total() == len(values):
            shown = ", ".join(repr(value) for value, _ in outside.most_common(5))
            raise reader.container.error(
                f"has no cell with one of the values {', '.join(task.values)} in the column {task.column!r}, which the "
                f"task {name} asks for; it has {shown}. List the values as the column spells them."
            )
        answers = np.array([label if label in task.values else None for label in [*labels, None]], dtype=object)
        columns[name] = pd.Series(
            pd.Categorical(answers[values.cat.codes], categories=pd.Index(sorted(task.values), dtype=object))
        )
        left_out[name] = dict(outside.most_common(MOST_VALUES))
    return columns, left_out


def report_own_tasks(cells: pd.DataFrame, surveys: Sequence, config: PrepareConfig) -> dict[str, dict]:
    """Return the entry `own_tasks` of `report.json`.

    Parameters
    ----------
    cells
        Planned cells with `split`, `donor` and a column per task.
    surveys
        Surveys of the sources, which count the values that are no answers.
    config
        Options of the run.

    Returns
    -------
    By task `column`, `values` and `question`; `answers` (cells by split and value); `left_out` (cells by other value);
    and `shared_donors`: the donors with answers in training whose other cells are held out, and their held-out cells.
    """
    return {name: _report_task(cells, surveys, task) for name, task in config.questions().items()}


def _report_task(cells: pd.DataFrame, surveys: Sequence, task: OwnTask) -> dict:
    left_out: Counter = Counter()
    for survey in surveys:
        left_out.update(survey.report["own_tasks_left_out"][task.name])
    answered = cells[cells[task.name].notna()]
    answers = {
        split: {value: int(n) for value, n in answered[task.name][answered["split"] == i].value_counts().items() if n}
        for i, split in enumerate(SPLITS)
    }
    trained = set(answered["donor"][answered["split"] == 0])
    leaked = answered[(answered["split"] > 0) & answered["donor"].isin(trained)]
    return {
        "column": task.column,
        **task.to_dict(),
        "answers": answers,
        "left_out": dict(left_out.most_common()),
        "shared_donors": {"donors": int(leaked["donor"].nunique()), "held_out_cells": len(leaked)},
    }


def describe_leakage(report: Mapping) -> str:
    """Return a warning for own tasks whose held-out cells share donors with training; empty without any."""
    leaking = {
        name: entry["shared_donors"]
        for name, entry in report.get("own_tasks", {}).items()
        if entry["shared_donors"]["donors"]
    }
    parts = [
        f"{name}: {found['held_out_cells']:,} held-out cells of {found['donors']:,} donors"
        for name, found in leaking.items()
    ]
    if not parts:
        return ""
    return (
        f"Some held-out cells come from donors that are also in the training split ({'; '.join(parts)}), so "
        "accuracy on them overestimates accuracy on new donors. Pass split='donor', with columns={'donor_id': "
        "'COLUMN'} to name the column of donors or cell lines."
    )


def describe_own_tasks(report: Mapping) -> str:
    """Return a sentence on the own tasks of a data set, for its card; empty without any."""
    parts = []
    for name, entry in report.get("own_tasks", {}).items():
        counts = ", ".join(f"{split} {sum(found.values()):,}" for split, found in entry["answers"].items())
        other = sum(entry["left_out"].values())
        left = f"; {other:,} cells have another value or none" if other else ""
        parts.append(f"{name} ({' / '.join(entry['values'])}, from the column {entry['column']}): {counts}{left}")
    return f"Own tasks, cells with an answer by split: {'. '.join(parts)}." if parts else ""

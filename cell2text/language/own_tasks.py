"""Instruction tasks of a user's own columns: a question about a column of `obs`, and its values as answers.

Depends on light modules only, so that options are checked before any library loads.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cell2text.errors import UserError
from cell2text.language.names import TASKS


MAX_VALUES = 100
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class OwnTask:
    """A question about a column of `obs` with a fixed list of answers.

    Parameters
    ----------
    name
        Name of the task: lower-case letters, digits and underscores.
    values
        Values of the column that are answers, in the order in which the question names them.
    question
        The question that the model learns.
    column
        Column of `obs`. A model does not need it.

    Examples
    --------
    >>> task = parse_task("drug_response", "response:sensitive,resistant")
    >>> task.question
    'What is the drug response of this cell: sensitive or resistant?'
    >>> task.completion("resistant")
    'Drug response: resistant.'
    """

    name: str
    values: tuple[str, ...]
    question: str
    column: str = ""

    @property
    def label(self) -> str:
        """Name of the task in words."""
        return self.name.replace("_", " ")

    def completion(self, value: str) -> str:
        """Return the answer of a value."""
        return f"{self.label.capitalize()}: {value}."

    def value_in(self, text: str) -> str | None:
        """Return the value that a generated answer states, None if it states none."""
        return next((value for value in self.values if text.strip() == self.completion(value)), None)

    def to_dict(self) -> dict:
        """Return the task in the form of `own_tasks` of a model's configuration."""
        return {"values": list(self.values), "question": self.question}


def parse_task(name: str, text: str, question: str | None = None) -> OwnTask:
    """Read a task from its name and `COLUMN:VALUE,VALUE`.

    Parameters
    ----------
    name
        Name of the task.
    text
        Column and values. A column may contain colons; values contain neither colons nor commas.
    question
        The question that the model learns. Defaults to one that is made of name and values.

    Raises
    ------
    UserError
        If the name is not a valid one, is that of another task, or there are fewer than two different values.

    Examples
    --------
    >>> parse_task("drug_response", "response:sensitive,resistant").values
    ('sensitive', 'resistant')
    """
    if not _NAME.fullmatch(name) or name in TASKS:
        raise UserError(
            f"own_tasks={name!r}: expected a name of lower-case letters, digits and underscores that is not one of the "
            f"tasks {', '.join(TASKS)}."
        )
    column, _, listed = text.rpartition(":")
    values = [value.strip() for value in listed.split(",")]
    if not column.strip() or not 2 <= len(set(values)) == len(values) <= MAX_VALUES or not all(values):
        raise UserError(
            f"own_tasks={name}={text}: expected NAME=COLUMN:VALUE,VALUE with 2 to {MAX_VALUES} different values, such "
            "as drug_response=response:sensitive,resistant."
        )
    asked = f"What is the {name.replace('_', ' ')} of this cell: {', '.join(values[:-1])} or {values[-1]}?"
    return OwnTask(name, tuple(values), (question or asked).strip(), column.strip())


def parse_tasks(own_tasks: Mapping[str, str], questions: Mapping[str, str] | None = None) -> dict[str, OwnTask]:
    """Read the tasks of a preparation by name; see :func:`parse_task`.

    Raises
    ------
    UserError
        If a task is invalid, a question is of no task, or two tasks have the same question.
    """
    questions = questions or {}
    unknown = sorted(set(questions) - set(own_tasks))
    if unknown:
        raise UserError(
            f"task_questions={unknown[0]}: there is no own task of this name. Own tasks: "
            f"{', '.join(own_tasks) or 'none'}."
        )
    tasks = {name: parse_task(name, text, questions.get(name)) for name, text in own_tasks.items()}
    if len({task.question for task in tasks.values()}) < len(tasks):
        raise UserError("task_questions: two own tasks have the same question. Give each its own.")
    return tasks


def tasks_of(config) -> list[OwnTask]:
    """Return the own tasks of a model.

    Parameters
    ----------
    config
        Configuration of a Cell2Text model.
    """
    found = getattr(config, "own_tasks", None) or {}
    return [OwnTask(name, tuple(entry["values"]), entry["question"]) for name, entry in found.items()]


def task_asked(question: str, tasks: Iterable[OwnTask]) -> OwnTask | None:
    """Return the own task that a question asks for: by its wording, or by the words of the task's name.

    Examples
    --------
    >>> task = parse_task("drug_response", "response:sensitive,resistant")
    >>> task_asked("Which drug response do you expect?", [task]) == task
    True
    >>> task_asked("What type of cell is this?", [task]) is None
    True
    """
    words = _words(question)
    for task in tasks:
        if words == _words(task.question):
            return task
    spelled = f" {' '.join(words)} "
    named = [task for task in tasks if f" {' '.join(_words(task.label))} " in spelled]
    return max(named, key=lambda task: len(task.label), default=None)


def task_with_values(values: Sequence[str], tasks: Iterable[OwnTask]) -> OwnTask | None:
    """Return the only own task whose answers are these values, in any order and case; None without one or several."""
    wanted = sorted(value.casefold() for value in values)
    found = [task for task in tasks if sorted(value.casefold() for value in task.values) == wanted]
    return found[0] if len(found) == 1 else None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold().replace("_", " "))

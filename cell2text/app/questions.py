"""Answer a question about the cells that a user looks at, piece by piece.

Depends on :mod:`cell2text.questions`, which answers: no part of a question reaches the language model.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from cell2text.app.experiment import Experiment
from cell2text.errors import UserError
from cell2text.questions.answer import AnswerValue
from cell2text.questions.words import check_text


MAX_CELLS = 500  # of each group; of more, a random sample answers
MAX_VALUES = 6  # probabilities that are shown as bars
EXAMPLES = ("What cell type is this?", "How sure are you?", "Is this a T cell?", "Which pathways are most active?")


@dataclass
class Exchange:
    """A question, and its answer so far.

    Parameters
    ----------
    question, about
        The question, and the cells that it is about, in words.
    answer
        Paragraphs of the answer.
    values
        Values with a probability that the answer rests on.
    notes
        What was sampled, left out or not understood.
    done
        Whether the answer is complete.
    """

    question: str
    about: str
    answer: list[str] = field(default_factory=list)
    values: list[AnswerValue] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    done: bool = False

    def stop(self, reason: str) -> None:
        """End the answer where it is, with the reason as a note."""
        self.notes.append(reason)
        self.done = True


def answer(
    experiment: Experiment, rows: np.ndarray, question: str, *, second: np.ndarray | None = None, seed: int = 0
) -> Iterator[Exchange]:
    """Yield the answer to a question as it grows: the same exchange every time.

    Parameters
    ----------
    experiment
        The experiment.
    rows
        Rows of the cells. Of more than `MAX_CELLS`, a random sample answers.
    question
        The question; see :class:`cell2text.questions.answering.QuestionAnswerer`.
    second
        Rows of cells to compare with. None for a question about one group.
    seed
        Random seed for sampling cells.

    Raises
    ------
    UserError
        If there are no cells, or the question is empty or too long.

    Examples
    --------
    >>> import cell2text, tempfile
    >>> from cell2text.app.experiment import read_experiment
    >>> path = f"{tempfile.mkdtemp()}/cells.h5ad"
    >>> adata = cell2text.example_cells(unseen=True)[:2].copy()
    >>> cell2text.tl.describe(adata)
    >>> adata.write_h5ad(path)
    >>> *_, last = answer(read_experiment(path), np.array([0]), "Is this a T cell?")
    >>> last.done, last.answer[0].startswith("No")
    (True, True)
    """
    text = check_text("question", question)
    groups = [np.unique(one) for one in (rows, second) if one is not None]
    if not all(map(len, groups)):
        raise UserError("No cell is selected: click a cell, or select cells on the map.")
    exchange = Exchange(text, " and ".join(_about(experiment, one) for one in groups))
    yield exchange
    random = np.random.default_rng(seed)
    sampled = [np.sort(random.choice(one, MAX_CELLS, replace=False)) if len(one) > MAX_CELLS else one for one in groups]
    if max(map(len, groups)) > MAX_CELLS:
        exchange.notes.append(f"The answer uses at most {MAX_CELLS} random cells per group.")
    counts = experiment.counts
    cells = [counts.rank(one) for one in sampled]
    with counts.lock:
        found = counts.answerer(cells[0], text, *cells[1:])
    for part in found.text.split("\n"):
        exchange.answer.append(part.removeprefix("- "))
        yield exchange
    exchange.values = [one for one in found.values if one.probability is not None][:MAX_VALUES]
    exchange.notes += found.notes
    exchange.done = True
    yield exchange


def _about(experiment: Experiment, rows: np.ndarray) -> str:
    return str(experiment.names[rows[0]]) if len(rows) == 1 else f"{len(rows):,} cells"

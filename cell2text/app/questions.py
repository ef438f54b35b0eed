"""Answer a question about one cell or several, piece by piece.

Depends on `inference.prompts` for the prompt and on the model, which generates one answer per cell.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from cell2text.app.experiment import Experiment
from cell2text.errors import UserError
from cell2text.inference.generation import BatchedTextGenerator
from cell2text.inference.prompts import build_conversation


MAX_QUESTION, MAX_CELLS, CELLS_PER_STEP, MAX_NEW_TOKENS = 500, 100, 10, 160
EXAMPLES = ("What cell type is this?", "Which pathways are most active?", "Is the donor male or female?")


@dataclass
class Exchange:
    """A question, and its answer so far.

    Parameters
    ----------
    question, about
        The question, and the cells that it is about, in words.
    answer
        Paragraphs of the answer.
    notes
        What was sampled or left out.
    done
        Whether the answer is complete.
    """

    question: str
    about: str
    answer: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    done: bool = False


def answer(experiment: Experiment, rows: np.ndarray, question: str, *, seed: int = 0) -> Iterator[Exchange]:
    """Yield the answer to a question as it grows.

    Parameters
    ----------
    experiment
        The experiment.
    rows
        Rows of the cells. Of more than `MAX_CELLS`, a random sample answers.
    question
        The question.
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
    >>> *_, last = answer(read_experiment(path), np.array([0]), "What cell type is this?")
    >>> last.done, len(last.answer)
    (True, 1)
    """
    text = check_question(question)
    rows = np.unique(rows)
    if not len(rows):
        raise UserError("No cell is selected: click a cell, or select cells on the map.")
    about = str(experiment.names[rows[0]]) if len(rows) == 1 else f"{len(rows):,} cells"
    exchange = Exchange(text, about)
    yield exchange
    if len(rows) > MAX_CELLS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_CELLS, replace=False))
        exchange.notes.append(f"{MAX_CELLS} random cells of them answered.")
    answers: Counter[str] = Counter()
    for texts in _answers(experiment, rows, text):
        answers.update(texts)
        exchange.answer = _paragraphs(answers)
        yield exchange
    exchange.done = True
    yield exchange


def check_question(question: str) -> str:
    """Return a question as one line of text; raise a `UserError` if it is empty or too long."""
    text = " ".join(str(question or "").split())
    if not text:
        raise UserError("The question is empty.")
    if len(text) > MAX_QUESTION:
        raise UserError(f"The question has {len(text)} characters: expected at most {MAX_QUESTION}.")
    return text


def _answers(experiment: Experiment, rows: np.ndarray, question: str) -> Iterator[list[str]]:
    """Yield the answers of some cells after another."""
    counts = experiment.counts
    model, processor = counts.loaded
    prompt = question if not question.endswith(".json") else f"{question} "  # a question is never the path of a file
    generator = BatchedTextGenerator(
        model, processor, build_conversation(processor, prompt), max_new_tokens=MAX_NEW_TOKENS
    )
    for part in np.split(rows, range(CELLS_PER_STEP, len(rows), CELLS_PER_STEP)):
        cells = counts.rank(part)
        with counts.lock:
            yield generator(cells.cells, cells.concept_overrides).texts


def _paragraphs(answers: Counter[str]) -> list[str]:
    """Return the different answers, the most frequent first, with the number of cells if there are several."""
    total = answers.total()
    if total == 1:
        return list(answers)
    order = sorted(answers, key=lambda text: (-answers[text], text))
    return [f"{answers[text]} of {total} cells: {text}" for text in order[:10]]

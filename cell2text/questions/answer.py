"""The answer to a question about cells: its text, and what it rests on. Standard library only."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass


# What a question asks for.
DESCRIBE, CELL_TYPE, IS_TYPE, COUNT_TYPE = "describe", "cell_type", "is_type", "count_type"
CONFIDENCE, CANDIDATES, COMPOSITION, COMPARE = "confidence", "candidates", "composition", "compare"
PATHWAYS, SEX, PROFILE = "pathways", "sex", "profile"
TISSUE, DISEASE, LIFE_STAGE, EVIDENCE = "tissue", "disease", "life_stage", "evidence"
OWN, HELP, OUTSIDE = "own_task", "help", "outside"
TASKS = (
    DESCRIBE, CELL_TYPE, IS_TYPE, COUNT_TYPE, CONFIDENCE, CANDIDATES, COMPOSITION, COMPARE, PATHWAYS, SEX, PROFILE,
    TISSUE, DISEASE, LIFE_STAGE, EVIDENCE, OWN, HELP, OUTSIDE,
)  # fmt: skip
YES, NO, UNCLEAR = "yes", "no", "unclear"


@dataclass(frozen=True)
class AnswerValue:
    """One value that an answer rests on.

    Parameters
    ----------
    kind
        `"cell_type"`, `"pathway"`, `"sex"`, `"profile"`, another field of a description, or the name of an own task.
    name
        Its name: the label of a cell type, or the name of a gene set.
    term_id
        Its ontology term; None if it has none.
    probability
        Its calibrated probability, the mean over the cells of a group; None without one.
    n_cells
        Number of cells that have it; None for a single cell.
    """

    kind: str
    name: str
    term_id: str | None = None
    probability: float | None = None
    n_cells: int | None = None


@dataclass(frozen=True)
class Answer:
    """The answer to a question about cells.

    Parameters
    ----------
    question
        The question.
    text
        The answer in words. Treat it as untrusted text: it can hold names of cells and words of the question.
    task
        What the question asks for, one of `TASKS`; `"outside"` if no task of the model answers it.
    cells
        Names of the cells.
    values
        Values that the answer rests on, the most important first.
    verdict
        `"yes"`, `"no"` or `"unclear"` for a question that can be answered so; otherwise None.
    notes
        What the user should know: words that were not understood, terms that the model lacks.

    Examples
    --------
    >>> answer = Answer("B cell?", "Yes.", "is_type", ("AAAC",), (AnswerValue("cell_type", "B cell"),), "yes")
    >>> answer.is_answered, answer.to_dict()["values"][0]["name"]
    (True, 'B cell')
    """

    question: str
    text: str
    task: str
    cells: tuple[str, ...]
    values: tuple[AnswerValue, ...] = ()
    verdict: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_answered(self) -> bool:
        """Whether a task of the model answers the question."""
        return self.task != OUTSIDE

    def to_dict(self) -> dict:
        """Return the answer ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Wording:
    """Text, values, verdict and notes of an answer, before the question and the cells are added."""

    text: str
    values: Sequence[AnswerValue] = ()
    verdict: str | None = None
    notes: Sequence[str] = ()

"""A multiple-choice question about a cell, and how its answer is compared. Standard library only."""

import re
from collections.abc import Sequence
from dataclasses import dataclass


# Kinds of questions that the published benchmarks ask.
CELL_TYPE, DRUG_RESPONSE, PERTURBATION = "cell_type", "drug_response", "perturbation"
GENERATION, OTHER = "generation", "other"
KINDS = (CELL_TYPE, DRUG_RESPONSE, PERTURBATION, GENERATION, OTHER)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FINAL_ANSWER = re.compile(r"final answer\W*?:\s*", re.IGNORECASE)


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question with candidate answers.

    Parameters
    ----------
    question_id
        Name of the question.
    kind
        One of `KINDS`.
    candidates
        The answers to choose from, as the question words them.
    answer
        The right answer: one of `candidates`, or the text of the file if none of them is found in it.
    genes
        Genes of the cell, highest expression first; empty if the question names none.
    cell
        Name of the cell in a file of counts; None if the question holds its own genes.
    dataset
        Data set of the cell, None if unknown. Accuracy is reported separately for each.
    donor
        Donor of the cell, None if unknown. Intervals resample donors.
    lists_candidates
        Whether the question itself lists the candidates. Otherwise they are all labels of its data set.
    """

    question_id: str
    kind: str
    candidates: tuple[str, ...]
    answer: str
    genes: tuple[str, ...] = ()
    cell: str | None = None
    dataset: str | None = None
    donor: str | None = None
    lists_candidates: bool = True

    @property
    def has_answer(self) -> bool:
        """Whether the right answer is one of the candidates."""
        return self.answer in self.candidates


def same_answer(first: str, second: str) -> bool:
    """Return whether two answers are equal, without regard to case, blanks, quotes and a final full stop.

    Examples
    --------
    >>> same_answer("T cell.", "'t  cell'"), same_answer("T cell", "T cells")
    (True, False)
    """
    return _plain(first) == _plain(second)


def answer_in(text: str, candidates: Sequence[str]) -> str | None:
    """Return the candidate that a text gives as its answer.

    The text is the answer alone, its letter, a text that ends in "Final Answer: X", or a sentence that holds exactly
    one candidate, apart from candidates within longer ones.

    Examples
    --------
    >>> answer_in("It expresses CD3. Final Answer: T cell.", ["B cell", "T cell"])
    'T cell'
    >>> answer_in("b", ["B cell", "T cell"]), answer_in("This is a CD4 T cell.", ["T cell", "CD4 T cell"])
    ('T cell', 'CD4 T cell')
    >>> answer_in("It is a T cell or a B cell.", ["B cell", "T cell"]) is None
    True
    """
    last = _FINAL_ANSWER.split(text)[-1]
    for candidate in candidates:
        if same_answer(last, candidate):
            return candidate
    letter = _plain(last).strip("()").upper()
    if len(letter) == 1 and letter in LETTERS[: len(candidates)]:
        return candidates[LETTERS.index(letter)]
    return _only_one_in(last, candidates)


def _only_one_in(text: str, candidates: Sequence[str]) -> str | None:
    """Return the only candidate in a sentence; longer candidates hide those within them."""
    found, rest = [], f" {_plain(text)} "
    for candidate in sorted(candidates, key=len, reverse=True):
        pattern = rf"(?<![\w+-]){re.escape(_plain(candidate))}(?![\w+-])"
        shorter = re.sub(pattern, " ", rest)
        if shorter != rest:
            found.append(candidate)
        rest = shorter
    return found[0] if len(found) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" '\"`*.")

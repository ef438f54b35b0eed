"""What the words of all answers share: values, verdicts, notes, and the answers that need no prediction.

Depends on the grammar of descriptions and on `predictions`.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from cell2text.inference.probabilities import round_to_four_digits
from cell2text.language.fields import Claim
from cell2text.ontology.broader_terms import is_informative
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import resolve
from cell2text.questions.answer import NO, UNCLEAR, YES, AnswerValue, Wording
from cell2text.questions.model_types import BROADER, NARROWER, MappedLabel
from cell2text.questions.predictions import CellPredictions
from cell2text.questions.understanding import Understood
from declining_cell2text import TYPE_THRESHOLD
from grammar_cell2text import enumeration, with_article


SHOWN = 5  # values of an enumeration
COMMON_SHARE = 0.9  # of the cells with a type that a common type holds for
PATHWAY_SHARE = 0.5  # of the cells that a common pathway holds for
FULL_NAMES = {"sex": "sex of the donor", "life_stage": "life stage of the donor", "disease": "disease of the donor"}
PROFILE_WORDS = {
    "one cell": "one cell", "two cells": "two cells (a doublet)", "ambient RNA": "ambient RNA",
    "no cell": "no cell that the model knows",
}  # fmt: skip
ANSWERED_QUESTIONS = (
    "What is this cell? Describe it.",
    "Is it a T cell? Is it a T cell or a B cell?",
    "How sure are you?",
    "What else could it be? Which kind of T cell is it?",
    "Which pathways are most active? Is hypoxia active?",
    "Is the donor male or female?",
    "Is this a doublet or ambient RNA?",
    "Why? Which genes support the type?",
    "For two cells: how do they differ?",
    "For a group: what do these cells have in common? How many are T cells?",
)


def named_type(predictions: CellPredictions, row: int = 0) -> AnswerValue:
    """Return the named type of a cell as a value."""
    claim, probability = predictions.types[row], predictions.named_probabilities[row]
    if claim is None:
        raise ValueError(f"Cell {row} has no named type.")
    return type_value(claim, None if np.isnan(probability) else float(probability))


def type_value(claim: Claim, probability: float | None = None, n_cells: int | None = None) -> AnswerValue:
    """Return a cell type as a value."""
    probability = None if probability is None else round_to_four_digits([probability])[0]
    return AnswerValue("cell_type", claim.name, claim.term_id, probability, n_cells)


def candidate_value(name: str, probability: float) -> AnswerValue:
    """Return a type of the model with its probability as a value."""
    return type_value(Claim(name, resolve("cell_type", name).term_id), probability)


def with_probability(name: str, probability: float | None) -> str:
    """Return a name with its probability in brackets, if there is one."""
    if probability is None:
        return name
    return f"{name} (below 0.01)" if probability < 0.005 else f"{name} ({probability:.2f})"


def listed(values: Sequence[AnswerValue]) -> str:
    """Return values with their probabilities as an enumeration."""
    return enumeration([with_probability(with_article(value.name), value.probability) for value in values])


def stated_name(predictions: CellPredictions, row: int = 0) -> str:
    """Return "a T cell (0.93)" for the named type of a cell."""
    value = named_type(predictions, row)
    return with_probability(with_article(value.name), value.probability)


def verdict_of(probability: float, *, is_bound: bool = False) -> str:
    """Return the verdict for a probability: yes from the threshold of named types on, no up to its opposite.

    An upper bound can only deny.
    """
    if probability <= 1 - TYPE_THRESHOLD:
        return NO
    return YES if probability >= TYPE_THRESHOLD and not is_bound else UNCLEAR


def is_above(upper: str, lower: str) -> bool:
    """Return whether a term is above another in the Cell Ontology, or the same."""
    graph = load_graph("CL")
    return lower in graph and upper in graph.ancestors(lower)


def label_notes(labels: Sequence[MappedLabel], qualifiers: Sequence[str] = ()) -> list[str]:
    """Return notes on labels that are not types of the model themselves, and on words that were left out."""
    notes = []
    for label in labels:
        joined = enumeration(list(label.types[:SHOWN])) if label.types else ""
        more = f" and {len(label.types) - SHOWN} more" if len(label.types) > SHOWN else ""
        if label.route == NARROWER:
            notes.append(
                f"The model has no concept of {label.name}. Its probability is computed from narrower types: "
                f"{joined}{more}."
            )
        elif label.route == BROADER:
            notes.append(
                f"The model has no concept of {label.name}. The probability is that of the broader type {joined}, an "
                "upper bound."
            )
    if qualifiers:
        notes.append(f"Words that the answer ignores: {', '.join(word[:30] for word in qualifiers)}.")
    return notes


def common_type(types: Sequence[Claim | None]) -> str | None:
    """Return the deepest informative term that holds for most named cells; None without one."""
    graph = load_graph("CL")
    terms = [claim.term_id for claim in types if claim is not None and claim.term_id in graph]
    counts = Counter(above for term in terms for above in graph.ancestors(str(term)))
    shared = [term for term, n in counts.items() if n >= COMMON_SHARE * len(terms) and is_informative(term)]
    return min(shared, key=lambda term: (-graph.depth(term), -counts[term], term), default=None)


def not_stated(field: str) -> Wording:
    """Word that the model does not state a field."""
    name = FULL_NAMES.get(field, field)
    return Wording(
        f"The model does not state the {name}. It was not trained to, because the profile of a cell from an unseen "
        "study does not show it reliably. See the annotation of the experiment."
    )


def help_text() -> str:
    """Return the questions that are answered."""
    return "Questions that can be answered:" + "".join(f"\n- {question}" for question in ANSWERED_QUESTIONS)


def outside(asked: Understood) -> Wording:
    """Word that a question is outside of what the model answers."""
    unknown = f" Words that are not recognised: {', '.join(word[:30] for word in asked.unknown[:SHOWN])}."
    text = f"The model cannot answer this question.{unknown if asked.unknown else ''} {help_text()}"
    return Wording(text)

"""Word the answers about the type of one cell: how sure it is, what else it could be, and whether it is a named type.

Depends on `wording` and on the model's predictions.
"""

from collections.abc import Sequence

import numpy as np

from cell2text.inference.cell_types import LEAST_ALTERNATIVE
from cell2text.language.fields import Claim
from cell2text.questions.answer import NO, UNCLEAR, YES, AnswerValue, Wording
from cell2text.questions.model_types import BROADER, MappedLabel, ModelTypes
from cell2text.questions.predictions import CellPredictions
from cell2text.questions.understanding import Understood
from cell2text.questions.wording import (
    candidate_value,
    is_above,
    label_notes,
    listed,
    named_type,
    stated_name,
    type_value,
    verdict_of,
    with_probability,
)
from grammar_cell2text import enumeration, with_article


def confidence(predictions: CellPredictions, *, is_calibrated: bool) -> Wording:
    """Word how probable the named type of one cell is."""
    if predictions.types[0] is None:
        return Wording(str(predictions.reasons[0]))
    value = named_type(predictions)
    named = f"The model names this cell {with_article(value.name)}"
    if value.probability is None:
        return Wording(f"{named}. It has no concepts of cell types, so it gives no probability.", [value])
    if not is_calibrated:
        return Wording(f"{named} with a probability of {value.probability:.2f}, which is not calibrated.", [value])
    return Wording(
        f"{named} with a calibrated probability of {value.probability:.2f}: in studies that the model was not trained "
        f"on, the named type agrees with the annotation of about {100 * value.probability:.0f} of 100 such cells.",
        [value],
    )


def candidates(predictions: CellPredictions, types: ModelTypes, below: MappedLabel | None = None) -> Wording:
    """Word the most probable types below the named one of one cell, or below a type that the question names."""
    if predictions.probabilities is None:
        return Wording("The model has no concepts of cell types, so it has no candidates with probabilities.")
    row = predictions.probabilities[:1]
    if np.isnan(row).any():
        return Wording(str(predictions.reasons[0]))
    claim = predictions.types[0]
    if below is not None and len(below.types) == 1:
        claim = Claim(below.types[0], below.term_id)
    values = [candidate_value(*pair) for pair in types.candidates.candidates([claim], row)[0]]
    text = _candidates_text(claim, values)
    others = types.candidates.alternatives([claim], row)[0] if claim is not None and below is None else []
    rest = [candidate_value(*pair) for pair in others]
    if rest:
        text += f" The most probable other types are {listed(rest)}."
    elif claim is not None and below is None:
        text += f" No other type has a probability of at least {LEAST_ALTERNATIVE}."
    return Wording(text, [*values, *rest])


def _candidates_text(claim: Claim | None, values: Sequence[AnswerValue]) -> str:
    if claim is None:
        if not values:
            return "No type has a probability of at least 0.05."
        return f"No type is probable enough to be named. The most probable types are {listed(values)}."
    if not values:
        return f"No type below {claim.name} has a probability of at least 0.05."
    return f"Within the type {claim.name}, it could be {listed(values)}."


def is_type(
    predictions: CellPredictions, types: ModelTypes, labels: Sequence[MappedLabel], asked: Understood
) -> Wording:
    """Word whether one cell is of the types that a question names."""
    notes = label_notes(labels, asked.qualifiers)
    if predictions.probabilities is None:
        return _is_type_by_name(predictions, types, labels, notes)
    if np.isnan(predictions.probabilities[0]).any():
        return Wording(str(predictions.reasons[0]), verdict=UNCLEAR, notes=notes)
    known = [label for label in labels if label.types]
    if not known:
        return Wording(_unknown_type(labels), verdict=UNCLEAR, notes=notes)
    found = [(label, float(types.probability(label, predictions.probabilities)[0])) for label in known]
    found.sort(key=lambda pair: -pair[1])
    values = [type_value(Claim(label.name, label.term_id), value) for label, value in found]
    text, verdict = (_more_probable(found), None) if len(found) > 1 else _verdict(*found[0], asked)
    if predictions.types[0] is None:
        text += f" {predictions.reasons[0]}"
    elif predictions.types[0].name != found[0][0].name:
        text += f" The model names this cell {stated_name(predictions)}."
        values.append(named_type(predictions))
    return Wording(text, values, verdict, notes)


def _verdict(label: MappedLabel, probability: float, asked: Understood) -> tuple[str, str]:
    is_bound = label.route == BROADER or bool(asked.qualifiers)
    verdict, name = verdict_of(probability, is_bound=is_bound), with_article(label.name)
    if verdict == YES:
        text = f"this cell is {with_probability(name, probability)}."
    else:
        text = (
            f"the probability that this cell is {name} is {_rounded(probability, is_bound and not asked.qualifiers)}."
        )
    if asked.is_negated:  # yes and no would be ambiguous answers to "is this not a T cell?"
        return text[0].upper() + text[1:], verdict
    return f"{verdict.capitalize()}: {text}", verdict


def _rounded(probability: float, is_bound: bool) -> str:
    if probability < 0.005:
        return "below 0.01"
    return f"{'at most ' if is_bound else ''}{probability:.2f}"


def _more_probable(found: Sequence[tuple[MappedLabel, float]]) -> str:
    names = [with_probability(with_article(label.name), value) for label, value in found]
    return f"The most probable of these types is {names[0]}, followed by {enumeration(names[1:])}."


def _is_type_by_name(
    predictions: CellPredictions, types: ModelTypes, labels: Sequence[MappedLabel], notes: Sequence[str]
) -> Wording:
    """Word whether the named type is one that the question names, for a model without probabilities."""
    claim = predictions.types[0]
    if claim is None:
        return Wording(str(predictions.reasons[0]), verdict=UNCLEAR, notes=notes)
    holds = any(label.term_id and types.is_a(claim.name, label.term_id) for label in labels)
    below = any(label.term_id and claim.term_id and is_above(claim.term_id, label.term_id) for label in labels)
    verdict = YES if holds else UNCLEAR if below else NO
    opening = {YES: "Yes", NO: "No", UNCLEAR: "Unclear"}[verdict]
    return Wording(
        f"{opening}: the model names this cell {with_article(claim.name)}. It gives no probability.",
        [type_value(claim)], verdict, notes,
    )  # fmt: skip


def _unknown_type(labels: Sequence[MappedLabel]) -> str:
    names = enumeration([label.name for label in labels])
    return f"The model has no concept of {names}, or of a broader or narrower type, so it cannot answer."

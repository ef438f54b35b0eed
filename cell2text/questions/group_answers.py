"""Word the answers about the types of a group of cells.

Depends on `wording` and on the model's predictions.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from cell2text.describe.group_types import GroupTypes
from cell2text.language.fields import Claim
from cell2text.ontology.terms import label_of
from cell2text.questions.answer import NO, UNCLEAR, YES, Wording
from cell2text.questions.model_types import MappedLabel, ModelTypes
from cell2text.questions.predictions import CellPredictions
from cell2text.questions.understanding import Understood
from cell2text.questions.wording import (
    COMMON_SHARE,
    PATHWAY_SHARE,
    SHOWN,
    candidate_value,
    common_type,
    label_notes,
    listed,
    type_value,
    with_probability,
)
from declining_cell2text import TYPE_THRESHOLD
from grammar_cell2text import enumeration, pathway_words


def composition(predictions: CellPredictions, config=None) -> Wording:
    """Word which types a group has, and what most of its cells have in common.

    With the configuration of the model, the calibrated type of the whole group is added.
    """
    counts = Counter(claim.name for claim in predictions.types if claim is not None)
    claims = {claim.name: claim for claim in predictions.types if claim is not None}
    n_named = counts.total()
    if not n_named:
        return Wording(f"None of the {len(predictions):,} cells has a named type.")
    order = sorted(counts, key=lambda name: (-counts[name], name))
    values = [type_value(claims[name], _mean_named(predictions, name), counts[name]) for name in order]
    shown = enumeration([f"{name} ({counts[name]:,})" for name in order[:SHOWN]])
    rest = f", and {len(order) - SHOWN:,} more types" if len(order) > SHOWN else ""
    text = f"{n_named:,} of {len(predictions):,} cells have a named type: {shown}{rest}."
    common = common_type(predictions.types)
    if common is not None and len(order) > 1:
        text += f" At least {100 * COMMON_SHARE:.0f} % of them have the type {label_of(common)} or a type below it."
    return Wording(text + _type_of_group(predictions, config) + _common_pathways(predictions), values)


def _type_of_group(predictions: CellPredictions, config) -> str:
    """Word the type that the probabilities of all cells give the group, and whether its cells disagree."""
    group = None if config is None else GroupTypes.of_model(config, 1)
    if group is None or predictions.probabilities is None:
        return ""
    group.add(np.zeros(len(predictions), dtype=np.int64), predictions.probabilities)
    (found,) = group.decide()
    name = ""
    if found.name is not None:
        name = f" The group as a whole is named {with_probability(found.name, found.probability)}."
    return name + (f" {found.heterogeneity}" if found.heterogeneity else "")


def _mean_named(predictions: CellPredictions, name: str) -> float | None:
    values = [
        float(value)
        for claim, value in zip(predictions.types, predictions.named_probabilities)
        if claim is not None and claim.name == name and not np.isnan(value)
    ]
    return sum(values) / len(values) if values else None


def _common_pathways(predictions: CellPredictions) -> str:
    counts = Counter(name for names in predictions.pathways for name in names)
    found = sorted(name for name, n in counts.items() if n >= PATHWAY_SHARE * len(predictions))
    if not found:
        return ""
    words = enumeration([pathway_words(name) for name in found])
    return f" Pathways that at least half of the cells have among their two most active: {words}."


def are_type(
    predictions: CellPredictions, types: ModelTypes, labels: Sequence[MappedLabel], asked: Understood
) -> Wording:
    """Word whether the cells of a group are of a type, and how many are."""
    found = count_type(predictions, types, labels, asked)
    if len(found.values) != 1 or asked.is_negated:
        return found
    share = (found.values[0].n_cells or 0) / len(predictions)
    verdict = YES if share >= COMMON_SHARE and not asked.qualifiers else NO if share <= 1 - COMMON_SHARE else UNCLEAR
    opening = {YES: "Yes", NO: "No", UNCLEAR: "Partly"}[verdict]
    return Wording(f"{opening}: {found.text}", found.values, verdict, found.notes)


def count_type(
    predictions: CellPredictions, types: ModelTypes, labels: Sequence[MappedLabel], asked: Understood
) -> Wording:
    """Word how many cells of a group are of the types that a question names."""
    notes, texts, values = label_notes(labels, asked.qualifiers), [], []
    for label in labels:
        n = sum(claim is not None and _holds(types, claim, label) for claim in predictions.types)
        text = f"{n:,} of {len(predictions):,} cells are named {label.name} or a type below it"
        expected = None
        if predictions.probabilities is not None and label.types:
            found = types.probability(label, predictions.probabilities)
            expected = float(np.nanmean(found)) if not np.isnan(found).all() else None
        if expected is not None:
            text += f"; the mean probability of this type is {expected:.2f}"
        texts.append(f"{text}.")
        values.append(type_value(Claim(label.name, label.term_id), expected, n))
    return Wording(" ".join(texts), values, None, notes)


def _holds(types: ModelTypes, claim: Claim, label: MappedLabel) -> bool:
    return label.term_id is not None and types.is_a(claim.name, label.term_id)


def group_confidence(predictions: CellPredictions) -> Wording:
    """Word how probable the named types of a group are."""
    values = predictions.named_probabilities[~np.isnan(predictions.named_probabilities)]
    if not len(values):
        return Wording("No cell of the group has a named type with a probability.")
    low = int((values < TYPE_THRESHOLD + 0.1).sum())
    return Wording(
        f"The named types of {len(values):,} of {len(predictions):,} cells have a median probability of "
        f"{float(np.median(values)):.2f}, from {values.min():.2f} to {values.max():.2f}; {low:,} are below "
        f"{TYPE_THRESHOLD + 0.1:.1f}."
    )


def group_candidates(predictions: CellPredictions, types: ModelTypes) -> Wording:
    """Word the types that are most probable on average over a group."""
    if predictions.probabilities is None:
        return Wording("The model has no concepts of cell types, so it has no candidates with probabilities.")
    filled = predictions.probabilities[~np.isnan(predictions.probabilities).any(axis=1)]
    if not len(filled):
        return Wording("No cell of the group can be described.")
    found = types.candidates.candidates([None], filled.mean(axis=0, keepdims=True))[0]
    values = [candidate_value(name, value) for name, value in found]
    if not values:
        return Wording("No type has a mean probability of at least 0.05.")
    return Wording(f"On average over {len(filled):,} cells, the most probable types are {listed(values)}.", values)

"""Word the answers about one cell and about groups of cells, from the model's predictions.

Depends on the grammar of descriptions and on `predictions`.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from cell2text.inference.cell_types import LEAST_ALTERNATIVE
from cell2text.inference.probabilities import round_to_four_digits
from cell2text.language.fields import Claim
from cell2text.language.parsing import read_fields
from cell2text.language.writing import pathway_words
from cell2text.ontology.broader_terms import is_informative
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import label_of, resolve
from cell2text.questions.answer import NO, UNCLEAR, YES, AnswerValue, Wording
from cell2text.questions.model_types import BROADER, NARROWER, MappedLabel, ModelTypes
from cell2text.questions.predictions import CellPredictions
from cell2text.questions.understanding import Understood
from declining_cell2text import TYPE_THRESHOLD, is_description
from grammar_cell2text import with_article


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
    "For two cells: how do they differ?",
    "For a group: what do these cells have in common? How many are T cells?",
)


def named_type(predictions: CellPredictions, row: int = 0) -> AnswerValue:
    """Return the named type of a cell as a value."""
    claim, probability = predictions.types[row], predictions.named_probabilities[row]
    assert claim is not None
    return type_value(claim, None if np.isnan(probability) else float(probability))


def type_value(claim: Claim, probability: float | None = None, n_cells: int | None = None) -> AnswerValue:
    """Return a cell type as a value."""
    probability = None if probability is None else round_to_four_digits([probability])[0]
    return AnswerValue("cell_type", claim.name, claim.term_id, probability, n_cells)


def with_probability(name: str, probability: float | None) -> str:
    """Return a name with its probability in brackets, if there is one."""
    return name if probability is None else f"{name} ({probability:.2f})"


def enumerated(parts: Sequence[str]) -> str:
    """Return texts as an enumeration: "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def stated_name(predictions: CellPredictions, row: int = 0) -> str:
    """Return "a T cell (0.93)" for the named type of a cell."""
    value = named_type(predictions, row)
    return with_probability(with_article(value.name), value.probability)


# One cell


def confidence(predictions: CellPredictions, *, is_calibrated: bool) -> Wording:
    """Word how probable the named type of one cell is."""
    if predictions.types[0] is None:
        return Wording(str(predictions.reasons[0]))
    value = named_type(predictions)
    named = f"The model names this cell {with_article(value.name)}"
    if value.probability is None:
        return Wording(f"{named}. It has no concepts of cell types, and so no probability of the type.", [value])
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
    values = [_candidate(*pair) for pair in types.candidates.candidates([claim], row)[0]]
    text = _candidates_text(claim, values)
    others = types.candidates.alternatives([claim], row)[0] if claim is not None and below is None else []
    rest = [_candidate(*pair) for pair in others]
    if rest:
        text += f" The most probable other types are {_listed(rest)}."
    elif claim is not None and below is None:
        text += f" No other type has a probability of at least {LEAST_ALTERNATIVE}."
    return Wording(text, [*values, *rest])


def _listed(values: Sequence[AnswerValue]) -> str:
    return enumerated([with_probability(with_article(value.name), value.probability) for value in values])


def _candidate(name: str, probability: float) -> AnswerValue:
    return type_value(Claim(name, resolve("cell_type", name).term_id), probability)


def _candidates_text(claim: Claim | None, values: Sequence[AnswerValue]) -> str:
    if claim is None:
        if not values:
            return "No type has a probability of at least 0.05."
        return f"No type is probable enough to be named. The most probable types are {_listed(values)}."
    if not values:
        return f"No type below {claim.name} has a probability of at least 0.05."
    return f"Within the type {claim.name}, it could be {_listed(values)}."


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


def verdict_of(probability: float, *, is_bound: bool = False) -> str:
    """Return the verdict for a probability: yes from the threshold of named types on, no up to its opposite.

    An upper bound can only deny.
    """
    if probability <= 1 - TYPE_THRESHOLD:
        return NO
    return YES if probability >= TYPE_THRESHOLD and not is_bound else UNCLEAR


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
    if probability < 0.01:
        return "below 0.01"
    return f"{'at most ' if is_bound else ''}{probability:.2f}"


def _more_probable(found: Sequence[tuple[MappedLabel, float]]) -> str:
    names = [with_probability(with_article(label.name), value) for label, value in found]
    return f"The most probable of these types is {names[0]}, before {enumerated(names[1:])}."


def _is_type_by_name(
    predictions: CellPredictions, types: ModelTypes, labels: Sequence[MappedLabel], notes: Sequence[str]
) -> Wording:
    """Word whether the named type is one that the question names, for a model without probabilities."""
    claim = predictions.types[0]
    if claim is None:
        return Wording(str(predictions.reasons[0]), verdict=UNCLEAR, notes=notes)
    holds = any(label.term_id and types.is_a(claim.name, label.term_id) for label in labels)
    below = any(label.term_id and claim.term_id and _is_above(claim.term_id, label.term_id) for label in labels)
    verdict = YES if holds else UNCLEAR if below else NO
    opening = {YES: "Yes", NO: "No", UNCLEAR: "Unclear"}[verdict]
    return Wording(
        f"{opening}: the model names this cell {with_article(claim.name)}. It gives no probability.",
        [type_value(claim)], verdict, notes,
    )  # fmt: skip


def _is_above(upper: str, lower: str) -> bool:
    graph = load_graph("CL")
    return lower in graph and upper in graph.ancestors(lower)


def _unknown_type(labels: Sequence[MappedLabel]) -> str:
    names = enumerated([label.name for label in labels])
    return f"The model has no concept of {names}, nor of a broader or narrower type, so it cannot say."


def label_notes(labels: Sequence[MappedLabel], qualifiers: Sequence[str] = ()) -> list[str]:
    """Return notes on labels that are not types of the model themselves, and on words that were left out."""
    notes = []
    for label in labels:
        joined = enumerated(list(label.types[:SHOWN])) if label.types else ""
        more = f" and {len(label.types) - SHOWN} more" if len(label.types) > SHOWN else ""
        if label.route == NARROWER:
            notes.append(
                f"The model has no concept of {label.name}. Its probability is that of narrower types: {joined}{more}."
            )
        elif label.route == BROADER:
            notes.append(
                f"The model has no concept of {label.name}. The probability is that of {joined}, which is broader: an "
                "upper bound."
            )
    if qualifiers:
        notes.append(f"Words that the answer does not depend on: {', '.join(word[:30] for word in qualifiers)}.")
    return notes


def sex(predictions: CellPredictions, asked: str | None = None) -> Wording:
    """Word the sex of the donors."""
    counts = Counter(predictions.sexes)
    known = [name for name in ("female", "male") if counts[name]]
    if len(predictions) == 1:
        if not known:
            return Wording(
                "The cell does not show the sex of its donor: it has too few counts of XIST and genes of the Y "
                "chromosome.", verdict=UNCLEAR if asked else None,
            )  # fmt: skip
        verdict = None if asked is None else YES if known[0] == asked else NO
        opening = "" if verdict is None else f"{verdict.capitalize()}: the" if verdict else "The"
        return Wording(f"{opening or 'The'} donor is {known[0]}.", [AnswerValue("sex", known[0])], verdict)
    parts = [f"{counts[name]:,} come from a {name} donor" for name in known]
    rest = counts[None]
    text = f"Of {len(predictions):,} cells, {enumerated([*parts, f'{rest:,} do not show the sex'] if rest else parts)}."
    return Wording(text, [AnswerValue("sex", name, n_cells=counts[name]) for name in known])


def pathways(predictions: CellPredictions, asked: Sequence[str] = ()) -> Wording:
    """Word the most active pathways, and whether those that a question names are among them."""
    counts = Counter(name for names in predictions.pathways for name in names)
    order = sorted(counts, key=lambda name: (-counts[name], name))
    if len(predictions) == 1:
        order = list(predictions.pathways[0])
    if not order:
        return Wording("The cells have too few genes for pathway scores, or the model has no pathways.")
    one = len(predictions) == 1
    values = [AnswerValue("pathway", name, n_cells=None if one else counts[name]) for name in order[: 2 * SHOWN]]
    if one:
        words = enumerated([pathway_words(name) for name in order])
        text = f"Its most active pathways are {words}." if len(order) > 1 else f"Its most active pathway is {words}."
    else:
        words = enumerated([f"{pathway_words(name)} ({counts[name]:,})" for name in order[:SHOWN]])
        text = f"Pathways by the number of cells that have them among their two most active: {words}."
    if not asked:
        return Wording(text, values)
    n = sum(not set(asked).isdisjoint(names) for names in predictions.pathways)
    asked_words = " or ".join(map(pathway_words, asked))
    if one:
        opening = f"Yes: {asked_words} is" if n else f"No: {asked_words} is not"
        return Wording(f"{opening} among the two most active pathways. {text}", values, YES if n else NO)
    start = f"{asked_words} is among the two most active pathways of {n:,} of {len(predictions):,} cells."
    return Wording(f"{start[0].upper()}{start[1:]} {text}", values)


def profile(predictions: CellPredictions, names: Sequence[str]) -> Wording:
    """Word whether profiles are those of one cell, of two cells or of ambient RNA."""
    if predictions.profiles is None:
        return Wording("The model has no concepts for doublets and ambient RNA, so it cannot say.")
    filled = predictions.profiles[~np.isnan(predictions.profiles).any(axis=1)]
    if not len(filled):
        return Wording(str(predictions.reasons[0]))
    means, order = filled.mean(axis=0), np.argsort(-filled.mean(axis=0), kind="stable")
    best = Counter(filled.argmax(axis=1).tolist())
    one = len(predictions) == 1
    values = [
        AnswerValue("profile", names[i], None, round_to_four_digits([float(means[i])])[0], None if one else best[i])
        for i in order
    ]
    if one:
        parts = [with_probability(PROFILE_WORDS.get(value.name, value.name), value.probability) for value in values]
        return Wording(f"The profile is most likely that of {parts[0]}, before {enumerated(parts[1:])}.", values)
    parts = [f"{best[i]:,} of {PROFILE_WORDS.get(names[i], names[i])}" for i in order if best[i]]
    return Wording(f"Of {len(filled):,} profiles, {enumerated(parts)}.", values)


# Groups


def composition(predictions: CellPredictions) -> Wording:
    """Word which types a group has, and what most of its cells have in common."""
    counts = Counter(claim.name for claim in predictions.types if claim is not None)
    claims = {claim.name: claim for claim in predictions.types if claim is not None}
    n_named = counts.total()
    if not n_named:
        return Wording(f"No type is named for any of the {len(predictions):,} cells.")
    order = sorted(counts, key=lambda name: (-counts[name], name))
    values = [type_value(claims[name], _mean_named(predictions, name), counts[name]) for name in order]
    shown = enumerated([f"{name} ({counts[name]:,})" for name in order[:SHOWN]])
    rest = f", and {len(order) - SHOWN:,} more types" if len(order) > SHOWN else ""
    text = f"{n_named:,} of {len(predictions):,} cells have a named type: {shown}{rest}."
    common = _common_type(predictions.types)
    if common is not None and len(order) > 1:
        text += f" At least {COMMON_SHARE:.0%} of them are of the type {label_of(common)}."
    return Wording(text + _common_pathways(predictions), values)


def _mean_named(predictions: CellPredictions, name: str) -> float | None:
    values = [
        float(value)
        for claim, value in zip(predictions.types, predictions.named_probabilities)
        if claim is not None and claim.name == name and not np.isnan(value)
    ]
    return sum(values) / len(values) if values else None


def _common_type(types: Sequence[Claim | None]) -> str | None:
    """Return the deepest informative term that holds for most named cells; None without one."""
    graph = load_graph("CL")
    terms = [claim.term_id for claim in types if claim is not None and claim.term_id in graph]
    counts = Counter(above for term in terms for above in graph.ancestors(str(term)))
    shared = [term for term, n in counts.items() if n >= COMMON_SHARE * len(terms) and is_informative(term)]
    return min(shared, key=lambda term: (-graph.depth(term), -counts[term], term), default=None)


def _common_pathways(predictions: CellPredictions) -> str:
    counts = Counter(name for names in predictions.pathways for name in names)
    found = sorted(name for name, n in counts.items() if n >= PATHWAY_SHARE * len(predictions))
    if not found:
        return ""
    words = enumerated([pathway_words(name) for name in found])
    return f" Among the two most active pathways of at least half of the cells: {words}."


def are_type(
    predictions: CellPredictions, types: ModelTypes, labels: Sequence[MappedLabel], asked: Understood
) -> Wording:
    """Word whether the cells of a group are of a type, and how many are."""
    found = count_type(predictions, types, labels, asked)
    if len(found.values) != 1 or asked.is_negated:
        return found
    share = (found.values[0].n_cells or 0) / len(predictions)
    verdict = YES if share >= COMMON_SHARE and not asked.qualifiers else NO if share <= 1 - COMMON_SHARE else UNCLEAR
    opening = {YES: "Yes", NO: "No", UNCLEAR: "In part"}[verdict]
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
    values = [_candidate(name, value) for name, value in found]
    if not values:
        return Wording("No type has a mean probability of at least 0.05.")
    return Wording(f"On average over {len(filled):,} cells, the most probable types are {_listed(values)}.", values)


# What no prediction answers


def not_stated(field: str) -> Wording:
    """Word that the model does not state a field."""
    name = FULL_NAMES.get(field, field)
    return Wording(
        f"The model does not state the {name}: it was not trained on it, because it cannot be read reliably from the "
        "profile of a cell of an unknown study. See the annotation of the experiment."
    )


def help_text() -> str:
    """Return the questions that are answered."""
    return "Questions that are answered:" + "".join(f"\n- {question}" for question in ANSWERED_QUESTIONS)


def outside(asked: Understood) -> Wording:
    """Word that a question is outside of what the model answers."""
    unknown = f" Words without a meaning here: {', '.join(word[:30] for word in asked.unknown[:SHOWN])}."
    text = f"The model cannot answer this question.{unknown if asked.unknown else ''} {help_text()}"
    return Wording(text)


def evidence() -> Wording:
    """Word where the genes behind a statement are found."""
    return Wording(
        "This function does not read the genes behind a statement. Questions about types, probabilities, pathways and "
        "sex are answered; cell2text.tl.explain computes the genes that carry a statement."
    )


def origin(texts: Sequence[str], field: str) -> Wording:
    """Word the tissue, disease or life stage that generated texts state."""
    claims = [getattr(read_fields(text), field) if is_description(text) else None for text in texts]
    if len(texts) == 1:
        return Wording(texts[0], [AnswerValue(field, claim.name, claim.term_id) for claim in claims if claim])
    counts = Counter(claim.name for claim in claims if claim)
    terms = {claim.name: claim.term_id for claim in claims if claim}
    if not counts:
        return Wording(f"No text of the {len(texts):,} cells states the {FULL_NAMES.get(field, field)}.")
    order = sorted(counts, key=lambda name: (-counts[name], name))
    shown = enumerated([f"{name} ({counts[name]:,})" for name in order[:SHOWN]])
    values = [AnswerValue(field, name, terms[name], None, counts[name]) for name in order]
    return Wording(f"The texts of {counts.total():,} of {len(texts):,} cells state {shown}.", values)


# Comparisons


def compare_cells(text: str, first: CellPredictions, second: CellPredictions) -> Wording:
    """Word how two cells differ, after the model's own text on their types; empty if a cell has no type."""
    parts, values = [text] if text else [], []
    for name, cell in (("first", first), ("second", second)):
        if cell.types[0] is None:
            parts.append(f"The {name} cell has no named type. {cell.reasons[0]}")
            continue
        value = named_type(cell)
        values.append(value)
        if not text:
            parts.append(f"The {name} cell is {stated_name(cell)}.")
    probabilities = [value.probability for value in values]
    if text and len(values) == 2 and None not in probabilities:
        one, other = probabilities
        parts.append(f"The probabilities of the types are {one:.2f} and {other:.2f}.")
    if len(values) == 2:
        parts += _relation(*values)
    parts += _compared_pathways(first, second)
    sexes = [cell.sexes[0] for cell in (first, second)]
    if None not in sexes:
        same = sexes[0] == sexes[1]
        parts.append(
            f"Both donors are {sexes[0]}." if same else f"The first donor is {sexes[0]}, the second is {sexes[1]}."
        )
    return Wording(" ".join(parts), values, _same_type(values))


def _same_type(values: Sequence[AnswerValue]) -> str | None:
    if len(values) < 2:
        return None
    one, other = (str(value.term_id) for value in values)
    return YES if one == other else UNCLEAR if _is_above(one, other) or _is_above(other, one) else NO


def _relation(one: AnswerValue, other: AnswerValue) -> list[str]:
    """Word how two types stand to each other in the Cell Ontology."""
    if one.term_id == other.term_id or None in (one.term_id, other.term_id):
        return []
    if _is_above(str(one.term_id), str(other.term_id)):
        return [f"The type of the second cell is a kind of {one.name}."]
    if _is_above(str(other.term_id), str(one.term_id)):
        return [f"The type of the first cell is a kind of {other.name}."]
    common = _common_type([Claim(value.name, value.term_id) for value in (one, other)])
    return [f"Both are kinds of {label_of(common)}."] if common else []


def _compared_pathways(first: CellPredictions, second: CellPredictions) -> list[str]:
    """Word which of the most active pathways two cells share."""
    one, other = first.pathways[0], second.pathways[0]
    if not one or not other:
        return []
    shared = [pathway_words(name) for name in one if name in other]
    if len(shared) == len(one) == len(other):
        return [f"The most active pathways of both are {enumerated(shared)}."]
    texts = [enumerated(list(map(pathway_words, names))) for names in (one, other)]
    also = f" Both have {enumerated(shared)}." if shared else ""
    return [f"The most active pathways of the first cell are {texts[0]}, those of the second {texts[1]}.{also}"]


def compare_groups(first: CellPredictions, second: CellPredictions) -> Wording:
    """Word how two groups differ in their types and pathways."""
    parts: list[str] = []
    values: list[AnswerValue] = []
    for name, group in (("first", first), ("second", second)):
        found = composition(group)
        parts.append(f"{name.capitalize()} group: {found.text}")
        values += found.values
    return Wording(" ".join(parts), values)

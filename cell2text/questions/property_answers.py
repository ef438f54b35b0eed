"""Word the answers about sex, pathways, profile and origin, of one cell or of a group.

Depends on `wording` and on the model's predictions.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from cell2text.inference.probabilities import round_to_four_digits
from cell2text.language.parsing import read_fields
from cell2text.questions.answer import NO, UNCLEAR, YES, AnswerValue, Wording
from cell2text.questions.predictions import CellPredictions
from cell2text.questions.wording import FULL_NAMES, PROFILE_WORDS, SHOWN, with_probability
from declining_cell2text import is_description
from grammar_cell2text import enumeration, pathway_words


def sex(predictions: CellPredictions, asked: str | None = None) -> Wording:
    """Word the sex of the donors."""
    counts = Counter(predictions.sexes)
    known = [name for name in ("female", "male") if counts[name]]
    if len(predictions) == 1:
        if not known:
            return Wording(
                "The sex of the donor is unclear: the cell's counts of XIST and of genes of the Y chromosome do not "
                "show it.", verdict=UNCLEAR if asked else None,
            )  # fmt: skip
        verdict = None if asked is None else YES if known[0] == asked else NO
        opening = "" if verdict is None else f"{verdict.capitalize()}: the" if verdict else "The"
        return Wording(f"{opening or 'The'} donor is {known[0]}.", [AnswerValue("sex", known[0])], verdict)
    parts = [f"{counts[name]:,} come from a {name} donor" for name in known]
    rest = counts[None]
    text = (
        f"Of {len(predictions):,} cells, {enumeration([*parts, f'{rest:,} do not show the sex'] if rest else parts)}."
    )
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
        words = enumeration([pathway_words(name) for name in order])
        text = f"Its most active pathways are {words}." if len(order) > 1 else f"Its most active pathway is {words}."
    else:
        words = enumeration([f"{pathway_words(name)} ({counts[name]:,})" for name in order[:SHOWN]])
        text = f"Most frequent among the cells' two most active pathways, with the number of cells: {words}."
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
        return Wording("The model has no concepts for doublets and ambient RNA, so it cannot answer.")
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
        return Wording(f"The profile is most likely that of {parts[0]}, followed by {enumeration(parts[1:])}.", values)
    parts = [f"{best[i]:,} of {PROFILE_WORDS.get(names[i], names[i])}" for i in order if best[i]]
    return Wording(f"Of {len(filled):,} profiles, {enumeration(parts)}.", values)


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
    shown = enumeration([f"{name} ({counts[name]:,})" for name in order[:SHOWN]])
    values = [AnswerValue(field, name, terms[name], None, counts[name]) for name in order]
    return Wording(f"The texts of {counts.total():,} of {len(texts):,} cells state {shown}.", values)

"""Word how two cells, or two groups, differ. Depends on `wording` and `group_answers`."""

from collections.abc import Sequence

from cell2text.language.fields import Claim
from cell2text.ontology.terms import label_of
from cell2text.questions.answer import NO, UNCLEAR, YES, AnswerValue, Wording
from cell2text.questions.group_answers import composition
from cell2text.questions.predictions import CellPredictions
from cell2text.questions.wording import common_type, is_above, named_type, stated_name
from grammar_cell2text import enumeration, pathway_words


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
    return YES if one == other else UNCLEAR if is_above(one, other) or is_above(other, one) else NO


def _relation(one: AnswerValue, other: AnswerValue) -> list[str]:
    """Word how two types stand to each other in the Cell Ontology."""
    if one.term_id == other.term_id or None in (one.term_id, other.term_id):
        return []
    if is_above(str(one.term_id), str(other.term_id)):
        return [f"The type of the second cell is a kind of {one.name}."]
    if is_above(str(other.term_id), str(one.term_id)):
        return [f"The type of the first cell is a kind of {other.name}."]
    common = common_type([Claim(value.name, value.term_id) for value in (one, other)])
    return [f"Both are kinds of {label_of(common)}."] if common else []


def _compared_pathways(first: CellPredictions, second: CellPredictions) -> list[str]:
    """Word which of the most active pathways two cells share."""
    one, other = first.pathways[0], second.pathways[0]
    if not one or not other:
        return []
    shared = [pathway_words(name) for name in one if name in other]
    if len(shared) == len(one) == len(other):
        return [f"The most active pathways of both are {enumeration(shared)}."]
    texts = [enumeration(list(map(pathway_words, names))) for names in (one, other)]
    also = f" Both have {enumeration(shared)}." if shared else ""
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

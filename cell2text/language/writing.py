"""Write descriptions from metadata: pure functions from a row to the sentences that a model learns.

A row is a mapping with any of `cell_type`, `cell_type_definition`, `likely_subtype` with `likely_subtype_probability`
("0.62"), `tissue`, `disease`, `sex`, `life_stage` and `pathways` (names as in their GMT file). Unknown and missing
fields are omitted from the text.
:mod:`cell2text.language.parsing` reads the same sentences back.
"""

import re
from collections.abc import Mapping

from cell2text.language.fields import NORMAL
from cell2text.ontology.terms import clean_label
from grammar_cell2text import (
    DISEASE_LINK,
    DONOR,
    HEALTHY,
    ORIGIN_VERB,
    POSSESSIVE,
    POSSESSIVE_PRONOUN,
    PRONOUN,
    STAGE_LINK,
    SUBJECT,
    TISSUE_LINK,
    TYPE_VERB,
    active_pathways,
    compared_types,
    subtype_sentence,
    with_article,
)


def describe_row(row: Mapping) -> str | None:
    """Describe a cell: its type with the definition, its likely subtype, its origin, and its most active pathways.

    Returns
    -------
    Up to four sentences; None if every field is unknown.

    Examples
    --------
    >>> describe_row({"cell_type": "B cell", "tissue": "blood", "disease": "normal", "sex": "female"})
    'This cell is a B cell. It comes from the blood of a healthy female donor.'
    """
    sentences = [text for text in (cell_type_sentences(row), origin_sentence(row), pathway_sentence(row)) if text]
    if not sentences:
        return None
    first, *rest = sentences
    return " ".join([first, *map(_with_pronoun, rest)])


def cell_type_sentences(row: Mapping) -> str | None:
    """Write the cell type and, if both its name and its probability are known, the likely subtype.

    Returns
    -------
    One or two sentences; None if the cell type is unknown.

    Examples
    --------
    >>> row = {"cell_type": "T cell", "likely_subtype": "mature T cell", "likely_subtype_probability": "0.62"}
    >>> cell_type_sentences(row)
    'This cell is a T cell. It is most likely a mature T cell (0.62).'
    """
    cell_type, definition = clean_label(row.get("cell_type")), clean_label(row.get("cell_type_definition"))
    if not cell_type:
        return None
    sentence = f"{SUBJECT} {TYPE_VERB} {with_article(cell_type)}{f': {definition}' if definition else ''}."
    subtype, probability = clean_label(row.get("likely_subtype")), clean_label(row.get("likely_subtype_probability"))
    if not (subtype and probability):
        return sentence
    return f"{sentence} {subtype_sentence(subtype, probability)}"


def origin_sentence(row: Mapping) -> str | None:
    """Write where a cell comes from: tissue and donor; None if both are unknown."""
    tissue, donor = clean_label(row.get("tissue")), donor_phrase(row)
    origin = f" {TISSUE_LINK} ".join([*([_with_the(tissue)] if tissue else []), *([donor] if donor else [])])
    return f"{SUBJECT} {ORIGIN_VERB} {origin}." if origin else None


def donor_phrase(row: Mapping) -> str | None:
    """Write the donor, such as "a healthy male donor in adulthood"; None if nothing about the donor is known."""
    disease, sex, stage = (clean_label(row.get(name)) for name in ("disease", "sex", "life_stage"))
    if not (disease or sex or stage):
        return None
    donor = " ".join(word for word in (HEALTHY if disease == NORMAL else "", sex or "", DONOR) if word)
    words = [
        with_article(donor),
        f"{DISEASE_LINK} {disease}" if disease and disease != NORMAL else "",
        f"{STAGE_LINK} {stage}" if stage else "",
    ]
    return " ".join(word for word in words if word)


def pathway_sentence(row: Mapping) -> str | None:
    """Write the most active pathways; None if the row has none."""
    names = row.get("pathways") or ()
    return f"{POSSESSIVE} {active_pathways(names)}" if names else None


def _with_pronoun(sentence: str) -> str:
    """Replace the subject of a sentence by a pronoun."""
    if sentence.startswith(POSSESSIVE):
        return POSSESSIVE_PRONOUN + sentence.removeprefix(POSSESSIVE)
    return PRONOUN + sentence.removeprefix(SUBJECT)


def compare_cells(first: Mapping, second: Mapping) -> str | None:
    """Write what two cells share and where they differ, for the fields known of both.

    Returns
    -------
    Up to three sentences: cell type, tissue and disease; None if either cell type is unknown.

    Examples
    --------
    >>> compare_cells({"cell_type": "B cell"}, {"cell_type": "NK cell"})
    'The first cell is a B cell and the second cell is an NK cell.'
    """
    if not (clean_label(first.get("cell_type")) and clean_label(second.get("cell_type"))):
        return None
    comparisons = {"cell_type": compared_types, "tissue": _compare_tissues, "disease": _compare_diseases}
    labels = {name: (clean_label(first.get(name)), clean_label(second.get(name))) for name in comparisons}
    return " ".join(comparisons[name](one, other) for name, (one, other) in labels.items() if one and other)


def _compare_tissues(first: str, second: str) -> str:
    if first == second:
        return f"Both cells come from {_with_the(first)}."
    return f"The first cell comes from {_with_the(first)} and the second cell from {_with_the(second)}."


def _compare_diseases(first: str, second: str) -> str:
    if first == second:
        return f"Both cells come from {'healthy donors' if first == NORMAL else f'donors with {first}'}."
    donors = ["a healthy donor" if disease == NORMAL else f"a donor with {disease}" for disease in (first, second)]
    return f"The first cell comes from {donors[0]} and the second cell from {donors[1]}."


def _with_the(tissue: str) -> str:
    """Add the article, except to names that have none: "Bruch's membrane", "Brodmann (1909) area 10"."""
    return tissue if re.match(r"[A-Z][\w-]*('s|s') |Brodmann ", tissue) else f"the {tissue}"

"""Metadata to text: pure functions from a row to the sentences that a model learns to say."""

from collections.abc import Mapping

from cell2text.data.ontology import term_definition


UNKNOWN = {"", "unknown", "na", "nan", "none", "not applicable"}
ARTICLES = {"A", "An", "Any", "One", "The"}


def describe_row(row: Mapping[str, str]) -> str | None:
    """Describe a cell by its type with its definition, its tissue and its donor's disease.

    A field that is unknown is left out. None where nothing is known.

    Parameters
    ----------
    row
        Metadata with the columns `cell_type`, `cell_type_ontology_term_id`, `tissue` and `disease`; all may be missing.
    """
    cell_type, tissue, disease = (known(row.get(name)) for name in ("cell_type", "tissue", "disease"))
    sentences = []
    if cell_type:
        definition = term_definition(known(row.get("cell_type_ontology_term_id")) or "")
        explained = f": {lower_article(definition)}" if definition else ""
        sentences.append(f"This cell is {with_article(cell_type)}{explained}.")
    origin = " of ".join([*([f"the {tissue}"] if tissue else []), *([describe_donor(disease)] if disease else [])])
    if origin:
        sentences.append(f"{'It' if cell_type else 'This cell'} comes from {origin}.")
    return " ".join(sentences) or None


def describe_donor(disease: str) -> str:
    return "a healthy donor" if disease == "normal" else f"a donor with {disease}"


def known(value) -> str | None:
    """A metadata value as text, None where it says that it is unknown."""
    text = "" if value is None else str(value).strip()
    return None if text.lower() in UNKNOWN else text


def with_article(name: str) -> str:
    """`a` or `an` before a name, by its first sound."""
    return f"{'an' if name[0] in 'aeioAEIOu' and not name.lower().startswith(('uni', 'ure', 'one')) else 'a'} {name}"


def lower_article(definition: str) -> str:
    """A definition as it follows a colon: its opening article loses the capital, a name keeps it."""
    first, _, rest = definition.partition(" ")
    return f"{first.lower()} {rest}" if first in ARTICLES else definition

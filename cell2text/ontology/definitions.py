"""Definitions of ontology terms as one short clause that can follow a colon.

Depends on the ontologies of :mod:`cell2text.ontology.terms`.
"""

import re
from functools import cache

from cell2text.ontology.terms import label_of, ontology_parser


_ABBREVIATION = re.compile(r"(?:\be\.g|\bi\.e|\bcf|\bvs|\bal|\bapprox|\bsp|\bca|\bfig|\b[A-Z])\.$", re.IGNORECASE)
_CITATION = re.compile(
    r"\s*[(\[](?:[^()\[\]]*\b(?:et al\.?,? \d{4}|PMID|https?:|doi)[^()\[\]]*|[A-Z][a-z]+,? \d{4}|[A-Z]+:\d+)[)\]]"
)


@cache
def term_definition(term_id: str) -> str | None:
    """Return the first sentence of a term's definition, written so that it can follow "a B cell: ".

    Returns
    -------
    The definition without the term's own name, citations and full stop; None if the term does not exist, is retired
    or has no definition.

    Examples
    --------
    >>> term_definition("CL:0000236")
    'a lymphocyte of B lineage that is capable of B cell mediated immunity'
    """
    try:
        text = ontology_parser().get_term_description(term_id)
    except (KeyError, ValueError):
        return None
    if not text or ontology_parser().is_term_deprecated(term_id):
        return None
    return lowercase_start(_strip_label(clean_first_sentence(text), label_of(term_id)))


def clean_first_sentence(text: str) -> str:
    """Return the first sentence without its full stop, citations, repeated words and markup; correct `a` and `an`."""
    text = _CITATION.sub("", " ".join(text.replace("`", "").split()))
    text = re.sub(r"\s+([.,;)])", r"\1", text)
    text = re.sub(r"\b([a-z]+) \1\b(?!-)", r"\1", text).replace("_", " ")
    # A capital within a sentence is a name: "type A enteroendocrine cell".
    text = re.sub(r"(^A|(?<![\w-])a) (?=(?:[aei]|o(?!ne))[a-z]{2})(?!eu)", r"\1n ", text)
    text = re.sub(r"(^A|(?<![\w-])a)n (?=(?:CD|[bcdfgjklpqtvwz])[\w-])", r"\1 ", text)
    sentence = text
    for stop in re.finditer(r"\.(?=\s)", text):
        before = text[: stop.end()]
        if before.count("(") == before.count(")") and not _ABBREVIATION.search(before):
            sentence = before
            break
    return sentence.strip().rstrip(". ")


def _strip_label(definition: str, label: str) -> str:
    """Remove an opening that repeats the label: "a B cell is a lymphocyte" becomes "a lymphocyte"."""
    opening = re.match(
        rf"(?:(?:an?|the|any|all) )?{re.escape(label)}s? (?:is|are) (?=\w+ \w)", definition, re.IGNORECASE
    )
    return definition[opening.end() :] if opening else definition


def lowercase_start(definition: str) -> str:
    """Write the first word in lower case unless it is a name, such as `CD4-positive`."""
    first, space, rest = definition.partition(" ")
    if first == "A(n)":
        return f"{'an' if rest[:1] in 'aeiouAEIOU' else 'a'} {rest}"
    word, rest_of_word = re.match(r"(\w*)(.*)", first).groups()  # type: ignore[union-attr]
    if word.lower() in _common_words() and rest_of_word == rest_of_word.lower():
        word = word.lower()
    return f"{word}{rest_of_word}{space}{rest}"


@cache
def _common_words() -> frozenset[str]:
    """Collect the words that occur in lower case in the Cell Ontology's definitions; these are not names."""
    entries = ontology_parser().cxg_schema.ontology("CL").values()
    return frozenset(
        word for entry in entries for word in re.findall(r"(?<![\w-])[a-z]+", entry.get("description") or "")
    )

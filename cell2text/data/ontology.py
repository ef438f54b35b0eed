"""Definitions from the Cell Ontology, cleaned for use inside a sentence."""

import re
from functools import cache

from cellxgene_ontology_guide.ontology_parser import OntologyParser


@cache
def ontology_parser() -> OntologyParser:
    return OntologyParser()


@cache
def term_definition(term_id: str) -> str | None:
    """First sentence of a term's definition, without its full stop; None where there is no term or definition."""
    try:
        text = ontology_parser().get_term_description(term_id)
    except (KeyError, ValueError):
        return None
    return first_sentence(text) if text else None


def first_sentence(text: str) -> str:
    """The first sentence without its full stop. A full stop ends one where a capital follows."""
    sentence = re.split(r"(?<=[a-z0-9)\]])\.\s+(?=[A-Z])", " ".join(text.split()), maxsplit=1)[0]
    return sentence.strip().rstrip(".")

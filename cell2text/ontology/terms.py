"""Resolve labels and ids of cell metadata to ontology terms, as CELLxGENE uses them.

Sources: Cell Ontology (CL), UBERON, MONDO, PATO and HsapDv as bundled with `cellxgene-ontology-guide`.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import cache

from cellxgene_ontology_guide.ontology_parser import OntologyParser


# Ontologies of each field, in the order in which labels are looked up.
FIELD_ONTOLOGIES = {
    "cell_type": ("CL",),
    "tissue": ("UBERON", "CL"),
    "disease": ("MONDO", "PATO"),
    "sex": ("PATO",),
    "development_stage": ("HsapDv",),
}
# PATO describes qualities in general; only these terms are a disease state or a sex.
PATO_TERMS = {"disease": {"PATO:0000461"}, "sex": {"PATO:0000383", "PATO:0000384"}}
# Ways in which a term is resolved, the most reliable first.
ROUTES = ("term_id", "retired_id", "label", "synonym", "retired_label", "common_name", "unresolved", "unknown")
UNKNOWN_LABELS = {"", "unknown", "na", "n/a", "nan", "none", "null", "not applicable", "not available", "<na>"}
TERM_SEPARATOR = " || "  # CELLxGENE joins several diseases of one donor with it

_SEX_SYNONYMS = {"f": "female", "m": "male", "woman": "female", "man": "male"}
_HEALTHY_SYNONYMS = {"healthy", "healthy control", "control", "healthy donor"}


@dataclass(frozen=True)
class Term:
    """An ontology term that a label or an id resolves to.

    Parameters
    ----------
    label
        Label in the ontology; the label of the input if no term was found, None if the input is unknown.
    term_id
        Id such as `CL:0000236`; None if no term was found.
    route
        How the term was found, one of `ROUTES`.
    """

    label: str | None
    term_id: str | None
    route: str


@cache
def ontology_parser() -> OntologyParser:
    """Load the ontologies, about 120 MB, once per process."""
    return OntologyParser()


def clear_ontology_caches() -> None:
    """Free the memory of the ontologies; they load again at the next use."""
    for cached in (ontology_parser, label_index):
        cached.cache_clear()


def ontology_versions() -> dict[str, str]:
    """Return the release of each ontology that fields are resolved against."""
    schema = ontology_parser().cxg_schema
    names = sorted({name for names in FIELD_ONTOLOGIES.values() for name in names})
    return {name: schema.supported_ontologies[name]["version"] for name in names}


def clean_label(value) -> str | None:
    """Return a metadata value as stripped text, or None if it means "unknown".

    Examples
    --------
    >>> clean_label(" B cell "), clean_label("unknown"), clean_label(None)
    ('B cell', None, None)
    """
    text = "" if value is None else str(value).strip()
    return None if text.lower() in UNKNOWN_LABELS else text


def resolve(field: str, label, term_id=None) -> Term:
    """Find the current ontology term of a label or an id.

    Parameters
    ----------
    field
        A key of `FIELD_ONTOLOGIES`.
    label, term_id
        Values of the metadata; either may be unknown. A valid id takes precedence over the label. Several diseases
        joined by `||` are resolved separately; their labels are joined by "and".

    Returns
    -------
    The term. A label that no ontology holds is returned unchanged with the route `"unresolved"`.

    Examples
    --------
    >>> resolve("cell_type", "B lymphocyte")
    Term(label='B cell', term_id='CL:0000236', route='synonym')
    >>> resolve("cell_type", "cluster 7")
    Term(label='cluster 7', term_id=None, route='unresolved')
    """
    label, term_id = clean_label(label), clean_label(term_id)
    if label and TERM_SEPARATOR in label:
        return _resolve_several(field, label, term_id)
    if term_id:
        current = current_term(field, term_id)
        if current:
            return Term(label_of(current), current, "term_id" if current == term_id else "retired_id")
    if label is None:
        return Term(None, None, "unresolved" if term_id else "unknown")
    for spelling in dict.fromkeys(_spellings(field, label.lower())):
        for route, index in zip(("label", "synonym", "retired_label"), label_index(field)):
            matches = index.get(spelling, set())
            if len(matches) == 1:
                term = next(iter(matches))
                return Term(label_of(term), term, route if spelling == label.lower() else "synonym")
    return Term(label, None, "unresolved")


def _resolve_several(field: str, label: str, term_id: str | None) -> Term:
    labels = label.split(TERM_SEPARATOR)
    ids: list[str | None] = list(term_id.split(TERM_SEPARATOR)) if term_id else []
    terms = [resolve(field, *pair) for pair in zip(labels, ids if len(ids) == len(labels) else [None] * len(labels))]
    term_ids = [term.term_id for term in terms if term.term_id]
    return Term(
        " and ".join(term.label for term in terms if term.label) or None,
        TERM_SEPARATOR.join(term_ids) if len(term_ids) == len(terms) else None,
        max((term.route for term in terms), key=ROUTES.index),
    )


def _spellings(field: str, label: str) -> list[str]:
    """List a lower-case label and the other spellings under which the ontology may hold it."""
    others = {
        "cell_type": [label.removesuffix("s")],
        "disease": ["normal"] if label in _HEALTHY_SYNONYMS else [],
        "sex": [_SEX_SYNONYMS.get(label, label)],
        "development_stage": [label.replace("human ", "")],
    }
    return [label, *others.get(field, [])]


def current_term(field: str, term_id: str) -> str | None:
    """Return the id itself, or its replacement if the term is retired; None if it is not a term of this field."""
    seen = set()
    while term_id and term_id not in seen:
        seen.add(term_id)
        if not _belongs_to(field, term_id) or not ontology_parser().is_valid_term_id(term_id):
            return None
        if not ontology_parser().is_term_deprecated(term_id):
            return term_id
        term_id = ontology_parser().get_term_replacement(term_id)
    return None


def is_term(field: str, term_id: str | None) -> bool:
    """Return whether an id is a term of a field, or a retired one that has a replacement."""
    return term_id is not None and current_term(field, term_id) is not None


def _belongs_to(field: str, term_id: str) -> bool:
    ontology = term_id.split(":")[0]
    return ontology in FIELD_ONTOLOGIES[field] and (ontology != "PATO" or term_id in PATO_TERMS[field])


@cache
def label_index(field: str) -> tuple[dict[str, set[str]], dict[str, set[str]], dict[str, set[str]]]:
    """Index the term ids of a field by lower-case name.

    Returns
    -------
    Three dictionaries: ids by label, ids by synonym, and ids of replacements by the label of a retired term.
    """
    labels, synonyms, retired = defaultdict(set), defaultdict(set), defaultdict(set)
    for ontology in FIELD_ONTOLOGIES[field]:
        for term_id, entry in ontology_parser().cxg_schema.ontology(ontology).items():
            if not _belongs_to(field, term_id) or not entry.get("label"):
                continue
            if entry.get("deprecated"):
                current = current_term(field, term_id)
                if current:
                    retired[entry["label"].removeprefix("obsolete ").lower()].add(current)
                continue
            labels[entry["label"].lower()].add(term_id)
            for synonym in entry.get("synonyms", ()):
                synonyms[synonym.lower()].add(term_id)
    return labels, synonyms, retired


@cache
def label_of(term_id: str) -> str:
    """Return the label of a term."""
    return ontology_parser().get_term_label(term_id)


@cache
def ancestors(term_id: str) -> frozenset[str]:
    """Return a term and every term above it (`is_a` and `part_of`); empty if the id is not a term."""
    try:
        return frozenset(ontology_parser().get_term_ancestors(term_id, include_self=True))
    except (KeyError, ValueError):
        return frozenset()

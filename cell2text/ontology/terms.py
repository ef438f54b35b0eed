"""The ontologies that CELLxGENE uses: labels to terms, definitions, life stages. Offline, in one version.

Sources: Cell Ontology, UBERON, MONDO, PATO and HsapDv as bundled by `cellxgene-ontology-guide`.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

from cellxgene_ontology_guide.ontology_parser import OntologyParser


# Ontologies of each field, the one searched first first.
FIELD_ONTOLOGIES = {
    "cell_type": ("CL",),
    "tissue": ("UBERON", "CL"),
    "disease": ("MONDO", "PATO"),
    "sex": ("PATO",),
    "development_stage": ("HsapDv",),
}
# The few terms of PATO that stand in these fields: as a disease or a sex, any other would be an error.
PATO_TERMS = {"disease": {"PATO:0000461"}, "sex": {"PATO:0000383", "PATO:0000384"}}
SHORT_SEX = {"f": "female", "m": "male", "woman": "female", "man": "male"}
HEALTHY = {"healthy", "healthy control", "control", "healthy donor"}
RESOLUTIONS = ("term_id", "retired_id", "label", "synonym", "retired_label", "unresolved", "unknown")
UNKNOWN = {"", "unknown", "na", "n/a", "nan", "none", "null", "not applicable", "not available", "<na>"}
SEVERAL = " || "  # CELLxGENE joins several diseases of one donor so

ABBREVIATIONS = re.compile(r"(?:\be\.g|\bi\.e|\bcf|\bvs|\bal|\bapprox|\bsp|\bca|\bfig|\b[A-Z])\.$", re.IGNORECASE)
CITATION = re.compile(
    r"\s*[(\[](?:[^()\[\]]*\b(?:et al\.?,? \d{4}|PMID|https?:|doi)[^()\[\]]*|[A-Z][a-z]+,? \d{4}|[A-Z]+:\d+)[)\]]"
)


@dataclass(frozen=True)
class Term:
    """A label as the ontology has it, its id where one was found, and how; both None where nothing is known."""

    label: str | None
    term_id: str | None
    route: str


@cache
def ontology_parser() -> OntologyParser:
    return OntologyParser()


def forget_ontologies() -> None:
    """Let go of the ontologies, some 120 MB, once labels and definitions are known; they load again when asked for."""
    for cached in (ontology_parser, label_index, common_words):
        cached.cache_clear()


def ontology_versions() -> dict[str, str]:
    """Release of each ontology that fields are resolved against."""
    schema = ontology_parser().cxg_schema
    names = sorted({name for names in FIELD_ONTOLOGIES.values() for name in names})
    return {name: schema.supported_ontologies[name]["version"] for name in names}


def clean_label(value) -> str | None:
    """A metadata value as text, None where it says that it is unknown."""
    text = "" if value is None else str(value).strip()
    return None if text.lower() in UNKNOWN else text


def resolve(field: str, label, term_id=None) -> Term:
    """Find the current ontology term of a label.

    Parameters
    ----------
    field
        A key of `FIELD_ONTOLOGIES`.
    label, term_id
        What the file says; either may be unknown. A valid id wins over the label. Several diseases, joined by `||`,
        are resolved one by one and joined by "and".

    Returns
    -------
    The term; a label that no ontology knows comes back as it is, with the route `"unresolved"`.
    """
    label, term_id = clean_label(label), clean_label(term_id)
    if label and SEVERAL in label:
        labels = label.split(SEVERAL)
        ids = term_id.split(SEVERAL) if term_id and term_id.count(SEVERAL) == len(labels) - 1 else [None] * len(labels)
        terms = [resolve(field, *pair) for pair in zip(labels, ids)]
        worst = max((term.route for term in terms), key=RESOLUTIONS.index)
        found = [term.term_id for term in terms if term.term_id]
        return Term(
            " and ".join(term.label for term in terms if term.label) or None,
            SEVERAL.join(found) if len(found) == len(terms) else None,
            worst,
        )
    if term_id:
        current = current_term(field, term_id)
        if current:
            return Term(label_of(current), current, "term_id" if current == term_id else "retired_id")
    if label is None:
        return Term(None, None, "unresolved" if term_id else "unknown")
    for name in dict.fromkeys(variants(field, label.lower())):
        for route, index in zip(("label", "synonym", "retired_label"), label_index(field)):
            matches = index.get(name, set())
            if len(matches) == 1:
                term = next(iter(matches))
                return Term(label_of(term), term, route if name == label.lower() else "synonym")
    return Term(label, None, "unresolved")


def variants(field: str, label: str) -> list[str]:
    """A label in lower case, then as the ontology may write it."""
    further = {
        "cell_type": [label.removesuffix("s")],
        "disease": ["normal"] if label in HEALTHY else [],
        "sex": [SHORT_SEX.get(label, label)],
        "development_stage": [label.replace("human ", "")],
    }
    return [label, *further.get(field, [])]


def current_term(field: str, term_id: str) -> str | None:
    """The id itself, or what replaces it where it is retired; None for no term of this field."""
    seen = set()
    while term_id and term_id not in seen:
        seen.add(term_id)
        if not allowed(field, term_id) or not ontology_parser().is_valid_term_id(term_id):
            return None
        if not ontology_parser().is_term_deprecated(term_id):
            return term_id
        term_id = ontology_parser().get_term_replacement(term_id)
    return None


def allowed(field: str, term_id: str) -> bool:
    ontology = term_id.split(":")[0]
    return ontology in FIELD_ONTOLOGIES[field] and (ontology != "PATO" or term_id in PATO_TERMS[field])


@cache
def label_index(field: str) -> tuple[dict[str, set[str]], dict[str, set[str]], dict[str, set[str]]]:
    """Ids by lower-case label, by synonym, and of replacements by the label of a retired term."""
    labels, synonyms, retired = defaultdict(set), defaultdict(set), defaultdict(set)
    for ontology in FIELD_ONTOLOGIES[field]:
        for term_id, entry in ontology_parser().cxg_schema.ontology(ontology).items():
            if not allowed(field, term_id) or not entry.get("label"):
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
    return ontology_parser().get_term_label(term_id)


@cache
def ancestors(term_id: str) -> frozenset[str]:
    """A term and all it is a kind or a part of; empty for no term."""
    try:
        return frozenset(ontology_parser().get_term_ancestors(term_id, include_self=True))
    except (KeyError, ValueError):
        return frozenset()


@cache
def term_definition(term_id: str) -> str | None:
    """A term's definition as it follows a colon; None where there is no term or no definition."""
    try:
        text = ontology_parser().get_term_description(term_id)
    except (KeyError, ValueError):
        return None
    if not text or ontology_parser().is_term_deprecated(term_id):
        return None
    return lower_start(without_label(first_sentence(text), label_of(term_id)))


def first_sentence(text: str) -> str:
    """The first sentence, without its full stop, citations, repeated words and marks."""
    text = CITATION.sub("", " ".join(text.replace("`", "").split()))
    text = re.sub(r"\s+([.,;)])", r"\1", text)
    text = re.sub(r"\b([a-z]+) \1\b(?!-)", r"\1", text).replace("_", " ")
    # A capital within a sentence is a name: "type A enteroendocrine cell".
    text = re.sub(r"(^A|(?<![\w-])a) (?=(?:[aei]|o(?!ne))[a-z]{2})(?!eu)", r"\1n ", text)
    text = re.sub(r"(^A|(?<![\w-])a)n (?=(?:CD|[bcdfgjklpqtvwz])[\w-])", r"\1 ", text)
    sentence = text
    for stop in re.finditer(r"\.(?=\s)", text):
        before = text[: stop.end()]
        if before.count("(") == before.count(")") and not ABBREVIATIONS.search(before):
            sentence = before
            break
    return sentence.strip().rstrip(". ")


def without_label(definition: str, label: str) -> str:
    """A definition without the words that repeat what it defines: "a B cell is a lymphocyte" is "a lymphocyte"."""
    said = re.match(rf"(?:(?:an?|the|any|all) )?{re.escape(label)}s? (?:is|are) (?=\w+ \w)", definition, re.IGNORECASE)
    return definition[said.end() :] if said else definition


def lower_start(definition: str) -> str:
    """A definition as it follows a colon: an opening word that is no name loses its capital."""
    first, space, rest = definition.partition(" ")
    if first == "A(n)":
        return f"{'an' if rest[:1] in 'aeiouAEIOU' else 'a'} {rest}"
    word, rest_of_word = re.match(r"(\w*)(.*)", first).groups()  # type: ignore[union-attr]
    if word.lower() in common_words() and rest_of_word == rest_of_word.lower():
        word = word.lower()
    return f"{word}{rest_of_word}{space}{rest}"


@cache
def common_words() -> frozenset[str]:
    """Words that stand in lower case somewhere in the Cell Ontology's definitions: no names."""
    entries = ontology_parser().cxg_schema.ontology("CL").values()
    return frozenset(
        word for entry in entries for word in re.findall(r"(?<![\w-])[a-z]+", entry.get("description") or "")
    )


LIFE_STAGES = {
    # Nearest first: a term takes the first stage that it, or something it is part of, stands under.
    "HsapDv:0000002": "the embryonic stage of prenatal development",
    "HsapDv:0000037": "the fetal stage of prenatal development",
    "HsapDv:0000045": "prenatal development",
    "HsapDv:0000260": "infancy",
    "HsapDv:0000265": "childhood",
    "HsapDv:0000271": "childhood",
    "HsapDv:0000264": "childhood",
    "HsapDv:0000268": "adolescence",
    "HsapDv:0000227": "late adulthood",
    "HsapDv:0000258": "adulthood",
    # Retired terms without a replacement.
    "HsapDv:0000082": "infancy",
    "HsapDv:0000083": "infancy",
    "HsapDv:0000174": "infancy",
    "HsapDv:0000256": "infancy",
    "HsapDv:0000081": "childhood",
    "HsapDv:0000084": "childhood",
    "HsapDv:0000085": "childhood",
    "HsapDv:0000235": "childhood",
    "HsapDv:0000086": "adolescence",
    "HsapDv:0000087": "adulthood",
    "HsapDv:0000088": "adulthood",
    "HsapDv:0000089": "adulthood",
    "HsapDv:0000090": "adulthood",
    "HsapDv:0000092": "adulthood",
    "HsapDv:0000204": "adulthood",
    "HsapDv:0000091": "late adulthood",
    "HsapDv:0000093": "late adulthood",
    "HsapDv:0000094": "late adulthood",
}


@cache
def life_stage(term_id: str | None) -> str | None:
    """Life stage of an HsapDv term in words that follow "in"; None where the term says nothing about it.

    Boundaries are HsapDv's own: childhood up to 14 years, adolescence from 15 to 19, late adulthood from 60.
    """
    if term_id is None:
        return None
    above = ancestors(current_term("development_stage", term_id) or term_id) | {term_id}
    return next((stage for term, stage in LIFE_STAGES.items() if term in above), None)

"""Read which cells a text asks for: cell type, tissue, disease, sex and life stage.

Texts are parsed as descriptions are (:mod:`cell2text.language.parsing`), and cell types also by their common names, as
in questions. Nothing is sampled here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cell2text.errors import UserError
from cell2text.language.fields import Claim, Fields
from cell2text.language.parsing import read_fields
from cell2text.ontology.graph import load_graph
from cell2text.ontology.mentions import find_mentions
from cell2text.ontology.terms import label_of
from cell2text.questions.type_names import TypeMention, find_cell_types
from cell2text.questions.words import NEGATIONS, check_text, word_set, words_of
from grammar_cell2text import SUBJECT, TYPE_VERB


CONCEPTS = ("cell_type", "tissue", "disease", "sex", "life_stage")
NAMES = {"cell_type": "type", "life_stage": "life stage"}  # of concepts in reports

_FILLERS = word_set(
    "a an the of from in with by and or to for that which is are was this these it its human person persons people "
    "patient patients donor donors individual individuals subject subjects suffering having diagnosed cell cells "
    "generate sample simulate profile profiles single some please me tissue organ comes come taken isolated derived "
    "disease condition aged stage life"
)
_ORIGIN_LINKS = word_set("from in with of")  # words after them name a tissue or a disease
_PLACE_LINKS, _ARTICLES = word_set("from in"), word_set("a an the")
_BETWEEN = _FILLERS - _ORIGIN_LINKS
_SINGULAR = {"women": "woman", "men": "man", "males": "male", "females": "female", "boys": "boy", "girls": "girl"}
_DESCRIPTION = re.compile(rf"\s*{SUBJECT} {TYPE_VERB} ")


@dataclass(frozen=True)
class Prompt:
    """The cells that a text asks for.

    Parameters
    ----------
    text
        The text.
    cell_type, tissue, disease, sex, life_stage
        Claims with their ontology terms; None for concepts that the text does not state.
    not_used
        Words of the text that no concept explains.
    """

    text: str
    cell_type: Claim
    tissue: Claim | None = None
    disease: Claim | None = None
    sex: Claim | None = None
    life_stage: Claim | None = None
    not_used: tuple[str, ...] = ()

    def understood(self) -> str:
        """Return what the text was understood as, such as "type: B cell (CL:0000236); tissue: blood (...)"."""
        return describe_claims({name: getattr(self, name) for name in CONCEPTS})


def describe_claims(claims: dict[str, Claim | None]) -> str:
    """Return claims as one line; "nothing" if all are None."""
    stated = [f"{NAMES.get(name, name)}: {_words(claim)}" for name, claim in claims.items() if claim]
    return "; ".join(stated) or "nothing"


def _words(claim: Claim) -> str:
    return f"{claim.name} ({claim.term_id})" if claim.term_id else claim.label


def read_prompt(text: str) -> Prompt:
    """Read which cells a text asks for.

    Parameters
    ----------
    text
        Free words, or a description as `describe` writes it.

    Raises
    ------
    UserError
        If the text names no cell type or several, contradicts itself, or names a tissue or disease that the ontologies
        do not hold. The message states what was understood.

    Examples
    --------
    >>> read_prompt("CD8 T cells from the lung").understood()
    'type: CD8-positive, alpha-beta T cell (CL:0000625); tissue: lung (UBERON:0002048)'
    """
    text = check_text("text", text)
    if _DESCRIPTION.match(text):
        fields = read_fields(text)
        claims = {name: getattr(fields, name) for name in CONCEPTS}
        _check(text, claims, fields, [])
        return Prompt(text, **claims)
    words = [_SINGULAR.get(word, word) for word in words_of(text)]
    mentions = [mention for mention in find_cell_types(words) if not _is_tissue(words, mention)]
    named = {place for mention in mentions for place in range(mention.start, mention.stop)}
    others = [word for place, word in enumerate(words) if place not in named]
    fields = read_fields(" ".join(others))
    types = _narrowest([mention.term_id for mention in mentions])
    claims = {name: getattr(fields, name) for name in CONCEPTS}
    claims["cell_type"] = Claim(label_of(types[0]), types[0]) if types else None
    _check(text, claims, fields, types)
    prompt = Prompt(text, **claims)
    return replace(prompt, not_used=_not_used(others, prompt))


def _is_tissue(words: Sequence[str], mention: TypeMention) -> bool:
    """Return whether words that can name a type name a tissue here: "from the sinoatrial node"."""
    before = [word for word in words[: mention.start] if word not in _ARTICLES]
    name = " ".join(words[mention.start : mention.stop])
    return bool(before) and before[-1] in _PLACE_LINKS and bool(find_mentions("tissue", name))


def _narrowest(terms: Sequence[str]) -> list[str]:
    """Return terms without those above another one, and without repetitions."""
    graph = load_graph("CL")
    terms = list(dict.fromkeys(terms))
    return [term for term in terms if not any(other != term and term in graph.ancestors(other) for other in terms)]


def _check(text: str, claims: dict[str, Claim | None], fields: Fields, types: Sequence[str]) -> None:
    understood = describe_claims(claims)
    if claims["cell_type"] is None or claims["cell_type"].term_id is None:
        raise UserError(
            f"The text {text!r} names no cell type of the Cell Ontology. Understood: {understood}. Name one type, such "
            "as 'CD8-positive T cell from the lung of a patient with COVID-19'."
        )
    if len(types) > 1:
        names = ", ".join(map(label_of, types))
        raise UserError(
            f"The text {text!r} names {len(types)} cell types: {names}. Generate each type in its own call."
        )
    if fields.contradictions:
        raise UserError(
            f"The text {text!r} contradicts itself in: {', '.join(fields.contradictions)}. Understood: {understood}. "
            "State one value for each."
        )
    if NEGATIONS & set(words_of(text)):
        raise UserError(
            f"The text {text!r} negates something, which cannot be generated. Understood: {understood}. State only "
            "what the cells are."
        )


def _not_used(words: Sequence[str], prompt: Prompt) -> tuple[str, ...]:
    """Return the words without which the text says the same; raise if one of them should name a tissue or disease."""
    unused = [place for place in range(len(words)) if not _matters(words, place)]
    for place in unused:
        before = [word for word in words[:place] if word not in _BETWEEN]
        if before and before[-1] in _ORIGIN_LINKS:
            raise UserError(
                f"The text {prompt.text!r}: {words[place]!r} is not part of a tissue or disease that the ontologies "
                f"name. Understood: {prompt.understood()}. Name a term of UBERON or MONDO, or omit it."
            )
    return tuple(dict.fromkeys(words[place] for place in unused))


def _matters(words: Sequence[str], place: int) -> bool:
    """Return whether a word changes a concept of the text, or carries no meaning of its own."""
    if words[place] in _FILLERS:
        return True
    whole, without = (read_fields(" ".join(part)) for part in (words, [*words[:place], *words[place + 1 :]]))
    return any(getattr(whole, name) != getattr(without, name) for name in CONCEPTS[1:])

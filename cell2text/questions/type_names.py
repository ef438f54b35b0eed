"""Find cell types in free words: names and synonyms of the Cell Ontology, common names, and spoken ones.

Depends on :mod:`cell2text.ontology.mentions` and :mod:`cell2text.ontology.common_names`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cell2text.ontology.broader_terms import UNINFORMATIVE_TYPES
from cell2text.ontology.common_names import find_common_name
from cell2text.ontology.mentions import term_named
from cell2text.ontology.terms import label_of
from cell2text.questions.words import singular, word_set


MAX_NAME_WORDS = 8
# Names of everyday speech that the ontology lacks, or uses in a narrower sense. Keys are in the singular. Greek letters
# stand for cells of the pancreatic islets; answers name the term, so that another meaning is noticed.
SPOKEN_NAMES = {
    "cancer cell": "CL:0001064", "tumor cell": "CL:0001064", "tumour cell": "CL:0001064", "cancerous": "CL:0001064",
    "malignant": "CL:0001064", "cancerous cell": "CL:0001064", "neoplastic cell": "CL:0001064",
    "immune cell": "CL:0000738", "immune": "CL:0000738", "killer t cell": "CL:0000910", "nk": "CL:0000623",
    "b lymphocyte": "CL:0000236", "t lymphocyte": "CL:0000084", "red cell": "CL:0000232", "white cell": "CL:0000738",
    "nerve cell": "CL:0000540", "fat cell": "CL:0000136", "antibody producing cell": "CL:0000946",
    "insulin producing cell": "CL:0000169", "blood cell": "CL:0000988", "alpha cell": "CL:0000171",
    "delta cell": "CL:0000173", "gamma cell": "CL:0002275", "pp cell": "CL:0002275", "epsilon cell": "CL:0005019",
    "ductal cell": "CL:0000068", "duct cell": "CL:0000068", "ductal": "CL:0000068", "endothelium": "CL:0000115",
    "heart muscle cell": "CL:0000746",
}  # fmt: skip
# Words at which no name starts or ends.
_EDGES = word_set(
    "a an the this that these those it is are was were be of in to for or and as at by do does did have has i we "
    "you he she they what which who why how if not no from with on than other more most some any all its my"
)
_NOT_FIRST = _EDGES | {"cell", "cells"}
_CONNECTORS = frozenset({"and", "or", "versus", "vs"})
_NOT_NAMES = frozenset({"stem", "germ", "plasma", "secretory", "single", "dead", "sex", "normal"})  # too vague alone


@dataclass(frozen=True)
class TypeMention:
    """A cell type that a text names.

    Parameters
    ----------
    start, stop
        Positions of its first word and of the word after its last.
    term_id
        Its term in the Cell Ontology.
    """

    start: int
    stop: int
    term_id: str

    @property
    def label(self) -> str:
        """Label of the term."""
        return label_of(self.term_id)


def find_cell_types(words: Sequence[str]) -> list[TypeMention]:
    """Find the cell types that words name, from left to right, with the longest name at each position.

    Parameters
    ----------
    words
        Lower-case words; see :func:`cell2text.questions.words.words_of`.

    Examples
    --------
    >>> [mention.label for mention in find_cell_types("is this a treg or a cd8 t cell".split())]
    ['regulatory T cell', 'CD8-positive, alpha-beta T cell']
    """
    found: list[TypeMention] = []
    start = 0
    while start < len(words):
        mention = _longest_at(words, start)
        if mention is not None:
            found.append(mention)
        start = start + 1 if mention is None else mention.stop
    return sorted([*found, *_shared_heads(words, found)], key=lambda mention: mention.start)


def _shared_heads(words: Sequence[str], found: Sequence[TypeMention]) -> list[TypeMention]:
    """Find types whose last words a neighbour holds: "CD4 and CD8 T cells", "a B or T cell"."""
    taken = {place for mention in found for place in range(mention.start, mention.stop)}
    completed = []
    for mention in found:
        place = mention.start - 2
        if place < 0 or words[place + 1] not in _CONNECTORS or place in taken or words[place] in _EDGES:
            continue
        names = (" ".join([words[place], *words[cut : mention.stop]]) for cut in range(mention.start + 1, mention.stop))
        term = next(filter(None, map(term_of_name, names)), None)
        if term is not None:
            completed.append(TypeMention(place, place + 1, term))
    return completed


def _longest_at(words: Sequence[str], start: int) -> TypeMention | None:
    for stop in range(min(len(words), start + MAX_NAME_WORDS), start, -1):
        if words[start] in _NOT_FIRST or words[stop - 1] in _EDGES:
            continue
        term = term_of_name(" ".join(words[start:stop]))
        if term is not None:
            return TypeMention(start, stop, term)
    return None


def term_of_name(name: str) -> str | None:
    """Return the Cell Ontology term of a name in lower case, None if it has none or says little of a cell."""
    spoken = " ".join(map(singular, name.replace("-", " ").split()))
    if spoken in _NOT_NAMES:
        return None
    term = SPOKEN_NAMES.get(spoken) or term_named("cell_type", name) or find_common_name(name)
    if term is None or label_of(term) in UNINFORMATIVE_TYPES or "(" in label_of(term):
        return None
    return term

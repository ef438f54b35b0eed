"""Ontology terms in free text: labels and synonyms, the longest first."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from cell2text.ontology.terms import ancestors, current_term, label_index, label_of


GREEK = dict(zip("αβγδεζηθικλμνξοπρστυφχψω", (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "omicron", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
)))  # fmt: skip
# Names of terms that say nothing in a sentence, or something else than the term.
NOT_NAMES = {
    "animal", "body", "cell", "cells", "condition", "disease", "disorder", "donor", "female", "healthy", "human",
    "human disease", "human disease or disorder", "male", "material entity", "normal", "organ", "organism", "region",
    "structure", "syndrome", "tissue", "whole body", "anatomical structure", "entity", "part", "unknown", "control",
    "role", "rich", "common",
    "all", "and", "arm", "can", "large", "lip", "may", "not", "set", "small", "the", "was", "adult", "child", "type",
}  # fmt: skip
SHORTEST = 4  # letters of a name that is one word and a synonym only
STOPS = re.compile(r"[.:;{}|\"\n]+(?:\s|$)|[{}|\"\n]")  # no name goes on behind one
NEGATIONS = {"not", "no", "non", "without", "never", "neither", "nor"}
DISEASE = "MONDO:0000001"
PREFIXES = {"tissue": "UBERON:", "disease": "MONDO:", "cell_type": "CL:"}


@dataclass(frozen=True)
class Phrase:
    """A term named in a text, and its place among the words."""

    start: int
    stop: int
    term_id: str


def words_of(text: str) -> list[str]:
    """Letters and digits in lower case, Greek letters by name, without plurals: what names are compared by."""
    spelled = "".join(f" {GREEK[letter]} " if letter in GREEK else letter for letter in text.lower())
    return [singular(word) for word in re.findall(r"[^\W_]+", spelled)]


def singular(word: str) -> str:
    return word[:-1] if len(word) > 4 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


@cache
def index_of(field: str) -> tuple[dict[tuple[str, ...], str], int]:
    """Term of every name that means one term alone, and the words of the longest name."""
    found: dict[tuple[str, ...], str] = {}
    for route, names in reversed(list(zip(("label", "synonym"), label_index(field)))):
        meanings: dict[tuple[str, ...], set[str]] = {}
        for name, terms in names.items():
            words = tuple(words_of(name))
            if (
                words in NO_NAMES
                or not words
                or (len(words) == 1 and len(words[0]) < (2, SHORTEST)[route == "synonym"])
            ):
                continue
            meanings.setdefault(words, set()).update(term for term in terms if can_be_claimed(field, term))
        found |= {words: next(iter(terms)) for words, terms in meanings.items() if len(terms) == 1}
    return found, max(map(len, found), default=0)


NO_NAMES = {tuple(words_of(name)) for name in NOT_NAMES}


def can_be_claimed(field: str, term: str) -> bool:
    """Whether a text may say a term of a cell: no organism ("an adult"), no property of diseases ("common")."""
    if not term.startswith(PREFIXES[field]) or "organism" in label_of(term):
        return False
    return field != "disease" or DISEASE in ancestors(term)


def find_phrases(field: str, text: str) -> list[Phrase]:
    """Terms that a text names, from left to right, at each place the longest name; none across a stop, none denied.

    Parameters
    ----------
    field
        `cell_type`, `tissue` or `disease`.
    """
    index, longest = index_of(field)
    found: list[Phrase] = []
    before = 0
    for part in STOPS.split(text):
        words = words_of(part)
        for phrase in _scan(words, index, longest):
            denied = NEGATIONS & set(words[max(0, phrase.start - 3) : phrase.start])
            if not denied:
                found.append(Phrase(before + phrase.start, before + phrase.stop, phrase.term_id))
        before += len(words) + 1
    return found


def _scan(words: list[str], index: dict, longest: int) -> Iterator[Phrase]:
    start = 0
    while start < len(words):
        for stop in range(min(len(words), start + longest), start, -1):
            term = index.get(tuple(words[start:stop]))
            if term:
                yield Phrase(start, stop, term)
                start = stop
                break
        else:
            start += 1


def longest_phrase(field: str, text: str) -> Phrase | None:
    """The term that a text names with the most words; the first of them where several are as long."""
    return max(find_phrases(field, text), key=lambda phrase: phrase.stop - phrase.start, default=None)


def is_term(field: str, term_id: str | None) -> bool:
    """Whether an id is a current or replaced term of a field."""
    return term_id is not None and current_term(field, term_id) is not None

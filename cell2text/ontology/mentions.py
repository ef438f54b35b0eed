"""Find mentions of ontology terms in free text: labels and synonyms, the longest match first.

Depends on the ontologies of :mod:`cell2text.ontology.terms`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from cell2text.ontology.terms import ancestors, label_index, label_of


MIN_SYNONYM_LETTERS = 4  # shorter one-word synonyms are mostly abbreviations with several meanings

_GREEK_LETTERS = dict(zip("αβγδεζηθικλμνξοπρστυφχψω", (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "omicron", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
)))  # fmt: skip
# Names of terms that are common words in a sentence.
_COMMON_NAMES = {
    "animal", "body", "cell", "cells", "condition", "disease", "disorder", "donor", "female", "healthy", "human",
    "human disease", "human disease or disorder", "male", "material entity", "normal", "organ", "organism", "region",
    "structure", "syndrome", "tissue", "whole body", "anatomical structure", "entity", "part", "unknown", "control",
    "role", "rich", "common",
    "all", "and", "arm", "can", "large", "lip", "may", "not", "set", "small", "the", "was", "adult", "child", "type",
}  # fmt: skip
_PHRASE_END = re.compile(r"[.:;{}|\"\n]+(?:\s|$)|[{}|\"\n]")  # a name does not extend across it
_NEGATIONS = {"not", "no", "non", "without", "never", "neither", "nor"}
_NEGATION_WORDS = 3  # a negation this many words before a mention denies it
_DISEASE_ROOT = "MONDO:0000001"
_PREFIXES = {"tissue": "UBERON:", "disease": "MONDO:", "cell_type": "CL:"}


@dataclass(frozen=True)
class Mention:
    """A term named in a text, with the positions of its first word and of the word after its last."""

    start: int
    stop: int
    term_id: str


def find_mentions(field: str, text: str) -> list[Mention]:
    """Find the terms that a text names, from left to right, with the longest name at each position.

    Parameters
    ----------
    field
        `cell_type`, `tissue` or `disease`.
    text
        Free text. Names do not extend across a full stop, colon or semicolon; mentions after a negation are skipped.

    Examples
    --------
    >>> find_mentions("cell_type", "It is not a T cell but a B cell.")
    [Mention(start=8, stop=10, term_id='CL:0000236')]
    """
    index, longest = _mention_index(field)
    mentions: list[Mention] = []
    offset = 0
    for phrase in _PHRASE_END.split(text):
        words = _normalized_words(phrase)
        for mention in _scan(words, index, longest):
            if not _NEGATIONS & set(words[max(0, mention.start - _NEGATION_WORDS) : mention.start]):
                mentions.append(Mention(offset + mention.start, offset + mention.stop, mention.term_id))
        offset += len(words) + 1
    return mentions


def longest_mention(field: str, text: str) -> Mention | None:
    """Return the mention with the most words, the first of several; None if the text names no term."""
    return max(find_mentions(field, text), key=lambda mention: mention.stop - mention.start, default=None)


def term_named(field: str, name: str) -> str | None:
    """Return the id of the term that has this name, in any spelling that `find_mentions` finds; None if it has none.

    Examples
    --------
    >>> term_named("cell_type", "B-cells"), term_named("cell_type", "a B cell")
    ('CL:0000236', None)
    """
    return _mention_index(field)[0].get(tuple(_normalized_words(name)))


def _scan(words: list[str], index: dict[tuple[str, ...], str], longest: int) -> Iterator[Mention]:
    start = 0
    while start < len(words):
        for stop in range(min(len(words), start + longest), start, -1):
            term = index.get(tuple(words[start:stop]))
            if term:
                yield Mention(start, stop, term)
                start = stop
                break
        else:
            start += 1


@cache
def _mention_index(field: str) -> tuple[dict[tuple[str, ...], str], int]:
    """Index the names that mean one term only; return the index and the number of words of the longest name."""
    index: dict[tuple[str, ...], str] = {}
    for route, names in reversed(list(zip(("label", "synonym"), label_index(field)))):
        meanings: dict[tuple[str, ...], set[str]] = {}
        for name, terms in names.items():
            words = tuple(_normalized_words(name))
            min_letters = MIN_SYNONYM_LETTERS if route == "synonym" else 2
            if not words or words in _COMMON_WORDS or (len(words) == 1 and len(words[0]) < min_letters):
                continue
            meanings.setdefault(words, set()).update(term for term in terms if _describes_a_cell(field, term))
        index |= {words: next(iter(terms)) for words, terms in meanings.items() if len(terms) == 1}
    return index, max(map(len, index), default=0)


def _describes_a_cell(field: str, term: str) -> bool:
    """Exclude organisms ("an adult") and qualities of diseases ("common")."""
    if not term.startswith(_PREFIXES[field]) or "organism" in label_of(term):
        return False
    return field != "disease" or _DISEASE_ROOT in ancestors(term)


def _normalized_words(text: str) -> list[str]:
    """Split into lower-case words without punctuation and plurals, Greek letters spelled out."""
    spelled = "".join(f" {_GREEK_LETTERS[letter]} " if letter in _GREEK_LETTERS else letter for letter in text.lower())
    return [_singular(word) for word in re.findall(r"[^\W_]+", spelled)]


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 4 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


_COMMON_WORDS = {tuple(_normalized_words(name)) for name in _COMMON_NAMES}

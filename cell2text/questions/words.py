"""Split free text into words for matching: spelling variants, contractions, plurals and typing errors.

Depends on the ontologies for the words of cell-type names.
"""

import re
import unicodedata
from collections.abc import Collection
from functools import cache

from cell2text.errors import UserError
from cell2text.ontology.common_names import ABBREVIATIONS
from cell2text.ontology.terms import label_index


MAX_LETTERS = 500  # of a question, a query or a label
NEGATIONS = frozenset({"not", "no", "non", "without", "never", "neither", "nor", "except", "excluding", "lacking"})
MIN_CORRECTED_LETTERS = 5  # shorter words are too close to other words to be corrected
LONG_WORD_LETTERS = 9  # from this length on, two typing errors are corrected

_CONTRACTIONS = (
    (re.compile(r"\bcan't\b"), "can not"), (re.compile(r"\bwon't\b"), "will not"), (re.compile(r"n't\b"), " not"),
    (re.compile(r"'(?:s|re|ll|ve|m|d)\b"), ""),
)  # fmt: skip
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "`": "'", "´": "'"})
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—−", "-"))
_GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "κ": "kappa"}
_WORD = re.compile(r"[a-z0-9][a-z0-9+/-]*[a-z0-9+]|[a-z0-9]\+?")
_GLUED_TYPE = re.compile(r"^([bt])(cells?)$")  # "tcells"
# Typing errors and abbreviations in words that are too short to be corrected by their distance.
_SHORT_WORDS = {
    **dict.fromkeys(("cel", "cels", "celll", "clel", "ceel", "cll", "clls", "ccell", "cellls"), "cell"),
    **dict.fromkeys(("typ", "tpye", "tyep", "tipe", "typs"), "type"), "r": "are", "u": "you", "ur": "your",
    "whats": "what", "wat": "what", "wich": "which", "whihc": "which", "whch": "which", "hw": "how",
    "isnt": "is not", "arent": "are not", "pls": "please", "plz": "please", "dis": "this", "ths": "this",
}  # fmt: skip


def word_set(words: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(words.split())


def check_text(name: str, text) -> str:
    """Return a text in one normal form of Unicode, without control characters.

    Raises
    ------
    UserError
        If it is not a text, is empty, or has more than `MAX_LETTERS` characters.

    Examples
    --------
    >>> check_text("question", " Is this\\ta T\\u00a0cell? ")
    'Is this a T cell?'
    """
    if not isinstance(text, str):
        raise UserError(f"{name}={text!r}: expected a text, found {type(text).__name__}.")
    if len(text) > MAX_LETTERS:
        raise UserError(f"{name}: {len(text):,} characters, expected at most {MAX_LETTERS}. Shorten it.")
    printable = "".join(" " if unicodedata.category(letter) in ("Cc", "Cf", "Cs") else letter for letter in text)
    cleaned = " ".join(unicodedata.normalize("NFKC", printable).split())
    if not cleaned:
        raise UserError(f"{name} is empty: expected words.")
    return cleaned


def words_of(text: str) -> list[str]:
    """Split a text into lower-case words; "+", "-" and "/" stay within words, other punctuation is dropped.

    Examples
    --------
    >>> words_of("Isn't it a CD8+ γδ T-cell?")
    ['is', 'not', 'it', 'a', 'cd8+', 'gamma', 'delta', 't-cell']
    """
    text = text.casefold().translate(_APOSTROPHES).translate(_DASHES)
    text = "".join(f" {_GREEK[letter]} " if letter in _GREEK else letter for letter in text)
    for pattern, spelled in _CONTRACTIONS:
        text = pattern.sub(spelled, text)
    words: list[str] = []
    for word in _WORD.findall(text):
        glued = _GLUED_TYPE.match(word)
        words += list(glued.groups()) if glued else _SHORT_WORDS.get(word, word).split()
    return words


def singular(word: str) -> str:
    """Return a word without the ending of a plural.

    Examples
    --------
    >>> singular("probabilities"), singular("cells"), singular("this"), singular("biopsies")
    ('probability', 'cell', 'this', 'biopsy')
    """
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if plural else word


def corrected(word: str, known: Collection[str], *, protected: Collection[str] = ()) -> str:
    """Return the only known word that a few typing errors turn into this word; otherwise the word itself.

    One error is one letter added, lost, changed, or swapped with its neighbour. The first letter must be right, and
    words of fewer than `MIN_CORRECTED_LETTERS` letters stay as they are.

    Parameters
    ----------
    word
        A lower-case word.
    known
        Words that the text may mean.
    protected
        Correct words that are never changed.

    Examples
    --------
    >>> corrected("lymphocite", {"lymphocyte", "lymphoblast"}), corrected("house", {"mouse"})
    ('lymphocyte', 'house')
    """
    if len(word) < MIN_CORRECTED_LETTERS or word in known or word in protected or not word.isalpha():
        return word
    for errors in (1, 2) if len(word) >= LONG_WORD_LETTERS else (1,):
        near = {
            other
            for other in known
            if other[:1] == word[:1] and abs(len(other) - len(word)) <= errors and _distance(word, other) <= errors
        }
        if near:
            return near.pop() if len(near) == 1 else word
    return word


def _distance(one: str, other: str) -> int:
    """Return the number of typing errors between two words (optimal string alignment)."""
    before, last = [0] * (len(other) + 1), list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        row = [i]
        for j, other_letter in enumerate(other, start=1):
            errors = min(last[j] + 1, row[-1] + 1, last[j - 1] + (letter != other_letter))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == other_letter:
                errors = min(errors, before[j - 2] + 1)
            row.append(errors)
        before, last = last, row
    return last[-1]


@cache
def cell_type_words() -> frozenset[str]:
    """Return the words of all names of cell types, of at least `MIN_CORRECTED_LETTERS` letters, in the singular."""
    labels, synonyms, _ = label_index("cell_type")
    words = {singular(word) for name in (*labels, *synonyms) for word in re.findall(r"[a-z]+", name)}
    words |= {word for names in ABBREVIATIONS.values() for word in names.split()}
    return frozenset(word for word in words if len(word) >= MIN_CORRECTED_LETTERS)

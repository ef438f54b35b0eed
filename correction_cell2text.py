"""Correct generated texts so that they state the cell type, likely subtype, sex and pathways that were decided.

A small language model can slip on a rare type, a digit, the sex or a pathway. Depends on `grammar_cell2text.py` only.
"""

import re
from dataclasses import dataclass


try:
    from .grammar_cell2text import (
        ACTIVE_PATHWAY,
        DONOR,
        ORIGIN_VERB,
        POSSESSIVE_PRONOUN,
        PRONOUN,
        SUBJECT,
        SUBTYPE_VERB,
        TYPE_VERB,
        active_pathways,
        compared_types,
        pathway_words,
        subtype_sentence,
        with_article,
    )
except ImportError:
    from grammar_cell2text import (
        ACTIVE_PATHWAY,
        DONOR,
        ORIGIN_VERB,
        POSSESSIVE_PRONOUN,
        PRONOUN,
        SUBJECT,
        SUBTYPE_VERB,
        TYPE_VERB,
        active_pathways,
        compared_types,
        pathway_words,
        subtype_sentence,
        with_article,
    )


FEMALE, MALE, UNKNOWN = "female", "male", "unknown"
TYPE_START, ORIGIN_START = f"{SUBJECT} {TYPE_VERB} ", f" {PRONOUN} {ORIGIN_VERB} "
SUBTYPE_START = f" {PRONOUN} {SUBTYPE_VERB} "
PATHWAYS_START = f" {POSSESSIVE_PRONOUN} {ACTIVE_PATHWAY}"
_COMPARED_TYPES = re.compile(
    r"^(?:The first cell is an? .+? and the second cell is an? |Both cells are of the type ).+?\.(?= |$)"
)
_NEXT_SENTENCE = re.compile(f"{ORIGIN_START}|{PATHWAYS_START}")
_BARE_DONOR = ORIGIN_START + "a {} " + f"{DONOR}."
_SEX = re.compile(rf"\b(?:{FEMALE}|{MALE}) {DONOR}")


@dataclass(frozen=True)
class StatedType:
    """What a text may say of the type of a cell and of the sex of its donor.

    Args:
        named (`str`): The named type.
        subtype (`str`, *optional*): The likely subtype.
        probability (`float`): Probability of the likely subtype.
        sex (`str`, *optional*): `"female"`, `"male"`, or `"unknown"` for a text without a sex. If omitted, the text
            keeps the sex that it states.
        pathways (`tuple[str, ...]`, *optional*): The most active pathways. If omitted, the text keeps those that it
            names.
    """

    named: str
    subtype: str | None = None
    probability: float = 0.0
    sex: str | None = None
    pathways: tuple[str, ...] | None = None

    def correct(self, text: str, type_names: set[str]) -> str:
        """Return a text about one cell that states this type, this likely subtype, this sex and these pathways.

        Sentences of the controlled language that differ from the statement are replaced; a definition is dropped with
        the type that it defines.

        Args:
            text (`str`): A description, or a bare name of a type. Other texts are returned as they are.
            type_names (`set[str]`): All names of types of the model.

        Examples:

        ```python
        >>> stated = StatedType("lymphocyte", "T cell", 0.55)
        >>> stated.correct("This cell is a lymphocyte. It is most likely a B cell (0.56).", set())
        'This cell is a lymphocyte. It is most likely a T cell (0.55).'

        ```
        """
        if text in type_names:
            return self.named
        if not text.startswith(TYPE_START):
            return text
        rest = _NEXT_SENTENCE.search(text)
        head, tail = (text[: rest.start()], text[rest.start() :]) if rest else (text, "")
        head = head.partition(SUBTYPE_START)[0]
        if not self._is_named_in(head):
            head = f"{TYPE_START}{with_article(self.named)}."
        return head + self.subtype_sentence + self._with_pathways(self._with_sex(tail))

    def accepts(self, text: str, type_names: set[str], pathways: tuple[str, ...]) -> bool:
        """Return whether a text that was written from other pathways becomes a text about this cell by `correct`.

        Args:
            text (`str`): A text from a statement that differs from this one in its pathways only.
            type_names (`set[str]`): All names of types of the model.
            pathways (`tuple[str, ...]`): Pathways of that statement.

        Returns:
            `bool`: True if the text names this type, and pathways only in the sentence that `correct` rewrites; also
                for the bare name of this type, and for a statement without pathways.

        Examples:

        ```python
        >>> stated = StatedType("T cell", pathways=("HALLMARK_HYPOXIA",))
        >>> text = "This cell is a T cell. Its most active pathway is apoptosis."
        >>> stated.accepts(text, set(), ("HALLMARK_APOPTOSIS",))
        True
        >>> stated.accepts("Apoptosis is active.", set(), ("HALLMARK_APOPTOSIS",))
        False

        ```
        """
        if not self.pathways or (text == self.named and text in type_names):
            return True
        before, found, _ = text.partition(PATHWAYS_START)
        named = any(pathway_words(name).casefold() in before.casefold() for name in pathways)
        return bool(found) and self._is_named_in(text) and not named

    def _is_named_in(self, text: str) -> bool:
        begin = f"{TYPE_START}{with_article(self.named)}"
        return text.startswith((f"{begin}:", f"{begin}."))

    def _with_sex(self, tail: str) -> str:
        """Return the sentences on origin and pathways with this sex."""
        if self.sex is None:
            return tail
        if self.sex == UNKNOWN:
            return _SEX.sub(DONOR, tail.replace(_BARE_DONOR.format(FEMALE), "").replace(_BARE_DONOR.format(MALE), ""))
        if ORIGIN_START not in tail and PATHWAYS_START in tail:
            return _BARE_DONOR.format(self.sex) + tail
        return _SEX.sub(f"{self.sex} {DONOR}", tail)

    def _with_pathways(self, tail: str) -> str:
        """Return the sentences on origin and pathways with these pathways, if there is a sentence on pathways."""
        if self.pathways is None or PATHWAYS_START not in tail:
            return tail
        before = tail.partition(PATHWAYS_START)[0]
        return f"{before} {POSSESSIVE_PRONOUN} {active_pathways(self.pathways)}" if self.pathways else before

    @property
    def subtype_sentence(self) -> str:
        """The sentence about the likely subtype, with a space in front; empty without a subtype."""
        if self.subtype is None:
            return ""
        return f" {subtype_sentence(self.subtype, f'{self.probability:.2f}')}"


def correct_comparison(text: str, first: StatedType, second: StatedType) -> str:
    """Return a comparison of two cells that names their types; a text that does not compare types stays as it is.

    Examples:

    ```python
    >>> text = "The first cell is a T cell and the second cell is a T cell. Both cells come from the blood."
    >>> correct_comparison(text, StatedType("T cell"), StatedType("B cell"))
    'The first cell is a T cell and the second cell is a B cell. Both cells come from the blood.'

    ```
    """
    right = compared_types(first.named, second.named)
    return _COMPARED_TYPES.sub(lambda match: right, text, count=1)


__all__ = ["FEMALE", "MALE", "UNKNOWN", "StatedType", "correct_comparison"]

"""Correct generated texts so that they state the cell type, likely subtype and sex that were decided.

A small language model can slip on a rare type, on a digit or on the sex. Depends on `grammar_cell2text.py` only.
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
        compared_types,
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
        compared_types,
        subtype_sentence,
        with_article,
    )


FEMALE, MALE, UNKNOWN = "female", "male", "unknown"
TYPE_START, ORIGIN_START = f"{SUBJECT} {TYPE_VERB} ", f" {PRONOUN} {ORIGIN_VERB} "
PATHWAYS_START = f" {POSSESSIVE_PRONOUN} {ACTIVE_PATHWAY}"
_COMPARED_TYPES = re.compile(
    r"^(?:The first cell is an? .+? and the second cell is an? |Both cells are of the type ).+?\.(?= |$)"
)
_NEXT_SENTENCE = re.compile(f"{ORIGIN_START}|{PATHWAYS_START}")
_BARE_DONOR = ORIGIN_START + "a {} " + f"{DONOR}."
_SEX = re.compile(rf"\b(?:{FEMALE}|{MALE}) {DONOR}")
_SUBTYPE_SENTENCE = re.compile(rf" {PRONOUN} {SUBTYPE_VERB} an? .+? \([01]\.\d\d\)\.")


@dataclass(frozen=True)
class StatedType:
    """What a text may say of the type of a cell and of the sex of its donor.

    Args:
        named (`str`): The named type.
        subtype (`str`, *optional*): The likely subtype.
        probability (`float`): Probability of the likely subtype.
        sex (`str`, *optional*): `"female"`, `"male"`, or `"unknown"` for a text without a sex. If omitted, the text
            keeps the sex that it states.
    """

    named: str
    subtype: str | None = None
    probability: float = 0.0
    sex: str | None = None

    def correct(self, text: str, type_names: set[str]) -> str:
        """Return a text about one cell that states this type, this likely subtype and this sex.

        A small language model can slip on a rare type, a digit or the sex. Sentences of the controlled language that
        differ from the statement are replaced; a definition is dropped with the type that it defines.

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
        head = _SUBTYPE_SENTENCE.sub("", head)
        begin = f"{TYPE_START}{with_article(self.named)}"
        if not head.startswith((f"{begin}:", f"{begin}.")):
            head = f"{begin}."
        return head + self._subtype_sentence() + self._with_sex(tail)

    def _with_sex(self, tail: str) -> str:
        """Return the sentences on origin and pathways with this sex."""
        if self.sex is None:
            return tail
        if self.sex == UNKNOWN:
            return _SEX.sub(DONOR, tail.replace(_BARE_DONOR.format(FEMALE), "").replace(_BARE_DONOR.format(MALE), ""))
        if ORIGIN_START not in tail and PATHWAYS_START in tail:
            return _BARE_DONOR.format(self.sex) + tail
        return _SEX.sub(f"{self.sex} {DONOR}", tail)

    def _subtype_sentence(self) -> str:
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

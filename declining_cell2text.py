"""Texts of cells that get no cell type: they state the reason instead.

`is_description` separates these texts from descriptions. Depends on `errors_cell2text.py` and `grammar_cell2text.py`
only.
"""

try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError

try:
    from .grammar_cell2text import with_article
except ImportError:
    from grammar_cell2text import with_article


NOT_DESCRIBED_START = "This cell cannot be described: "
TYPE_THRESHOLD = 0.6  # default of `type_threshold`: least probability of a cell type that a text names
MIN_SUBTYPE_PROBABILITY = 0.2  # less probable subtypes are not worth a sentence
EMPTY_CELL_TEXT = f"{NOT_DESCRIBED_START}it has no counts on the genes that the model knows."
FOREIGN_CELL_TEXT = f"{NOT_DESCRIBED_START}most of its counts are on genes of another species."
TOO_FEW_GENES_START = "Too few counts to assign a cell type: "
DECLINED_START = "No cell type is assigned: "
# Reasons of `declined_text` and their words.
REASONS = {
    "ambient": "the profile resembles ambient RNA rather than one cell",
    "two_profiles": "the profile combines two cells",
    "unknown_type": "the profile resembles no cell type that the model knows",
}
CANDIDATES_LINK = ", most likely "  # between the words of `two_profiles` and the two cell types


def declined_text(reason: str, candidates: tuple[str, ...] | list[str] = ()) -> str:
    """Return the text of a cell whose type the model declines to name.

    Args:
        reason (`str`): One of `REASONS`: `"ambient"`, `"two_profiles"` or `"unknown_type"`.
        candidates (`tuple[str, ...]` or `list[str]`, *optional*):
            Names of the two cell types that a profile combines, the more probable one first. Equal names are two cells
            of one type. Only for `"two_profiles"`.

    Raises:
        `UserError`: If the reason does not exist, or the candidates are not two names of `"two_profiles"`.

    Examples:

    ```python
    >>> declined_text("unknown_type")
    'No cell type is assigned: the profile resembles no cell type that the model knows.'
    >>> declined_text("two_profiles", ["T cell", "CD14-positive monocyte"])
    'No cell type is assigned: the profile combines two cells, most likely a T cell and a CD14-positive monocyte.'

    ```
    """
    if reason not in REASONS:
        raise UserError(f"reason={reason!r} does not exist: expected one of {tuple(REASONS)}.")
    if len(candidates) not in (0, 2 if reason == "two_profiles" else 0):
        expected = "two names or none" if reason == "two_profiles" else "none, they are for 'two_profiles'"
        raise UserError(f"candidates={list(candidates)} for reason={reason!r}: expected {expected}.")
    words = REASONS[reason]
    if candidates:
        words += CANDIDATES_LINK + " and ".join(map(with_article, candidates))
    return f"{DECLINED_START}{words}."


def too_few_genes_text(n_genes: int, min_genes: int) -> str:
    """Return the text of a cell with fewer genes than the processor's `min_genes`.

    Examples:

    ```python
    >>> too_few_genes_text(12, 60)
    'Too few counts to assign a cell type: 12 genes of the model are detected, and at least 60 are needed.'

    ```
    """
    detected = "1 gene of the model is" if n_genes == 1 else f"{n_genes:,} genes of the model are"
    return f"{TOO_FEW_GENES_START}{detected} detected, and at least {min_genes:,} are needed."


def is_description(text: str | None) -> bool:
    """Return whether a text describes a cell: `False` for no text and for one that states why there is none.

    Examples:

    ```python
    >>> is_description("This cell is a B cell."), is_description(declined_text("ambient"))
    (True, False)

    ```
    """
    return text is not None and not text.startswith((NOT_DESCRIBED_START, TOO_FEW_GENES_START, DECLINED_START))

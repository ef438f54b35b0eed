"""Words of the controlled language, shared by the writer, the parser and the correction of texts.

A description has up to four sentences; after the first one, pronouns replace "This cell" and "This cell's":

    This cell is a TYPE: DEFINITION. It is most likely a SUBTYPE (0.62).
    It comes from the TISSUE of a healthy SEX donor in STAGE. Its most active pathways are NAME and NAME.

The second sentence names a type below TYPE, with its probability. :mod:`declining_cell2text` has the texts of cells
without a type.
"""

import re
from functools import cache


SUBJECT, PRONOUN = "This cell", "It"
POSSESSIVE, POSSESSIVE_PRONOUN = "This cell's", "Its"
TYPE_VERB = "is"
SUBTYPE_VERB = "is most likely"
ORIGIN_VERB = "comes from"
ACTIVE_PATHWAY = "most active pathway"  # "most active pathway is", "most active pathways are"

DONOR = "donor"
HEALTHY = "healthy"  # a donor whose disease is "normal"
TISSUE_LINK = "of"  # the lung of a donor
DISEASE_LINK = "with"  # a donor with asthma
STAGE_LINK = "in"  # a donor in adulthood
BECAUSE = "is stated because of"  # T cell is stated because of CD3D and CD3E.
LIST_COMMA, LIST_AND = ", ", " and "
_COLLECTIONS = re.compile(r"^(HALLMARK|REACTOME|KEGG_MEDICUS|KEGG|BIOCARTA|PID|WP|GOBP|GOCC|GOMF)_")
# Words of gene-set names that are not simply written in lower case.
_GENE_SET_WORDS = {
    "AKT": "Akt", "DN": "(genes down)", "DNA": "DNA", "E2F": "E2F", "G2M": "G2/M", "IL2": "IL-2", "IL6": "IL-6",
    "JAK": "JAK", "KRAS": "KRAS", "MTOR": "mTOR", "MTORC1": "mTORC1", "MYC": "MYC", "NFKB": "NF-kB", "NOTCH": "Notch",
    "P53": "p53", "PI3K": "PI3K", "RNA": "RNA", "STAT3": "STAT3", "STAT5": "STAT5", "TGF": "TGF", "TNFA": "TNF-alpha",
    "UP": "(genes up)", "UV": "UV", "V1": "(set 1)", "V2": "(set 2)", "WNT": "Wnt",
}  # fmt: skip
_PRONOUNCED_ACRONYMS = ("LAMP", "MAIT", "NET", "SIRP")  # read as words, not letter by letter


@cache
def with_article(name: str) -> str:
    """Add `a` or `an` by the first sound of a name.

    Examples:

    ```python
    >>> with_article("NK cell"), with_article("unipolar neuron")
    ('an NK cell', 'a unipolar neuron')

    ```
    """
    if re.match(r"[A-Z](?![a-z])", name) and not name.startswith(_PRONOUNCED_ACRONYMS):
        vowel = name[0] in "AEFHILMNORSX"  # read letter by letter: an NK cell, an L6 neuron
    else:
        vowel = name[0].lower() in "aeiou" and not re.match(r"u(ni|r|te)|eu|one\b", name.lower())
    return f"{'an' if vowel else 'a'} {name}"


def enumeration(names) -> str:
    """Return names as an enumeration.

    Examples:

    ```python
    >>> enumeration(["CD3D"]), enumeration(["CD3D", "CD3E", "IL7R"])
    ('CD3D', 'CD3D, CD3E and IL7R')

    ```
    """
    return names[0] if len(names) == 1 else f"{LIST_COMMA.join(names[:-1])}{LIST_AND}{names[-1]}"


def subtype_sentence(subtype: str, probability: str) -> str:
    """Return the sentence on the likely subtype.

    Examples:

    ```python
    >>> subtype_sentence("naive B cell", "0.62")
    'It is most likely a naive B cell (0.62).'

    ```
    """
    return f"{PRONOUN} {SUBTYPE_VERB} {with_article(subtype)} ({probability})."


@cache
def pathway_words(name: str) -> str:
    """Write a gene set's name in words.

    Examples:

    ```python
    >>> pathway_words("HALLMARK_TNFA_SIGNALING_VIA_NFKB")
    'TNF-alpha signaling via NF-kB'

    ```
    """
    words = _COLLECTIONS.sub("", name).split("_")
    text = " ".join(
        _GENE_SET_WORDS.get(
            word, word if any(letter.isdigit() or letter.islower() for letter in word) else word.lower()
        )
        for word in words
        if word
    )
    return text.replace("beta catenin", "beta-catenin").replace("TGF beta", "TGF-beta")


def active_pathways(names) -> str:
    """Return what follows the possessive in the sentence on the most active pathways.

    Examples:

    ```python
    >>> active_pathways(["HALLMARK_HYPOXIA", "HALLMARK_MYC_TARGETS_V1"])
    'most active pathways are hypoxia and MYC targets (set 1).'

    ```
    """
    verb = f"{ACTIVE_PATHWAY} is" if len(names) == 1 else f"{ACTIVE_PATHWAY}s are"
    return f"{verb} {enumeration([pathway_words(name) for name in names])}."


def compared_types(first: str, second: str) -> str:
    """Return the sentence that compares the types of two cells.

    Examples:

    ```python
    >>> compared_types("B cell", "NK cell")
    'The first cell is a B cell and the second cell is an NK cell.'

    ```
    """
    if first == second:
        return f"Both cells are of the type {first}."
    return f"The first cell is {with_article(first)} and the second cell is {with_article(second)}."

"""Metadata to text: pure functions from a row to the sentences that a model learns to say.

A row is a mapping with any of `cell_type`, `cell_type_definition`, `tissue`, `disease`, `sex`, `life_stage` and
`pathways` (a list of names as in their GMT file). A field that is unknown, or missing, is left out of the text.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache

from cell2text.ontology.terms import clean_label


COLLECTIONS = re.compile(r"^(HALLMARK|REACTOME|KEGG_MEDICUS|KEGG|BIOCARTA|PID|WP|GOBP|GOCC|GOMF)_")
# Words of gene-set names that are not simply lower case.
SET_WORDS = {
    "AKT": "Akt", "DN": "(genes down)", "DNA": "DNA", "E2F": "E2F", "G2M": "G2/M", "IL2": "IL-2", "IL6": "IL-6",
    "JAK": "JAK", "KRAS": "KRAS", "MTOR": "mTOR", "MTORC1": "mTORC1", "MYC": "MYC", "NFKB": "NF-kB", "NOTCH": "Notch",
    "P53": "p53", "PI3K": "PI3K", "RNA": "RNA", "STAT3": "STAT3", "STAT5": "STAT5", "TGF": "TGF", "TNFA": "TNF-alpha",
    "UP": "(genes up)", "UV": "UV", "V1": "(set 1)", "V2": "(set 2)", "WNT": "Wnt",
}  # fmt: skip
READ_AS_WORDS = ("LAMP", "MAIT", "NET", "SIRP")  # capitals that are not spelled out


def describe_row(row: Mapping) -> str | None:
    """Describe a cell by type with its definition, origin and most active pathways; None where nothing is known."""
    sentences = [cell_type_sentence(row), origin_sentence(row), pathway_sentence(row)]
    told = [sentence for sentence in sentences if sentence]
    if not told:
        return None
    first, *rest = told
    return " ".join([first, *(as_pronoun(sentence) for sentence in rest)])


def cell_type_sentence(row: Mapping) -> str | None:
    cell_type, definition = clean_label(row.get("cell_type")), clean_label(row.get("cell_type_definition"))
    if not cell_type:
        return None
    return f"This cell is {with_article(cell_type)}{f': {definition}' if definition else ''}."


def origin_sentence(row: Mapping) -> str | None:
    tissue, donor = clean_label(row.get("tissue")), donor_phrase(row)
    origin = " of ".join([*([with_the(tissue)] if tissue else []), *([donor] if donor else [])])
    return f"This cell comes from {origin}." if origin else None


def donor_phrase(row: Mapping) -> str | None:
    """The donor, such as "a healthy male donor in adulthood"; None where nothing is known of one."""
    disease, sex, stage = (clean_label(row.get(name)) for name in ("disease", "sex", "life_stage"))
    if not (disease or sex or stage):
        return None
    who = " ".join(word for word in ("healthy" if disease == "normal" else "", sex or "", "donor") if word)
    words = [with_article(who)]
    words += [f"with {disease}" if disease and disease != "normal" else "", f"in {stage}" if stage else ""]
    return " ".join(word for word in words if word)


def pathway_sentence(row: Mapping) -> str | None:
    names = [pathway_words(name) for name in row.get("pathways") or ()]
    if not names:
        return None
    verb = "pathway is" if len(names) == 1 else "pathways are"
    return f"This cell's most active {verb} {enumerate_words(names)}."


def as_pronoun(sentence: str) -> str:
    """A sentence about "this cell" as it goes on after another one."""
    return re.sub(r"^This cell's", "Its", sentence) if sentence.startswith("This cell's") else "It" + sentence[9:]


def compare_cells(first: Mapping, second: Mapping) -> str | None:
    """Say what two cells share and where they differ; None where the type of one is unknown."""
    types = [clean_label(row.get("cell_type")) for row in (first, second)]
    if not all(types):
        return None
    if types[0] == types[1]:
        sentences = [f"Both cells are of the type {types[0]}."]
    else:
        sentences = [f"The first cell is {with_article(types[0])} and the second cell is {with_article(types[1])}."]
    tissues = [clean_label(row.get("tissue")) for row in (first, second)]
    if all(tissues):
        same = tissues[0] == tissues[1]
        sentences.append(
            f"Both cells come from {with_the(tissues[0])}."
            if same
            else f"The first cell comes from {with_the(tissues[0])} and the second cell from {with_the(tissues[1])}."
        )
    diseases = [clean_label(row.get("disease")) for row in (first, second)]
    if all(diseases):
        states = ["healthy donor" if disease == "normal" else f"donor with {disease}" for disease in diseases]
        if diseases[0] == diseases[1] == "normal":
            sentences.append("Both cells come from healthy donors.")
        elif diseases[0] == diseases[1]:
            sentences.append(f"Both cells come from donors with {diseases[0]}.")
        else:
            sentences.append(f"The first cell comes from a {states[0]} and the second cell from a {states[1]}.")
    return " ".join(sentences)


@cache
def pathway_words(name: str) -> str:
    """A gene set's name in words: `HALLMARK_TNFA_SIGNALING_VIA_NFKB` is "TNF-alpha signaling via NF-kB"."""
    words = COLLECTIONS.sub("", name).split("_")
    text = " ".join(
        SET_WORDS.get(word, word if any(letter.isdigit() or letter.islower() for letter in word) else word.lower())
        for word in words
        if word
    )
    return text.replace("beta catenin", "beta-catenin").replace("TGF beta", "TGF-beta")


def enumerate_words(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def with_the(tissue) -> str:
    """A tissue with its article, unless its name has none: "Bruch's membrane", "Brodmann (1909) area 10"."""
    return str(tissue) if re.match(r"[A-Z][\w-]*('s|s') |Brodmann ", str(tissue)) else f"the {tissue}"


@cache
def with_article(name: str) -> str:
    """`a` or `an` before a name, by its first sound."""
    if re.match(r"[A-Z](?![a-z])", name) and not name.startswith(READ_AS_WORDS):
        vowel = name[0] in "AEFHILMNORSX"  # spelled out: an NK cell, an L6 neuron
    else:
        vowel = name[0].lower() in "aeiou" and not re.match(r"u(ni|r|te)|eu|one\b", name.lower())
    return f"{'an' if vowel else 'a'} {name}"

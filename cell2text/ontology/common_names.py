"""Resolve the names of cell types that annotations use: "T cells, CD4+", "B_cell", "CD14+ Mono", "NK".

Labels of metadata are looked up with :func:`resolve_label`, which falls back to these names. Texts are parsed with
:func:`cell2text.ontology.terms.resolve` alone.
"""

import re
from collections import defaultdict
from functools import cache

from cell2text.ontology.terms import Term, label_index, label_of, resolve


# Abbreviations with one meaning among cell types. Letters that stand for several ("EC", "HSC", "SMC1", "MSC", "PC", a
# bare "B" or "T", which may number a cluster) are left out.
ABBREVIATIONS = {
    "nk": "natural killer", "dc": "dendritic", "pdc": "plasmacytoid dendritic", "cdc": "conventional dendritic",
    "mono": "monocyte", "mac": "macrophage", "treg": "regulatory t", "tfh": "t follicular helper",
    "tcm": "central memory t", "tem": "effector memory t", "gdt": "gamma delta t", "mait": "mucosal invariant t",
    "ilc": "innate lymphoid", "smc": "smooth muscle", "vsmc": "vascular associated smooth muscle",
    "rbc": "erythrocyte", "opc": "oligodendrocyte precursor", "at1": "pulmonary alveolar type 1",
    "at2": "pulmonary alveolar type 2",
}  # fmt: skip
# Names that the rules would read wrongly or not at all. No term is more specific than its name: annotations call
# non-classical monocytes CD16+, but intermediate ones are CD16+ as well; "NKT" says nothing of maturity.
NAMES = {
    "beta cell": "CL:0000169",
    "microglia": "CL:0000129",
    "cd16+ monocyte": "CL:0000576",
    "fcgr3a+ monocyte": "CL:0000576",
    "nkt": "CL:0000789",
    "nkt cell": "CL:0000789",
}
# Alone they name cells of several organs: alpha cells are in the pancreas and the retina, delta cells also in the gut.
GREEK = {"alpha", "beta", "gamma", "delta", "epsilon"}
# CD4+ and CD8+ T cells have an alpha-beta receptor and come from the thymus, unless a name says otherwise.
IMPLIED_BY_CORECEPTOR = {"alpha", "beta", "thymus", "derived"}
# Words that stand for "WORD cell" alone.
WORDS = {
    "acinar", "ciliated", "club", "dendritic", "endocrine", "endothelial", "enteroendocrine", "ependymal", "epithelial",
    "germ", "glial", "goblet", "hematopoietic", "kupffer", "leydig", "malignant", "mast", "mesangial", "mesenchymal",
    "mesothelial", "microglial", "mural", "myeloid", "myoepithelial", "neuroendocrine", "paneth", "plasma", "schwann",
    "secretory", "sertoli", "stem", "stromal", "tuft", "urothelial",
}  # fmt: skip

_ALLOWED = re.compile(r"[\w ,+-]+", re.ASCII)
_LIST_WORD = re.compile(r"\b(and|or)\b")
_MARKER = r"(cd\d+(?:ra|ro|[a-e])?|fcgr3a)"
_UNSIGNED = re.compile(rf"\b{_MARKER}-cd")  # "CD4-CD8": a list, or cells without CD4
_SIGNS = {"positive": "+", "negative": "-", "low": "low", "high": "high", "dim": "dim", "bright": "bright"}


def resolve_label(field: str, label, term_id=None) -> Term:
    """Find the term of a label of metadata, as `resolve` does, or by the common names of cell types.

    Parameters
    ----------
    field, label, term_id
        As for :func:`cell2text.ontology.terms.resolve`.

    Returns
    -------
    The term, with the route `"common_name"` if only a common name led to it. Names with several meanings stay
    unresolved, and no term is more specific than its name.

    Examples
    --------
    >>> resolve_label("cell_type", "T cells, CD4+")
    Term(label='CD4-positive, alpha-beta T cell', term_id='CL:0000624', route='common_name')
    >>> resolve_label("cell_type", "NK, T cells").route
    'unresolved'
    """
    term = resolve(field, label, term_id)
    if field != "cell_type" or term.route != "unresolved" or not term.label:
        return term
    found = find_common_name(term.label)
    return Term(label_of(found), found, "common_name") if found else term


@cache
def find_common_name(name: str) -> str | None:
    """Return the Cell Ontology id of a common name of a cell type; None if it has none or several.

    Examples
    --------
    >>> find_common_name("Naive CD4 T"), find_common_name("alpha")
    ('CL:0000895', None)
    """
    name = name.lower().replace("_", " ")
    if not _ALLOWED.fullmatch(name) or _LIST_WORD.search(name) or _UNSIGNED.search(name) or _names_several(name):
        return None
    words = name_words(name)
    known = NAMES.get(" ".join(words))
    if known or GREEK.issuperset(set(words) - {"cell"}):
        return known
    if len(words) == 1 and words[0] in name and words[0] not in WORDS:  # neither an abbreviation nor with "cell"
        return None
    for index in _word_index():
        terms = index.get(_key(words), set())
        if terms:
            return next(iter(terms)) if len(terms) == 1 else None
    return None


def _names_several(name: str) -> bool:
    """Return whether a name lists cell types, such as "nk, t cells"."""
    parts = [part.strip() for part in name.split(",")]
    return len(parts) > 1 and all(resolve_label("cell_type", part).term_id for part in parts)


def name_words(name: str) -> list[str]:
    """Split a lower-case name into singular words, with abbreviations spelled out and markers with their sign.

    Examples
    --------
    >>> name_words("t cells, cd4+"), name_words("cd14 mono")
    (['t', 'cell', 'cd4+'], ['cd14+', 'monocyte'])
    """
    name = re.sub(r"\b(cd[48]\+?)t\b", r"\1 t", name)
    name = re.sub(rf"\b{_MARKER}[ -]({'|'.join(_SIGNS)})\b", lambda found: f"{found[1]}={_SIGNS[found[2]]} ", name)
    name = re.sub(rf"\b{_MARKER}\+", r"\1=+ ", name)
    name = re.sub(rf"\b{_MARKER}-(?=[ ,]|$)", r"\1=- ", name)
    words = [_singular(word) for word in re.sub(r"(?<!=)-", " ", name).replace(",", " ").split()]
    words = [f"{word}+" if re.fullmatch(_MARKER, word) else word.replace("=", "") for word in words]
    return [part for word in words for part in ABBREVIATIONS.get(word, word).split()]


def _singular(word: str) -> str:
    plural = len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if plural else word


def _key(words: list[str]) -> tuple[str, ...]:
    """Return words in an order of their own, without "cell" and what a coreceptor of T cells implies."""
    implied = IMPLIED_BY_CORECEPTOR if "t" in words and {"cd4+", "cd8+"} & {*words} else set()
    return tuple(sorted(word for word in words if word != "cell" and word not in implied))


@cache
def _word_index() -> tuple[dict[tuple[str, ...], set[str]], ...]:
    """Index the terms by the words of their labels, and of their synonyms."""
    labels: dict[tuple[str, ...], set[str]] = defaultdict(set)
    synonyms: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for index, names in zip((labels, synonyms), label_index("cell_type")):
        for name, terms in names.items():
            general = {term for term in terms if "(" not in label_of(term)}  # not those of one species: "(Mmus)"
            if general and _ALLOWED.fullmatch(name):
                index[_key(name_words(name))] |= general
    return labels, synonyms

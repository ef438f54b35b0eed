"""Find gene sets in free words: the names of the sets, and words for the Hallmark sets.

Depends on :mod:`cell2text.language.writing` for the words of a gene set's name.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from cell2text.questions.words import singular
from grammar_cell2text import pathway_words


MAX_NAME_WORDS = 6
# Words that a name may lack: "hypoxia", "hypoxia response" and "hypoxia pathway" are the same set.
_GENERAL = {"response", "signaling", "signalling", "pathway", "target", "set", "metabolism", "programme", "program"}
# Words that biologists use for Hallmark sets, in the singular.
HALLMARK_WORDS = {
    "interferon": ("INTERFERON_ALPHA_RESPONSE", "INTERFERON_GAMMA_RESPONSE"),
    "ifn": ("INTERFERON_ALPHA_RESPONSE", "INTERFERON_GAMMA_RESPONSE"),
    "type i interferon": ("INTERFERON_ALPHA_RESPONSE",), "type 1 interferon": ("INTERFERON_ALPHA_RESPONSE",),
    "type i ifn": ("INTERFERON_ALPHA_RESPONSE",), "ifn beta": ("INTERFERON_ALPHA_RESPONSE",),
    "interferon beta": ("INTERFERON_ALPHA_RESPONSE",), "interferon alpha": ("INTERFERON_ALPHA_RESPONSE",),
    "ifn alpha": ("INTERFERON_ALPHA_RESPONSE",), "ifna": ("INTERFERON_ALPHA_RESPONSE",),
    "type ii interferon": ("INTERFERON_GAMMA_RESPONSE",), "ifn gamma": ("INTERFERON_GAMMA_RESPONSE",),
    "interferon gamma": ("INTERFERON_GAMMA_RESPONSE",), "ifng": ("INTERFERON_GAMMA_RESPONSE",),
    "hypoxic": ("HYPOXIA",), "low oxygen": ("HYPOXIA",), "glycolytic": ("GLYCOLYSIS",), "apoptotic": ("APOPTOSIS",),
    "cell death": ("APOPTOSIS",), "programmed cell death": ("APOPTOSIS",), "oxphos": ("OXIDATIVE_PHOSPHORYLATION",),
    "respiration": ("OXIDATIVE_PHOSPHORYLATION",), "mitochondrial respiration": ("OXIDATIVE_PHOSPHORYLATION",),
    "emt": ("EPITHELIAL_MESENCHYMAL_TRANSITION",), "epithelial to mesenchymal transition":
    ("EPITHELIAL_MESENCHYMAL_TRANSITION",), "inflammation": ("INFLAMMATORY_RESPONSE",),
    "inflammatory": ("INFLAMMATORY_RESPONSE",), "inflamed": ("INFLAMMATORY_RESPONSE",),
    "proliferation": ("E2F_TARGETS", "G2M_CHECKPOINT"), "proliferating": ("E2F_TARGETS", "G2M_CHECKPOINT"),
    "proliferative": ("E2F_TARGETS", "G2M_CHECKPOINT"), "cell cycle": ("E2F_TARGETS", "G2M_CHECKPOINT"),
    "cycling": ("E2F_TARGETS", "G2M_CHECKPOINT"), "dividing": ("E2F_TARGETS", "G2M_CHECKPOINT"),
    "e2f": ("E2F_TARGETS",), "g2m": ("G2M_CHECKPOINT",), "g2/m": ("G2M_CHECKPOINT",),
    "myc": ("MYC_TARGETS_V1", "MYC_TARGETS_V2"), "tnf": ("TNFA_SIGNALING_VIA_NFKB",),
    "tnfa": ("TNFA_SIGNALING_VIA_NFKB",), "tnf alpha": ("TNFA_SIGNALING_VIA_NFKB",),
    "nfkb": ("TNFA_SIGNALING_VIA_NFKB",), "nf kb": ("TNFA_SIGNALING_VIA_NFKB",),
    "nf kappa b": ("TNFA_SIGNALING_VIA_NFKB",), "tgfb": ("TGF_BETA_SIGNALING",), "tgf": ("TGF_BETA_SIGNALING",),
    "wnt": ("WNT_BETA_CATENIN_SIGNALING",), "beta catenin": ("WNT_BETA_CATENIN_SIGNALING",),
    "il2": ("IL2_STAT5_SIGNALING",), "il 2": ("IL2_STAT5_SIGNALING",), "stat5": ("IL2_STAT5_SIGNALING",),
    "il6": ("IL6_JAK_STAT3_SIGNALING",), "il 6": ("IL6_JAK_STAT3_SIGNALING",), "stat3": ("IL6_JAK_STAT3_SIGNALING",),
    "jak stat": ("IL6_JAK_STAT3_SIGNALING",), "mtorc1": ("MTORC1_SIGNALING",),
    "mtor": ("MTORC1_SIGNALING", "PI3K_AKT_MTOR_SIGNALING"), "pi3k": ("PI3K_AKT_MTOR_SIGNALING",),
    "akt": ("PI3K_AKT_MTOR_SIGNALING",), "kras": ("KRAS_SIGNALING_UP",), "ros": ("REACTIVE_OXYGEN_SPECIES_PATHWAY",),
    "oxidative stress": ("REACTIVE_OXYGEN_SPECIES_PATHWAY",), "upr": ("UNFOLDED_PROTEIN_RESPONSE",),
    "er stress": ("UNFOLDED_PROTEIN_RESPONSE",), "dna damage": ("DNA_REPAIR",), "uv": ("UV_RESPONSE_UP",),
    "estrogen": ("ESTROGEN_RESPONSE_EARLY", "ESTROGEN_RESPONSE_LATE"),
    "oestrogen": ("ESTROGEN_RESPONSE_EARLY", "ESTROGEN_RESPONSE_LATE"), "angiogenic": ("ANGIOGENESIS",),
    "lipid metabolism": ("FATTY_ACID_METABOLISM",), "fatty acid oxidation": ("FATTY_ACID_METABOLISM",),
    "p53": ("P53_PATHWAY",), "tp53": ("P53_PATHWAY",), "secretion": ("PROTEIN_SECRETION",),
    "mitotic": ("MITOTIC_SPINDLE",), "mitosis": ("MITOTIC_SPINDLE", "G2M_CHECKPOINT"),
}  # fmt: skip


@dataclass(frozen=True)
class PathwayMention:
    """Gene sets that a text names with one phrase.

    Parameters
    ----------
    start, stop
        Positions of the phrase's first word and of the word after its last.
    names
        Names of the gene sets.
    """

    start: int
    stop: int
    names: tuple[str, ...]


def find_pathways(words: Sequence[str], names: Sequence[str]) -> list[PathwayMention]:
    """Find the gene sets that words name, from left to right, with the longest phrase at each position.

    Parameters
    ----------
    words
        Lower-case words; see :func:`cell2text.questions.words.words_of`.
    names
        Names of the gene sets.

    Examples
    --------
    >>> find_pathways(["interferon", "gamma", "response"], ["HALLMARK_INTERFERON_GAMMA_RESPONSE"])
    [PathwayMention(start=0, stop=3, names=('HALLMARK_INTERFERON_GAMMA_RESPONSE',))]
    """
    index = _phrase_index(tuple(names))
    found: list[PathwayMention] = []
    start = 0
    while start < len(words):
        mention = _longest_at(words, start, index)
        if mention is not None:
            found.append(mention)
        start = start + 1 if mention is None else mention.stop
    return found


def _longest_at(words: Sequence[str], start: int, index: dict[str, tuple[str, ...]]) -> PathwayMention | None:
    for stop in range(min(len(words), start + MAX_NAME_WORDS), start, -1):
        sets = index.get(_phrase(" ".join(words[start:stop])))
        if sets:
            while stop < len(words) and singular(words[stop]) in _GENERAL:
                stop += 1
            return PathwayMention(start, stop, sets)
    return None


@cache
def _phrase_index(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the gene sets of each phrase."""
    index: dict[str, tuple[str, ...]] = {}
    known = set(names)
    for words, sets in HALLMARK_WORDS.items():
        full = tuple(f"HALLMARK_{name}" for name in sets)
        if known.issuperset(full):
            index[words] = full
    shared: dict[str, tuple[str, ...]] = {}
    for name in names:
        phrase = _phrase(re.sub(r"\(.*?\)", "", pathway_words(name)))  # without "(set 1)", which two sets share
        specific = " ".join(word for word in phrase.split() if word not in _GENERAL)
        for words in {phrase, specific}:
            shared[words] = (*shared.get(words, ()), name)
    index = {**shared, **index}
    for name in names:
        index[_phrase(name)] = index[_phrase(re.sub(r"[()]", "", pathway_words(name)))] = (name,)
    return {words: sets for words, sets in index.items() if words}


def _phrase(text: str) -> str:
    """Return words in one spelling: lower case, singular, without hyphens."""
    spelled = re.sub(r"[-_/]", " ", text.casefold()).replace("signalling", "signaling").replace("il 2", "il2")
    return " ".join(map(singular, spelled.replace("il 6", "il6").replace("nf kb", "nfkb").split()))

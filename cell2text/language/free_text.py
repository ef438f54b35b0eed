"""Find fields in free text: ontology labels and synonyms, words for sex and life stage, and gene-set names."""

import re
from collections.abc import Iterator
from functools import lru_cache

from cell2text.language.fields import FIELD_GRAPHS, NORMAL, Claim
from cell2text.ontology.life_stages import LIFE_STAGES
from cell2text.ontology.mentions import find_mentions, longest_mention
from cell2text.ontology.terms import label_of, resolve
from grammar_cell2text import pathway_words


# "adulthood" is part of "late adulthood": longer stages first.
STAGES_BY_LENGTH = sorted(LIFE_STAGES, key=len, reverse=True)
EMBRYONIC, FETAL = (
    next(stage for stage in LIFE_STAGES if stage.startswith(f"the {word}")) for word in ("embryonic", "fetal")
)
# Other words for a stage, searched in this order.
_STAGE_WORDS = {
    "embryonic": EMBRYONIC, "embryo": EMBRYONIC, "fetal": FETAL, "fetus": FETAL, "foetal": FETAL,
    "prenatal": "prenatal development", "newborn": "infancy", "infant": "infancy", "child": "childhood",
    "teenager": "adolescence", "adolescent": "adolescence", "elderly": "late adulthood",
    "older adult": "late adulthood", "adult": "adulthood",
}  # fmt: skip
_SEX_WORDS = {
    "male": re.compile(r"\b(?:male|man|boy)\b", re.I),
    "female": re.compile(r"\b(?:female|woman|girl)\b", re.I),
}
HEALTHY_WORDS = re.compile(
    r"(?<!not )(?<!non-)\b(?:healthy|normal|disease-free|unaffected|without disease|no (?:known )?disease)\b", re.I
)
# Sentences that state a cell type or a tissue in other words than the package's.
TYPE_STATEMENT = re.compile(
    r"\b(?:(?:cell|it|this) is|consists of) (?:most |very )?(?:likely |probably )?an? (?P<name>[^.:;]+)", re.I
)
TISSUE_STATEMENT = re.compile(r"\b(?:comes|originates|derives|taken|sampled|isolated) from (?P<name>[^.:;]+)", re.I)
# Follows a name, and explains it or states the origin.
_APPOSITION = re.compile(r", (?:an?|the|which|that)\b | (?:that|which|found|located|from|in the|of the)\b ")


def resolves(field: str, label: str) -> bool:
    """Return whether the whole label is a name of a term."""
    return resolve(field, label).term_id is not None


def ground_claim(field: str, label: str | None) -> Claim | None:
    """Assign an ontology term to the words of a claim.

    Parameters
    ----------
    field
        One of :data:`cell2text.language.fields.FIELDS`.
    label
        Words of the text, such as "mature B cell of the spleen".

    Returns
    -------
    The claim with the term of the whole label, otherwise with the longest term that the label mentions; without a
    term if it mentions none. None for an empty label.

    Examples
    --------
    >>> ground_claim("cell_type", "B lymphocyte")
    Claim(label='B cell', term_id='CL:0000236')
    """
    if not label:
        return None
    if field == "life_stage":
        return Claim(label)
    term = resolve(field, label)
    if term.term_id:
        return Claim(str(term.label), term.term_id)
    words = _APPOSITION.split(label, maxsplit=1)[0] if field == "cell_type" else label
    mentions = find_mentions(field, words) if field in FIELD_GRAPHS else []
    if not mentions or (field == "disease" and len(mentions) > 1):  # "asthma and COVID-19" is neither of the two
        return Claim(label)
    if field == "cell_type" and mentions[0].start == 0:  # the name precedes its explanation
        return Claim(label, mentions[0].term_id)
    return Claim(label, max(mentions, key=lambda mention: mention.stop - mention.start).term_id)


def find_field(field: str, text: str) -> Claim | None:
    """Find the value of a field in free text; None if the text names none, or both sexes."""
    if field == "sex":
        sexes = sexes_in(text)
        return ground_claim("sex", sexes[0]) if len(sexes) == 1 else None
    if field == "life_stage":
        return next((Claim(stage) for stage in life_stages_in(text)), None)
    stated = TYPE_STATEMENT.search(text) if field == "cell_type" else None
    if stated:
        claim = ground_claim(field, stated["name"])
        if claim and claim.term_id:
            return Claim(claim.name, claim.term_id)
    for part in ([stated["name"]] if stated else []) + [text]:
        mention = longest_mention(field, part)
        if mention:
            return Claim(label_of(mention.term_id), mention.term_id)
    return ground_claim("disease", NORMAL) if field == "disease" and HEALTHY_WORDS.search(text) else None


def sexes_in(text: str) -> list[str]:
    """List the sexes that a text names."""
    return [sex for sex, pattern in _SEX_WORDS.items() if pattern.search(text)]


def life_stages_in(text: str) -> Iterator[str]:
    """Yield the life stages that a text names, longer phrases first; a word inside a longer phrase does not count."""
    unread = text.casefold()
    for words, stage in [*((stage, stage) for stage in STAGES_BY_LENGTH), *_STAGE_WORDS.items()]:
        pattern = rf"\b{re.escape(words)}\b"
        if re.search(pattern, unread):
            unread = re.sub(pattern, " ", unread)
            yield stage


def pathways_in(text: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """List the gene sets that a text names, in words or as in their file; a name inside a longer one does not count."""
    index, longest = _pathway_word_index(names)
    words, found, start = re.findall(r"\w+", text.casefold()), [], 0
    while start < len(words):
        stops = range(min(len(words), start + longest), start, -1)
        stop = next((stop for stop in stops if tuple(words[start:stop]) in index), None)
        if stop is not None:
            found.append(index[tuple(words[start:stop])])
        start = stop or start + 1
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=8)
def pathway_index(names: tuple[str, ...]) -> dict[str, str]:
    """Index gene sets by case-folded name, both in words and as in their file."""
    return {form.casefold(): name for name in reversed(names) for form in (name, pathway_words(name))}


@lru_cache(maxsize=8)
def _pathway_word_index(names: tuple[str, ...]) -> tuple[dict[tuple[str, ...], str], int]:
    """Index gene sets by the words of their names; also return the number of words of the longest name."""
    index = {tuple(re.findall(r"\w+", form)): name for form, name in pathway_index(names).items()}
    return index, max(map(len, index), default=0)

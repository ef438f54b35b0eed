"""Descriptions read back: which cell type, tissue, disease, sex, life stage and pathways a text claims.

What the package writes is read by its own grammar, so that reading a description gives what was written. Anything else
is searched for ontology labels and synonyms, longest match first. What is not found is None, never a match.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations

from cell2text.language.writing import pathway_words
from cell2text.ontology.graph import load_graph
from cell2text.ontology.phrases import find_phrases, longest_phrase
from cell2text.ontology.terms import LIFE_STAGES, label_of, resolve, term_definition


FIELDS = ("cell_type", "tissue", "disease", "sex", "life_stage")
GRAPHS = {"cell_type": "CL", "tissue": "UBERON", "disease": "MONDO"}
NORMAL = "normal"
MOST_SENTENCES = 5  # of what follows "comes from", tried as parts of one name

TYPE_START = re.compile(r"This cell is an? ")
NEXT_SENTENCE = re.compile(r"\. (?:It comes from|Its most active pathways?) ")
ORIGIN = re.compile(r"(?:^This cell|(?:^|(?<= ))It) comes from (?P<body>.+?)(?=\. Its most active pathways? |\.?$)")
DONOR = re.compile(
    r"(?:^|(?P<tissue>.+?) of )an? (?P<healthy>(?:healthy|normal) )?(?:(?P<sex>male|female|mixed|hermaphrodite) )?"
    r"(?:donor|patient|person)(?P<rest> with .+| (?:in|during) .+|)$"
)
# "lung of an adult man", "B cell from the lung": more than a tissue's or a cell type's name.
MORE = re.compile(r" (?:of|in|from|with) |, ")
PATHWAYS = re.compile(r"(?:^This cell's|(?:^|(?<= ))Its) most active pathways? (?:is|are) (?P<names>.+?)\.?$")
# What follows a name and explains it, or says where the cell is from.
APPOSITION = re.compile(r", (?:an?|the|which|that)\b | (?:that|which|found|located|from|in the|of the)\b ")
STAGES = sorted(set(LIFE_STAGES.values()), key=len, reverse=True)
# Words of free text for a stage, the first that is found wins.
STAGE_WORDS = {
    "embryonic": STAGES[[stage.startswith("the embryonic") for stage in STAGES].index(True)],
    "embryo": STAGES[[stage.startswith("the embryonic") for stage in STAGES].index(True)],
    "fetal": STAGES[[stage.startswith("the fetal") for stage in STAGES].index(True)],
    "fetus": STAGES[[stage.startswith("the fetal") for stage in STAGES].index(True)],
    "foetal": STAGES[[stage.startswith("the fetal") for stage in STAGES].index(True)],
    "prenatal": "prenatal development", "newborn": "infancy", "infant": "infancy", "child": "childhood",
    "teenager": "adolescence", "adolescent": "adolescence", "elderly": "late adulthood",
    "older adult": "late adulthood", "adult": "adulthood",
}  # fmt: skip
MALE, FEMALE = re.compile(r"\b(?:male|man|boy)\b", re.I), re.compile(r"\b(?:female|woman|girl)\b", re.I)
HEALTHY = re.compile(
    r"(?<!not )(?<!non-)\b(?:healthy|normal|disease-free|unaffected|without disease|no (?:known )?disease)\b", re.I
)
CLAIMED_TYPE = re.compile(
    r"\b(?:(?:cell|it|this) is|consists of) (?:most |very )?(?:likely |probably )?an? (?P<name>[^.:;]+)", re.I
)
CLAIMED_TISSUE = re.compile(r"\b(?:comes|originates|derives|taken|sampled|isolated) from (?P<name>[^.:;]+)", re.I)


@dataclass(frozen=True)
class Claim:
    """A field's value as a text gives it, and its ontology term where one is found."""

    label: str
    term_id: str | None = None

    @property
    def name(self) -> str:
        """The ontology's label of the term, else the text's own words."""
        return label_of(self.term_id) if self.term_id and " " not in self.term_id else self.label

    def same_as(self, other: "Claim | None") -> bool:
        """Whether both name the same term, or say the same words."""
        if other is None:
            return False
        if self.term_id and self.term_id == other.term_id:
            return True
        return self.label.casefold() == other.label.casefold()


@dataclass(frozen=True)
class Fields:
    """What a text claims; None where it claims nothing, `contradictions` the fields it claims twice, differently."""

    cell_type: Claim | None = None
    tissue: Claim | None = None
    disease: Claim | None = None
    sex: Claim | None = None
    life_stage: Claim | None = None
    pathways: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = field(default=(), compare=False)


def claim(name: str, label: str | None) -> Claim | None:
    """A claim of the field `name` in some words; the longest term in them where they are none as a whole."""
    if not label:
        return None
    if name == "life_stage":
        return Claim(label)
    term = resolve(name, label)
    if term.term_id:
        return Claim(str(term.label), term.term_id)
    words = APPOSITION.split(label, maxsplit=1)[0] if name == "cell_type" else label
    inside = find_phrases(name, words) if name in GRAPHS else []
    if not inside or (name == "disease" and len(inside) > 1):  # two diseases are not one of them
        return Claim(label)
    if name == "cell_type" and inside[0].start == 0:  # a name comes before what explains it
        return Claim(label, inside[0].term_id)
    return Claim(label, max(inside, key=lambda phrase: phrase.stop - phrase.start).term_id)


def resolves(name: str, label: str) -> bool:
    return resolve(name, label).term_id is not None


@lru_cache(maxsize=100_000)
def read_fields(text: str, pathways: tuple[str, ...] = ()) -> Fields:
    """Read what a text claims about one cell.

    Parameters
    ----------
    text
        A description, an answer, a bare cell type, or free text; may be empty.
    pathways
        Gene-set names that may be claimed. Without them pathways come back in the text's own words.
    """
    text = " ".join(re.sub(r"\s*\n\s*", "; ", text.strip()).split())
    found: dict[str, Claim | None] = {}
    left: list[str] = []
    rest, unread = text, ""  # `unread`: an origin in other words, which never names the cell's type
    start = TYPE_START.match(text)
    if start:
        name, rest = split_type(text[start.end() :])
        found["cell_type"] = claim("cell_type", name)
        if MORE.search(name) and not resolves("cell_type", name):
            left.append(name)
    elif resolves("cell_type", text.rstrip(".")):
        found["cell_type"], rest = claim("cell_type", text.rstrip(".")), ""
    origin = ORIGIN.search(rest)
    if origin:
        read, tail = read_origin(origin["body"])
        found |= read
        tissue = read["tissue"]
        unread = origin["body"] if tissue and MORE.search(tissue.label) and not resolves("tissue", tissue.label) else ""
        left += [rest[: origin.start()], tail]
        rest = rest[origin.end() :]
    listed = PATHWAYS.search(rest)
    named: tuple[str, ...] = ()
    if listed:
        left.append(rest[: listed.start()])
        named = read_pathways(listed["names"], pathways)
    else:
        left.append(rest)
    free = ". ".join(part for part in left if part.strip(" ."))
    with_origin = ". ".join(part for part in (free, unread) if part)
    against = contradictions(found, origin["body"] if origin else "", with_origin)
    if with_origin:
        for name in FIELDS:
            found[name] = found.get(name) or read_free(name, free if name == "cell_type" else with_origin)
        named = named or pathways_in(with_origin, pathways)
    return Fields(**found, pathways=named, contradictions=against)


def split_type(text: str) -> tuple[str, str]:
    """The name that follows "This cell is a", and what follows the name and its definition."""
    stops = [match.start() for match in re.finditer(r": |\. |\.?$", text)]
    known_stop = next((stop for stop in stops if stop and resolves("cell_type", text[:stop])), None)
    if known_stop is None:
        following = NEXT_SENTENCE.search(text)
        end = following.start() if following else len(text.rstrip("."))
        colon = text.find(": ", 0, end)
        known_stop = end if colon < 0 else colon
    name, rest = text[:known_stop], text[known_stop:]
    if not rest.startswith(": "):
        return name, rest.lstrip(". ")
    definition = term_definition(resolve("cell_type", name).term_id or "")
    if definition and rest[2:].startswith(definition):
        return name, rest[2 + len(definition) :].lstrip(". ")
    following = NEXT_SENTENCE.search(rest) or re.search(r"\. (?=[A-Z])|\.?$", rest)
    return name, rest[following.start() :].lstrip(". ") if following else ""


def read_origin(body: str) -> tuple[dict[str, Claim | None], str]:
    """The fields of "comes from ...", and what stands after it.

    Several sentences are taken for one name only where no shorter part of them names terms: "St. Louis encephalitis".
    """
    stops = [match.start() for match in re.finditer(r"\. ", body)][:MOST_SENTENCES]
    for stop in stops:
        read = parse_origin(body[:stop])
        if all(value is None or value.term_id or name == "life_stage" for name, value in read.items()):
            return read, body[stop + 2 :]
    whole = parse_origin(body)
    if not stops or any(value and value.term_id and value.name == value.label for value in whole.values()):
        return whole, ""
    return parse_origin(body[: stops[0]]), body[stops[0] + 2 :]


def parse_origin(body: str) -> dict[str, Claim | None]:
    donor = DONOR.match(body)
    tissue = donor["tissue"] if donor else body
    read = {"tissue": claim("tissue", tissue.removeprefix("the ") if tissue else None)}
    if not donor:
        return read
    disease, stage = None, None
    rest = donor["rest"]
    if not (rest.startswith(" with ") and resolves("disease", rest[6:])):
        ends = ((stage, f" {word} {stage}") for stage in STAGES for word in ("in", "during"))
        stage, end = next((pair for pair in ends if rest.endswith(pair[1])), (None, ""))
        rest = rest.removesuffix(end)
    if rest.startswith(" with "):
        disease = rest[6:]
    elif donor["healthy"]:
        disease = NORMAL
    said = {"disease": disease, "sex": donor["sex"], "life_stage": stage}
    return read | {name: claim(name, words) for name, words in said.items()}


def read_pathways(text: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Gene sets of an enumeration; those that `names` does not hold stay in the text's own words."""
    index = pathway_index(names)
    found, rest = [], text
    while rest:
        stops = [match.start() for match in re.finditer(r", | and |$", rest)]
        stop = next((stop for stop in reversed(stops) if rest[:stop].casefold() in index), stops[0])
        found.append(index.get(rest[:stop].casefold(), rest[:stop]))
        rest = re.sub(r"^(?:, | and )", "", rest[stop:])
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=8)
def pathway_index(names: tuple[str, ...]) -> dict[str, str]:
    """Gene sets by their names in words, and as written in their file, in small letters."""
    return {form.casefold(): name for name in reversed(names) for form in (name, pathway_words(name))}


@lru_cache(maxsize=8)
def pathway_phrases(names: tuple[str, ...]) -> tuple[dict[tuple[str, ...], str], int]:
    """The same by their words, and the words of the longest."""
    found = {tuple(re.findall(r"\w+", form)): name for form, name in pathway_index(names).items()}
    return found, max(map(len, found), default=0)


def pathways_in(text: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Gene sets whose name in words, or as written in their file, stands in a text; none inside a longer one."""
    index, longest = pathway_phrases(names)
    words, found, start = re.findall(r"\w+", text.casefold()), [], 0
    while start < len(words):
        stops = range(min(len(words), start + longest), start, -1)
        stop = next((stop for stop in stops if tuple(words[start:stop]) in index), None)
        if stop is not None:
            found.append(index[tuple(words[start:stop])])
        start = stop or start + 1
    return tuple(dict.fromkeys(found))


def read_free(name: str, text: str) -> Claim | None:
    """A field in free text."""
    if name in GRAPHS:
        claimed = CLAIMED_TYPE.search(text) if name == "cell_type" else None
        for part in ([claimed["name"]] if claimed else []) + [text]:
            said = claim(name, part) if name == "cell_type" and part is not text else None
            phrase = longest_phrase(name, part)
            if said and said.term_id:
                return Claim(label_of(said.term_id), said.term_id)
            if phrase:
                return Claim(label_of(phrase.term_id), phrase.term_id)
        return claim("disease", NORMAL) if name == "disease" and HEALTHY.search(text) else None
    if name == "sex":
        sexes = sexes_in(text)
        return claim("sex", sexes[0]) if len(sexes) == 1 else None
    stages = list(stages_in(text))
    return Claim(stages[0]) if stages else None


def sexes_in(text: str) -> list[str]:
    return [sex for sex, pattern in (("male", MALE), ("female", FEMALE)) if pattern.search(text)]


def stages_in(text: str) -> Iterator[str]:
    """Life stages that a text names, each once, none inside a longer one."""
    left = text.casefold()
    for words, stage in [*((stage, stage) for stage in STAGES), *STAGE_WORDS.items()]:
        pattern = rf"\b{re.escape(words)}\b"
        if re.search(pattern, left):
            left = re.sub(pattern, " ", left)
            yield stage


def contradictions(read: dict[str, Claim | None], origin: str, free: str) -> tuple[str, ...]:
    """Fields that a text claims with two values that cannot both be true.

    Parameters
    ----------
    read
        What the package's own sentences claim.
    origin
        The words after "comes from".
    free
        The rest of the text.
    """
    found = []
    for name, pattern in (("cell_type", CLAIMED_TYPE), ("tissue", CLAIMED_TISSUE)):
        said = read.get(name)
        terms = claimed_terms(name, said.label) if said else []
        terms += [term for match in pattern.finditer(free) for term in claimed_terms(name, match["name"])]
        graph = load_graph(GRAPHS[name]) if len(terms) > 1 else None
        if graph and any(not graph.related(*pair) for pair in combinations(terms, 2)):
            found.append(name)
    donor, said = DONOR.match(origin), read.get("disease")
    healthy = bool(HEALTHY.search(free)) or bool(donor and donor["healthy"]) or bool(said and said.label == NORMAL)
    ill = bool(re.search(r"\b(?:donor|patient|person) with\b", free, re.I)) or bool(said and said.label != NORMAL)
    if healthy and (ill or (donor and donor["healthy"] and donor["rest"].startswith(" with "))):
        found.append("disease")
    said = read.get("sex")
    if len({*sexes_in(free), *([said.label] if said else [])}) > 1:
        found.append("sex")
    said = read.get("life_stage")
    if len({*stages_in(free), *([said.label] if said else [])}) > 1:
        found.append("life_stage")
    return tuple(found)


def claimed_terms(name: str, words: str) -> list[str]:
    """Terms in the words of a claim: the first alone, since names stand within names, but all of "a B or a T cell"."""
    whole = resolve(name, words.removeprefix("the ").strip())
    if whole.term_id:
        return [whole.term_id]
    found = [phrase.term_id for phrase in find_phrases(name, words)]
    return found if name == "cell_type" and re.search(r" (?:or|and) an? ", words) else found[:1]

"""Parse texts about a cell into fields: cell type, tissue, disease, sex, life stage and pathways.

Sentences of :mod:`cell2text.language.writing` are parsed by their grammar, so that parsing a description returns what
was written. All other text is searched for ontology labels and synonyms. Fields that are not found are None.
"""

import re
from functools import cache, lru_cache
from itertools import combinations

from cell2text.language.fields import FIELD_GRAPHS, FIELDS, NORMAL, Claim, Declined, Fields
from cell2text.language.free_text import (
    HEALTHY_WORDS,
    STAGES_BY_LENGTH,
    TISSUE_STATEMENT,
    TYPE_STATEMENT,
    find_field,
    ground_claim,
    life_stages_in,
    pathway_index,
    pathways_in,
    resolves,
    sexes_in,
)
from cell2text.ontology.definitions import term_definition
from cell2text.ontology.graph import load_graph
from cell2text.ontology.mentions import find_mentions
from cell2text.ontology.terms import label_index, resolve
from declining_cell2text import (
    CANDIDATES_LINK,
    DECLINED_START,
    EMPTY_CELL_TEXT,
    FOREIGN_CELL_TEXT,
    REASONS,
    TOO_FEW_GENES_START,
)
from grammar_cell2text import (
    ACTIVE_PATHWAY,
    BECAUSE,
    DISEASE_LINK,
    DONOR,
    HEALTHY,
    LIST_AND,
    LIST_COMMA,
    ORIGIN_VERB,
    POSSESSIVE,
    POSSESSIVE_PRONOUN,
    PRONOUN,
    STAGE_LINK,
    SUBJECT,
    SUBTYPE_VERB,
    TISSUE_LINK,
    TYPE_VERB,
)


_MAX_ORIGIN_SENTENCES = 5  # after "comes from", tried as parts of one name that holds a full stop

_AFTER_SENTENCE = r"(?:^|(?<= ))"  # the first sentence of the rest, or one after another
_TYPE_START = re.compile(rf"{SUBJECT} {TYPE_VERB} an? ")
_PATHWAY_START = rf"{POSSESSIVE_PRONOUN} {ACTIVE_PATHWAY}s? "
_SUBTYPE_START = rf"{PRONOUN} {SUBTYPE_VERB} an? "
_SUBTYPE = re.compile(rf"{_SUBTYPE_START}(?P<name>(?:[^.]|\.(?! ))+?) \((?P<probability>0\.\d+|1\.0+)\)(?:\. ?|$)")
_NEXT_SENTENCE = re.compile(rf"\. (?:{PRONOUN} {ORIGIN_VERB} |{_SUBTYPE_START}|{_PATHWAY_START})")
_DECLINED_STARTS = {
    EMPTY_CELL_TEXT: "no_genes", FOREIGN_CELL_TEXT: "other_species", TOO_FEW_GENES_START: "too_few_genes",
}  # fmt: skip
_DECLINED = re.compile(rf"^{re.escape(DECLINED_START)}(?P<words>.+?)\.(?: |$)")
_ORIGIN = re.compile(
    rf"(?:^{SUBJECT}|{_AFTER_SENTENCE}{PRONOUN}) {ORIGIN_VERB} (?P<body>.+?)(?=\. {_PATHWAY_START}|\.?$)"
)
_DONOR = re.compile(
    rf"(?:^|(?P<tissue>.+?) {TISSUE_LINK} )an? (?P<healthy>(?:{HEALTHY}|normal) )?"
    r"(?:(?P<sex>male|female|mixed|hermaphrodite) )?"
    rf"(?:{DONOR}|patient|person)(?P<rest> {DISEASE_LINK} .+| (?:{STAGE_LINK}|during) .+|)$"
)
_PATHWAYS = re.compile(
    rf"(?:^{POSSESSIVE}|{_AFTER_SENTENCE}{POSSESSIVE_PRONOUN}) {ACTIVE_PATHWAY}s? (?:is|are) (?P<names>.+?)\.?$"
)
_LIST_LINK = re.compile(f"{LIST_COMMA}|{LIST_AND}|$")
# "lung of an adult man", "B cell from the lung": longer than a tissue or a cell type.
_FURTHER_WORDS = re.compile(r" (?:of|in|from|with) |, ")
_ILL_DONOR = re.compile(rf"\b(?:{DONOR}|patient|person) {DISEASE_LINK}\b", re.I)


@lru_cache(maxsize=100_000)
def read_fields(text: str, pathways: tuple[str, ...] = ()) -> Fields:
    """Parse the fields that a text states about one cell.

    Parameters
    ----------
    text
        A description, an answer to one task, a bare cell type, or free text; may be empty.
    pathways
        Gene-set names to recognise. Defaults to none: pathways are returned in the words of the text.

    Returns
    -------
    The fields; None for each that the text does not state.

    Examples
    --------
    >>> fields = read_fields("This cell is a B cell. It comes from the blood of a healthy donor.")
    >>> fields.cell_type, fields.tissue.term_id, fields.disease.label, fields.sex
    (Claim(label='B cell', term_id='CL:0000236'), 'UBERON:0000178', 'normal', None)
    """
    text = _without_evidence(_DECLINED.sub("", _joined_lines(text), count=1))
    claims, unparsed, rest = _parse_cell_type(text)
    subtype = _SUBTYPE.match(rest) if claims.get("cell_type") else None
    if subtype:
        claims["likely_subtype"] = ground_claim("cell_type", subtype["name"])
        rest = rest[subtype.end() :]
    origin, unparsed_origin = "", ""
    match = _ORIGIN.search(rest)
    if match:
        origin = match["body"]
        origin_claims, tail = _parse_origin(origin)
        claims |= origin_claims
        tissue = origin_claims["tissue"]
        if tissue and _is_more_than_a_name("tissue", tissue.label):
            unparsed_origin = origin
        unparsed += [rest[: match.start()], tail]
        rest = rest[match.end() :]
    match = _PATHWAYS.search(rest)
    named = _parse_pathways(match["names"], pathways) if match else ()
    unparsed.append(rest[: match.start()] if match else rest)
    free = ". ".join(part for part in unparsed if part.strip(" ."))
    free_with_origin = ". ".join(part for part in (free, unparsed_origin) if part)
    contradictions = _contradictions(claims, origin, free_with_origin)
    if free_with_origin:
        for name in FIELDS:  # the origin never names the cell's type
            claims[name] = claims.get(name) or find_field(name, free if name == "cell_type" else free_with_origin)
        named = named or pathways_in(free_with_origin, pathways)
    probability = float(subtype["probability"]) if subtype else None
    return Fields(**claims, likely_subtype_probability=probability, pathways=named, contradictions=contradictions)


def read_declined(text: str) -> Declined | None:
    """Read why a text names no cell type.

    Parameters
    ----------
    text
        A description, or a text of :mod:`declining_cell2text`.

    Returns
    -------
    The reason and the candidates; None for a text that is not one of a declined cell.

    Examples
    --------
    >>> read_declined("No cell type is assigned: the profile combines two cells, most likely a T cell and a B cell.")
    Declined(reason='two_profiles', candidates=(Claim(label='T cell', ...), Claim(label='B cell', ...)))
    """
    text = _joined_lines(text)
    for start, reason in _DECLINED_STARTS.items():
        if text.startswith(start):
            return Declined(reason)
    match = _DECLINED.match(text)
    if not match:
        return None
    words, _, names = match["words"].partition(CANDIDATES_LINK)
    reason = next((key for key, known in REASONS.items() if known == words), "other")
    return Declined(reason, _parse_candidates(names) if names else ())


def _parse_candidates(text: str) -> tuple[Claim, ...]:
    """Split "a T cell and a B cell"; a name may itself hold "and"."""
    splits = [(text[: match.start()], text[match.end() :]) for match in re.finditer(LIST_AND, text)]
    pairs = [[re.sub("^an? ", "", name) for name in names] for names in splits] or [[text]]
    names = next((pair for pair in pairs if all(resolves("cell_type", name) for name in pair)), pairs[0])
    return tuple(claim for name in names if (claim := ground_claim("cell_type", name)))


def _joined_lines(text: str) -> str:
    return "; ".join(" ".join(line.split()) for line in text.split("\n") if line.strip())


def _parse_cell_type(text: str) -> tuple[dict[str, Claim | None], list[str], str]:
    """Parse the first sentence; return the claims, the words that remain to be searched, and the next sentences."""
    start = _TYPE_START.match(text)
    if start:
        name, rest = _split_type(text[start.end() :])
        return (
            {"cell_type": ground_claim("cell_type", name)},
            ([name] if _is_more_than_a_name("cell_type", name) else []),
            rest,
        )
    bare = text.rstrip(".")
    if resolves("cell_type", bare):
        return {"cell_type": ground_claim("cell_type", bare)}, [], ""
    return {}, [], text


def _is_more_than_a_name(field: str, words: str) -> bool:
    return bool(_FURTHER_WORDS.search(words)) and not resolves(field, words)


@cache
def _longest_type_name() -> int:
    """Number of letters of the longest name of a cell type, with one for a plural."""
    return max(len(name) for index in label_index("cell_type") for name in index) + 1


def _split_type(text: str) -> tuple[str, str]:
    """Split what follows "This cell is a" into the name and the sentences after the name and its definition."""
    stops = (match.start() for match in re.finditer(r": |\. |\.?$", text[: _longest_type_name() + 2]))
    stop = next((stop for stop in stops if stop and resolves("cell_type", text[:stop])), None)
    if stop is None:
        following = _NEXT_SENTENCE.search(text)
        end = following.start() if following else len(text.rstrip("."))
        colon = text.find(": ", 0, end)
        stop = end if colon < 0 else colon
    name, rest = text[:stop], text[stop:]
    if not rest.startswith(": "):
        return name, rest.lstrip(". ")
    definition = term_definition(resolve("cell_type", name).term_id or "")
    if definition and rest[2:].startswith(definition):
        return name, rest[2 + len(definition) :].lstrip(". ")
    following = _NEXT_SENTENCE.search(rest) or re.search(r"\. (?=[A-Z])|\.?$", rest)
    return name, rest[following.start() :].lstrip(". ") if following else ""


def _parse_origin(body: str) -> tuple[dict[str, Claim | None], str]:
    """Parse what follows "comes from"; return the claims and the text after the sentence.

    A name may hold a full stop ("St. Louis encephalitis"): several sentences are one name only if no shorter part
    resolves.
    """
    stops = [match.start() for match, _ in zip(re.finditer(r"\. ", body), range(_MAX_ORIGIN_SENTENCES))]
    for stop in stops:
        claims = _parse_tissue_and_donor(body[:stop])
        if all(claim is None or claim.term_id or name == "life_stage" for name, claim in claims.items()):
            return claims, body[stop + 2 :]
    whole = _parse_tissue_and_donor(body)
    if not stops or any(claim and claim.term_id and claim.name == claim.label for claim in whole.values()):
        return whole, ""
    return _parse_tissue_and_donor(body[: stops[0]]), body[stops[0] + 2 :]


def _without_evidence(text: str) -> str:
    """Return a text without the sentences of evidence at its end."""
    start = text.find(f" {BECAUSE} ")
    return text if start < 0 else text[: text.rfind(". ", 0, start) + 1]


def _parse_tissue_and_donor(body: str) -> dict[str, Claim | None]:
    donor = _DONOR.match(body)
    tissue = donor["tissue"] if donor else body
    claims = {"tissue": ground_claim("tissue", tissue.removeprefix("the ") if tissue else None)}
    if not donor:
        return claims
    disease, stage, rest = None, None, donor["rest"]
    with_disease = f" {DISEASE_LINK} "
    if not (rest.startswith(with_disease) and resolves("disease", rest.removeprefix(with_disease))):
        endings = ((stage, f" {link} {stage}") for stage in STAGES_BY_LENGTH for link in (STAGE_LINK, "during"))
        stage, ending = next((pair for pair in endings if rest.endswith(pair[1])), (None, ""))
        rest = rest.removesuffix(ending)
    if rest.startswith(with_disease):
        disease = rest.removeprefix(with_disease)
    elif donor["healthy"]:
        disease = NORMAL
    stated = {"disease": disease, "sex": donor["sex"], "life_stage": stage}
    return claims | {name: ground_claim(name, words) for name, words in stated.items()}


def _parse_pathways(text: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Split an enumeration of gene sets; a name may itself hold a comma or "and".

    Sets that are not among `names` are returned in the words of the text.
    """
    index = pathway_index(names)
    longest = max(map(len, index), default=0)
    found, start = [], 0
    while start < len(text):
        first = _LIST_LINK.search(text, start)
        stops = [first.start()] if first else []
        stops += [match.start() for match in _LIST_LINK.finditer(text, start, start + longest + len(LIST_AND))]
        ends = [stop for stop in stops if text[start:stop].casefold() in index]
        stop = max(ends, default=stops[0])
        name = text[start:stop]
        found.append(index.get(name.casefold(), name))
        link = _LIST_LINK.match(text, stop)
        start = link.end() if link else len(text)
    return tuple(dict.fromkeys(found))


def _contradictions(claims: dict[str, Claim | None], origin: str, free: str) -> tuple[str, ...]:
    """List the fields for which a text states two values that cannot both be true.

    Parameters
    ----------
    claims
        Claims of the sentences that follow the package's grammar.
    origin
        The words after "comes from".
    free
        The rest of the text.
    """
    checks = {
        "cell_type": _unrelated_terms("cell_type", claims.get("cell_type"), TYPE_STATEMENT, free)
        or _is_no_subtype(claims.get("likely_subtype"), claims.get("cell_type")),
        "tissue": _unrelated_terms("tissue", claims.get("tissue"), TISSUE_STATEMENT, free),
        "disease": _healthy_and_ill(claims.get("disease"), origin, free),
        "sex": _several(claims.get("sex"), sexes_in(free)),
        "life_stage": _several(claims.get("life_stage"), life_stages_in(free)),
    }
    return tuple(name for name, contradictory in checks.items() if contradictory)


def _unrelated_terms(field: str, claim: Claim | None, statement: re.Pattern, free: str) -> bool:
    terms = _stated_terms(field, claim.label) if claim else []
    terms += [term for match in statement.finditer(free) for term in _stated_terms(field, match["name"])]
    terms = list(dict.fromkeys(terms))
    if len(terms) < 2:
        return False
    graph = load_graph(FIELD_GRAPHS[field])
    return any(not graph.related(*pair) for pair in combinations(terms, 2))


def _is_no_subtype(subtype: Claim | None, cell_type: Claim | None) -> bool:
    """Return whether both have a term, and the terms are not on one path of the Cell Ontology."""
    terms = [claim.term_id for claim in (subtype, cell_type) if claim and claim.term_id]
    return len(terms) == 2 and not load_graph(FIELD_GRAPHS["cell_type"]).related(*terms)


def _stated_terms(field: str, words: str) -> list[str]:
    """List the terms of a statement: the first only, since names contain names, but all of "a B or a T cell"."""
    whole = resolve(field, words.removeprefix("the ").strip())
    if whole.term_id:
        return [whole.term_id]
    mentioned = [mention.term_id for mention in find_mentions(field, words)]
    return mentioned if field == "cell_type" and re.search(r" (?:or|and) an? ", words) else mentioned[:1]


def _healthy_and_ill(claim: Claim | None, origin: str, free: str) -> bool:
    donor = _DONOR.match(origin)
    called_healthy = bool(donor and donor["healthy"])
    healthy = bool(HEALTHY_WORDS.search(free)) or called_healthy or bool(claim and claim.label == NORMAL)
    ill = bool(_ILL_DONOR.search(free)) or bool(claim and claim.label != NORMAL)
    ill = ill or bool(donor and called_healthy and donor["rest"].startswith(f" {DISEASE_LINK} "))
    return healthy and ill


def _several(claim: Claim | None, found) -> bool:
    return len({*found, *([claim.label] if claim else [])}) > 1

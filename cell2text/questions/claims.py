"""Read a query such as "T cells with interferon response" as claims about a cell that can be evaluated.

A claim is a cell type, a gene set, the sex of the donor, or a value of a column of `obs`. Words that no claim explains
are kept, so that they can be reported. Depends on `type_names` and `pathway_names`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cell2text.questions.model_types import BROADER, TEXT, MappedLabel, ModelTypes
from cell2text.questions.pathway_names import find_pathways
from cell2text.questions.type_names import find_cell_types
from cell2text.questions.words import NEGATIONS, cell_type_words, check_text, corrected, singular, word_set, words_of
from grammar_cell2text import pathway_words


TYPE, PATHWAY, SEX, COLUMN = "cell_type", "pathway", "sex", "obs"
MAX_VALUE_WORDS = 6
NEGATION_WORDS = 2  # a negation at most this many words before a claim denies it
_LOW = frozenset({"low", "inactive", "little", "weak", "absent", "lack", "lacking"})
_SEXES = {
    "female": "female", "woman": "female", "women": "female", "male": "male", "man": "male", "men": "male",
}  # fmt: skip
# Words between claims that say nothing about a cell.
_FILLERS = word_set(
    "a an the of in to for with from and or that which who are is be has have having show showing me find search "
    "all any cell cells high higher highest strong strongly active activity activated expression expressing "
    "express response responses signature signatures pathway pathways programme program their its whose where "
    "most more as please like looking donor donors patient patients sample samples by on at under during "
    "undergoing related level levels marked up signaling signalling i want need give list those these"
)


@dataclass(frozen=True)
class SearchClaim:
    """One property of a cell that a query asks for.

    Parameters
    ----------
    kind
        `"cell_type"`, `"pathway"`, `"sex"` or `"obs"`.
    words
        Words of the query that state it.
    names
        Alternatives; a cell must have one of them: labels of cell types, names of gene sets, a sex, or a value.
    column
        Column of `obs`, for `"obs"`.
    is_negated
        Whether the query denies the property.
    labels
        Cell types mapped to the model, for `"cell_type"`.
    """

    kind: str
    words: str
    names: tuple[str, ...]
    column: str | None = None
    is_negated: bool = False
    labels: tuple[MappedLabel, ...] = ()

    @property
    def title(self) -> str:
        """Name of the claim in a table: "T cell", "not hypoxia", "tissue = lung"."""
        names = map(pathway_words, self.names) if self.kind == PATHWAY else self.names
        text = " or ".join(names)
        text = text if self.column is None else f"{self.column} = {text}"
        return f"not {text}" if self.is_negated else text


@dataclass(frozen=True)
class SearchQuery:
    """A query as claims.

    Parameters
    ----------
    text
        The query.
    claims
        What can be evaluated; all must hold.
    not_evaluated
        Words of the query that no claim explains.
    notes
        What a user should know about the claims.
    """

    text: str
    claims: tuple[SearchClaim, ...]
    not_evaluated: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_query(
    query: str, types: ModelTypes, gene_sets: Sequence[str], values: Mapping[str, Mapping[str, str]] | None = None,
    *, has_sex: bool = True,
) -> SearchQuery:  # fmt: skip
    """Read a query as claims.

    Parameters
    ----------
    query
        The query, in English.
    types
        Cell types of the model.
    gene_sets
        Names of the gene sets that can be scored.
    values
        Values of columns of `obs`: by column, the values by their words in lower case.
    has_sex
        Whether the model predicts the sex of a donor.

    Raises
    ------
    UserError
        If the query is not a text, is empty or is too long.

    Examples
    --------
    >>> import cell2text
    >>> types = ModelTypes(cell2text.load()[0].config)
    >>> found = read_query("tissue-resident T cells without hypoxia", types, ["HALLMARK_HYPOXIA"])
    >>> [claim.title for claim in found.claims], found.not_evaluated
    (['T cell', 'not hypoxia'], ('tissue-resident',))
    """
    text = check_text("query", query)
    written = words_of(text)
    words = [_corrected(word) for word in written]
    taken: set[int] = set()
    spans: dict[tuple[int, int], SearchClaim] = {}
    for start, stop, claim in [
        *_type_claims(words, types, gene_sets), *_pathway_claims(words, gene_sets),
        *_column_claims(words, values or {}), *(_sex_claims(words) if has_sex else []),
    ]:  # fmt: skip
        if not taken & set(range(start, stop)):
            spans[start, stop] = claim
            taken |= set(range(start, stop))
    negated = _negated_places(words, sorted(spans))
    claims = [replace(spans[span], is_negated=span[0] in negated) for span in sorted(spans)]
    ignored = _FILLERS | NEGATIONS | _LOW
    unread = [word for place, word in enumerate(written) if place not in taken and word not in ignored]
    return SearchQuery(
        text, tuple(dict.fromkeys(_joined_types(claims))), tuple(dict.fromkeys(unread)), tuple(_notes(claims))
    )


def _notes(claims: Sequence[SearchClaim]) -> list[str]:
    labels = [label for claim in claims for label in claim.labels if label.route == BROADER]
    return [f"The model has no concept of {one.name}; {' and '.join(one.types)} is used instead." for one in labels]


def _corrected(word: str) -> str:
    known = word in _FILLERS or singular(word) in _SEXES
    return word if known else corrected(word, cell_type_words()) if not word.endswith("s") else _corrected_plural(word)


def _corrected_plural(word: str) -> str:
    found = corrected(singular(word), cell_type_words())
    return word if found == singular(word) else found


def _negated_places(words: Sequence[str], spans: Sequence[tuple[int, int]]) -> set[int]:
    """Return the starts of spans that a negation, or a word such as "low", stands in front of.

    A negation reaches over `NEGATION_WORDS` words, but not over another span. Spans joined by "or" share it.
    """
    negated: set[int] = set()
    stops = {stop: start for start, stop in spans}
    for start, _ in spans:
        place = start - 1
        while place >= 0 and start - place <= NEGATION_WORDS and place + 1 not in stops:
            if words[place] in NEGATIONS | _LOW:
                negated.add(start)
            if words[place] in ("and", "with", "but"):
                break
            if words[place] in ("or", "nor") and stops.get(place) in negated:
                negated.add(start)
            place -= 1
    return negated


def _type_claims(words: list[str], types: ModelTypes, gene_sets: Sequence[str]):
    for mention in find_cell_types(words):
        label = types.map_term(mention.term_id)
        if label.route == TEXT:
            continue
        start, stop = mention.start, mention.stop
        if label.route == BROADER and find_pathways(words[start:stop], gene_sets):  # "proliferating B cell"
            inner = [one for one in find_cell_types(words[start + 1 : stop]) if one.stop == stop - start - 1]
            if inner:
                start, label = start + 1 + inner[0].start, types.map_term(inner[0].term_id)
        yield start, stop, SearchClaim(TYPE, " ".join(words[start:stop]), (label.name,), labels=(label,))


def _pathway_claims(words: list[str], gene_sets: Sequence[str]):
    for mention in find_pathways(words, gene_sets):
        phrase = " ".join(words[mention.start : mention.stop])
        yield mention.start, mention.stop, SearchClaim(PATHWAY, phrase, mention.names)


def _sex_claims(words: list[str]):
    for place, word in enumerate(words):
        sex = _SEXES.get(singular(word))
        if sex:
            yield place, place + 1, SearchClaim(SEX, word, (sex,))


def _column_claims(words: list[str], values: Mapping[str, Mapping[str, str]]):
    """Find values of columns of `obs`, the longest first."""
    for length in range(min(MAX_VALUE_WORDS, len(words)), 0, -1):
        for start in range(len(words) - length + 1):
            phrase = " ".join(words[start : start + length])
            for column, of_column in values.items():
                value = of_column.get(phrase)
                if value is not None and not set(phrase.split()) <= _FILLERS:
                    yield start, start + length, SearchClaim(COLUMN, phrase, (value,), column)
                    break


def _joined_types(claims: Sequence[SearchClaim]) -> list[SearchClaim]:
    """Join cell types that a query asks for into one claim: a cell has one of them."""
    wanted = [claim for claim in claims if claim.kind == TYPE and not claim.is_negated]
    if len(wanted) < 2:
        return list(claims)
    joined = SearchClaim(
        TYPE, "; ".join(claim.words for claim in wanted), tuple(dict.fromkeys(n for c in wanted for n in c.names)),
        labels=tuple(dict.fromkeys(label for claim in wanted for label in claim.labels)),
    )  # fmt: skip
    rest = [claim for claim in claims if claim not in wanted]
    return [joined, *rest]

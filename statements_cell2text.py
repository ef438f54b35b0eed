"""From concept probabilities to a statement: what a text may say about a cell.

A model with hierarchical cell types does not hand probabilities to its language model. It first decides what is known:
the deepest cell type that is probable enough, and the most probable subtype below it. The language model reads this
statement, so that a text says exactly what the probabilities support. Without a type, the cell gets a reason instead of
a text of the language model.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import torch


try:
    from .concepts_cell2text import ConceptNames
except ImportError:
    from concepts_cell2text import ConceptNames

try:
    from .declining_cell2text import MIN_SUBTYPE_PROBABILITY, TYPE_THRESHOLD, declined_text, with_article
except ImportError:
    from declining_cell2text import MIN_SUBTYPE_PROBABILITY, TYPE_THRESHOLD, declined_text, with_article


TYPES = "cell_type"
# The multi-class group that says what a profile is, and its names.
PROFILE_GROUP = "profile"
ONE_CELL, TWO_CELLS, AMBIENT, NO_CELL = "one cell", "two cells", "ambient RNA", "no cell"
# A term is passed over for a term below it that has at least this share of its probability.
SPECIFIC_SHARE = 0.5
MIN_PATHWAY_ACTIVITY = 0.1
N_PATHWAYS = 2
TWO_TYPES_AMONG = 10  # most probable types among which those of two cells are found
# Texts state the probability of a subtype with two digits; each value is a code of its own.
SUBTYPE_PROBABILITIES = tuple(f"{percent / 100:.2f}" for percent in range(20, 100))


@dataclass
class TypeDecision:
    """Cell types that a text may state, as columns of the group of cell types.

    Args:
        named (`torch.LongTensor` of shape `(n_cells,)`): The named type; -1 if none is probable enough.
        subtype (`torch.LongTensor` of shape `(n_cells,)`): The most probable type below the named one; -1 for none.
        probability (`torch.FloatTensor` of shape `(n_cells,)`): Probability of the named type; 0 for none.
        subtype_probability (`torch.FloatTensor` of shape `(n_cells,)`): Probability of the subtype; 0 for none.
    """

    named: torch.Tensor
    subtype: torch.Tensor
    probability: torch.Tensor
    subtype_probability: torch.Tensor


class TypeHierarchy:
    """The names of a hierarchical group, with the order in which a decision prefers them.

    Args:
        names (`ConceptNames`): Concepts of a model.
        group (`str`): A hierarchical group.
        uninformative (`list[str]`, *optional*): Names that are never stated, such as `"cell"`.
    """

    def __init__(self, names: ConceptNames, group: str = TYPES, uninformative: list[str] | None = None):
        self.names = names.groups[group]
        places = {name: place for place, name in enumerate(self.names)}
        parents, vague = names.hierarchical[group], set(uninformative or ())
        pairs = [(places[parent], places[name]) for name, above in parents.items() for parent in above]
        with torch.device("cpu"):  # also while `from_pretrained` builds the model on the meta device
            self.above = names.ancestors(group)
            self.parent, self.child = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
            self.depth = self._depth()
            self.informative = torch.tensor([name not in vague for name in self.names])

    def _depth(self) -> torch.Tensor:
        """Return the number of steps on the longest path from a root to each name."""
        depth = torch.zeros(len(self.names))
        for _ in self.names:
            deeper = depth.clone().scatter_reduce(0, self.child, depth[self.parent] + 1, "amax")
            if torch.equal(deeper, depth):
                break
            depth = deeper
        return depth

    def to(self, device) -> "TypeHierarchy":
        """Move the tensors to a device, in place."""
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(self, name, value.to(device))
        return self

    def decide(self, probabilities: torch.Tensor, threshold: float = TYPE_THRESHOLD) -> TypeDecision:
        """Decide which type to name for each cell, and which subtype to add.

        Args:
            probabilities (`torch.FloatTensor` of shape `(n_cells, n_names)`): Probability of every name. A name below
                another is not more probable.
            threshold (`float`): Least probability of a named type.

        Returns:
            [`TypeDecision`]: The deepest informative name whose probability reaches the threshold, the more probable of
            two that are equally deep; and the most probable of the informative names below it that no name further
            below stands in for, if its probability is at least `MIN_SUBTYPE_PROBABILITY`.

        Examples:

        ```python
        >>> types = {"cell": [], "lymphocyte": ["cell"], "naive B cell": ["lymphocyte"]}
        >>> hierarchy = TypeHierarchy(ConceptNames(hierarchical={"cell_type": types}), uninformative=["cell"])
        >>> decision = hierarchy.decide(torch.tensor([[1.0, 0.9, 0.5]]))
        >>> decision.named.tolist(), decision.subtype.tolist()
        ([1], [2])

        ```
        """
        probable = (probabilities >= threshold) & self.informative
        order = torch.where(probable, self.depth + probabilities.clamp(max=0.999), -1.0)
        best, named = order.max(-1)
        candidates = torch.where(self._possible(probabilities) & self._below(named), probabilities, 0.0)
        likely, subtype = candidates.max(-1)
        none, no_subtype = best < 0, (best < 0) | (likely < MIN_SUBTYPE_PROBABILITY)
        return TypeDecision(
            named=named.masked_fill(none, -1),
            subtype=subtype.masked_fill(no_subtype, -1),
            probability=probabilities.gather(-1, named[:, None])[:, 0].masked_fill(none, 0.0),
            subtype_probability=likely.masked_fill(no_subtype, 0.0),
        )

    def with_named(self, probabilities: torch.Tensor, threshold: float, function: Callable) -> torch.Tensor:
        """Replace the probability of the type that each cell is named, and keep the order of the types.

        Args:
            probabilities (`torch.FloatTensor` of shape `(n_cells, n_names)`): Probability of every name.
            threshold (`float`): Least probability of a named type.
            function (`Callable`): Maps probabilities of named types, shape `(n_cells,)`, to those that replace them.

        Returns:
            `torch.FloatTensor` of the shape of `probabilities`: types above the named one are at least as probable as
            it, types below it at most.
        """
        named = self.decide(probabilities, threshold).named
        place = named.clamp(min=0)[:, None]
        value = function(probabilities.gather(-1, place)[:, 0])[:, None]
        changed = torch.where(self.above.T[place[:, 0]], probabilities.maximum(value), probabilities)
        changed = torch.where(self.above[place[:, 0]], changed.minimum(value), changed).scatter(-1, place, value)
        return torch.where((named < 0)[:, None], probabilities, changed)

    def candidates(self, probabilities: torch.Tensor, named: torch.Tensor, n: int = 3, least: float = 0.05) -> list:
        """Return the most probable names below each cell's named type, with their probabilities.

        Args:
            probabilities (`torch.FloatTensor` of shape `(n_cells, n_names)`): Probability of every name.
            named (`torch.LongTensor` of shape `(n_cells,)`): Named type of each cell; -1 for none, for which names
                from the whole hierarchy are returned.
            n (`int`): Largest number of names per cell.
            least (`float`): Least probability of a name.

        Returns:
            `list[list[tuple[str, float]]]`: Names and probabilities of each cell, most probable first. Names that a
            more specific one stands in for are left out, and so are uninformative ones. The first name below a named
            type is the subtype of [`~TypeHierarchy.decide`].
        """
        allowed = self._possible(probabilities) & (self._below(named) | (named < 0)[:, None])
        values = torch.where(allowed & (probabilities >= least), probabilities, 0.0)
        order = values.argsort(dim=-1, descending=True, stable=True)[:, :n]
        return [
            [(self.names[place], value) for value, place in zip(*row) if value > 0]
            for row in zip(values.gather(-1, order).tolist(), order.tolist())
        ]

    def _below(self, named: torch.Tensor) -> torch.Tensor:
        """Return which names are below each cell's named type, bool, shape `(n_cells, n_names)`."""
        found = named.clamp(min=0)
        below = self.above[found]
        return below.scatter(-1, found[:, None], False)

    def _possible(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Return the informative names that no name directly below stands in for, bool, `(n_cells, n_names)`."""
        best_child = torch.zeros_like(probabilities)
        children = probabilities[:, self.child]
        best_child = best_child.scatter_reduce(-1, self.parent.expand_as(children), children, "amax")
        return (best_child < SPECIFIC_SHARE * probabilities.clamp(min=1e-6)) & self.informative


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
            return _SEX.sub("donor", tail.replace(_BARE_DONOR.format(FEMALE), "").replace(_BARE_DONOR.format(MALE), ""))
        if ORIGIN_START not in tail and PATHWAYS_START in tail:
            return _BARE_DONOR.format(self.sex) + tail
        return _SEX.sub(f"{self.sex} donor", tail)

    def _subtype_sentence(self) -> str:
        if self.subtype is None:
            return ""
        return f" It is most likely {with_article(self.subtype)} ({self.probability:.2f})."


def correct_comparison(text: str, first: StatedType, second: StatedType) -> str:
    """Return a comparison of two cells that names their types; a text that does not compare types stays as it is.

    Examples:

    ```python
    >>> text = "The first cell is a T cell and the second cell is a T cell. Both cells come from the blood."
    >>> correct_comparison(text, StatedType("T cell"), StatedType("B cell"))
    'The first cell is a T cell and the second cell is a B cell. Both cells come from the blood.'

    ```
    """
    if first.named == second.named:
        right = f"Both cells are of the type {first.named}."
    else:
        right = f"The first cell is {with_article(first.named)} and the second cell is {with_article(second.named)}."
    return _COMPARED_TYPES.sub(lambda match: right, text, count=1)


_COMPARED_TYPES = re.compile(
    r"^(?:The first cell is an? .+? and the second cell is an? |Both cells are of the type ).+?\.(?= |$)"
)
TYPE_START, ORIGIN_START, PATHWAYS_START = "This cell is ", " It comes from ", " Its most active pathway"
SEX_GROUP, FEMALE, MALE, UNKNOWN = "sex", "female", "male", "unknown"
_NEXT_SENTENCE = re.compile(f"{ORIGIN_START}|{PATHWAYS_START}")
_BARE_DONOR = ORIGIN_START + "a {} donor."
_SEX = re.compile(rf"\b(?:{FEMALE}|{MALE}) donor")
_SUBTYPE_SENTENCE = re.compile(r" It is most likely an? .+? \([01]\.\d\d\)\.")


class Declining:
    """Decide which cells get a reason instead of a description.

    A model declines where the concept group `profile` says that a profile is not that of one cell, and where no
    informative cell type is probable enough. Models without hierarchical cell types never decline.

    Args:
        config (`Cell2TextConfig`): Configuration of the model.
    """

    def __init__(self, config):
        self.names, self.threshold = config.concepts, config.type_threshold
        self.hierarchy = None
        if TYPES in self.names.hierarchical:
            self.hierarchy = TypeHierarchy(self.names, TYPES, config.uninformative_types)

    def reasons(self, concepts: torch.Tensor | None, n_prompts: int) -> list[str | None]:
        """Return the text of each prompt that has no description, `None` for the others.

        Args:
            concepts (`torch.FloatTensor` of shape `(n_prompts, n_cells, n_concepts)`, *optional*):
                Concept probabilities of the cells of each prompt.
            n_prompts (`int`): Number of prompts.
        """
        if self.hierarchy is None or concepts is None:
            return [None] * n_prompts
        of_cells = [self._of_cells(cells) for cells in concepts.float().cpu().unbind(1)]
        return [next((reason for reason in reasons if reason), None) for reasons in zip(*of_cells)]

    def stated(self, concepts: torch.Tensor | None, n_prompts: int) -> list[tuple["StatedType | None", ...]]:
        """Return what the text of each prompt may say of its cells, in their order; `None` for a cell without a type.

        Args:
            concepts, n_prompts: See [`~Declining.reasons`].
        """
        if self.hierarchy is None or concepts is None:
            return [()] * n_prompts
        return list(zip(*(self._stated(cells) for cells in concepts.float().cpu().unbind(1))))

    def _stated(self, concepts: torch.Tensor) -> list["StatedType | None"]:
        by_group = self.names.split(concepts)
        decision, names = self.hierarchy.decide(by_group[TYPES], self.threshold), self.hierarchy.names
        columns = (decision.named.tolist(), decision.subtype.tolist(), decision.subtype_probability.tolist())
        return [
            StatedType(names[named], names[subtype] if subtype >= 0 else None, value, sex) if named >= 0 else None
            for named, subtype, value, sex in zip(*columns, self._sexes(by_group.get(SEX_GROUP), len(concepts)))
        ]

    def _sexes(self, probabilities: torch.Tensor | None, n_cells: int) -> list[str | None]:
        """Return the most probable sex of each cell; `None` for a model that does not know when a sex is unknown."""
        names = self.names.multiclass.get(SEX_GROUP, ())
        if probabilities is None or set(names) != {FEMALE, MALE, UNKNOWN}:
            return [None] * n_cells
        return [names[column] for column in probabilities.argmax(-1).tolist()]

    def _of_cells(self, concepts: torch.Tensor) -> list[str | None]:
        by_group = self.names.split(concepts)
        probabilities = by_group[TYPES]
        named = self.hierarchy.decide(probabilities, self.threshold).named
        kinds = self._kinds(by_group.get(PROFILE_GROUP), named)
        texts: list[str | None] = [None] * len(kinds)
        for row, kind in enumerate(kinds):
            if kind == TWO_CELLS:
                texts[row] = declined_text("two_profiles", self._two_types(probabilities[row]))
            elif kind is not None:
                texts[row] = declined_text("ambient" if kind == AMBIENT else "unknown_type")
        return texts

    def _kinds(self, profile: torch.Tensor | None, named: torch.Tensor) -> list[str | None]:
        """Return what keeps each cell from a type: a name of the group `profile`; `None` for cells with a type."""
        if profile is None:
            return [None if column >= 0 else NO_CELL for column in named.tolist()]
        kinds = self.names.groups[PROFILE_GROUP]
        likely = [kinds[column] for column in profile.argmax(-1).tolist()]
        without_type = [NO_CELL if column < 0 else None for column in named.tolist()]
        return [reason if kind == ONE_CELL else kind for kind, reason in zip(likely, without_type)]

    def _two_types(self, probabilities: torch.Tensor) -> list[str]:
        """Return the most probable pair of types of which neither is above the other; none without such a pair."""
        found = dict(self.hierarchy.candidates(probabilities[None], torch.tensor([-1]), n=TWO_TYPES_AMONG)[0])
        places = {name: self.hierarchy.names.index(name) for name in found}
        above = self.hierarchy.above
        pairs = [
            (found[first] * found[second], first, second)
            for first, second in combinations(found, 2)
            if not above[places[first], places[second]] and not above[places[second], places[first]]
        ]
        return list(max(pairs, key=lambda pair: pair[0])[1:]) if pairs else []


class StatementEncoder:
    """Encode concept probabilities as crisp statements, which the language model reads.

    A hierarchical group becomes its named type, the likely subtype and the digits of the subtype's probability, each
    as one column of 1; a multi-class group its most probable name; a multi-label group its two most active names, 1 for
    the first and 0.5 for the second.

    Args:
        names (`ConceptNames`): Concepts of a model.
        threshold (`float`): Least probability of a named type.
        uninformative (`list[str]`, *optional*): Types that are never named.
    """

    def __init__(self, names: ConceptNames, threshold: float = TYPE_THRESHOLD, uninformative: list[str] | None = None):
        self.names, self.threshold = names, threshold
        self.hierarchies = {group: TypeHierarchy(names, group, uninformative) for group in names.hierarchical}
        self.n_columns = sum(
            2 * size + len(SUBTYPE_PROBABILITIES) if group in names.hierarchical else size
            for group, size in names.sizes.items()
        )
        self._device: object = torch.device("cpu")

    def __call__(self, concepts: torch.Tensor) -> torch.Tensor:
        """Return statements of shape `(n_cells, n_columns)` for probabilities of shape `(n_cells, n_concepts)`."""
        if self._device != concepts.device:
            for hierarchy in self.hierarchies.values():
                hierarchy.to(concepts.device)
            self._device = concepts.device
        parts = []
        for group, values in self.names.split(concepts.float()).items():
            if group in self.hierarchies:
                parts += self._encode_types(self.hierarchies[group].decide(values, self.threshold), values.shape[-1])
            elif group in self.names.multiclass:
                parts.append(one_hot(values.argmax(-1), values.shape[-1]))
            else:
                parts.append(_leading(values))
        return torch.cat(parts, dim=-1).to(concepts.dtype)

    def _encode_types(self, decision: TypeDecision, n_names: int) -> list[torch.Tensor]:
        percent = (decision.subtype_probability * 100).round().long().clamp(20, 99) - 20
        percent = percent.masked_fill(decision.subtype < 0, -1)
        return [
            one_hot(decision.named, n_names),
            one_hot(decision.subtype, n_names),
            one_hot(percent, len(SUBTYPE_PROBABILITIES)),
        ]


def one_hot(places: torch.Tensor, size: int) -> torch.Tensor:
    """Return rows with a 1 at each place; a row of zeros for the place -1."""
    return (places[:, None] == torch.arange(size, device=places.device)).float()


def _leading(values: torch.Tensor) -> torch.Tensor:
    """Return 1 for the highest value of each row and 0.5 for the second, where they are active at all."""
    top, places = values.topk(min(N_PATHWAYS, values.shape[-1]), dim=-1)
    weights = torch.tensor([1.0, 0.5], device=values.device)[: top.shape[-1]].expand_as(top)
    return torch.zeros_like(values).scatter(-1, places, weights * (top > MIN_PATHWAY_ACTIVITY))


__all__ = [
    "Declining",
    "StatedType",
    "StatementEncoder",
    "TypeDecision",
    "TypeHierarchy",
    "correct_comparison",
]

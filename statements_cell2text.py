"""From concept probabilities to a statement: what a text may say about a cell.

A model with hierarchical cell types does not hand probabilities to its language model. It first decides what is known:
the deepest cell type that is probable enough, and the most probable subtype below it. The language model reads this
statement, so that a text says exactly what the probabilities support. Without a type, the cell gets a reason instead of
a text of the language model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import torch


try:
    from .calibration_cell2text import calibrate_named, calibrate_types, highest_probability
except ImportError:
    from calibration_cell2text import calibrate_named, calibrate_types, highest_probability

try:
    from .concepts_cell2text import ConceptNames
except ImportError:
    from concepts_cell2text import ConceptNames

try:
    from .correction_cell2text import FEMALE, MALE, UNKNOWN, StatedType
except ImportError:
    from correction_cell2text import FEMALE, MALE, UNKNOWN, StatedType

try:
    from .declining_cell2text import MIN_SUBTYPE_PROBABILITY, TYPE_THRESHOLD, declined_text
except ImportError:
    from declining_cell2text import MIN_SUBTYPE_PROBABILITY, TYPE_THRESHOLD, declined_text


TYPES, SEX_GROUP, PATHWAYS = "cell_type", "sex", "pathways"
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


class Placeholders(NamedTuple):
    """What replaces parts of a statement that a text need not be decoded for, as they are written into it afterwards.

    Args:
        percent (`int`, *optional*): Replaces the probability of every subtype, from 20 to 99.
        pathways (`tuple[int, ...]`, *optional*): Columns of the pathways that replace as many active ones.
    """

    percent: int | None = None
    pathways: tuple[int, ...] | None = None


NONE_REPLACED = Placeholders()


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

    def calibrate(
        self,
        probabilities: torch.Tensor,
        n_genes: torch.Tensor,
        calibration: dict,
        threshold: float = TYPE_THRESHOLD,
        one_cell: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Calibrate probabilities of all types: first each type, then the named one, then the upper bound.

        Args:
            probabilities (`torch.FloatTensor` of shape `(n_cells, n_names)`): Uncalibrated probabilities.
            threshold (`float`): Least probability of a named type.
            n_genes, calibration, one_cell: See [`calibrate_types`].

        Returns:
            `torch.FloatTensor` of the shape of `probabilities`, float32.
        """
        values = calibrate_types(probabilities.float(), n_genes, self.depth, calibration, one_cell)
        values = self.with_named(values, threshold, lambda named: calibrate_named(named, calibration))
        return values.minimum(highest_probability(n_genes, calibration)[:, None])

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


class CellStatements:
    """Decide for each cell what its text may state, or the reason that it gets instead of a description.

    A cell gets a reason where the concept group `profile` says that a profile is not that of one cell, and where no
    informative cell type is probable enough. Models without hierarchical cell types decide nothing.

    Args:
        config (`Cell2TextConfig`): Configuration of the model.
    """

    def __init__(self, config):
        self.names, self.threshold = config.concepts, config.type_threshold
        self.hierarchy, self._encoder = None, None
        if TYPES in self.names.hierarchical:
            self.hierarchy = TypeHierarchy(self.names, TYPES, config.uninformative_types)
            self._encoder = StatementEncoder(self.names, self.threshold, config.uninformative_types)

    @property
    def decides(self) -> bool:
        """Whether the language model reads statements, as that of a model with hierarchical cell types does."""
        return self.hierarchy is not None

    def encode(self, concepts: torch.Tensor, placeholders: Placeholders = NONE_REPLACED) -> torch.Tensor:
        """Encode what the language model reads about the cells of each prompt.

        Args:
            concepts (`torch.FloatTensor` of shape `(n_prompts, n_cells, n_concepts)`):
                Concept probabilities of the cells of each prompt, float32 on the CPU.
            placeholders ([`Placeholders`]): Replacements of probabilities and pathways; none by default.

        Returns:
            `torch.FloatTensor` of shape `(n_prompts, n_cells, n_columns)`: 0, 0.5 or 1.
        """
        return self._encoder(concepts.flatten(0, 1), placeholders).unflatten(0, concepts.shape[:2])

    def __call__(self, concepts: torch.Tensor) -> list[tuple["StatedType | str", ...]]:
        """Return the statement or the reason of each cell.

        Args:
            concepts (`torch.FloatTensor` of shape `(n_prompts, n_cells, n_concepts)`):
                Concept probabilities of the cells of each prompt, float32 on the CPU.

        Returns:
            `list[tuple[StatedType | str, ...]]`: One tuple per prompt, with an entry per cell; empty tuples for a model
            without hierarchical cell types.
        """
        if self.hierarchy is None:
            return [()] * len(concepts)
        return list(zip(*map(self._of_cells, concepts.unbind(1))))

    def _of_cells(self, concepts: torch.Tensor) -> list["StatedType | str"]:
        by_group = self.names.split(concepts)
        probabilities = by_group[TYPES]
        decision, names = self.hierarchy.decide(probabilities, self.threshold), self.hierarchy.names
        kinds = self._kinds(by_group.get(PROFILE_GROUP), decision.named)
        sexes = self._sexes(by_group.get(SEX_GROUP), len(concepts))
        pathways = self._pathways(by_group.get(PATHWAYS), len(concepts))
        subtypes, values = decision.subtype.tolist(), decision.subtype_probability.tolist()
        found: list[StatedType | str] = []
        for row, (kind, named) in enumerate(zip(kinds, decision.named.tolist())):
            if kind is None:
                subtype = names[subtypes[row]] if subtypes[row] >= 0 else None
                found.append(StatedType(names[named], subtype, values[row], sexes[row], pathways[row]))
            elif kind == TWO_CELLS:
                found.append(declined_text("two_profiles", self._two_types(probabilities[row])))
            else:
                found.append(declined_text("ambient" if kind == AMBIENT else "unknown_type"))
        return found

    def _sexes(self, probabilities: torch.Tensor | None, n_cells: int) -> list[str | None]:
        """Return the most probable sex of each cell; `None` for a model that does not know when a sex is unknown."""
        names = self.names.multiclass.get(SEX_GROUP, ())
        if probabilities is None or set(names) != {FEMALE, MALE, UNKNOWN}:
            return [None] * n_cells
        return [names[column] for column in probabilities.argmax(-1).tolist()]

    def _pathways(self, probabilities: torch.Tensor | None, n_cells: int) -> list[tuple[str, ...] | None]:
        """Return the pathways that the language model reads, the most active first; `None` for a model without any."""
        if probabilities is None:
            return [None] * n_cells
        names, leading = self.names.groups[PATHWAYS], _leading(probabilities)
        order = leading.argsort(dim=-1, descending=True, stable=True)[:, :N_PATHWAYS]
        return [
            tuple(names[column] for column, weight in zip(columns, weights) if weight > 0)
            for columns, weights in zip(order.tolist(), leading.gather(-1, order).tolist())
        ]

    def _kinds(self, profile: torch.Tensor | None, named: torch.Tensor) -> list[str | None]:
        """Return what keeps each cell from a type: a name of the group `profile`; `None` for cells with a type."""
        if profile is None:
            return [None if column >= 0 else NO_CELL for column in named.tolist()]
        kinds = self.names.groups[PROFILE_GROUP]
        likely = [kinds[column] for column in profile.argmax(-1).tolist()]
        without_type = [NO_CELL if column < 0 else None for column in named.tolist()]
        return [reason if kind == ONE_CELL else kind for kind, reason in zip(likely, without_type)]

    def _two_types(self, probabilities: torch.Tensor) -> list[str]:
        """Return the most probable pair of types on different paths of the hierarchy; none without such a pair."""
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

    def __call__(self, concepts: torch.Tensor, placeholders: Placeholders = NONE_REPLACED) -> torch.Tensor:
        """Return statements of shape `(n_cells, n_columns)` for probabilities of shape `(n_cells, n_concepts)`."""
        if self._device != concepts.device:
            for hierarchy in self.hierarchies.values():
                hierarchy.to(concepts.device)
            self._device = concepts.device
        parts = []
        for group, values in self.names.split(concepts.float()).items():
            if group in self.hierarchies:
                decision = self.hierarchies[group].decide(values, self.threshold)
                parts += self._encode_types(decision, values.shape[-1], placeholders.percent)
            elif group in self.names.multiclass:
                parts.append(one_hot(values.argmax(-1), values.shape[-1]))
            else:
                leading = _leading(values)
                if group == PATHWAYS and placeholders.pathways is not None:
                    weights = leading.sort(dim=-1, descending=True).values[:, : len(placeholders.pathways)]
                    leading = torch.zeros_like(leading)
                    leading[:, placeholders.pathways] = weights
                parts.append(leading)
        return torch.cat(parts, dim=-1).to(concepts.dtype)

    def _encode_types(self, decision: TypeDecision, n_names: int, percent: int | None) -> list[torch.Tensor]:
        percents = (decision.subtype_probability * 100).round().long().clamp(20, 99)
        percents = percents if percent is None else torch.full_like(percents, percent)
        return [
            one_hot(decision.named, n_names),
            one_hot(decision.subtype, n_names),
            one_hot((percents - 20).masked_fill(decision.subtype < 0, -1), len(SUBTYPE_PROBABILITIES)),
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
    "CellStatements",
    "Placeholders",
    "StatementEncoder",
    "TypeDecision",
    "TypeHierarchy",
]

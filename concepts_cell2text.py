"""Names and column order of the concepts that a `concepts` projector predicts.

Depends on torch only. Every other module asks this one for the order of the columns of a concept tensor.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import torch


try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError


# Keys of `cell_concepts` in models saved before they took the names of multi-class and multi-label classification.
OLD_KEYS = {"one_of": "multiclass", "any_of": "multilabel"}
KINDS = ("multiclass", "multilabel", "hierarchical")


@dataclass(frozen=True)
class ConceptNames:
    """Concept names by group.

    A concept tensor has shape `(..., n_concepts)`. Its columns are sorted by group name; within a group they keep the
    order of the names, or are sorted by name if the group is hierarchical.

    Args:
        multiclass (`dict[str, list[str]]`):
            Groups of which a cell has exactly one name, such as `{"cell_type": ["B cell", "T cell"]}`.
        multilabel (`dict[str, list[str]]`):
            Groups of which a cell can have any number of names, such as `{"pathways": ["HALLMARK_HYPOXIA"]}`.
        hierarchical (`dict[str, dict[str, list[str]]]`):
            Groups whose names form a hierarchy, each name with the names directly above it, such as
            `{"cell_type": {"cell": [], "lymphocyte": ["cell"], "T cell": ["lymphocyte"]}}`. A cell has a name and all
            names above it.

    Examples:

    ```python
    >>> names = ConceptNames({"cell_type": ["B cell", "T cell"]}, {"pathways": ["hypoxia"]})
    >>> names.encode(cell_type="T cell").tolist()
    [0.0, 1.0, nan]
    ```
    """

    multiclass: dict[str, list[str]] = field(default_factory=dict)
    multilabel: dict[str, list[str]] = field(default_factory=dict)
    hierarchical: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, cell_concepts: dict[str, dict] | None) -> "ConceptNames":
        """Read `cell_concepts` of a configuration; `None` gives no concepts.

        Raises:
            UserError: If a key is not one of `KINDS`, a group occurs under two of them, or the names above a name are
                not in the group or lead back to it.
        """
        kinds = {OLD_KEYS.get(key, key): groups for key, groups in (cell_concepts or {}).items()}
        groups = [group for kind in kinds.values() for group in kind]
        if set(kinds) - set(KINDS) or len(set(groups)) < len(groups):
            raise UserError(
                f"cell_concepts has the keys {sorted(kinds)} with the groups {groups}: expected `multiclass`, "
                "`multilabel` and `hierarchical`, and each group under one of them."
            )
        names = cls(**{kind: dict(groups) for kind, groups in kinds.items()})
        for group in names.hierarchical:
            names.ancestors(group)  # raises an error for names that form no hierarchy
        return names

    def to_dict(self) -> dict[str, dict]:
        """Return the names in the form of a configuration's `cell_concepts`."""
        kinds: dict[str, dict] = {"multiclass": dict(self.multiclass), "multilabel": dict(self.multilabel)}
        return kinds | ({"hierarchical": dict(self.hierarchical)} if self.hierarchical else {})

    @property
    def groups(self) -> dict[str, list[str]]:
        """Names by group, in the order of the columns."""
        hierarchical = {group: sorted(names) for group, names in self.hierarchical.items()}
        return dict(sorted({**self.multiclass, **self.multilabel, **hierarchical}.items()))

    @property
    def sizes(self) -> dict[str, int]:
        """Number of names by group, in the order of the columns."""
        return {group: len(names) for group, names in self.groups.items()}

    @property
    def n_concepts(self) -> int:
        """Number of columns."""
        return sum(self.sizes.values())

    def without(self, group: str) -> "ConceptNames":
        """Return the names without one group."""
        kinds: tuple[dict, ...] = (self.multiclass, self.multilabel, self.hierarchical)
        return ConceptNames(*({name: kind[name] for name in kind if name != group} for kind in kinds))

    def ancestors(self, group: str) -> torch.Tensor:
        """Return which names of a hierarchical group are above which.

        Returns:
            Bool `torch.Tensor` of shape `(n_names, n_names)`: element `[i, j]` is `True` if name `i` is name `j`, or
            above it.

        Raises:
            UserError: If a name above another is not in the group, or the names lead back to themselves.

        Examples:

        ```python
        >>> names = ConceptNames(hierarchical={"cell_type": {"cell": [], "lymphocyte": ["cell"]}})
        >>> names.ancestors("cell_type").tolist()
        [[True, True], [False, True]]

        ```
        """
        parents = self.hierarchical[group]
        return _ancestors(group, tuple((name, tuple(above)) for name, above in sorted(parents.items())))

    def split(self, concepts: torch.Tensor) -> dict[str, torch.Tensor]:
        """Split a tensor of shape `(..., n_concepts)` into one tensor of shape `(..., n_names)` per group."""
        return dict(zip(self.groups, concepts.split(list(self.sizes.values()), dim=-1)))

    def join(self, by_group: dict[str, torch.Tensor]) -> torch.Tensor:
        """Concatenate tensors of shape `(..., n_names)` into one of shape `(..., n_concepts)`; undoes `split`."""
        return torch.cat([by_group[group] for group in self.groups], dim=-1)

    def encode(self, **names: str | list[str] | None) -> torch.Tensor:
        """Encode named concepts as concept overrides.

        Args:
            **names: By group the name that applies to the cell, or a list of names for a `multilabel` group. Groups
                that are omitted or `None` become NaN, which leaves them to the projector.

        Returns:
            `torch.Tensor` of shape `(n_concepts,)`: 1 for names that apply, and for the names above them in a
            hierarchical group; 0 for the other names of their group.

        Raises:
            UserError: If a group or a name does not exist, or a `multiclass` group gets more than one name.
        """
        unknown = sorted(set(names) - set(self.groups))
        if unknown:
            raise UserError(f"{unknown} are not concept groups of this model: expected some of {sorted(self.groups)}.")
        return torch.cat([self._encode_group(group, names.get(group)) for group in self.groups])

    def _encode_group(self, group: str, names: str | list[str] | None) -> torch.Tensor:
        expected = self.groups[group]
        if names is None:
            return torch.full((len(expected),), float("nan"))
        names = [names] if isinstance(names, str) else list(names)
        if set(names) - set(expected) or (group not in self.multilabel and len(names) != 1):
            number = "some" if group in self.multilabel else "one"
            raise UserError(f"{group}={names}: expected {number} of {_first(expected)}.")
        if group in self.hierarchical:
            return self.ancestors(group)[:, expected.index(names[0])].float()
        return torch.tensor([float(name in names) for name in expected])

    def check_overrides(self, concept_overrides: torch.Tensor) -> None:
        """Raise `UserError` if concept overrides do not have one column per concept."""
        if concept_overrides.shape[-1] != self.n_concepts:
            raise UserError(
                f"concept_overrides has {concept_overrides.shape[-1]} columns but the model has {self.n_concepts} "
                f"concepts, in the groups {self.sizes}: pass one column per concept, NaN to keep the prediction."
            )


def _first(names: list[str], shown: int = 20) -> str:
    """Return names as text, the first ones only if there are many."""
    return str(names) if len(names) <= shown else f"{str(names[:shown])[:-1]}, ... ({len(names)} names)"


@lru_cache(maxsize=16)
def _ancestors(group: str, parents: tuple[tuple[str, tuple[str, ...]], ...]) -> torch.Tensor:
    """Return the transitive closure of the parents of every name; see [`ConceptNames.ancestors`]."""
    places = {name: place for place, (name, _) in enumerate(parents)}
    missing = sorted({name for _, above in parents for name in above} - set(places))
    if missing:
        raise UserError(f"{group}: the names {_first(missing)} stand above others and are not in the group themselves.")
    with torch.device("cpu"):  # also while `from_pretrained` builds the model on the meta device
        direct = torch.zeros(len(parents), len(parents), dtype=torch.bool)
        for name, above in parents:
            for parent in above:
                direct[places[parent], places[name]] = True
        closure = torch.eye(len(parents), dtype=torch.bool)
        for _ in parents:
            wider = closure | (direct.float() @ closure.float() > 0)
            if torch.equal(wider, closure):
                break
            closure = wider
    if bool((closure & closure.T).sum() > len(parents)):
        raise UserError(f"{group}: some names stand above themselves; expected a hierarchy.")
    return closure


__all__ = ["ConceptNames"]

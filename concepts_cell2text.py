"""Names and column order of the concepts that a `concepts` projector predicts.

Depends on torch only. Every other module asks this one for the order of the columns of a concept tensor.
"""

from dataclasses import dataclass, field

import torch


try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError


# Keys of `cell_concepts` in models saved before they took the names of multi-class and multi-label classification.
OLD_KEYS = {"one_of": "multiclass", "any_of": "multilabel"}


@dataclass(frozen=True)
class ConceptNames:
    """Concept names by group.

    A concept tensor has shape `(..., n_concepts)`. Its columns are sorted by group name; within a group they keep the
    order of the names.

    Args:
        multiclass (`dict[str, list[str]]`):
            Groups of which a cell has exactly one name, such as `{"cell_type": ["B cell", "T cell"]}`.
        multilabel (`dict[str, list[str]]`):
            Groups of which a cell can have any number of names, such as `{"pathways": ["HALLMARK_HYPOXIA"]}`.

    Examples:

    ```python
    >>> names = ConceptNames({"cell_type": ["B cell", "T cell"]}, {"pathways": ["hypoxia"]})
    >>> names.encode(cell_type="T cell").tolist()
    [0.0, 1.0, nan]
    ```
    """

    multiclass: dict[str, list[str]] = field(default_factory=dict)
    multilabel: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, cell_concepts: dict[str, dict[str, list[str]]] | None) -> "ConceptNames":
        """Read `cell_concepts` of a configuration; `None` gives no concepts.

        Raises:
            UserError: If a key is neither `multiclass` nor `multilabel`, or a group occurs under both.
        """
        kinds = {OLD_KEYS.get(key, key): groups for key, groups in (cell_concepts or {}).items()}
        multiclass, multilabel = kinds.get("multiclass", {}), kinds.get("multilabel", {})
        if set(kinds) - {"multiclass", "multilabel"} or set(multiclass) & set(multilabel):
            groups = [group for kind in kinds.values() for group in kind]
            raise UserError(
                f"cell_concepts has the keys {sorted(kinds)} with the groups {groups}: expected `multiclass` and "
                "`multilabel`, and each group under one of them."
            )
        return cls(dict(multiclass), dict(multilabel))

    def to_dict(self) -> dict[str, dict[str, list[str]]]:
        """Return the names in the form of a configuration's `cell_concepts`."""
        return {"multiclass": dict(self.multiclass), "multilabel": dict(self.multilabel)}

    @property
    def groups(self) -> dict[str, list[str]]:
        """Names by group, in the order of the columns."""
        return dict(sorted({**self.multiclass, **self.multilabel}.items()))

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
        kinds = (self.multiclass, self.multilabel)
        return ConceptNames(*({name: kind[name] for name in kind if name != group} for kind in kinds))

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
            `torch.Tensor` of shape `(n_concepts,)`: 1 for names that apply, 0 for the other names of their group.

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
        if set(names) - set(expected) or (group in self.multiclass and len(names) != 1):
            number = "one" if group in self.multiclass else "some"
            raise UserError(f"{group}={names}: expected {number} of {expected}.")
        return torch.tensor([float(name in names) for name in expected])

    def check_overrides(self, concept_overrides: torch.Tensor) -> None:
        """Raise `UserError` if concept overrides do not have one column per concept."""
        if concept_overrides.shape[-1] != self.n_concepts:
            raise UserError(
                f"concept_overrides has {concept_overrides.shape[-1]} columns but the model has {self.n_concepts} "
                f"concepts, in the groups {self.sizes}: pass one column per concept, NaN to keep the prediction."
            )


__all__ = ["ConceptNames"]

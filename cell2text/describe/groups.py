"""Groups of cells, such as clusters: which group each cell belongs to, and which cells of a group are described."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2text.errors import UserError


MAX_GROUPS = 1_000


@dataclass(frozen=True)
class Groups:
    """Assignment of an experiment's cells to groups.

    Parameters
    ----------
    column
        Column of `obs` that defines the groups.
    names
        Group names in display order: numbers by value, then words alphabetically.
    codes
        Index into `names` per cell, -1 for cells without a group, shape (n_cells,).
    to_describe
        Whether each cell gets a text, shape (n_cells,).
    """

    column: str
    names: list[str]
    codes: np.ndarray
    to_describe: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Number of cells per group, shape (n_groups,)."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))

    def summary(self) -> dict[str, int | str]:
        """Return the column and the numbers of groups, of cells without a group and of cells without a text."""
        return {
            "column": self.column,
            "groups": len(self.names),
            "cells_without_group": int((self.codes < 0).sum()),
            "cells_without_text": int((~self.to_describe).sum()),
        }

    def add_counts(self, sums: np.ndarray, start: int, block: sp.csr_matrix) -> None:
        """Add the counts of consecutive cells, from cell `start` on, to `sums` of shape (n_groups, n_genes)."""
        codes = self.codes[start : start + block.shape[0]]
        rows = np.flatnonzero(codes >= 0)
        present, positions = np.unique(codes[rows], return_inverse=True)
        members = sp.csr_matrix((np.ones(len(rows)), (positions, rows)), shape=(len(present), block.shape[0]))
        sums[present] += (members @ block.astype(np.float64)).toarray()


def find_groups(values: pd.Series, column: str, cells_per_group: int | None, seed: int) -> Groups:
    """Return the groups of a column, and sample the cells of each that get a text.

    Parameters
    ----------
    values
        The column, one value per cell.
    column
        Its name.
    cells_per_group
        Maximum number of described cells per group; cells without a group are then not described. None to describe
        all cells.
    seed
        Random seed for sampling cells within a group.

    Raises
    ------
    UserError
        If the column holds no value, or more than `MAX_GROUPS` different ones.

    Examples
    --------
    >>> groups = find_groups(pd.Series(["10", "2", None]), "leiden", None, seed=0)
    >>> groups.names, groups.codes.tolist()
    (['2', '10'], [1, 0, -1])
    """
    present = values.notna().to_numpy()
    labels = values.astype(str).to_numpy(dtype=object)
    names = sorted(set(labels[present]), key=_natural_sort_key)
    if not names:
        raise UserError(f"groupby={column!r}: none of the {len(values):,} cells has a value.")
    if len(names) > MAX_GROUPS:
        raise UserError(
            f"groupby={column!r}: {len(names):,} different values in {len(values):,} cells, expected at most "
            f"{MAX_GROUPS:,} groups. Choose a column of clusters or labels."
        )
    indices = {name: index for index, name in enumerate(names)}
    codes = np.array([indices[label] if has else -1 for label, has in zip(labels, present)], dtype=np.int32)
    if cells_per_group is None:
        return Groups(column, names, codes, np.ones(len(codes), dtype=bool))
    to_describe, random = np.zeros(len(codes), dtype=bool), np.random.default_rng(seed)
    for index in range(len(names)):
        members = np.flatnonzero(codes == index)
        to_describe[random.choice(members, min(cells_per_group, len(members)), replace=False)] = True
    return Groups(column, names, codes, to_describe)


def _natural_sort_key(name: str) -> tuple:
    """Sort numbers by value, before words."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)

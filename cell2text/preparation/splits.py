"""Which cells train a model and which test it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cell2text.errors import UserError
from cell2text.preparation.names import GROUPED, NAMED, SPLITS


COVERED = ("cell_type", "tissue", "disease")


def split_cells(
    cells: pd.DataFrame,
    method: str,
    *,
    shares: Mapping[str, float],
    stratify: tuple[str, ...] = ("cell_type",),
    named: Mapping[str, Sequence[str]] | None = None,
    seed: int,
) -> np.ndarray:
    """Assign every cell to a split.

    Parameters
    ----------
    cells
        Metadata in the order of sources and rows, with the columns of `GROUPED` and `COVERED`.
    method
        `"donor"`: no donor in two splits, and every cell type, tissue and disease of validation and test occurs in
        training. `"dataset"`, `"tissue"`, `"cell_type"`: none of those that are held out occurs in training; nothing
        is promised of the others. `"random"`: every combination of the columns `stratify` keeps its share. `"named"`:
        see `named`; all other cells train.
    shares
        Share of the cells of each of `SPLITS`; they add up to 1. Of no effect on a named split.
    named
        Cells of `"test"` and `"validation"`, by columns and values such as `"dataset_id=pbmc3k"` or
        `"donor_id=human2"`; a cell that both name is tested.

    Returns
    -------
    Index into `SPLITS` of each cell, int8, shape (n_cells,).

    Raises
    ------
    ValueError
        If the shares are none, there are too few groups for the splits that are asked for, or nothing has a name.
    """
    if method == NAMED:
        return named_split(cells, named or {})
    if set(shares) - set(SPLITS) or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise UserError(f"shares={dict(shares)}: expected shares of {SPLITS} that add up to 1.")
    # Test first, whatever is asked for validation: choosing on validation never moves a cell into test or out of it.
    held_out = {SPLITS.index(name): shares[name] for name in ("test", "validation") if shares.get(name, 0) > 0}
    if method == "random":
        splits = random_split(cells, held_out, stratify, seed)
    elif method in GROUPED:
        splits = group_split(cells, method, held_out, seed)
        check_split(cells, splits, method)
    else:
        raise UserError(f"split={method!r}: expected 'random', 'named' or one of {list(GROUPED)}.")
    for index in held_out:
        if not (splits == index).any():
            raise UserError(
                f"--split {method} leaves no cell for {SPLITS[index]}: {describe_groups(cells, method)}. "
                "Add files, split at random (--split random), or ask for no such split (--shares)."
            )
    return splits


def describe_groups(cells: pd.DataFrame, method: str) -> str:
    if method not in GROUPED:
        return f"there are {len(cells):,} cells"
    text = f"there are {cells[GROUPED[method]].nunique()} groups by {method}"
    return text + (
        ", and training needs those that alone carry a cell type, tissue or disease" if method == "donor" else ""
    )


def named_split(cells: pd.DataFrame, named: Mapping[str, Sequence[str]]) -> np.ndarray:
    """The cells that are named to test and validation, the others to training."""
    splits = np.zeros(len(cells), dtype=np.int8)
    for name in ("test", "validation"):
        for text in named.get(name, ()):
            column, _, value = text.partition("=")
            if column not in cells.columns:
                raise UserError(f"{name} cells {text!r}: expected COLUMN=VALUE, a column of {sorted(cells.columns)}.")
            values = cells[column].astype(object)
            if not (values == value).any():
                some = sorted(map(str, values.dropna().unique()))[:5]
                raise UserError(f"{name} cells {text!r}: no cell has this {column}; there are {', '.join(some)}, ...")
            splits[((values == value) & (splits == 0)).to_numpy(dtype=bool)] = SPLITS.index(name)
    if not (splits == 0).any() or not splits.any():
        raise UserError(f"The named cells {dict(named)} leave none to {'train' if splits.any() else 'hold out'}.")
    return splits


def random_split(cells: pd.DataFrame, held_out: Mapping[int, float], stratify, seed: int) -> np.ndarray:
    """Shares of every stratum; at least one cell of each stays in training."""
    missing = [name for name in stratify if name not in cells.columns]
    if missing:
        raise UserError(f"stratify={list(stratify)}: there is no column {missing}; there are {sorted(cells.columns)}.")
    splits = np.zeros(len(cells), dtype=np.int8)
    strata = cells.groupby(list(stratify), observed=True, dropna=False, sort=True).ngroup().to_numpy()
    generator = np.random.default_rng([seed, 2])
    order = generator.permutation(len(cells))
    order = order[np.argsort(strata[order], kind="stable")]
    for members in np.split(order, np.flatnonzero(np.diff(strata[order])) + 1):
        taken = 0
        for index, share in held_out.items():
            n = min(int(share * len(members) + 0.5), len(members) - 1 - taken)
            splits[members[taken : taken + n]] = index
            taken += n
    return splits


def group_split(cells: pd.DataFrame, method: str, held_out: Mapping[int, float], seed: int) -> np.ndarray:
    """Whole groups to the splits: first what training must carry, then the held-out splits are filled."""
    groups = pd.Categorical(cells[GROUPED[method]])
    sizes = np.bincount(groups.codes, minlength=len(groups.categories))
    luck = np.random.default_rng([seed, 3]).permutation(len(sizes))
    assigned = np.full(len(sizes), -1)
    if method == "donor":
        for carriers in carriers_of_categories(cells, groups):
            if not (assigned[carriers] == 0).any():
                assigned[min(carriers, key=lambda group: (sizes[group], luck[group]))] = 0
    targets = {index: share * sizes.sum() for index, share in held_out.items()}
    filled = dict.fromkeys(targets, 0)
    free = sorted(np.flatnonzero(assigned < 0), key=lambda group: luck[group])
    for index, target in targets.items():
        for group in free:
            if assigned[group] < 0 and filled[index] + sizes[group] <= target:
                assigned[group] = index
                filled[index] += sizes[group]
    for index in targets:  # every group is larger than the share: the smallest one that is free
        rest = [group for group in free if assigned[group] < 0]
        if not filled[index] and len(rest) > (0 if method == "donor" else 1):
            smallest = min(rest, key=lambda group: (sizes[group], luck[group]))
            assigned[smallest] = index
            filled[index] += sizes[smallest]
    assigned[assigned < 0] = 0
    return assigned[groups.codes].astype(np.int8)


def carriers_of_categories(cells: pd.DataFrame, groups: pd.Categorical) -> list[np.ndarray]:
    """The groups that carry each category of `COVERED`, categories of few groups first."""
    found = []
    for column in COVERED:
        pairs = (
            pd.DataFrame({"category": cells[column].astype(object), "group": groups.codes}).dropna().drop_duplicates()
        )
        for category, members in pairs.groupby("category", sort=True)["group"]:
            found.append((len(members), column, str(category), np.sort(members.to_numpy())))
    return [members for *_, members in sorted(found, key=lambda entry: entry[:3])]


def check_split(cells: pd.DataFrame, splits: np.ndarray, method: str) -> None:
    """Raise if a group stands in two splits, or training lacks a category that it must carry."""
    column = GROUPED[method]
    per_group = pd.DataFrame({"group": cells[column].astype(object), "split": splits}).drop_duplicates()
    torn = per_group["group"][per_group["group"].duplicated()]
    if len(torn):
        raise RuntimeError(f"The split tore {column} {torn.iloc[0]!r} apart.")
    if method != "donor":
        return
    for name in COVERED:
        missing = set(cells[name][splits > 0].dropna()) - set(cells[name][splits == 0].dropna())
        if missing:
            raise RuntimeError(f"Training lacks the {name} {sorted(missing)[:3]} of held-out cells.")

"""Assign cells to training, validation and test. Depends on pandas alone."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cell2text.errors import UserError
from cell2text.preparation.names import GROUP_COLUMNS, NAMED, SPLITS


COVERED_COLUMNS = ("cell_type", "tissue", "disease")


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

    The test cells do not depend on the validation share, so tuning on validation leaves the test set unchanged.

    Parameters
    ----------
    cells
        Metadata, one row per cell, in the order of sources and rows, with the columns of `GROUP_COLUMNS` and
        `COVERED_COLUMNS`.
    method
        `"donor"`: no donor is in two splits, and every cell type, tissue and disease of validation and test occurs in
        training. `"dataset"`, `"tissue"`, `"cell_type"`: held-out data sets, tissues or cell types do not occur in
        training; other columns may or may not overlap. `"random"`: every combination of the columns `stratify` is
        split by the shares. `"named"`: the cells in `named` are held out, and all others are training cells.
    shares
        Share of the cells of each split in `SPLITS`; they sum to 1. Ignored by `"named"`.
    stratify
        Columns of a random split.
    named
        Cells of `"test"` and `"validation"` as `COLUMN=VALUE`, such as `"dataset_id=pbmc3k"` or `"donor_id=human2"`. A
        cell named for both is a test cell.
    seed
        Random seed.

    Returns
    -------
    Index into `SPLITS` for each cell, int8, shape (n_cells,).

    Raises
    ------
    UserError
        If the shares are invalid, a split stays empty, or a name matches no cell.
    """
    if method == NAMED:
        return _split_by_name(cells, named or {})
    if set(shares) - set(SPLITS) or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise UserError(f"shares={dict(shares)}: expected shares of {SPLITS} that add up to 1.")
    # Test is filled before validation, so that the validation share never moves a cell into or out of test.
    held_out = {SPLITS.index(name): shares[name] for name in ("test", "validation") if shares.get(name, 0) > 0}
    if method == "random":
        splits = _split_at_random(cells, held_out, stratify, seed)
    elif method in GROUP_COLUMNS:
        splits = _split_groups(cells, method, held_out, seed)
        check_split(cells, splits, method)
    else:
        raise UserError(f"split={method!r}: expected 'random', 'named' or one of {list(GROUP_COLUMNS)}.")
    for index in held_out:
        if not (splits == index).any():
            raise UserError(
                f"split={method!r} leaves no cell for {SPLITS[index]}: {_describe_groups(cells, method)}. Add files, "
                f"pass split='random', or set the share of {SPLITS[index]} to 0 with shares=."
            )
    return splits


def _describe_groups(cells: pd.DataFrame, method: str) -> str:
    if method not in GROUP_COLUMNS:
        return f"there are {len(cells):,} cells"
    text = f"there are {cells[GROUP_COLUMNS[method]].nunique()} groups by {method}"
    if method != "donor":
        return text
    return f"{text}, and training needs every group that alone has a cell type, tissue or disease"


def _split_by_name(cells: pd.DataFrame, named: Mapping[str, Sequence[str]]) -> np.ndarray:
    splits = np.zeros(len(cells), dtype=np.int8)
    for name in ("test", "validation"):
        for text in named.get(name, ()):
            column, _, value = text.partition("=")
            if column not in cells.columns:
                raise UserError(
                    f"{name} cells {text!r}: expected COLUMN=VALUE with a column of {sorted(cells.columns)}."
                )
            values = cells[column].astype(object)
            if not (values == value).any():
                examples = ", ".join(sorted(map(str, values.dropna().unique()))[:5])
                raise UserError(f"{name} cells {text!r}: no cell has this {column}; there are {examples}, ...")
            splits[((values == value) & (splits == 0)).to_numpy(dtype=bool)] = SPLITS.index(name)
    if not splits.any():
        raise UserError(
            f"The named cells {dict(named)} hold out nothing. Name at least one cell for test or validation."
        )
    if not (splits == 0).any():
        raise UserError(f"The named cells {dict(named)} leave none for training. Name fewer.")
    return splits


def _split_at_random(
    cells: pd.DataFrame, held_out: Mapping[int, float], stratify: Sequence[str], seed: int
) -> np.ndarray:
    """Split every stratum by the shares; at least one cell of each stays in training."""
    missing = [name for name in stratify if name not in cells.columns]
    if missing:
        raise UserError(f"stratify={list(stratify)}: there is no column {missing}; there are {sorted(cells.columns)}.")
    splits = np.zeros(len(cells), dtype=np.int8)
    strata = cells.groupby(list(stratify), observed=True, dropna=False, sort=True).ngroup().to_numpy()
    generator = np.random.default_rng([seed, 2])
    order = generator.permutation(len(cells))
    order = order[np.argsort(strata[order], kind="stable")]
    for members in np.split(order, np.flatnonzero(np.diff(strata[order])) + 1):
        assigned = 0
        for index, share in held_out.items():
            n = min(int(share * len(members) + 0.5), len(members) - 1 - assigned)
            splits[members[assigned : assigned + n]] = index
            assigned += n
    return splits


def _split_groups(cells: pd.DataFrame, method: str, held_out: Mapping[int, float], seed: int) -> np.ndarray:
    """Assign whole groups: first those that training needs, then held-out splits up to their shares."""
    groups = pd.Categorical(cells[GROUP_COLUMNS[method]])
    sizes = np.bincount(groups.codes, minlength=len(groups.categories))
    order = np.random.default_rng([seed, 3]).permutation(len(sizes))
    assigned = np.full(len(sizes), -1)
    if method == "donor":
        for members in _groups_per_category(cells, groups):
            if not (assigned[members] == 0).any():
                assigned[min(members, key=lambda group: (sizes[group], order[group]))] = 0
    targets = {index: share * sizes.sum() for index, share in held_out.items()}
    filled = dict.fromkeys(targets, 0)
    candidates = sorted(np.flatnonzero(assigned < 0), key=lambda group: order[group])
    for index, target in targets.items():
        for group in candidates:
            if assigned[group] < 0 and filled[index] + sizes[group] <= target:
                assigned[group] = index
                filled[index] += sizes[group]
    for index in targets:  # every group is larger than the share: take the smallest that is unassigned
        rest = [group for group in candidates if assigned[group] < 0]
        if not filled[index] and len(rest) > (0 if method == "donor" else 1):
            smallest = min(rest, key=lambda group: (sizes[group], order[group]))
            assigned[smallest] = index
            filled[index] += sizes[smallest]
    assigned[assigned < 0] = 0
    return assigned[groups.codes].astype(np.int8)


def _groups_per_category(cells: pd.DataFrame, groups: pd.Categorical) -> list[np.ndarray]:
    """Return the groups that contain each category of `COVERED_COLUMNS`, categories with the fewest groups first."""
    entries = []
    for column in COVERED_COLUMNS:
        frame = pd.DataFrame({"category": cells[column].astype(object), "group": groups.codes})
        pairs = frame.dropna().drop_duplicates()
        for category, members in pairs.groupby("category", sort=True)["group"]:
            entries.append((len(members), column, str(category), np.sort(members.to_numpy())))
    return [members for *_, members in sorted(entries, key=lambda entry: entry[:3])]


def check_split(cells: pd.DataFrame, splits: np.ndarray, method: str) -> None:
    """Check a split by groups.

    Raises
    ------
    RuntimeError
        If a group is in two splits, or training lacks a cell type, tissue or disease of a split by donor. Either is a
        fault of this module.
    """
    column = GROUP_COLUMNS[method]
    per_group = pd.DataFrame({"group": cells[column].astype(object), "split": splits}).drop_duplicates()
    divided = per_group["group"][per_group["group"].duplicated()]
    if len(divided):
        raise RuntimeError(f"The {column} {divided.iloc[0]!r} is in more than one split.")
    if method != "donor":
        return
    for name in COVERED_COLUMNS:
        missing = set(cells[name][splits > 0].dropna()) - set(cells[name][splits == 0].dropna())
        if missing:
            raise RuntimeError(f"Training lacks the {name} {sorted(missing)[:3]} of held-out cells.")

"""Assign cells to training, validation and test. Depends on pandas alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cell2text.errors import UserError
from cell2text.preparation.names import AUTO, GROUP_COLUMNS, NAMED, SPLITS


COVERED_COLUMNS = ("cell_type", "tissue", "disease")
# `auto` holds out donors only if a trial split stays within these bounds; see `choose_method`.
MIN_DONORS = 5
SHARE_BOUNDS = (0.25, 2.0)  # cells of a held-out split relative to its share
MAX_UNCOVERED = 0.1  # part of a held-out split's cells with a label that training lacks
# What a split means for figures on the test cells, for report, card and command line.
MEANINGS = {
    "donor": "No donor is in two splits, so figures on the test split apply to new donors of the same studies.",
    "dataset": "No data set is in two splits, so figures on the test split apply to unseen studies.",
    "tissue": "Training contains no held-out tissue, so figures on the test split apply to unseen tissues.",
    "cell_type": "Training contains no held-out cell type, so figures on the test split apply to unseen cell types.",
    "random": "Cells of the same donor are in training and test, so accuracy on the test split is optimistic for new "
    "donors.",
    "named": "The held-out cells are those that the options name.",
}


@dataclass(frozen=True)
class SplitChoice:
    """The method of a split.

    Parameters
    ----------
    requested
        Method in the options, which may be `"auto"`.
    method
        Method that is used.
    reason
        Why `"auto"` chose the method; empty for any other request.
    """

    requested: str
    method: str
    reason: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the entry `split` of `report.json`."""
        return {
            "requested": self.requested,
            "method": self.method,
            "reason": self.reason,
            "meaning": MEANINGS[self.method],
        }


def choose_method(cells: pd.DataFrame, method: str, *, shares: Mapping[str, float], seed: int) -> SplitChoice:
    """Replace the method `"auto"` by `"donor"` if there are enough donors, and by `"random"` otherwise.

    There are enough if there are at least 5 and a trial split by donor succeeds: test and validation each hold between
    a quarter of their share and twice their share of the cells, and at most a tenth of their cells have a cell type,
    tissue or disease that training lacks. The trial takes a validation share equal to the test share whatever the
    options say, so the choice, like the test cells, does not depend on the validation share.

    Parameters
    ----------
    cells
        Metadata, as for `split_cells`.
    method
        Any method of `split_cells`, or `"auto"`.
    shares
        Share of the cells of each split in `SPLITS`.
    seed
        Random seed.

    Examples
    --------
    >>> cells = pd.DataFrame({"donor": ["a"] * 20, "cell_type": "B cell", "tissue": "blood", "disease": "normal"})
    >>> choose_method(cells, "auto", shares={"train": 0.8, "test": 0.2}, seed=0).reason
    'there is 1 donor, and holding out donors needs at least 5'
    """
    if method != AUTO:
        return SplitChoice(method, method)
    share = shares.get("test", 0) or shares.get("validation", 0)
    if share <= 0:
        return SplitChoice(method, "random", "no split is held out")
    donors = cells["donor"].nunique()
    n_donors = f"there {'is' if donors == 1 else 'are'} {donors:,} donor{'' if donors == 1 else 's'}"
    if "donor_id" in cells and cells["donor_id"].isna().any():
        n_donors += " (the cells of unknown donors of a data set count as one)"
    if donors < MIN_DONORS:
        return SplitChoice(method, "random", f"{n_donors}, and holding out donors needs at least {MIN_DONORS}")
    trial = {SPLITS.index("test"): share, SPLITS.index("validation"): min(share, (1 - share) / 2)}
    obstacle = _find_obstacle(cells, _split_groups(cells, "donor", trial, seed), trial)
    return (
        SplitChoice(method, "random", f"{n_donors}, but {obstacle}")
        if obstacle
        else SplitChoice(method, "donor", n_donors)
    )


def _find_obstacle(cells: pd.DataFrame, splits: np.ndarray, shares: Mapping[int, float]) -> str:
    """Return what speaks against a trial split by donor; empty if nothing does."""
    uncovered = _find_uncovered(cells, splits == 0)
    for index, share in shares.items():
        held_out = splits == index
        found = held_out.mean()
        if not SHARE_BOUNDS[0] * share <= found <= SHARE_BOUNDS[1] * share:
            return f"holding out donors would put {found:.1%} of the cells into {SPLITS[index]} instead of {share:.1%}"
        if uncovered[held_out].mean() > MAX_UNCOVERED:
            return (
                f"{uncovered[held_out].mean():.0%} of the {SPLITS[index]} cells would have a cell type, tissue or "
                "disease that no training donor has"
            )
    return ""


def _find_uncovered(cells: pd.DataFrame, training: np.ndarray) -> np.ndarray:
    """Mark cells with a known label of `COVERED_COLUMNS` that no cell of `training` has."""
    uncovered = np.zeros(len(cells), dtype=bool)
    for name in COVERED_COLUMNS:
        known = cells[name].notna().to_numpy()
        uncovered |= known & ~cells[name].isin(cells[name][training & known].unique()).to_numpy()
    return uncovered


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
        training wherever enough donors share them. `"dataset"`, `"tissue"`, `"cell_type"`: held-out data sets, tissues
        or cell types do not occur in training; other columns may or may not overlap. `"random"`: every combination of
        the columns `stratify` is split by the shares. `"named"`: the cells in `named` are held out, and all others are
        training cells.
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
        if method == "donor":
            _check_donors(cells, held_out)
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


def _check_donors(cells: pd.DataFrame, held_out: Mapping[int, float]) -> None:
    donors = cells["donor"].nunique()
    if donors <= len(held_out):
        raise UserError(
            f"split='donor' needs at least {len(held_out) + 1} donors, one per split, and the cells have {donors}. "
            "Pass split='random' to split the cells of each donor, or split='auto' to let the donors decide."
        )


def _describe_groups(cells: pd.DataFrame, method: str) -> str:
    if method not in GROUP_COLUMNS:
        return f"there are {len(cells):,} cells"
    return f"there are {cells[GROUP_COLUMNS[method]].nunique()} groups by {method}"


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
    """Split every stratum by the shares; at least one cell of each stays in training.

    A split that gets no cell because all strata are small is filled with random cells of strata that can spare one.
    """
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
    for index, share in held_out.items():
        if not (splits == index).any():
            spare = _find_spare_cells(splits, strata, generator)
            splits[spare[: max(1, int(share * len(cells) + 0.5))]] = index
    return splits


def _find_spare_cells(splits: np.ndarray, strata: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return training cells in random order without one of each stratum; without one in all if none can spare any."""
    order = generator.permutation(np.flatnonzero(splits == 0))
    last = np.unique(strata[order], return_index=True)[1]
    spare = np.delete(order, last)
    return spare if len(spare) else order[1:]


def _split_groups(cells: pd.DataFrame, method: str, held_out: Mapping[int, float], seed: int) -> np.ndarray:
    """Assign whole groups: first those that training needs, then held-out splits up to their shares.

    If training needs so many donors that a held-out split stays empty, the splits are filled one after the other, and
    a split without a donor takes one from training: the one with the smallest part of cells whose labels no other
    training donor has.
    """
    groups = pd.Categorical(cells[GROUP_COLUMNS[method]])
    sizes = np.bincount(groups.codes, minlength=len(groups.categories))
    order = np.random.default_rng([seed, 3]).permutation(len(sizes))
    needed = np.full(len(sizes), -1)
    if method == "donor":
        for members in _groups_per_category(cells, groups):
            if not (needed[members] == 0).any():
                needed[min(members, key=lambda group: (sizes[group], order[group]))] = 0
    targets = {index: share * sizes.sum() for index, share in held_out.items()}
    keep_one = 0 if method == "donor" else 1
    assigned = _fill_splits(needed.copy(), targets, sizes, order, keep_one)
    if method == "donor" and not set(targets) <= set(assigned):
        assigned = needed
        for index, target in targets.items():
            assigned = _fill_splits(assigned, {index: target}, sizes, order, keep_one)
            if index not in assigned and (assigned <= 0).sum() > 1:
                assigned[_choose_training_donor(cells, groups, assigned, target, order)] = index
    assigned[assigned < 0] = 0
    return assigned[groups.codes].astype(np.int8)


def _fill_splits(
    assigned: np.ndarray, targets: Mapping[int, float], sizes: np.ndarray, order: np.ndarray, keep_one: int
) -> np.ndarray:
    """Assign free groups (-1) to splits up to their target numbers of cells; return `assigned`, changed in place."""
    filled = dict.fromkeys(targets, 0)
    candidates = sorted(np.flatnonzero(assigned < 0), key=lambda group: order[group])
    for index, target in targets.items():
        for group in candidates:
            if assigned[group] < 0 and filled[index] + sizes[group] <= target:
                assigned[group] = index
                filled[index] += sizes[group]
    for index in targets:  # every group is larger than the share: take the smallest that is unassigned
        rest = [group for group in candidates if assigned[group] < 0]
        if not filled[index] and len(rest) > keep_one:
            smallest = min(rest, key=lambda group: (sizes[group], order[group]))
            assigned[smallest] = index
            filled[index] += sizes[smallest]
    return assigned


def _choose_training_donor(
    cells: pd.DataFrame, groups: pd.Categorical, assigned: np.ndarray, target: float, order: np.ndarray
) -> int:
    """Return the training donor to hold out: one whose labels others have, of about the target number of cells."""
    codes, training = groups.codes, assigned <= 0
    costs = {}
    for group in np.flatnonzero(training):
        members = codes == group
        uncovered = _find_uncovered(cells, training[codes] & ~members)[members].mean()
        costs[group] = (members.sum() > len(cells) / 2, uncovered, abs(members.sum() - target), order[group])
    return int(min(costs, key=costs.__getitem__))


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
    """Check that no group is in two splits.

    Raises
    ------
    RuntimeError
        If a group is in two splits, which is a fault of this module.
    """
    column = GROUP_COLUMNS[method]
    per_group = pd.DataFrame({"group": cells[column].astype(object), "split": splits}).drop_duplicates()
    divided = per_group["group"][per_group["group"].duplicated()]
    if len(divided):
        raise RuntimeError(f"The {column} {divided.iloc[0]!r} is in more than one split.")

"""Find samples, their donors and their labels in the columns of `obs`. Depends on pandas only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cell2text.donors.options import DonorOptions
from cell2text.errors import UserError, UserKeyError


MIN_DONORS, MIN_DONORS_PER_CLASS = 4, 2  # with fewer, a fold would train on donors of one class
MISSING = ("", "unknown", "nan", "na", "none given")
REFERENCE_VALUES = ("normal", "healthy", "control", "ctrl", "none", "untreated", "false", "0", "no")
SHOWN_NAMES = 3
PARAMETERS = ("donor", "target", "sample")  # options that name a column


@dataclass(frozen=True)
class Samples:
    """Samples of donors.

    Parameters
    ----------
    names
        Name of each sample, shape (n_samples,).
    donors
        Donor of each sample.
    values
        Value of the target.
    labels
        Whether it is the positive value, boolean.
    positive
        The positive value.
    codes
        Sample of each cell, shape (n_cells,).
    """

    names: np.ndarray
    donors: np.ndarray
    values: np.ndarray
    labels: np.ndarray
    positive: str
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_one_sample_per_donor(self) -> bool:
        """Whether samples and donors are the same."""
        return len(set(self.donors)) == len(self.donors)

    def donors_of(self, label: bool) -> int:
        """Return the number of donors with a sample of a class."""
        return len(set(self.donors[self.labels == label]))


def check_columns(columns: Sequence[str], options: DonorOptions) -> None:
    """Raise a `UserError` unless `obs` has the columns that the options name."""
    for parameter in PARAMETERS:
        name = getattr(options, parameter)
        if name is not None and name not in columns:
            raise UserKeyError(
                f"{parameter}={name!r}: obs has no such column. Pass one of {sorted(map(str, columns))}."
            )


def columns_of(options: DonorOptions) -> list[str]:
    """Return the columns of `obs` that the options name, each once.

    Examples
    --------
    >>> columns_of(DonorOptions(target="treatment", sample="treatment"))
    ['donor_id', 'treatment']
    """
    return list(dict.fromkeys(filter(None, (options.donor, options.target, options.sample))))


def find_samples(obs: pd.DataFrame, options: DonorOptions) -> Samples:
    """Return the samples of some cells.

    Parameters
    ----------
    obs
        Columns of the cells, at least those that the options name.
    options
        Names of the columns, and the positive value.

    Raises
    ------
    UserError
        If a column does not exist or lacks values, the target holds numbers, one value or too many values, a sample
        has several values of the target, or there are too few donors of a class.

    Examples
    --------
    >>> obs = pd.DataFrame({"donor_id": list("aabcd"), "disease": ["flu", "flu", "flu", "normal", "normal"]})
    >>> samples = find_samples(obs, DonorOptions())
    >>> samples.positive, samples.names.tolist(), samples.codes.tolist()
    ('flu', ['a', 'b', 'c', 'd'], [0, 0, 1, 2, 3])
    """
    check_columns(list(obs.columns), options)
    for parameter in PARAMETERS:
        _check_values(obs, parameter, getattr(options, parameter))
    target = obs[options.target].astype(str).to_numpy(dtype=object)
    donors = obs[options.donor].astype(str).to_numpy(dtype=object)
    names = donors
    if options.sample is not None:
        parts = obs[options.sample].astype(str).to_numpy(dtype=object)
        names = np.array([f"{donor} | {part}" for donor, part in zip(donors, parts)], dtype=object)
    positive = _positive_value(obs[options.target], sorted(set(target)), options)
    unique, first, codes = np.unique(names.astype(str), return_index=True, return_inverse=True)
    _check_one_value(unique, codes, target, options)
    samples = Samples(unique, donors[first], target[first], target[first] == positive, positive, codes)
    check_classes(samples, options)
    return samples


def check_classes(samples: Samples, options: DonorOptions) -> None:
    """Raise a `UserError` unless both classes have enough donors for cross-validation by donor."""
    n_donors = len(set(samples.donors))
    with_positive, without = samples.donors_of(True), samples.donors_of(False)
    if n_donors < MIN_DONORS or min(with_positive, without) < MIN_DONORS_PER_CLASS:
        raise UserError(
            f"{n_donors} donors in {options.donor!r}: {with_positive} with {options.target} {samples.positive!r} and "
            f"{without} with another value. Expected at least {MIN_DONORS} donors, and {MIN_DONORS_PER_CLASS} of each "
            "class. Add donors."
        )
    if options.folds is not None and options.folds > n_donors:
        raise UserError(f"folds={options.folds}: only {n_donors} donors. Pass at most folds={n_donors}.")


def _check_values(obs: pd.DataFrame, parameter: str, column: str | None) -> None:
    """Raise a `UserError` unless a column has a value for every cell."""
    if column is None:
        return
    missing = obs[column].isna() | obs[column].astype(str).str.strip().str.lower().isin(MISSING)
    if n := int(missing.sum()):
        raise UserError(
            f"{parameter}={column!r}: {n:,} of {len(obs):,} cells have no value (missing, empty or unknown). Remove "
            "these cells, or fill in their values."
        )


def _positive_value(column: pd.Series, values: Sequence[str], options: DonorOptions) -> str:
    """Return the value of the target that is predicted."""
    parameter = f"target={options.target!r}"
    if len(values) > 2 and pd.api.types.is_numeric_dtype(column):
        raise UserError(
            f"{parameter} holds numbers ({len(values):,} different values). Expected two labels: divide the numbers "
            "into two classes, such as old and young."
        )
    if len(values) == 1:
        raise UserError(
            f"{parameter}: all cells have the value {values[0]!r}. Expected donors with two values to tell apart."
        )
    if options.positive is not None:
        if options.positive not in values:
            raise UserError(
                f"positive={options.positive!r}: {options.target!r} has no such value, it has {_shown(values)}."
            )
        return options.positive
    if len(values) > 2:
        raise UserError(
            f"{parameter} has {len(values):,} values: {_shown(values)}. Pass positive={values[0]!r}, or another value, "
            "to predict it against all others."
        )
    others = [value for value in values if value.lower() not in REFERENCE_VALUES]
    return (others or values)[-1]


def _check_one_value(names: np.ndarray, codes: np.ndarray, target: np.ndarray, options: DonorOptions) -> None:
    """Raise a `UserError` if a sample has several values of the target."""
    pairs = pd.DataFrame({"code": codes, "value": target}).drop_duplicates()
    several = pairs["code"].value_counts()
    mixed = sorted(several.index[several > 1])
    if not mixed:
        return
    name, values = str(names[mixed[0]]), sorted(pairs.loc[pairs["code"] == mixed[0], "value"])
    kind, advice = "samples", "Choose a column with one value per sample."
    if options.sample is None:
        kind = "donors"
        advice = f"If these are separate samples, pass sample={options.target!r} or another column that divides them."
    raise UserError(
        f"target={options.target!r}: {len(mixed):,} of {len(names):,} {kind} have several values, {name!r} has "
        f"{_shown(values)}. {advice}"
    )


def _shown(values: Sequence[str]) -> str:
    shown = ", ".join(repr(value[:80]) for value in values[:SHOWN_NAMES])
    return shown if len(values) <= SHOWN_NAMES else f"{shown}, ... ({len(values):,} values)"

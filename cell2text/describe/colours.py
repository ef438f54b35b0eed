"""Colours of cells on a map: one per label, or a scale for numbers. Depends on colorcet and matplotlib."""

from functools import cache

import numpy as np
import pandas as pd
from colorcet import b_glasbey_category10
from matplotlib import colormaps
from matplotlib.colors import to_hex


MISSING_COLOUR, OTHER_COLOUR = "#d9d9d9", "#9a9a9a"


@cache
def number_palette() -> list[str]:
    """Return the 256 colours of the scale "viridis", from low to high."""
    return [to_hex(colour) for colour in colormaps["viridis"](range(256))]


def coloured_labels(values: pd.Series) -> dict:
    """Return the labels of a column by decreasing frequency with colours, and each cell's label index, -1 for none.

    Examples
    --------
    >>> found = coloured_labels(pd.Series(["T cell", "B cell", "T cell", None]))
    >>> found["names"], found["counts"], found["codes"]
    (['T cell', 'B cell'], [2, 1], [0, 1, 0, -1])
    """
    counts = values.astype(object).value_counts()
    names = sorted(counts.index, key=lambda name: (-counts[name], str(name)))
    indices = {name: index for index, name in enumerate(names)}
    return {
        "names": [str(name) for name in names],
        "counts": [int(counts[name]) for name in names],
        "colours": [*b_glasbey_category10, *[OTHER_COLOUR] * len(names)][: len(names)],
        "codes": [indices.get(value, -1) if pd.notna(value) else -1 for value in values.astype(object)],
    }


def scaled_numbers(values: np.ndarray) -> dict:
    """Return the range of some numbers, and each number's index in `number_palette`, -1 for values that are not finite.

    Examples
    --------
    >>> scaled_numbers(np.array([0.0, 0.5, np.nan, 1.0]))
    {'low': 0.0, 'high': 1.0, 'codes': [0, 128, -1, 255]}
    """
    finite = np.isfinite(values)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    shares = (np.where(finite, values, low) - low) / ((high - low) or 1.0)
    codes = np.where(finite, np.round(255 * shares), -1).astype(int)
    return {"low": low, "high": high, "codes": codes.tolist()}

"""Which cells are held out."""

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import train_test_split


def stratified_split(labels: Sequence[str], share: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split cells so that every label keeps its share on both sides.

    Parameters
    ----------
    labels
        One label a cell, length n_cells. Cells of a label that occurs once stay in the first part.
    share
        Share of the cells in the second part, between 0 and 1.

    Returns
    -------
    Indices of the first and of the second part, ascending.
    """
    names = np.asarray(labels)
    values, counts = np.unique(names, return_counts=True)
    single = np.isin(names, values[counts < 2])
    kept, held_out = train_test_split(
        np.flatnonzero(~single), test_size=share, stratify=names[~single], random_state=seed, shuffle=True
    )
    return np.sort(np.concatenate([kept, np.flatnonzero(single)])), np.sort(held_out)

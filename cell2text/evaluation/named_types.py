"""Score cell types that a model names at the level of the ontology that it is sure of, with stated probabilities.

Pure functions from terms and probabilities to figures. Depends on the Cell Ontology only.
"""

from collections.abc import Sequence

import numpy as np

from cell2text.evaluation.bootstrap import Resampler
from cell2text.ontology.graph import OntologyGraph, load_graph


N_BINS = 15  # of equal width, for the expected calibration error
HIGH_PROBABILITY = 0.9
# Names of the figures in reports.
METRIC_NAMES = {
    "named_share": "named", "named_true": "true", "named_depth": "depth", "ece": "calibration error",
    "wrong_above_90": "wrong above 90 %",
}  # fmt: skip
NAMED_TYPE_METRICS = tuple(METRIC_NAMES)


def named_type_metrics(
    named_ids: Sequence[str | None],
    label_ids: Sequence[str | None],
    probabilities: Sequence[float | None] | np.ndarray | None = None,
) -> dict[str, float]:
    """Score named cell types against labels.

    Parameters
    ----------
    named_ids
        Cell Ontology term that each cell is named, None for a cell without a named type.
    label_ids
        Cell Ontology term of each cell's label, None for a cell that is not scored.
    probabilities
        Stated probability of each named type from 0 to 1, None or NaN where missing. If omitted, only the figures that
        need no probability are returned.

    Returns
    -------
    Figures by name, NaN if no cell counts:

    - `named_share`: share of the labelled cells that have a named type.
    - `named_true`: share of the named cells whose type is the label, or an ancestor or descendant of it.
    - `named_depth`: mean over the true cells of the depth of the named type by the depth of the label, at most 1. The
      depth of a term is the number of steps on the longest path from the root.
    - `ece`: expected calibration error of the probability of named cells, over `N_BINS` bins of equal width.
    - `wrong_above_90`: share of the labelled cells whose named type is not true and has a probability above 0.9.

    Raises
    ------
    ValueError
        If the lengths differ, or a probability is not from 0 to 1.

    Examples
    --------
    >>> t_cell, b_cell, lymphocyte = "CL:0000084", "CL:0000236", "CL:0000542"
    >>> figures = named_type_metrics([lymphocyte, b_cell, None, t_cell], [t_cell] * 4, [0.9, 0.95, None, 1.0])
    >>> {name: round(value, 2) for name, value in figures.items()}
    {'named_share': 0.75, 'named_true': 0.67, 'named_depth': 0.9, 'ece': 0.35, 'wrong_above_90': 0.25}
    """
    values = named_type_values(named_ids, label_ids, probabilities)
    replicates = named_type_replicates(values, Resampler([None] * len(label_ids), n_resamples=0))
    return {name: float(figures[0]) for name, figures in replicates.items()}


def named_type_values(
    named_ids: Sequence[str | None],
    label_ids: Sequence[str | None],
    probabilities: Sequence[float | None] | np.ndarray | None = None,
    *,
    graph: OntologyGraph | None = None,
) -> dict[str, np.ndarray]:
    """Return what every labelled cell contributes to the figures of :func:`named_type_metrics`.

    Parameters
    ----------
    graph
        Ontology of the terms. Defaults to the Cell Ontology.

    Returns
    -------
    Arrays of shape (n_cells,), NaN for cells that do not count: `named_share`, `named_true`, `named_depth`,
    `wrong_above_90`, and the stated `probability` of named cells. The last two are absent without probabilities.
    """
    if len(named_ids) != len(label_ids):
        raise ValueError(f"{len(named_ids):,} named types for {len(label_ids):,} labels. Expected one per label.")
    graph = graph or load_graph("CL")
    labelled = np.array([label is not None for label in label_ids], dtype=bool)
    named = np.array([name is not None for name in named_ids], dtype=bool)
    pairs = list(zip(named_ids, label_ids))
    known = {pair: _compare(graph, *pair) for pair in set(pairs)}
    true, depth = np.array([known[pair] for pair in pairs], dtype=float).reshape(-1, 2).T
    values = {
        "named_share": np.where(labelled, named, np.nan),
        "named_true": np.where(labelled & named, true, np.nan),
        "named_depth": depth,
    }
    if probabilities is None:
        return values
    stated = _check_probabilities(probabilities, len(label_ids))
    wrong = named & (values["named_true"] == 0) & (stated > HIGH_PROBABILITY)
    known_probability = not named.any() or np.isfinite(stated[named]).any()
    return values | {
        "wrong_above_90": np.where(labelled & known_probability, wrong, np.nan),
        "probability": np.where(labelled & named, stated, np.nan),
    }


def named_type_replicates(
    values: dict[str, np.ndarray], resampler: Resampler, rows: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Compute the figures of :func:`named_type_metrics` and their bootstrap replicates.

    Parameters
    ----------
    values
        Result of :func:`named_type_values`.
    resampler
        Resampler of the evaluation's rows.
    rows
        Row number of each cell in the evaluation. Defaults to all rows in order.

    Returns
    -------
    Figures in the order of `NAMED_TYPE_METRICS`, each of shape (1 + n_resamples,).
    """
    rows = np.arange(len(values["named_share"])) if rows is None else rows
    means = resampler.all_means({name: found for name, found in values.items() if name != "probability"}, rows)
    if "probability" in values:
        means["ece"] = _calibration_errors(values["probability"], values["named_true"], resampler, rows)
    return {name: means[name] for name in NAMED_TYPE_METRICS if name in means}


def _compare(graph: OntologyGraph, named: str | None, label: str | None) -> tuple[float, float]:
    """Return whether a named term is true, and how much of the label's depth it has; NaN where that does not count."""
    if named is None or label is None:
        return np.nan, np.nan
    if named == label:
        return 1.0, 1.0
    if not graph.related(named, label):
        return 0.0, np.nan
    return 1.0, min(1.0, graph.depth(named) / max(graph.depth(label), 1))


def _check_probabilities(probabilities: Sequence[float | None] | np.ndarray, n_cells: int) -> np.ndarray:
    stated = np.array(probabilities, dtype=float)
    if stated.shape != (n_cells,):
        raise ValueError(f"probabilities have the shape {stated.shape} for {n_cells:,} labels. Expected one per label.")
    outside = (stated < 0) | (stated > 1)
    if outside.any():
        raise ValueError(f"{outside.sum():,} probabilities are not from 0 to 1, the first is {stated[outside][0]}.")
    return stated


def _calibration_errors(
    probabilities: np.ndarray, true: np.ndarray, resampler: Resampler, rows: np.ndarray
) -> np.ndarray:
    """Compute the expected calibration error and its replicates from sums per bin."""
    counted = np.isfinite(probabilities) & np.isfinite(true)
    gaps, ones = np.zeros((2, len(rows), N_BINS))
    cells = np.flatnonzero(counted)
    bins = np.minimum((probabilities[cells] * N_BINS).astype(int), N_BINS - 1)
    gaps[cells, bins] = probabilities[cells] - true[cells]
    ones[cells, bins] = 1
    sums = resampler.sums(np.hstack([gaps, ones]), rows)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.abs(sums[:, :N_BINS]).sum(axis=1) / sums[:, N_BINS:].sum(axis=1)

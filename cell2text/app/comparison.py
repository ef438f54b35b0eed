"""Compare two groups of cells: composition, mean type probabilities, and markers.

Markers come from scanpy where it is installed. Depends on `experiment` and `counts`.
"""

import warnings
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cell2text.app.experiment import Experiment
from cell2text.describe.group_markers import COUNTS_PER_CELL, has_scanpy
from cell2text.errors import UserError
from statements_cell2text import TYPES


MAX_CELLS = 200  # per group for probabilities and markers; a larger group is sampled
MIN_CELLS_FOR_MARKERS = 3
N_TYPES, N_MARKERS, MAX_ROWS, MAX_P = 8, 10, 12, 0.05
NOT_NAMED = "no named type"


@dataclass(frozen=True)
class Marker:
    """A gene that sets one group apart from the other.

    Parameters
    ----------
    gene
        Its symbol.
    log2_fold_change
        Logarithm of the ratio of mean expression, base 2.
    p_adjusted
        P value of the Wilcoxon rank-sum test, adjusted by Benjamini-Hochberg.
    in_first, in_second
        Fraction of the sampled cells of each group that express it.
    """

    gene: str
    log2_fold_change: float
    p_adjusted: float
    in_first: float
    in_second: float


@dataclass
class Comparison:
    """How two groups of cells differ.

    Parameters
    ----------
    names
        Names of the groups.
    sizes
        Their numbers of cells.
    composition
        Named cell type, and its share of the cells of each group, the largest first.
    probabilities
        Cell type, and its mean probability in each group; types whose means differ most come first.
    markers
        Markers of the first group and of the second, the best first.
    notes
        What was sampled or left out, and why.
    """

    names: tuple[str, str]
    sizes: tuple[int, int]
    composition: list[tuple[str, float, float]]
    probabilities: list[tuple[str, float, float]] = field(default_factory=list)
    markers: tuple[list[Marker], list[Marker]] = field(default_factory=lambda: ([], []))
    notes: list[str] = field(default_factory=list)


def compare_groups(
    experiment: Experiment, first: np.ndarray, second: np.ndarray, *, names: tuple[str, str] = ("A", "B"), seed: int = 0
) -> Comparison:
    """Compare two groups of cells.

    Parameters
    ----------
    experiment
        The experiment.
    first, second
        Rows of the cells of each group.
    names
        Names of the groups.
    seed
        Random seed for sampling cells of groups with more than `MAX_CELLS`.

    Raises
    ------
    UserError
        If a group is empty, or both hold the same cells.

    Examples
    --------
    >>> import cell2text, tempfile
    >>> from cell2text.app.experiment import read_experiment
    >>> path = f"{tempfile.mkdtemp()}/cells.h5ad"
    >>> adata = cell2text.example_cells(unseen=True)[:4].copy()
    >>> cell2text.tl.describe(adata)
    >>> adata.write_h5ad(path)
    >>> compare_groups(read_experiment(path), np.array([0]), np.array([1, 2])).sizes
    (1, 2)
    """
    groups = [np.unique(rows) for rows in (first, second)]
    for name, rows in zip(names, groups):
        if not len(rows):
            raise UserError(f"Group {name} is empty: select cells on the map, and set them as group {name}.")
    if np.array_equal(groups[0], groups[1]):
        raise UserError("Both groups hold the same cells: select other cells for one of them.")
    found = Comparison(names, (len(groups[0]), len(groups[1])), _composition(experiment, groups))
    if n := len(np.intersect1d(groups[0], groups[1])):
        found.notes.append(f"{n:,} cells are in both groups.")
    random = np.random.default_rng(seed)
    sampled = [_sample(rows, random) for rows in groups]
    if max(found.sizes) > MAX_CELLS:
        found.notes.append(f"Probabilities and markers use at most {MAX_CELLS} random cells per group.")
    try:
        found.probabilities = _mean_probabilities(experiment, sampled)
        found.markers = _markers(experiment, sampled, found.notes)
    except UserError as error:
        found.notes.append(f"Probabilities and markers need the counts of the file. {error}")
    return found


def _sample(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return at most `MAX_CELLS` rows, ascending."""
    return np.sort(random.choice(rows, MAX_CELLS, replace=False)) if len(rows) > MAX_CELLS else rows


def _composition(experiment: Experiment, groups: list[np.ndarray]) -> list[tuple[str, float, float]]:
    """Return the share of each named type among the cells of both groups."""
    types = experiment.cells["cell_type"].astype(object)
    types = types.where(types.notna(), NOT_NAMED).to_numpy()
    shares = pd.DataFrame([pd.Series(types[rows]).value_counts(normalize=True) for rows in groups]).fillna(0.0).T
    order = sorted(shares.index, key=lambda name: (-shares.loc[name].sum(), name))
    found = [(str(name), float(shares.loc[name].iloc[0]), float(shares.loc[name].iloc[1])) for name in order]
    rest = found[MAX_ROWS:]
    if not rest:
        return found
    return [
        *found[:MAX_ROWS],
        (f"{len(rest)} other types", sum(one for _, one, _ in rest), sum(two for *_, two in rest)),
    ]


def _mean_probabilities(experiment: Experiment, groups: list[np.ndarray]) -> list[tuple[str, float, float]]:
    """Return the types whose mean probabilities differ most; empty for a model without cell types."""
    counts = experiment.counts
    found = [counts.concepts(counts.rank(rows)) for rows in groups]
    concepts = [one[TYPES] for one in found if TYPES in one]
    if len(concepts) < len(groups):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a group of cells without genes has no mean
        means = np.array([np.nanmean(one, axis=0) for one in concepts])
    config = counts.loaded[0].config
    names, vague = config.concept_groups[TYPES], set(config.uninformative_types or ())
    compared = [i for i, name in enumerate(names) if name not in vague and np.isfinite(means[:, i]).all()]
    order = sorted(compared, key=lambda i: (-abs(means[0][i] - means[1][i]), names[i]))[:N_TYPES]
    return [(names[i], float(means[0][i]), float(means[1][i])) for i in order]


def _markers(experiment: Experiment, groups: list[np.ndarray], notes: list[str]) -> tuple[list[Marker], list[Marker]]:
    """Return markers of both groups by scanpy's Wilcoxon test on log-normalised counts."""
    if not has_scanpy():
        notes.append("Markers need scanpy: pip install scanpy.")
        return [], []
    apart = [np.setdiff1d(rows, other) for rows, other in zip(groups, groups[::-1])]
    if min(map(len, apart)) < MIN_CELLS_FOR_MARKERS:
        notes.append(f"Markers need at least {MIN_CELLS_FOR_MARKERS} cells per group that are not in the other group.")
        return [], []
    import scanpy as sc

    rows = np.concatenate(apart)
    order = np.argsort(rows)
    labels = np.repeat(["first", "second"], [len(one) for one in apart])[order]
    adata = experiment.counts.read_model_genes(rows[order])
    adata.obs["group"] = pd.Categorical(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy and anndata warn about names and future defaults
        adata = adata[:, np.asarray((adata.X > 0).sum(axis=0)).ravel() >= MIN_CELLS_FOR_MARKERS].copy()
        sc.pp.normalize_total(adata, target_sum=COUNTS_PER_CELL)
        sc.pp.log1p(adata)
        sc.tl.rank_genes_groups(adata, "group", method="wilcoxon", pts=True)
        tables = [sc.get.rank_genes_groups_df(adata, group) for group in ("first", "second")]
    best = _best(tables[0], swapped=False), _best(tables[1], swapped=True)
    if not any(best):
        notes.append(f"No gene has an adjusted p value below {MAX_P}. Larger groups can show smaller differences.")
    return best


def _best(table: pd.DataFrame, *, swapped: bool) -> list[Marker]:
    """Return the best markers of scanpy's table of one group; `swapped` for the second group."""
    found = table[(table["logfoldchanges"] > 0) & (table["pvals_adj"] < MAX_P)].head(N_MARKERS)
    pairs = zip(found["pct_nz_group"], found["pct_nz_reference"])
    shares = [(other, own) if swapped else (own, other) for own, other in pairs]
    return [
        Marker(str(gene), float(change), float(p), float(one), float(two))
        for gene, change, p, (one, two) in zip(found["names"], found["logfoldchanges"], found["pvals_adj"], shares)
    ]

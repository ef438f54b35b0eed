"""Cell types of groups: combine the calibrated type probabilities of a group's cells, and decide which type to name.

The cells of a group are not independent, so their evidence is not multiplied: the group's probability of a type is the
mean over its cells, calibrated on groups of studies that were left out of training. Depends on the hierarchy of types
of `statements_cell2text.py`, and on the Cell Ontology for their terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from calibration_cell2text import EPSILON
from cell2text.ontology.terms import resolve
from statements_cell2text import TYPES, TypeDecision, TypeHierarchy


LEAST_PROBABILITY, STEP = 0.3, 0.1  # thresholds below the model's own, tried in turn where no type reaches it
POSSIBLE_PROBABILITY = 0.01  # less probable types of a cell do not count as disagreement
MAX_DISAGREEMENT = 0.08  # groups with more are flagged; 0.25 is a group of two halves without a doubt
SIMILAR_SHARE = 0.9  # of the largest disagreement: among such pairs of types, the most specific one is stated
MIN_CELLS = 10  # of a group that is flagged; fewer disagree by chance


@dataclass(frozen=True)
class GroupType:
    """The cell type of one group.

    Parameters
    ----------
    name, term_id
        The named type and its Cell Ontology term; None if no informative type is probable enough.
    probability
        Calibrated probability of the named type, or None.
    candidates
        Up to three most probable types below the named one with their probabilities, or of all types without one.
    disagreement
        Largest negative covariance, over the group's cells, of the probabilities of two incompatible types: 0 for cells
        that agree or are unsure alike, 0.25 for two halves of two certain types.
    disagreeing
        Two incompatible types that disagree so, or nearly so, with their mean probabilities, the more probable one
        first. Of several such pairs, the most specific one. Empty for cells that agree.
    n_cells
        Number of cells with type probabilities.
    """

    name: str | None = None
    term_id: str | None = None
    probability: float | None = None
    candidates: tuple[tuple[str, float], ...] = ()
    disagreement: float = 0.0
    disagreeing: tuple[tuple[str, float], ...] = ()
    n_cells: int = 0

    @property
    def heterogeneity(self) -> str | None:
        """Why the group is flagged as heterogeneous, as a sentence; None if it is not."""
        if self.disagreement < MAX_DISAGREEMENT or self.n_cells < MIN_CELLS:
            return None
        (first, share), (second, other) = self.disagreeing
        return (
            f"Its cells disagree: {share:.0%} of their type probability is on {first} and {other:.0%} on {second}, "
            "in different cells."
        ).replace("%", " %")


class GroupTypes:
    """Sums of the cells' type probabilities per group, from which the groups' types are decided.

    Memory grows with the number of groups and types, not with the number of cells.

    Parameters
    ----------
    hierarchy
        Hierarchy of the model's cell types.
    n_groups
        Number of groups.
    threshold
        Least probability of a named type of a cell, and of a group without a calibration.
    calibration
        `group_calibration` of the model's configuration; see :func:`calibrate_group`. Its `threshold` replaces
        `threshold`. None for no calibration.

    Examples
    --------
    >>> from concepts_cell2text import ConceptNames
    >>> parents = {"B cell": ["lymphocyte"], "T cell": ["lymphocyte"], "lymphocyte": []}
    >>> types = GroupTypes(TypeHierarchy(ConceptNames(hierarchical={"cell_type": parents})), 1)
    >>> types.add(np.array([0, 0]), np.array([[0.9, 0.1, 1.0], [0.1, 0.9, 1.0]]))
    >>> found = types.decide()[0]
    >>> found.name, found.disagreement, found.disagreeing
    ('lymphocyte', 0.16, (('B cell', 0.5), ('T cell', 0.5)))
    """

    def __init__(
        self, hierarchy: TypeHierarchy, n_groups: int, *, threshold: float = 0.6, calibration: dict | None = None
    ):
        self.hierarchy, self.calibration, self.cell_threshold = hierarchy, calibration, threshold
        self.threshold = (calibration or {}).get("threshold", threshold)
        self.n_cells = np.zeros(n_groups, dtype=np.int64)
        self.sums = np.zeros((n_groups, len(hierarchy.names)))
        self.named = np.zeros((n_groups, len(hierarchy.names)), dtype=np.int64)  # cells by their own named type
        self.products: list = [None] * n_groups  # sums of products of two types' probabilities

    @classmethod
    def of_model(cls, config, n_groups: int) -> "GroupTypes | None":
        """Return empty sums for the groups of a model's cells; None for a model without hierarchical cell types."""
        if TYPES not in config.concepts.hierarchical:
            return None
        hierarchy = TypeHierarchy(config.concepts, TYPES, config.uninformative_types)
        return cls(hierarchy, n_groups, threshold=config.type_threshold, calibration=config.group_calibration)

    def add(self, codes: np.ndarray, probabilities: np.ndarray) -> None:
        """Add cells.

        Parameters
        ----------
        codes
            Group of each cell, -1 for none, shape (n_cells,).
        probabilities
            Calibrated type probabilities, shape (n_cells, n_types); NaN for cells without any.
        """
        if not probabilities.shape[1]:  # no cell of this part has probabilities
            return
        known = (codes >= 0) & np.isfinite(probabilities).all(axis=1)
        for code in np.unique(codes[known]):
            values = probabilities[known & (codes == code)].astype(np.float64)
            self.n_cells[code] += len(values)
            self.sums[code] += values.sum(axis=0)
            columns = self.hierarchy.decide(torch.from_numpy(values).float(), self.cell_threshold).named.numpy()
            self.named[code] += np.bincount(columns[columns >= 0], minlength=values.shape[1])
            possible = sp.csr_matrix(np.where(values >= POSSIBLE_PROBABILITY, values, 0.0))
            before = self.products[code]
            self.products[code] = possible.T @ possible if before is None else before + possible.T @ possible

    def decide(self) -> list[GroupType]:
        """Return the cell type of each group."""
        found = [GroupType()] * len(self.n_cells)
        rows = np.flatnonzero(self.n_cells)
        if not len(rows):
            return found
        means = self.sums[rows] / self.n_cells[rows, None]
        probabilities = calibrate_group(means, self.n_cells[rows], self.calibration)
        most_named = np.where(self.named[rows].any(axis=1), self.named[rows].argmax(axis=1), -1)
        decision = decide_group_types(self.hierarchy, probabilities, self.threshold, most_named)
        stated = calibrate_named_group(decision.probability.numpy(), self.n_cells[rows], self.calibration)
        candidates = self.hierarchy.candidates(torch.from_numpy(probabilities).float(), decision.named)
        for i, row in enumerate(rows):
            column = int(decision.named[i])
            name = None if column < 0 else self.hierarchy.names[column]
            highest = 1.0 if name is None else float(stated[i])
            found[row] = GroupType(
                name,
                name and resolve(TYPES, name).term_id,
                None if name is None else round(highest, 4),
                tuple((candidate, round(min(value, highest), 4)) for candidate, value in candidates[i]),
                *self._disagreement(int(row), means[i]),
                int(self.n_cells[row]),
            )
        return found

    def _disagreement(self, row: int, means: np.ndarray) -> tuple[float, tuple[tuple[str, float], ...]]:
        """Return the largest negative covariance of two incompatible types in a group, and these types."""
        columns = np.flatnonzero((means >= MAX_DISAGREEMENT) & self.hierarchy.informative.numpy())
        above = self.hierarchy.above.numpy()[columns].astype(np.int64)
        compatible = (above @ above.T) > 0  # one is above the other, or a third type is below both
        joint = self.products[row][columns][:, columns].toarray() / self.n_cells[row]
        against = np.where(compatible, 0.0, np.outer(means[columns], means[columns]) - joint)
        largest = float(against.max(initial=0.0))
        if round(largest, 4) <= 0:
            return 0.0, ()
        depth = self.hierarchy.depth.numpy()[columns]
        pairs = np.argwhere(against >= SIMILAR_SHARE * largest)
        pair = max(pairs.tolist(), key=lambda pair: (depth[pair].sum(), means[columns[pair[0]]]))
        shares = [(self.hierarchy.names[columns[place]], round(float(means[columns[place]]), 4)) for place in pair]
        return round(largest, 4), tuple(sorted(shares, key=lambda share: (-share[1], share[0])))


def calibrate_group(means: np.ndarray, n_cells: np.ndarray, calibration: dict | None) -> np.ndarray:
    """Calibrate the mean type probabilities of groups.

    The log-odds are scaled by `slope` and shifted by `intercept` for large groups, and not changed for a group of one
    cell: both effects have the weight `1 - 1 / n_cells`.

    Parameters
    ----------
    means
        Mean probability of each type over the cells, shape (n_groups, n_types).
    n_cells
        Cells per group, shape (n_groups,).
    calibration
        Coefficients `slope` and `intercept`, fitted on studies left out of training. None for no calibration.

    Returns
    -------
    Probabilities of the shape of `means`; a type stays at most as probable as a type above it.

    Examples
    --------
    >>> curve = {"slope": 2.0, "intercept": 0.0}
    >>> calibrate_group(np.array([[0.7]]), np.array([1000]), curve).round(2).tolist()
    [[0.84]]
    """
    if calibration is None:
        return np.asarray(means, dtype=np.float64)
    return _curve(means, n_cells[:, None], calibration["slope"], calibration["intercept"])


def calibrate_named_group(probabilities: np.ndarray, n_cells: np.ndarray, calibration: dict | None) -> np.ndarray:
    """Calibrate the probabilities of the types that groups are named, in the manner of :func:`calibrate_group`.

    Parameters
    ----------
    probabilities, n_cells
        Of the named types and of the groups, shape (n_groups,).
    calibration
        Coefficients `named_slope` and `named_intercept`; without them, nothing changes.
    """
    if calibration is None or "named_slope" not in calibration:
        return probabilities
    return _curve(probabilities, n_cells, calibration["named_slope"], calibration["named_intercept"])


def decide_group_types(
    hierarchy: TypeHierarchy, probabilities: np.ndarray, threshold: float, most_named: np.ndarray
) -> TypeDecision:
    """Decide which type to name for each group: by the rule of a cell, but no narrower than most of its cells.

    Parameters
    ----------
    hierarchy
        Hierarchy of the types.
    probabilities
        Calibrated probabilities, shape (n_groups, n_types).
    threshold
        First threshold. Where no informative type reaches it, thresholds fall in steps of `STEP` to
        `LEAST_PROBABILITY`.
    most_named
        Column of the type that most cells of a group are named, -1 for none, shape (n_groups,). A type below it is
        replaced by it.
    """
    decision = _decide_stepwise(hierarchy, probabilities, threshold)
    column = torch.from_numpy(np.asarray(most_named, dtype=np.int64))
    narrower = (column >= 0) & (decision.named >= 0) & hierarchy.above[column.clamp(min=0), decision.named.clamp(min=0)]
    values = torch.from_numpy(np.asarray(probabilities)).float().gather(-1, column.clamp(min=0)[:, None])[:, 0]
    decision.named = torch.where(narrower, column, decision.named)
    decision.probability = torch.where(narrower, values, decision.probability)
    return decision


def _decide_stepwise(hierarchy: TypeHierarchy, probabilities: np.ndarray, threshold: float) -> TypeDecision:
    """Decide by the rule of a cell, with lower thresholds where no type reaches the first."""
    values = torch.from_numpy(np.asarray(probabilities)).float()
    decision = hierarchy.decide(values, threshold)
    for lower in _lower_thresholds(threshold):
        rows = decision.named < 0
        if not rows.any():
            break
        further = hierarchy.decide(values[rows], lower)
        for name in vars(decision):
            getattr(decision, name)[rows] = getattr(further, name)
    return decision


def _lower_thresholds(threshold: float) -> Sequence[float]:
    n = int(np.ceil((threshold - LEAST_PROBABILITY) / STEP - 1e-9))
    return [round(max(LEAST_PROBABILITY, threshold - STEP * (i + 1)), 10) for i in range(n)]


def group_log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Return `log(p / (1 - p))`, with probabilities kept away from 0 and 1."""
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), EPSILON, 1 - EPSILON)
    return np.log(clipped / (1 - clipped))


def _curve(probabilities: np.ndarray, n_cells: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    weight = 1 - 1 / np.maximum(n_cells, 1)
    score = group_log_odds(probabilities) * (1 + weight * (slope - 1)) + weight * intercept
    return 1 / (1 + np.exp(-score))

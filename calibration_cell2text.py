"""Calibrate the probabilities of hierarchical cell types.

A model is surer of its types than it is right on studies it has not seen. The curve of this file is fitted on whole
studies that were left out of training, and stored with the model. Depends on torch only.
"""

import torch


try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError


COEFFICIENTS = ("slope", "intercept", "genes", "one_cell", "depth", "named_slope", "named_intercept")
GROUP_COEFFICIENTS = ("slope", "intercept", "named_slope", "named_intercept")
MANY_GENES = 1000  # the number of genes at which `genes` has no effect
LOG_GENES_RANGE = (-4.0, 0.0)
ONE_CELL_RANGE = (-3.0, 6.0)
DEPTH_UNIT = 10.0
EPSILON = 1e-4


def calibrate_types(
    probabilities: torch.Tensor,
    n_genes: torch.Tensor,
    depth: torch.Tensor,
    calibration: dict,
    one_cell: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Calibrate probabilities of types, given the evidence in each cell.

    The calibrated probability is the logistic function of
    `slope * logit(p) + intercept + genes * log(n_genes / 1000) + one_cell * logit(one_cell) + depth * depth / 10`.
    The slope is positive and the coefficient of depth is not, so a type stays at most as probable as a type above it.

    Args:
        probabilities (`torch.FloatTensor` of shape `(n_cells, n_types)`): Uncalibrated probabilities.
        n_genes (`torch.Tensor` of shape `(n_cells,)`): Number of ranked genes of each cell; from 1,000 on it has no
            effect.
        depth (`torch.FloatTensor` of shape `(n_types,)`): Depth of each type in the hierarchy.
        calibration (`dict`): The coefficients.
        one_cell (`torch.FloatTensor` of shape `(n_cells,)`, *optional*): Probability that the profile is that of one
            cell.

    Returns:
        `torch.FloatTensor` of the shape of `probabilities`.

    Examples:

    ```python
    >>> curve = {"slope": 0.5, "intercept": 0.0}
    >>> calibrate_types(torch.tensor([[0.9]]), torch.tensor([2000]), torch.tensor([3.0]), curve).round(decimals=2)
    tensor([[0.7500]])

    ```
    """
    score = calibration["slope"] * log_odds(probabilities) + calibration["intercept"]
    score = score + calibration.get("genes", 0.0) * log_genes(n_genes)[:, None]
    score = score + calibration.get("depth", 0.0) * depth / DEPTH_UNIT
    if one_cell is not None:
        score = score + calibration.get("one_cell", 0.0) * log_odds(one_cell).clamp(*ONE_CELL_RANGE)[:, None]
    return score.sigmoid()


def calibrate_named(probabilities: torch.Tensor, calibration: dict) -> torch.Tensor:
    """Calibrate the probability of the type that each cell is named.

    Among the types of a cell, the named one is the deepest above a threshold. It is true more or less often than any
    type of its probability, so it has a curve of its own: the logistic function of
    `named_slope * logit(p) + named_intercept`.

    Args:
        probabilities (`torch.FloatTensor` of shape `(n_cells,)`): Probability of the named type.
        calibration (`dict`): The coefficients. Without `named_slope`, nothing changes.
    """
    if "named_slope" not in calibration:
        return probabilities
    return (calibration["named_slope"] * log_odds(probabilities) + calibration["named_intercept"]).sigmoid()


def highest_probability(n_genes: torch.Tensor, calibration: dict) -> torch.Tensor:
    """Return the highest probability that is stated for a cell with `n_genes` genes, shape `(n_cells,)`.

    Args:
        n_genes (`torch.Tensor` of shape `(n_cells,)`): Number of ranked genes of each cell.
        calibration (`dict`): `ceiling` holds points `[n_genes, probability]` of a curve, interpolated over the
            logarithm of the genes. Without it, the highest probability is 1.
    """
    points = calibration.get("ceiling")
    return _ceiling(n_genes, points) if points else torch.ones(len(n_genes), device=n_genes.device)


def log_odds(probabilities: torch.Tensor) -> torch.Tensor:
    """Return `log(p / (1 - p))`, with probabilities kept away from 0 and 1."""
    return probabilities.clamp(EPSILON, 1 - EPSILON).logit()


def log_genes(n_genes: torch.Tensor) -> torch.Tensor:
    """Return `log(n_genes / 1000)` within `LOG_GENES_RANGE`."""
    return (n_genes.clamp(min=1).float() / MANY_GENES).log().clamp(*LOG_GENES_RANGE)


def _ceiling(n_genes: torch.Tensor, points: list) -> torch.Tensor:
    """Interpolate the highest probability over the logarithm of the genes; constant beyond the first and last point."""
    curve = torch.tensor(points, dtype=torch.float32, device=n_genes.device)
    places, values = curve[:, 0].log(), curve[:, 1]
    at = n_genes.clamp(min=1).float().log().clamp(places[0], places[-1])
    right = torch.searchsorted(places, at.contiguous()).clamp(1, max(1, len(points) - 1))
    if len(points) == 1:
        return values.expand(len(at))
    left = right - 1
    share = (at - places[left]) / (places[right] - places[left])
    return values[left] + share * (values[right] - values[left])


def check_calibration(calibration: dict, threshold: float) -> None:
    """Raise `UserError` unless the coefficients keep the order of the types and the ceiling is a curve.

    Args:
        calibration (`dict`): The coefficients; see [`calibrate_types`], [`calibrate_named`] and
            [`highest_probability`].
        threshold (`float`): Least probability of a named type.
    """
    missing = {"slope", "intercept"} - set(calibration)
    unknown = set(calibration) - {*COEFFICIENTS, "ceiling"}
    if missing or unknown:
        raise UserError(
            f"type_calibration has the keys {sorted(calibration)}: expected `slope` and `intercept`, and optionally "
            "`genes`, `one_cell`, `depth`, `named_slope` with `named_intercept`, and `ceiling`."
        )
    if ("named_slope" in calibration) != ("named_intercept" in calibration):
        raise UserError("type_calibration needs named_slope and named_intercept together.")
    least = float(calibrate_named(torch.tensor([threshold]), calibration))
    if calibration.get("named_slope", 1) <= 0 or least < threshold - EPSILON:
        raise UserError(
            f"type_calibration gives a type at type_threshold={threshold} the probability {least:.3f} once it is "
            "named: expected a positive named_slope, and a probability that is not below the threshold."
        )
    if calibration["slope"] <= 0 or calibration.get("depth", 0) > 0:
        raise UserError(
            f"type_calibration has slope={calibration['slope']} and depth={calibration.get('depth', 0)}: expected a "
            "positive slope and a depth of at most 0, since a type is at most as probable as the types above it."
        )
    points = calibration.get("ceiling") or []
    genes = [point[0] for point in points]
    if genes != sorted(set(genes)) or any(n < 1 for n in genes) or not all(0 < point[1] <= 1 for point in points):
        raise UserError(
            f"type_calibration has ceiling={points}: expected points [n_genes, probability] with increasing genes from "
            "1 and probabilities above 0 and up to 1."
        )


def check_group_calibration(calibration: dict) -> None:
    """Raise `UserError` unless the coefficients for groups of cells are complete and keep the order of the types.

    Args:
        calibration (`dict`): `slope` and `intercept`, and optionally `named_slope` with `named_intercept`, and
            `threshold`.
    """
    keys = set(calibration) - {"threshold"}
    if keys not in ({*GROUP_COEFFICIENTS[:2]}, {*GROUP_COEFFICIENTS}):
        raise UserError(
            f"group_calibration has the keys {sorted(calibration)}: expected `slope` and `intercept`, and optionally "
            "`named_slope` with `named_intercept`, and `threshold`."
        )
    if not 0.5 < calibration.get("threshold", 0.6) < 1:
        raise UserError(
            f"group_calibration has threshold={calibration['threshold']}: expected a probability above 0.5 and below 1."
        )
    if calibration["slope"] <= 0 or calibration.get("named_slope", 1) <= 0:
        raise UserError(
            f"group_calibration has slope={calibration['slope']} and named_slope={calibration.get('named_slope', 1)}: "
            "expected positive slopes, since a more probable type stays more probable."
        )


__all__ = [
    "calibrate_named",
    "calibrate_types",
    "check_calibration",
    "check_group_calibration",
    "highest_probability",
    "log_genes",
    "log_odds",
]

"""Choose how a group's cells are combined, and calibrate the result on studies that were left out of training.

    python recipes/mini/group_calibration.py --work FOLDER     # FOLDER of build.py, with the predictions of its folds

Groups are the labels of a study, in samples of several sizes and with cells of other labels mixed in. Every way to
combine cells is calibrated on the other folds. Writes benchmarks/results/group_calibration.json. The study that
benchmarks/group_consensus.py tests as unseen is left out of the fit.
"""

import argparse
import json
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import calibration
import folds
import numpy as np
import torch

from cell2text.describe.group_types import (
    MAX_DISAGREEMENT,
    GroupTypes,
    calibrate_named_group,
    decide_group_types,
    group_log_odds,
)
from cell2text.evaluation.named_types import named_type_metrics
from cell2text.files import write_atomically
from cell2text.ontology.graph import load_graph
from declining_cell2text import TYPE_THRESHOLD
from statements_cell2text import ONE_CELL


RESULTS = folds.PROJECT / "benchmarks" / "results" / "group_calibration.json"
TEST_STUDIES = ("scp1884_gut",)
SIZES, NOISE, REPEATS, MIN_CELLS = (5, 20, 60), (0.0, 0.1, 0.2), 2, 3
MIXTURE_CELLS, MIXTURE_SHARES, MIN_MIXED = 40, (0.2, 0.35, 0.5), 10
THRESHOLDS = (0.04, 0.06, MAX_DISAGREEMENT, 0.1)
TYPE_THRESHOLDS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
NEARLY = 0.005  # difference in the share of right groups for which types of more depth are preferred
LEAST_PROBABILITY = 0.05  # of a type that is judged
RECIPE = "base"


def clipped_log(values: np.ndarray) -> np.ndarray:
    return np.log(np.clip(values, 1e-4, 1.0))


# Scores of a group's types, from probabilities of shape (n_cells, n_types).
COMBINATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda cells: group_log_odds(cells.mean(axis=0)),
    "mean log-odds": lambda cells: group_log_odds(cells).mean(axis=0),
    "mean log-probability": lambda cells: group_log_odds(np.exp(clipped_log(cells).mean(axis=0))),
    "product of experts": lambda cells: group_log_odds(cells).sum(axis=0),
}


@dataclass
class LeftOutFold:
    """Calibrated probabilities of the cells of one fold, and what their texts name."""

    fold: calibration.Fold
    probabilities: np.ndarray
    named: list[str | None]
    one_cell: np.ndarray

    @property
    def ids(self) -> list[str | None]:
        return [self.fold.terms.get(name) for name in self.fold.hierarchy.names]


@dataclass
class LabelledGroup:
    """A group of cells of a study that was left out: rows of a fold, and the label that most of them have."""

    left_out: LeftOutFold
    study: str
    label: str
    rows: np.ndarray

    def cells(self) -> np.ndarray:
        """Return the probabilities of the cells whose profile is that of one cell; of all if there is none."""
        rows = self.rows[self.left_out.one_cell[self.rows]]
        return self.left_out.probabilities[rows if len(rows) else self.rows].astype(np.float64)

    def truth(self) -> np.ndarray:
        """Return 1 for the label and the types above it, 0 for unrelated types, NaN for types below it."""
        graph = load_graph("CL")
        above = {self.label, *graph.ancestors(self.label)}
        found = [
            np.nan
            if term is None or (term not in above and self.label in graph.ancestors(term))
            else float(term in above)
            for term in self.left_out.ids
        ]
        return np.array(found)

    def majority(self) -> str | None:
        """Return the term that most cells are named, the first in alphabetical order of equally frequent ones."""
        counts = Counter(term for row in self.rows if (term := self.left_out.named[row]) is not None)
        return min(counts, key=lambda term: (-counts[term], term)) if counts else None


def left_out_folds(args: Namespace) -> list[LeftOutFold]:
    """Return the predictions of every fold, calibrated on the other folds."""
    plan = folds.load_plan()
    parts = [calibration.Fold(folds.load_predictions(args, RECIPE, fold)) for fold in plan["folds"]]
    found = []
    for index, fold in enumerate(parts):
        curve = calibration.fit(parts[:index] + parts[index + 1 :]) | {"ceiling": plan["ceiling"]}
        values = fold.hierarchy.calibrate(fold.raw, fold.n_genes, curve, TYPE_THRESHOLD, fold.one_cell).numpy()
        kinds = fold.part["profile_names"][fold.part["profile"].argmax(-1)]
        found.append(LeftOutFold(fold, values, fold.named(curve, TYPE_THRESHOLD)[0], kinds == ONE_CELL))
    return found


def label_pools(left_out: LeftOutFold) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield every study with the rows of its real, labelled cells by label."""
    part, graph = left_out.fold.part, load_graph("CL")
    real = (part["kind"] == "real") & (part["actual_profile"] == ONE_CELL)
    for study in sorted(set(part["study"][real].tolist())):
        rows = np.flatnonzero(real & (part["study"] == study))
        labels = part["term"][rows]
        yield study, {label: rows[labels == label] for label in sorted(set(labels.tolist())) if label in graph}


def labelled_groups(left_out: LeftOutFold, rng: np.random.Generator) -> Iterator[LabelledGroup]:
    """Yield groups of one label in several sizes, with and without cells of other labels."""
    for study, pools in label_pools(left_out):
        for label, own in pools.items():
            others = np.concatenate([[], *(rows for name, rows in pools.items() if name != label)]).astype(int)
            sizes = sorted({min(size, len(own)) for size in SIZES})
            for size, noise in ((size, noise) for size in sizes if size >= MIN_CELLS for noise in NOISE):
                n_others = round(noise * size / (1 - noise))
                if noise and not (n_others and len(others)):
                    continue
                for _ in range(REPEATS):
                    mixed = rng.choice(others, min(n_others, len(others)), replace=False)
                    yield LabelledGroup(
                        left_out, study, label, np.concatenate([rng.choice(own, size, replace=False), mixed])
                    )


def study_weights(groups: list[LabelledGroup]) -> np.ndarray:
    """Return one weight per group: studies weigh the same, cultured cells less."""
    sizes = Counter(group.study for group in groups)
    return np.array([calibration.weight_of(group.study, "real") / sizes[group.study] for group in groups])


def curve_features(scores: np.ndarray, n_cells: int) -> np.ndarray:
    """Return features whose coefficients are slope - 1 and intercept of `calibrate_group`, without the score itself."""
    weight = 1 - 1 / n_cells
    return np.stack([weight * scores, np.full_like(scores, weight)], axis=-1)


def regress(scores: list, features: list, truth: list, weights: list) -> list[float]:
    """Return slope and intercept of a weighted logistic regression whose score has the coefficient 1."""
    score, feature, true, weight = (np.concatenate(part) for part in (scores, features, truth, weights))
    weight = weight / weight.sum()

    def loss(coefficients):
        value = score + feature @ coefficients
        found = (weight * (np.logaddexp(0, value) - true * value)).sum()
        gradient = feature.T @ (weight * (1 / (1 + np.exp(-value)) - true))
        return found + calibration.PENALTY * (coefficients**2).sum(), gradient + 2 * calibration.PENALTY * coefficients

    found = calibration.minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-0.99, None), (None, None)]).x
    return [round(float(found[0]) + 1, 4), round(float(found[1]), 4)]


def fit(groups: list[LabelledGroup], combine: Callable, threshold: float = TYPE_THRESHOLD) -> dict[str, float]:
    """Fit `group_calibration`: first the curve of all types, then that of the types that are named with it."""
    parts: tuple[list, list, list, list] = ([], [], [], [])
    for group, weight in zip(groups, study_weights(groups)):
        cells, truth = group.cells(), group.truth()
        scores = combine(cells)
        judged = np.isfinite(truth) & (cells.mean(axis=0) > LEAST_PROBABILITY)
        judged &= group.left_out.fold.hierarchy.informative.numpy()
        if judged.any():
            values = (scores[judged], curve_features(scores[judged], len(cells)), truth[judged])
            for part, value in zip(parts, (*values, np.full(judged.sum(), weight / judged.sum()))):
                part.append(value)
    curve = dict(zip(("slope", "intercept"), regress(*parts))) | {"threshold": threshold}
    named_parts: tuple[list, list, list, list] = ([], [], [], [])
    for group, weight in zip(groups, study_weights(groups)):
        term, probability = decide(group, combine, curve)
        if term is not None:
            score = group_log_odds(np.array([probability]))
            true = np.array([float(load_graph("CL").related(term, group.label))])
            values = (score, curve_features(score, len(group.cells())), true, np.array([weight]))
            for part, value in zip(named_parts, values):
                part.append(value)
    return curve | dict(zip(("named_slope", "named_intercept"), regress(*named_parts)))


def decide(group: LabelledGroup, combine: Callable, curve: dict) -> tuple[str | None, float]:
    """Return the term that a group is named, with its probability."""
    cells, hierarchy = group.cells(), group.left_out.fold.hierarchy
    scores = combine(cells)
    value = scores + curve_features(scores, len(cells)) @ np.array([curve["slope"] - 1, curve["intercept"]])
    majority = group.majority()
    most_named = np.array([-1 if majority is None else group.left_out.ids.index(majority)])
    decision = decide_group_types(hierarchy, 1 / (1 + np.exp(-value[None])), curve["threshold"], most_named)
    column = int(decision.named[0])
    if column < 0:
        return None, np.nan
    stated = calibrate_named_group(decision.probability.numpy().astype(float), np.array([len(cells)]), curve)
    return group.left_out.ids[column], float(stated[0])


def score(groups: list[LabelledGroup], named: list, probabilities: np.ndarray | None = None) -> dict[str, float]:
    """Return the figures of named types, means over studies of tissue."""
    found = []
    for study in sorted({group.study for group in groups} - {*calibration.CELL_LINES}):
        rows = [i for i, group in enumerate(groups) if group.study == study]
        labels, terms = [groups[i].label for i in rows], [named[i] for i in rows]
        figures = named_type_metrics(terms, labels, None if probabilities is None else probabilities[rows])
        exact = float(np.mean([term == label for term, label in zip(terms, labels)]))
        found.append(figures | {"right": figures["named_share"] * figures["named_true"], "exact": exact})
    return {name: round(float(np.mean([figures[name] for figures in found])), 4) for name in found[0]}


def cross_fit(groups: list[LabelledGroup], combine: Callable, threshold: float = TYPE_THRESHOLD) -> dict[str, float]:
    """Calibrate each fold on the others, and score the types that its groups are named."""
    named: list[str | None] = [None] * len(groups)
    probabilities = np.full(len(groups), np.nan)
    for fold in {id(group.left_out): group.left_out for group in groups}.values():
        curve = fit([group for group in groups if group.left_out is not fold], combine, threshold)
        for i, group in enumerate(groups):
            if group.left_out is fold:
                named[i], probabilities[i] = decide(group, combine, curve)
    return score(groups, named, probabilities)


def choose_threshold(scores: dict[float, dict[str, float]]) -> float:
    """Return the lowest threshold with nearly the largest share of right groups: a higher one names broader types."""
    most = max(figures["right"] for figures in scores.values())
    return min(threshold for threshold, figures in scores.items() if figures["right"] >= most - NEARLY)


def disagreement_of(left_out: LeftOutFold, rows: np.ndarray) -> float:
    """Return the disagreement of the cells of some rows."""
    types = GroupTypes(left_out.fold.hierarchy, 1)
    types.add(np.zeros(len(rows), dtype=int), left_out.probabilities[rows])
    return types.decide()[0].disagreement


def flagged_shares(parts: list[LeftOutFold], rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Return the share of groups of one label and of mixtures of two that each threshold flags, means over studies."""
    found: dict[str, dict[str, list[float]]] = {}
    for left_out in parts:
        for study, pools in label_pools(left_out):
            pools = {label: rows[left_out.one_cell[rows]] for label, rows in pools.items()}
            pools = {label: rows for label, rows in pools.items() if len(rows) >= MIN_MIXED}
            for rows in pools.values():
                values = found.setdefault("one label", {}).setdefault(study, [])
                values.append(disagreement_of(left_out, rng.permutation(rows)[:MIXTURE_CELLS]))
            for (first, own), (second, other) in combinations(pools.items(), 2):
                if load_graph("CL").related(first, second):
                    continue
                for share in MIXTURE_SHARES:
                    n_other = round(share * MIXTURE_CELLS)
                    rows = np.concatenate([rng.choice(own, MIXTURE_CELLS - n_other), rng.choice(other, n_other)])
                    values = found.setdefault(f"{share:.0%} of another label", {}).setdefault(study, [])
                    values.append(disagreement_of(left_out, rows))
    return {
        kind: {
            str(threshold): round(float(np.mean([np.mean(np.array(v) >= threshold) for v in studies.values()])), 4)
            for threshold in THRESHOLDS
        }
        | {"groups": sum(map(len, studies.values()))}
        for kind, studies in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/mini"), help="folder of build.py")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    rng, parts = np.random.default_rng(0), left_out_folds(args)
    groups = [group for left_out in parts for group in labelled_groups(left_out, rng)]
    groups = [group for group in groups if group.study not in TEST_STUDIES]
    mean = COMBINATIONS["mean"]
    by_threshold = {threshold: cross_fit(groups, mean, threshold) for threshold in TYPE_THRESHOLDS}
    results = {
        "groups": len(groups),
        "studies": sorted({group.study for group in groups}),
        "calibration": fit(groups, mean, choose_threshold(by_threshold)),
        "left_out": {"majority of texts": score(groups, [group.majority() for group in groups])}
        | {name: cross_fit(groups, combine) for name, combine in COMBINATIONS.items()},
        "thresholds": by_threshold,
        "flagged": flagged_shares(parts, rng),
    }
    write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

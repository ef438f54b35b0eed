"""Fit the calibration of type probabilities on studies that were left out, and score the named types.

A pair is a cell of a study left out with one of the types that the model finds possible. It is true if the type is the
label or above it; types below the label are not judged, since the label does not tell.
"""

from collections import Counter

import numpy as np
import torch
from scipy.optimize import minimize

from calibration_cell2text import DEPTH_UNIT, ONE_CELL_RANGE, log_genes, log_odds
from cell2text.evaluation.named_types import HIGH_PROBABILITY, named_type_metrics
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import label_of
from cell2text.training.concept_targets import uninformative_types
from concepts_cell2text import ConceptNames
from declining_cell2text import TYPE_THRESHOLD
from statements_cell2text import ONE_CELL, TypeHierarchy


LEAST_PROBABILITY = 0.05  # of a pair
WEIGHTS = {"real": 1.0, "thinned": 0.3, "simulated": 0.15}  # of a study, shared by its pairs
CELL_LINE_WEIGHT = 0.3  # of a study of cultured cells, which no tissue resembles
CELL_LINES = ("pollen2014_mixed", "churko_ipsc_cm", "li2017_celllines", "blakeley2015_embryo")
MIN_CELLS = 20  # of a study that is scored
PENALTY = 1e-4  # of the squared distance to no calibration


def type_names(part: dict) -> ConceptNames:
    """Return the hierarchy of the types that the model of a fold predicts."""
    graph = load_graph("CL")
    terms = {label_of(term): term for term in graph.terms}
    known = set(part["names"].tolist())
    parents = {
        name: [label_of(parent) for parent in graph.parents[terms[name]] if label_of(parent) in known]
        for name in part["names"].tolist()
    }
    return ConceptNames(hierarchical={"cell_type": parents})


class Fold:
    """Predictions of the cells left out of one training.

    Parameters
    ----------
    part
        Arrays of `folds.predict`.
    """

    def __init__(self, part: dict):
        self.part, names = part, type_names(part)
        self.hierarchy = TypeHierarchy(names, "cell_type", uninformative_types(part["names"].tolist()))
        self.raw = torch.from_numpy(part["probabilities"].astype(np.float32))
        self.n_genes = torch.from_numpy(part["n_genes"])
        column = part["profile_names"].tolist().index(ONE_CELL)
        self.one_cell = torch.from_numpy(part["profile"][:, column].astype(np.float32))
        graph = load_graph("CL")
        self.terms = {label_of(term): term for term in graph.terms}

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return features, truth and weight of the pairs of labelled profiles of one cell."""
        graph, features, truth, weights = load_graph("CL"), [], [], []
        logit, genes = log_odds(self.raw).numpy(), log_genes(self.n_genes).numpy()
        one_cell = log_odds(self.one_cell).clamp(*ONE_CELL_RANGE).numpy()
        depth = self.hierarchy.depth.numpy() / DEPTH_UNIT
        possible = (self.raw.numpy() > LEAST_PROBABILITY) & self.hierarchy.informative.numpy()
        ids = [self.terms.get(name) for name in self.hierarchy.names]
        for study, kind in sorted({*zip(self.part["study"].tolist(), self.part["kind"].tolist())}):
            of_study = (self.part["study"] == study) & (self.part["kind"] == kind)
            before = len(truth)
            for row in np.flatnonzero(of_study & (self.part["actual_profile"] == ONE_CELL) & (self.part["term"] != "")):
                label = self.part["term"][row]
                if label not in graph:
                    continue
                above = graph.ancestors(label)
                for column in np.flatnonzero(possible[row]):
                    term = ids[column]
                    if term is None or (term not in above and label in graph.ancestors(term)):
                        continue
                    features.append((logit[row, column], 1, genes[row], one_cell[row], depth[column]))
                    truth.append(term in above)
            n_pairs = len(truth) - before
            weights += n_pairs * [weight_of(study, kind) / max(1, n_pairs)]
        return np.array(features), np.array(truth, dtype=float), np.array(weights)

    def named(self, calibration: dict | None, threshold: float) -> tuple[list, np.ndarray]:
        """Return the term that each cell is named, None for none, and its probability."""
        values = self.raw
        if calibration is not None:
            values = self.hierarchy.calibrate(self.raw, self.n_genes, calibration, threshold, self.one_cell)
        decision = self.hierarchy.decide(values, threshold)
        likely = self.part["profile_names"][self.part["profile"].argmax(-1)]
        columns = np.where(likely == ONE_CELL, decision.named.numpy(), -1)
        terms = [self.terms.get(self.hierarchy.names[column]) if column >= 0 else None for column in columns]
        return terms, np.where(columns >= 0, decision.probability.numpy(), np.nan)

    def named_pairs(self, calibration: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return features, truth and weight of the named types of labelled profiles of one cell."""
        graph, found = load_graph("CL"), []
        terms, probabilities = self.named(calibration, TYPE_THRESHOLD)
        for row, (term, label) in enumerate(zip(terms, self.part["term"].tolist())):
            if term is not None and label in graph and self.part["actual_profile"][row] == ONE_CELL:
                study, kind = self.part["study"][row], self.part["kind"][row]
                value = float(log_odds(torch.tensor(probabilities[row])))
                found.append((value, graph.related(term, label), study, kind))
        groups = Counter(group[2:] for group in found)
        weights = [weight_of(*group[2:]) / groups[group[2:]] for group in found]
        features = np.array([(value, 1.0) for value, *_ in found]).reshape(-1, 2)
        return features, np.array([true for _, true, *_ in found], dtype=float), np.array(weights)


def weight_of(study: str, kind: str) -> float:
    """Return the weight of all pairs of a study's cells of one kind."""
    return WEIGHTS[kind] * (CELL_LINE_WEIGHT if study in CELL_LINES else 1.0)


def fit(folds: list[Fold]) -> dict:
    """Fit the coefficients of `calibration_cell2text` by weighted logistic regression.

    First those of all types, then those of the types that are named with them.
    """
    bounds = [(1e-3, None), (None, None), (0, None), (0, None), (None, 0)]
    names = ("slope", "intercept", "genes", "one_cell", "depth")
    calibration = dict(zip(names, regress([fold.pairs() for fold in folds], bounds)))
    named = regress([fold.named_pairs(calibration) for fold in folds], bounds[:2])
    return calibration | dict(zip(("named_slope", "named_intercept"), named))


def regress(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], bounds: list[tuple]) -> list[float]:
    """Return the coefficients of a weighted logistic regression on features, truth and weights."""
    features, truth, weights = (np.concatenate([part[i] for part in parts]) for i in range(3))
    weights, start = weights / weights.sum(), np.eye(len(bounds))[0]

    def loss(coefficients):
        score = features @ coefficients
        found = np.logaddexp(0, score) - truth * score
        gradient = features.T @ (weights * (1 / (1 + np.exp(-score)) - truth))
        away = coefficients - start
        return (weights * found).sum() + PENALTY * (away**2).sum(), gradient + 2 * PENALTY * away

    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return [round(float(value), 4) for value in found]


def cross_fit(parts: list[dict], ceiling: list | None = None) -> dict:
    """Calibrate each fold on the others, and score the types that its cells are named.

    Means are over studies; a figure of named cells is missing for a study without any.
    """
    folds, studies = [Fold(part) for part in parts], {}
    for index, fold in enumerate(folds):
        calibration = fit(folds[:index] + folds[index + 1 :]) | ({"ceiling": ceiling} if ceiling else {})
        studies |= score(fold, calibration)
    keys = ("named_share", "named_true", "named_depth", "ece", "wrong_above_90")

    def mean(lines: bool) -> dict[str, float]:
        chosen = [
            figures
            for name, figures in studies.items()
            if name.endswith(": real") and (name.removesuffix(": real") in CELL_LINES) == lines
        ]
        known = {key: [figures[key] for figures in chosen if figures[key] is not None] for key in keys}
        return {key: round(float(np.mean(values)), 4) for key, values in known.items()}

    calibration = fit(folds) | ({"ceiling": ceiling} if ceiling else {})
    return {"calibration": calibration, "mean": mean(False), "mean_of_cell_lines": mean(True), "studies": studies}


def score(fold: Fold, calibration: dict | None, threshold: float = TYPE_THRESHOLD) -> dict[str, dict]:
    """Return the figures of every study and kind of cells that has enough labelled cells."""
    terms, probabilities = fold.named(calibration, threshold)
    part, found = fold.part, {}
    for study, kind in sorted({*zip(part["study"].tolist(), part["kind"].tolist())}):
        of_study = (part["study"] == study) & (part["kind"] == kind)
        rows = np.flatnonzero(of_study & (part["actual_profile"] == ONE_CELL) & (part["term"] != ""))
        if len(rows) >= MIN_CELLS:
            figures = named_type_metrics([terms[i] for i in rows], part["term"][rows].tolist(), probabilities[rows])
            found[f"{study}: {kind}"] = {"cells": len(rows)} | {
                name: None if np.isnan(value) else round(value, 4) for name, value in figures.items()
            }
    for profile in ("ambient RNA", "two cells", "no cell"):
        rows = np.flatnonzero(part["actual_profile"] == profile)
        if len(rows):
            stated = np.nan_to_num(probabilities[rows])
            named = np.mean([terms[i] is not None for i in rows])
            above = round(float((stated > HIGH_PROBABILITY).mean()), 4)
            figures = {"cells": len(rows), "named_share": round(float(named), 4), "above_90": above}
            found[f"{part['fold']}: {profile}"] = figures
    return found

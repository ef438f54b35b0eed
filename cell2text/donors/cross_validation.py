"""Cross-validate the prediction of samples by donor: no part of a fit sees a donor of its test fold.

Depends on the feature space and the attention mixed model.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

from cell2text.donors.attention_model import AttentionMixedModel, PooledPrediction
from cell2text.donors.discrimination import donor_metrics
from cell2text.donors.feature_space import FeatureSpace
from cell2text.donors.features import EMBEDDING, CellFeatures
from cell2text.donors.options import DonorOptions
from cell2text.donors.samples import Samples
from cell2text.errors import UserError


MAX_LEFT_OUT_ONE_BY_ONE, N_FOLDS = 20, 10  # donors


@dataclass(frozen=True)
class DonorPrediction:
    """Out-of-fold predictions of samples, and what they rest on.

    Parameters
    ----------
    samples
        One row per sample: `sample`, `donor`, `target`, `cells`, `fold`, `log_odds` and `probability` of the positive
        value.
    concepts
        One row per concept, and one for all embedding dimensions: `concept`, `group`, `weight` (log-odds per standard
        deviation between cells), `contribution` (to the difference in log-odds between the classes) and
        `same_sign_in_folds` (share of the folds in which the contribution has the sign of its mean).
    attention
        Attention of each cell times the number of cells of its sample, so that 1 is the average, shape (n_cells,). NaN
        for cells that were not used.
    contribution
        What each cell adds to the log-odds of its sample; NaN for cells that were not used.
    metrics
        AUROC with its interval, balanced accuracy, Brier score, and numbers of donors, samples and folds.
    """

    samples: pd.DataFrame
    concepts: pd.DataFrame
    attention: np.ndarray
    contribution: np.ndarray
    metrics: dict


def donor_folds(samples: Samples, folds: int | None = None, seed: int = 0) -> np.ndarray:
    """Return the test fold of each sample; all samples of a donor are in the same fold.

    Parameters
    ----------
    samples
        The samples.
    folds
        Number of folds. By default, each donor is left out in turn; more than 20 donors, with 10 or more of each class,
        form 10 folds.
    seed
        Random seed for the assignment of donors.

    Raises
    ------
    UserError
        If there are more folds than donors of a class, unless each donor is a fold, or a fold would train on one class.

    Examples
    --------
    >>> names, labels = np.array(list("abcd")), np.array([True, True, False, False])
    >>> donor_folds(Samples(names, names, labels.astype(str), labels, "True", np.arange(4))).tolist()
    [0, 1, 2, 3]
    """
    n_donors, n_smaller = len(set(samples.donors)), min(samples.donors_of(True), samples.donors_of(False))
    if folds is None:
        folds = N_FOLDS if n_donors > MAX_LEFT_OUT_ONE_BY_ONE and n_smaller >= N_FOLDS else n_donors
    if n_smaller < folds < n_donors:
        raise UserError(
            f"folds={folds}: a class has only {n_smaller} donors. Pass at most folds={n_smaller}, or folds={n_donors} "
            "to leave each donor out in turn."
        )
    one_by_one = folds == n_donors
    splitter = LeaveOneGroupOut() if one_by_one else StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    found = np.zeros(len(samples), dtype=np.int64)
    for fold, (train, test) in enumerate(splitter.split(found, samples.labels, samples.donors)):
        found[test] = fold
        if len(set(samples.labels[train])) < 2:
            raise UserError(f"folds={folds}: a fold would train on one class only. Pass folds={n_donors}.")
    return found


def predict_donors(features: CellFeatures, samples: Samples, options: DonorOptions) -> DonorPrediction:
    """Predict every sample with a model that was fitted without its donor.

    Parameters
    ----------
    features
        Features of the cells; rows with NaN are not used.
    samples
        Samples of the same cells. Each needs a cell with features.
    options
        Folds, pooling and random seed.
    """
    usable = np.flatnonzero(features.usable)
    known = replace(features, values=features.values[usable])
    codes = samples.codes[usable]
    folds = donor_folds(samples, options.folds, options.seed)
    probability, log_odds = np.full(len(samples), np.nan), np.full(len(samples), np.nan)
    attention, contribution = np.full(len(samples.codes), np.nan), np.full(len(samples.codes), np.nan)
    weights, contributions = [], []
    for fold in range(folds.max() + 1):
        fitted = _fit_fold(known, codes, samples, folds != fold, options)
        test = np.flatnonzero(folds[codes] == fold)
        found = fitted.predict(known.values[test], codes[test])
        of_fold = np.flatnonzero(folds == fold)
        probability[of_fold], log_odds[of_fold] = found.probability, found.log_odds
        attention[usable[test]] = found.attention * np.bincount(codes)[codes[test]]
        contribution[usable[test]] = found.contribution
        weights.append(fitted.weights)
        contributions.append(fitted.contributions)
    table = pd.DataFrame({
        "sample": samples.names, "donor": samples.donors, "target": samples.values,
        "cells": np.bincount(codes, minlength=len(samples)), "fold": folds + 1, "log_odds": log_odds,
        "probability": probability,
    })  # fmt: skip
    concepts = _concept_table(known, np.array(weights), np.array(contributions))
    metrics = _metrics(samples, probability, log_odds, folds)
    return DonorPrediction(table, concepts, attention, contribution, metrics)


@dataclass(frozen=True)
class _FittedFold:
    """A feature space and a model, fitted to the training samples of a fold.

    Parameters
    ----------
    weights
        Log-odds per standard deviation of each feature between training cells.
    contributions
        What each feature adds to the difference in log-odds between the classes of the training samples.
    """

    space: FeatureSpace
    centre: np.ndarray
    model: AttentionMixedModel
    weights: np.ndarray
    contributions: np.ndarray

    def predict(self, values: np.ndarray, codes: np.ndarray) -> PooledPrediction:
        """Predict samples from features of their cells, in the order of the codes."""
        return self.model.predict(self.space.transform(values) - self.centre, np.unique(codes, return_inverse=True)[1])


def _fit_fold(
    features: CellFeatures, codes: np.ndarray, samples: Samples, training: np.ndarray, options: DonorOptions
) -> _FittedFold:
    cells = np.flatnonzero(training[codes])
    present, own = np.unique(codes[cells], return_inverse=True)
    labels = samples.labels[present]
    chosen = replace(features, values=features.values[cells])
    space = FeatureSpace.fit(chosen, own)
    components = space.transform(chosen.values)
    means = _sums(components, own) / np.bincount(own)[:, None]
    centre = (means[labels].mean(axis=0) + means[~labels].mean(axis=0)) / 2
    model = AttentionMixedModel(components.shape[1], attention=options.attention, seed=options.seed)
    model.fit(components - centre, own, labels)
    weights = space.feature_weights(model.weights)
    pooled = _sums(chosen.values * model.predict(components - centre, own).attention[:, None], own)
    difference = pooled[labels].mean(axis=0) - pooled[~labels].mean(axis=0)
    return _FittedFold(space, centre, model, weights * chosen.values.std(axis=0), weights * difference)


def _sums(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return sums over the cells of each sample, shape (n_samples, n_columns)."""
    sums = np.zeros((codes.max() + 1, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums


def _concept_table(features: CellFeatures, weights: np.ndarray, contributions: np.ndarray) -> pd.DataFrame:
    """Return weights and contributions of the concepts, largest contribution first, from values by fold."""
    of_embedding = features.groups == EMBEDDING
    concepts = np.flatnonzero(~of_embedding)
    by_row = np.column_stack([contributions[:, concepts], contributions[:, of_embedding].sum(axis=1)])
    mean = by_row.mean(axis=0)
    table = pd.DataFrame({
        "concept": [*features.names[concepts], "all dimensions"],
        "group": [*features.groups[concepts], EMBEDDING],
        "weight": [*weights[:, concepts].mean(axis=0), np.nan],
        "contribution": mean,
        "same_sign_in_folds": (np.sign(by_row) == np.sign(mean)).mean(axis=0),
    })  # fmt: skip
    order = np.argsort(-table["contribution"].abs().to_numpy(), kind="stable")
    return table.iloc[order].reset_index(drop=True)


def _metrics(samples: Samples, probability: np.ndarray, log_odds: np.ndarray, folds: np.ndarray) -> dict:
    with_positive, without = samples.donors_of(True), samples.donors_of(False)
    return {
        "positive": samples.positive,
        **donor_metrics(samples.labels, probability, with_positive, without),
        "donors": len(set(samples.donors)),
        "donors_with_positive": with_positive,
        "donors_with_other_values": without,
        "samples": len(samples),
        "folds": int(folds.max()) + 1,
    }

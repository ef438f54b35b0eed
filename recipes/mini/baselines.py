"""Baselines on the rows of the packaged model: kNN, logistic regression and LightGBM, calibrated on the same folds.

They learn from the same real and simulated cells, read the same rank-weighted genes (reduced by singular value
decomposition), and name types in the same way: probabilities are summed up the Cell Ontology, calibrated on the studies
left out, and the deepest type above the threshold is named. Writes benchmarks/results/mini_baselines.json.
"""

import json
from argparse import Namespace
from pathlib import Path

import calibration
import folds
import lightgbm
import numpy as np
import scipy.sparse as sp
from datasets import Dataset, load_dataset
from sklearn.base import clone
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from stages import build_once

from cell2text.files import write_atomically
from cell2text.ontology.terms import label_of
from cell2text.training.class_balance import row_weights
from cell2text.training.concept_pretraining import labelled_rows
from cell2text.training.concept_targets import ROOT, claims_by_type_name, type_hierarchy, type_name
from cell2text.training.row_columns import column_values
from concepts_cell2text import ConceptNames
from statements_cell2text import ONE_CELL


BASELINES = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "mini_baselines.json"
COMPONENTS, TRAINING_CELLS = 128, 12_000
# LightGBM's defaults diverge on this many rare classes: leaves of tiny Hessian take unbounded values.
LIGHTGBM = {
    "n_estimators": 120, "learning_rate": 0.1, "num_leaves": 15, "max_bin": 63, "reg_lambda": 10,
    "min_sum_hessian_in_leaf": 1, "min_child_samples": 5, "n_jobs": 1, "verbose": -1,
}  # fmt: skip
MODELS = {
    "kNN": KNeighborsClassifier(15, weights="distance", metric="cosine"),
    "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=60)),
    "LightGBM": lightgbm.LGBMClassifier(**LIGHTGBM),
}


def compare(args: Namespace, rows_folder: Path) -> None:
    """Train every baseline on every fold and on all training rows, and score it like the packaged model."""
    plan = folds.load_plan()
    for fold in (*plan["folds"], None):
        predict_all(args, rows_folder, plan, fold)
    results = {}
    for name in MODELS:
        parts = [load(args, name, fold) for fold in plan["folds"]]
        found = calibration.cross_fit(parts, plan["ceiling"])
        test = calibration.score(calibration.Fold(load(args, name, None)), found["calibration"])
        results[name] = {"mean": found["mean"], "studies": found["studies"], "test": test}
        print(name, json.dumps(found["mean"]), flush=True)
    models = {name: repr(model) for name, model in MODELS.items()}
    settings = {"components": COMPONENTS, "training_cells": TRAINING_CELLS, "models": models}
    write_atomically(BASELINES, json.dumps({"settings": settings, "baselines": results}, indent=1) + "\n")


def predictions_file(args: Namespace, name: str, fold: str | None) -> Path:
    return args.work / "baselines" / f"{name} {fold or 'test'}.npz".replace(" ", "_")


def load(args: Namespace, name: str, fold: str | None) -> dict[str, np.ndarray]:
    with np.load(predictions_file(args, name, fold), allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files} | {"fold": np.array(fold or "test")}


def predict_all(args: Namespace, rows_folder: Path, plan: dict, fold: str | None) -> None:
    """Train all baselines without the studies of a fold and store predictions of these; of the test for None."""
    rows = load_dataset(str(rows_folder))
    held_out = plan["folds"].get(fold, [])
    learned = folds.training_rows(rows["train"], held_out)
    predicted = rows["test"] if fold is None else folds.cells_to_predict(rows, held_out, plan["cells_per_study"])
    features, labels, reduce = training_features(learned)
    for name, untrained in MODELS.items():
        recipe = rows_folder.with_suffix(".recipe").read_text()
        settings = json.dumps([recipe, held_out, TRAINING_CELLS, COMPONENTS, repr(untrained)])
        out = predictions_file(args, name, fold)
        out.parent.mkdir(parents=True, exist_ok=True)

        def train_and_predict(untrained=untrained, out=out) -> None:
            model = clone(untrained).fit(features, labels)
            own = np.concatenate([model.predict_proba(reduce(batch)) for batch in batches(predicted)])
            np.savez(out, **prediction(own, model.classes_, learned, predicted))

        build_once(out, settings, train_and_predict)


def training_features(rows: Dataset):
    """Return features and labels of sampled training rows, and the function that computes features of other rows."""
    sample, labels = sampled_rows(rows)
    matrix = rank_weights(column_values(sample, "cells"))
    svd = TruncatedSVD(COMPONENTS, random_state=0).fit(matrix)
    return svd.transform(matrix), labels, lambda cells: svd.transform(rank_weights(cells, matrix.shape[1]))


def sampled_rows(rows: Dataset) -> tuple[Dataset, np.ndarray]:
    """Return `TRAINING_CELLS` labelled rows, sampled with the weights of the packaged model, and their labels."""
    kinds = column_values(rows, "profile")
    rows = rows.select([i for i in labelled_rows(rows) if kinds[i] != "two cells"])
    weights = row_weights(rows, 0.5, 0.5)
    chosen = np.random.default_rng(0).choice(len(rows), TRAINING_CELLS, p=weights / weights.sum())
    sample = rows.select(np.sort(chosen))
    pairs = zip(column_values(sample, "cell_type"), column_values(sample, "cell_type_ontology_term_id"))
    return sample, np.array([type_name(*pair) or label_of(ROOT) for pair in pairs])


def rank_weights(cells, n_tokens: int = 65_536) -> sp.csr_matrix:
    """Return the weights that the model gives the ranked genes of cells, of unit sum."""
    lengths = np.array([len(cell[0]) for cell in cells])
    tokens = np.concatenate([np.asarray(cell[0], dtype=np.int64) for cell in cells])
    ranks = np.concatenate([np.arange(n) for n in lengths])
    weights = np.log(1025 / (ranks + 1))
    matrix = sp.csr_matrix((weights, tokens, np.concatenate([[0], np.cumsum(lengths)])), shape=(len(cells), n_tokens))
    return sp.diags_array(1 / np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1e-9)) @ matrix


def batches(rows: Dataset, size: int = 512):
    for batch in rows.select_columns("cells").iter(size):
        yield batch["cells"]


def prediction(own: np.ndarray, classes: np.ndarray, learned: Dataset, rows: Dataset) -> dict[str, np.ndarray]:
    """Return the arrays of `folds.predict`, with probabilities summed up the ontology."""
    hierarchy = ConceptNames(hierarchical={"cell_type": type_hierarchy([*claims_by_type_name(learned).values()])})
    names = hierarchy.groups["cell_type"]
    masses = np.zeros((len(own), len(names)))
    masses[:, [names.index(name) for name in classes]] = own
    summed = masses @ hierarchy.ancestors("cell_type").numpy().T
    none = masses[:, names.index(label_of(ROOT))]
    profile = np.stack([1 - none, none], axis=1)
    return folds.described(rows) | {
        "probabilities": summed.astype(np.float16), "profile": profile.astype(np.float16), "names": np.array(names),
        "profile_names": np.array([ONE_CELL, "no cell"]),
    }  # fmt: skip

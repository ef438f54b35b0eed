"""Baselines and controls, trained on the training cells of the model and scored on the same rows.

Baselines: majority label, usual pathways of the true cell type, nearest neighbours, logistic regression and LightGBM
on the expression profile, a linear head on the cell encoder's embedding, and the description of the nearest training
cell.
`shuffle_cells` is a control that needs no training: it assigns every cell the prediction for another one.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cell2text.errors import UserError
from cell2text.evaluation.classification import label_claim
from cell2text.evaluation.pathway_metrics import membership
from cell2text.evaluation.systems import System, pathway_names, system_from_texts
from cell2text.language.fields import FIELDS, Claim


SVD_COMPONENTS, KNN_NEIGHBOURS = 50, 15
LIGHTGBM_GENES = 2000  # the genes with the highest variance among the training cells
PATHWAYS_PER_CELL = 2  # as many as a description names
METHODS = (
    "majority", "usual_pathways", "knn", "logistic_regression", "lightgbm", "nearest_description", "linear_head",
)  # fmt: skip


@dataclass
class Cells:
    """Cells to train on or to predict.

    Parameters
    ----------
    rows
        Labels, as returned by :func:`cell2text.evaluation.predictions.label_rows`.
    features
        Expression, shape (n_cells, n_features); see :mod:`cell2text.evaluation.expression_features`.
    texts
        Reference descriptions.
    embeddings
        Embeddings of the cell encoder, shape (n_cells, n_dimensions). If omitted, the linear head is skipped.
    """

    rows: Sequence[Mapping]
    features: sp.csr_matrix
    texts: Sequence[str]
    embeddings: np.ndarray | None = None


@dataclass
class BaselineData:
    """Input of the baselines.

    Parameters
    ----------
    train, test
        Training cells, and the predicted cells in the order of the predictions, with the same features.
    features
        Name of the features, recorded in `metrics.json`: `"counts"` or `"ranked genes"`.
    methods
        Baselines to fit, a subset of `METHODS`.
    """

    train: Cells
    test: Cells
    features: str
    methods: Sequence[str] = METHODS


def shuffle_cells(system: System, seed: int, *, rows: np.ndarray | None = None) -> System:
    """Return the system's predictions with every cell assigned the prediction for another one.

    Parameters
    ----------
    rows
        Numbers of the cells that are shuffled among themselves; all by default.
    """
    order = np.arange(len(next(iter(system.fields.values()))))
    rows = order.copy() if rows is None else rows
    order[rows] = rows[derangement(len(rows), seed)]
    return system.select(order)


def derangement(n: int, seed: int) -> np.ndarray:
    """Return a permutation without fixed points: a random cycle through all indices.

    Examples
    --------
    >>> bool((derangement(10, seed=0) != np.arange(10)).all())
    True
    """
    order = np.random.default_rng(seed).permutation(n)
    permutation = np.empty(n, dtype=np.int64)
    permutation[order] = np.roll(order, 1)
    return permutation


def majority_system(rows: Sequence[Mapping], n: int) -> System:
    """Predict the most frequent value of every field and the most frequent pathways of some rows, for n cells."""
    fields: dict[str, list[Claim | None]] = {}
    for name in FIELDS:
        labels, claims = _labels_and_claims(name, rows)
        if labels:
            values, counts = np.unique(labels, return_counts=True)
            fields[name] = [claims[str(values[counts.argmax()])]] * n
    pathways = _most_frequent_pathways(rows)
    return System(fields, [pathways] * n if pathways else None)


def cell_type_pathways(train: Sequence[Mapping], test: Sequence[Mapping]) -> System:
    """Predict for each cell the most frequent pathways of the training cells of its true type.

    Cells without a type, or of a type without training cells, get the most frequent pathways of all training cells.
    No trained system has access to the true type, so one that scores higher predicts more than the type implies.
    """
    by_type: dict[str | None, list[Mapping]] = {}
    for row in train:
        if row["pathways"]:
            by_type.setdefault(_cell_type(row), []).append(row)
    pathways = {cell_type: _most_frequent_pathways(rows) for cell_type, rows in by_type.items()}
    default = _most_frequent_pathways(train)
    return System({}, [pathways.get(_cell_type(row), default) if _cell_type(row) else default for row in test])


def fit_baselines(train: Cells, test: Cells, *, methods: Sequence[str] = METHODS, seed: int = 0) -> dict[str, System]:
    """Fit baselines to the training cells and predict the test cells.

    Parameters
    ----------
    methods
        Baselines to fit, a subset of `METHODS`. Those that lack their input (pathways, embeddings) are skipped.
    seed
        Random seed.

    Returns
    -------
    Predictions by method.

    Raises
    ------
    UserError
        If the cells have different features or a method does not exist.
    """
    unknown = set(methods) - set(METHODS)
    if unknown:
        raise UserError(f"No baseline is called {', '.join(sorted(unknown))}. Expected some of {', '.join(METHODS)}.")
    if train.features.shape[1] != test.features.shape[1]:
        raise UserError(
            f"The cells have different genes: {train.features.shape[1]:,} in training, {test.features.shape[1]:,} in "
            "the predicted cells. Expected the same genes."
        )
    task = _Task(train, test, seed)
    systems = {name: fit(task) for name, fit in _FITTERS.items() if name in methods}
    return {name: system for name, system in systems.items() if system is not None}


class _Task:
    """Training and test cells, and the principal components that two baselines share."""

    def __init__(self, train: Cells, test: Cells, seed: int):
        self.train, self.test, self.seed = train, test, seed

    @cached_property
    def components(self) -> tuple[np.ndarray, np.ndarray]:
        features = self.train.features
        n = max(1, min(SVD_COMPONENTS, min(features.shape) - 1))
        svd = TruncatedSVD(n, random_state=self.seed).fit(features)
        return svd.transform(features), svd.transform(self.test.features)


def _majority(task: _Task) -> System:
    return majority_system(task.train.rows, len(task.test.rows))


def _usual_pathways(task: _Task) -> System | None:
    has_pathways = bool(_most_frequent_pathways(task.train.rows))
    return cell_type_pathways(task.train.rows, task.test.rows) if has_pathways else None


def _knn(task: _Task) -> System:
    return _classify(*task.components, task.train.rows, lambda n: KNeighborsClassifier(min(KNN_NEIGHBOURS, n)))


def _logistic_regression(task: _Task) -> System:
    train, test = task.train, task.test
    return _classify(train.features, test.features, train.rows, lambda _: LogisticRegression(max_iter=500))


def _lightgbm(task: _Task) -> System:
    from lightgbm import LGBMClassifier

    train, test = task.train, task.test
    mean = np.asarray(train.features.mean(axis=0)).ravel()
    variance = np.asarray(train.features.power(2).mean(axis=0)).ravel() - mean**2
    genes = np.sort(np.argsort(-variance, kind="stable")[:LIGHTGBM_GENES])

    def classifier(_):
        return LGBMClassifier(
            n_estimators=100, num_leaves=15, min_child_samples=5, colsample_bytree=0.3,
            min_child_weight=0.1, reg_lambda=1.0,  # without them rare classes make it diverge
            random_state=task.seed, deterministic=True, force_row_wise=True, n_jobs=-1, verbose=-1,
        )  # fmt: skip

    train_features, test_features = (
        sp.csr_matrix(cells.features[:, genes], dtype=np.float32) for cells in (train, test)
    )
    return _classify(train_features, test_features, train.rows, classifier)


def _nearest_description(task: _Task) -> System:
    train, test = task.components
    index = NearestNeighbors(n_neighbors=1, metric="cosine").fit(train)
    nearest = index.kneighbors(test, return_distance=False)[:, 0]
    names = pathway_names([*task.train.rows, *task.test.rows])
    return system_from_texts([task.train.texts[i] for i in nearest], names)


def _linear_head(task: _Task) -> System | None:
    train, test = task.train, task.test
    if train.embeddings is None or test.embeddings is None:
        return None

    def classifier(_):
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))

    return _classify(train.embeddings, test.embeddings, train.rows, classifier)


_FITTERS: dict[str, Callable[[_Task], System | None]] = {
    "majority": _majority,
    "usual_pathways": _usual_pathways,
    "knn": _knn,
    "logistic_regression": _logistic_regression,
    "lightgbm": _lightgbm,
    "nearest_description": _nearest_description,
    "linear_head": _linear_head,
}


def _classify(train, test, rows: Sequence[Mapping], new_classifier: Callable[[int], object]) -> System:
    """Predict every field and the most probable pathways from features.

    Parameters
    ----------
    train, test
        Features, shape (n_cells, n_features).
    rows
        Labels of the training cells.
    new_classifier
        Returns a new scikit-learn classifier for a number of training cells.
    """
    fields: dict[str, list[Claim | None]] = {}
    for name in FIELDS:
        labelled = [i for i, row in enumerate(rows) if row[name] is not None]
        labels, claims = _labels_and_claims(name, rows)
        if not labelled:
            continue
        if len(claims) == 1:
            predicted = [labels[0]] * test.shape[0]
        else:
            predicted = new_classifier(len(labelled)).fit(train[labelled], labels).predict(test)  # type: ignore[attr-defined]
        fields[name] = [claims[str(label)] for label in predicted]
    return System(fields, _classify_pathways(train, test, rows, new_classifier))


def _classify_pathways(train, test, rows, new_classifier) -> list[tuple[str, ...]] | None:
    """Fit one classifier per gene set, and return the most probable sets of each test cell."""
    names = pathway_names(rows)
    scored = [i for i, row in enumerate(rows) if row["pathways"]]
    if not scored:
        return None
    truth = membership([rows[i]["pathways"] for i in scored], names)
    varying = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    probabilities = np.tile(truth.mean(axis=0), (test.shape[0], 1))
    for column in varying:
        fitted = new_classifier(len(scored)).fit(train[scored], truth[:, column].astype(int))
        probabilities[:, column] = fitted.predict_proba(test)[:, 1]
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :PATHWAYS_PER_CELL]
    return [tuple(names[i] for i in best) for best in top]


def _most_frequent_pathways(rows: Sequence[Mapping]) -> tuple[str, ...]:
    counts = Counter(name for row in rows for name in row["pathways"] or ())
    return tuple(sorted(counts, key=lambda name: (-counts[name], name))[:PATHWAYS_PER_CELL])


def _cell_type(row: Mapping) -> str | None:
    return row["cell_type_ontology_term_id"] or row["cell_type"]


def _labels_and_claims(name: str, rows: Sequence[Mapping]) -> tuple[list[str], dict[str, Claim]]:
    """Return the ontology label of a field for every row that has one, and the claim of each label."""
    claims = [
        label_claim(name, row[name], row.get(f"{name}_ontology_term_id")) for row in rows if row[name] is not None
    ]
    return [claim.name for claim in claims], {claim.name: claim for claim in claims}

"""What a reader would try instead, trained on the same training cells and scored on the same rows.

majority label, the usual pathways of the true cell type, nearest neighbours, logistic regression, LightGBM on the
expression profile, a linear head on the cell encoder's embedding, and the description of the nearest training cell.
`shuffled` needs no training: every cell gets the answer that was meant for another one.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cell2text.errors import UserError
from cell2text.evaluation.classification import truth_claim
from cell2text.evaluation.pathway_metrics import membership
from cell2text.evaluation.systems import System, pathway_names_of, system_of_texts
from cell2text.language.fields import FIELDS, Claim


TARGET_SUM = 10_000
COMPONENTS, NEIGHBOURS = 50, 15
LIGHTGBM_GENES = 2000  # those that vary most among the training cells
NAMED = 2  # pathways that an answer names
METHODS = (
    "majority", "usual_pathways", "knn", "logistic_regression", "lightgbm", "nearest_description", "linear_head",
)  # fmt: skip


@dataclass
class Cells:
    """Cells to train on or to answer for.

    Parameters
    ----------
    rows
        As :func:`cell2text.evaluation.predictions.checked_rows` gives them.
    features
        Expression, cells by genes, the same genes for all: see :func:`log_normalise` and :func:`rank_features`.
    texts
        The cells' descriptions.
    embeddings
        The cell encoder's embeddings, shape (n_cells, n_dimensions); None where there are none.
    """

    rows: Sequence[Mapping]
    features: sp.csr_matrix
    texts: Sequence[str]
    embeddings: np.ndarray | None = None


@dataclass
class Training:
    """What baselines learn from: the training cells, and the rows' own cells in the order of the predictions.

    Parameters
    ----------
    train, test
        Both over the same features.
    features
        What the features are, in words.
    methods
        Which baselines.
    """

    train: Cells
    test: Cells
    features: str
    methods: Sequence[str] = METHODS


def shuffled(system: System, seed: int) -> System:
    """The answers of a system, each given to another cell."""
    n = len(next(iter(system.fields.values())))
    return system.take(derangement(n, seed))


def derangement(n: int, seed: int) -> np.ndarray:
    """A permutation that moves every index: a random cycle through all of them."""
    order = np.random.default_rng(seed).permutation(n)
    moved = np.empty(n, dtype=np.int64)
    moved[order] = np.roll(order, 1)
    return moved


def majority(rows: Sequence[Mapping], n: int) -> System:
    """The most frequent value of every field of some rows, and the pathways that are named most often."""
    fields: dict[str, list[Claim | None]] = {}
    for name in FIELDS:
        labels, claims = labels_of(name, rows)
        if labels:
            values, counts = np.unique(labels, return_counts=True)
            fields[name] = [claims[str(values[counts.argmax()])]] * n
    top = most_named(rows)
    return System(fields, [top] * n if top else None)


def most_named(rows: Sequence[Mapping]) -> tuple[str, ...]:
    """The pathways that most rows name."""
    counts = Counter(name for row in rows for name in row["pathways"] or ())
    return tuple(sorted(counts, key=lambda name: (-counts[name], name))[:NAMED])


def usual_pathways(train: Sequence[Mapping], test: Sequence[Mapping]) -> System:
    """Of each cell what the training cells of its true type name most often, or all of them where it has none.

    It is told the type, which no trained system is; what it misses, a cell's own expression says beyond its type.
    """
    kinds: dict[str | None, list[Mapping]] = {}
    for row in train:
        if row["pathways"]:
            kinds.setdefault(type_of(row), []).append(row)
    usual = {kind: most_named(rows) for kind, rows in kinds.items()}
    everywhere = most_named(train)
    return System({}, [usual.get(type_of(row), everywhere) if type_of(row) else everywhere for row in test])


def type_of(row: Mapping) -> str | None:
    return row["cell_type_ontology_term_id"] or row["cell_type"]


def fit_baselines(train: Cells, test: Cells, *, methods: Sequence[str] = METHODS, seed: int = 0) -> dict[str, System]:
    """Train baselines and have them answer for the test cells.

    Raises
    ------
    ValueError
        If the cells have different genes, or a method does not exist.
    """
    unknown = set(methods) - set(METHODS)
    if unknown:
        raise UserError(f"No baseline {sorted(unknown)}: expected some of {METHODS}.")
    if train.features.shape[1] != test.features.shape[1]:
        raise UserError(
            f"The cells have different genes: {train.features.shape[1]:,} in training, {test.features.shape[1]:,} "
            "to answer for."
        )
    n = len(test.rows)
    systems = {"majority": majority(train.rows, n)} if "majority" in methods else {}
    if "usual_pathways" in methods and most_named(train.rows):
        systems["usual_pathways"] = usual_pathways(train.rows, test.rows)
    components = None
    if {"knn", "nearest_description"} & set(methods):
        svd = TruncatedSVD(max(1, min(COMPONENTS, min(train.features.shape) - 1)), random_state=seed).fit(
            train.features
        )
        components = svd.transform(train.features), svd.transform(test.features)
    if "knn" in methods and components:
        systems["knn"] = classify(
            components[0],
            components[1],
            train.rows,
            lambda size: KNeighborsClassifier(min(NEIGHBOURS, size)),
        )
    if "logistic_regression" in methods:
        systems["logistic_regression"] = classify(
            train.features, test.features, train.rows, lambda _: LogisticRegression(max_iter=500)
        )
    if "lightgbm" in methods:
        systems["lightgbm"] = lightgbm_system(train, test, seed)
    if "nearest_description" in methods and components:
        nearest = NearestNeighbors(n_neighbors=1, metric="cosine").fit(components[0])
        found = nearest.kneighbors(components[1], return_distance=False)[:, 0]
        names = pathway_names_of([*train.rows, *test.rows])
        systems["nearest_description"] = system_of_texts([train.texts[i] for i in found], names)
    if "linear_head" in methods and train.embeddings is not None and test.embeddings is not None:
        systems["linear_head"] = classify(
            train.embeddings,
            test.embeddings,
            train.rows,
            lambda _: make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
        )
    return systems


def lightgbm_system(train: Cells, test: Cells, seed: int) -> System:
    from lightgbm import LGBMClassifier

    mean = np.asarray(train.features.mean(axis=0)).ravel()
    variance = np.asarray(train.features.power(2).mean(axis=0)).ravel() - mean**2
    kept = np.sort(np.argsort(-variance, kind="stable")[:LIGHTGBM_GENES])

    def model(_):
        return LGBMClassifier(
            n_estimators=100, num_leaves=15, min_child_samples=5, colsample_bytree=0.3,
            min_child_weight=0.1, reg_lambda=1.0,  # without them rare classes make it diverge
            random_state=seed, deterministic=True, force_row_wise=True, n_jobs=-1, verbose=-1,
        )  # fmt: skip

    learned, asked = (sp.csr_matrix(cells.features[:, kept], dtype=np.float32) for cells in (train, test))
    return classify(learned, asked, train.rows, model)


def classify(train, test, rows: Sequence[Mapping], model: Callable[[int], object]) -> System:
    """Predict every field, and which pathways are named, from features.

    Parameters
    ----------
    model
        A fresh scikit-learn classifier for so many training cells.
    """
    fields: dict[str, list[Claim | None]] = {}
    for name in FIELDS:
        known = [i for i, row in enumerate(rows) if row[name] is not None]
        labels, claims = labels_of(name, rows)
        if not known:
            continue
        if len(claims) == 1:
            predicted = [labels[0]] * test.shape[0]
        else:
            predicted = model(len(known)).fit(train[known], labels).predict(test)  # type: ignore[attr-defined]
        fields[name] = [claims[str(label)] for label in predicted]
    names = pathway_names_of(rows)
    named = [i for i, row in enumerate(rows) if row["pathways"]]
    if not named:
        return System(fields)
    truth = membership([rows[i]["pathways"] for i in named], names)
    varied = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    scores = np.tile(truth.mean(axis=0), (test.shape[0], 1))
    for column in varied:
        fitted = model(len(named)).fit(train[named], truth[:, column].astype(int))  # type: ignore[attr-defined]
        scores[:, column] = fitted.predict_proba(test)[:, 1]
    top = np.argsort(-scores, axis=1, kind="stable")[:, :NAMED]
    return System(fields, [tuple(names[i] for i in best) for best in top])


def labels_of(name: str, rows: Sequence[Mapping]) -> tuple[list[str], dict[str, Claim]]:
    """Of the rows that know a field its values in one spelling, and the claim behind each."""
    claims = [
        truth_claim(name, row[name], row.get(f"{name}_ontology_term_id")) for row in rows if row[name] is not None
    ]
    return [claim.name for claim in claims], {claim.name: claim for claim in claims}


def log_normalise(counts: sp.csr_matrix) -> sp.csr_matrix:
    """log1p of counts per 10,000; a cell without counts stays empty."""
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    scaled = sp.diags_array(TARGET_SUM / np.where(totals == 0, 1, totals)).tocsr() @ counts.astype(np.float64)
    return scaled.log1p().tocsr()


def rank_features(cells: Sequence[Sequence[int]], n_tokens: int) -> sp.csr_matrix:
    """Ranked genes as features where there are no counts: 1 / log2(1 + rank), the first rank 1."""
    lengths = np.array([len(cell) for cell in cells], dtype=np.int64)
    tokens = np.concatenate([np.asarray(cell, dtype=np.int64) for cell in cells]) if len(cells) else np.zeros(0, int)
    ranks = np.concatenate([np.arange(1, length + 1) for length in lengths]) if len(cells) else np.zeros(0, int)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return sp.csr_matrix((1 / np.log2(1 + ranks), tokens, offsets), shape=(len(cells), n_tokens))

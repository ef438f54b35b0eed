"""Figures of the evaluation report as SVG: confusion matrices and a map of the cells."""

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from cell2text.evaluation.classification import NOT_FOUND, FieldPairs
from cell2text.plots import plain, svg


MAX_LABELS, MAX_COLOURS, MAX_POINTS = 30, 18, 4000
MIN_CELLS = 5  # t-SNE needs a few distinct points
RASTER_POINTS = 1500  # more points are drawn as a bitmap, which keeps the page small
GREYS_OF_TAB20 = (14, 15)  # grey stands for all other labels


def confusion_figure(pairs: FieldPairs) -> str:
    """Draw the share of each prediction among the cells of the most frequent labels."""
    n = len(pairs.labels)
    counts = np.zeros((n, n + 1))
    number = {name: i for i, name in enumerate(pairs.labels)} | {NOT_FOUND: n}
    for truth, predicted in zip(pairs.truth_names, pairs.predicted_names):
        counts[number[truth], number[predicted]] += 1
    frequent = np.argsort(-counts.sum(axis=1), kind="stable")[:MAX_LABELS]
    frequent = np.sort(frequent[counts[frequent].sum(axis=1) > 0])
    other = counts[frequent].sum(axis=1) - counts[np.ix_(frequent, frequent)].sum(axis=1) - counts[frequent, n]
    shares = np.column_stack([counts[np.ix_(frequent, frequent)], other, counts[frequent, n]])
    shares = shares / shares.sum(axis=1, keepdims=True)
    names = [plain(pairs.labels[i]) for i in frequent]
    size = 2.5 + 0.24 * len(names)
    figure = Figure(figsize=(size + 3, size + 1.5), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xticks(range(len(names) + 2), [*names, "(another label)", NOT_FOUND], rotation=90, fontsize=7)
    axes.set_ylabel("label")
    axes.set_xlabel("prediction")
    figure.colorbar(image, ax=axes, label="share of the label's cells", shrink=0.6)
    return svg(figure)


def embedding_map(embeddings: np.ndarray, pairs: FieldPairs, seed: int) -> str | None:
    """Draw the cells by t-SNE of their embeddings, coloured by label and by prediction.

    Returns None if the embeddings have too few distinct points or are not finite.
    """
    sampled = np.arange(len(pairs.rows))
    if len(sampled) > MAX_POINTS:
        sampled = np.sort(np.random.default_rng(seed).choice(sampled, MAX_POINTS, replace=False))
    points = np.asarray(embeddings, dtype=np.float32)[pairs.rows[sampled]]
    flat = points.ndim != 2 or points.shape[1] < 2 or not np.isfinite(points).all()
    if flat or len(np.unique(points, axis=0)) < MIN_CELLS:
        return None
    perplexity = min(30, max(2, (len(sampled) - 1) // 3))
    plane = TSNE(perplexity=perplexity, random_state=seed, init="pca").fit_transform(points)
    truth, predicted = ([names[i] for i in sampled] for names in (pairs.truth_names, pairs.predicted_names))
    frequent = sorted(set(truth), key=lambda name: (-truth.count(name), name))[:MAX_COLOURS]
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    for axes, title, names in zip(figure.subplots(1, 2), ("label", "prediction"), (truth, predicted)):
        _scatter(axes, plane, names, frequent)
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        handles = axes.get_legend_handles_labels()
    figure.legend(*handles, fontsize=7, frameon=False, loc="outside right center", markerscale=2)
    return svg(figure)


def _scatter(axes, plane: np.ndarray, names: list[str], frequent: list[str]) -> None:
    for i, name in enumerate([*frequent, None]):
        shown = np.array([n == name if name else n not in frequent for n in names])
        axes.scatter(
            *plane[shown].T,
            s=9,
            color="#cccccc" if name is None else _colour(i),
            label=plain(name or "another label"),
            linewidths=0,
            rasterized=len(names) > RASTER_POINTS,
        )


def _colour(i: int) -> tuple:
    colours = [n for n in range(20) if n not in GREYS_OF_TAB20]
    return colormaps["tab20"](colours[i % len(colours)])

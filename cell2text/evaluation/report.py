"""The report of an evaluation: `metrics.json`, a page of text, and a page with pictures and the worst errors."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from cell2text.evaluation.calibration import EDGES, SURENESS
from cell2text.evaluation.classification import NOT_FOUND, FieldPairs
from cell2text.evaluation.systems import Evaluation, field_pairs
from cell2text.files import write_atomically
from cell2text.language.fields import FIELD_GRAPHS, FIELDS
from cell2text.ontology.graph import load_graph
from cell2text.plots import plain, svg


METRICS = "metrics.json"
MOST_LABELS, MOST_COLOURS, MOST_POINTS, MOST_ERRORS = 30, 18, 4000, 20
SYSTEM_NAMES = {
    "cell2text": "Cell2Text, read from the text",
    "against": "The other system, read from its text",
    "shuffled_cells": "control: the text of another cell",
    "constant": "control: the most frequent label of these very rows",
    "majority": "majority label of the training cells",
    "usual_pathways": "control: the usual pathways of the cell's true type",
    "knn": "kNN",
    "logistic_regression": "logistic regression",
    "lightgbm": "LightGBM",
    "nearest_description": "description of the nearest training cell",
    "linear_head": "linear head on the cell encoder's embedding",
}
FIGURE_NAMES = {
    "accuracy": "accuracy", "lenient_accuracy": "lenient accuracy", "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1", "weighted_f1": "weighted F1", "macro_precision": "macro precision",
    "macro_recall": "macro recall", "pagerank_similarity": "PageRank similarity", "lin_similarity": "Lin similarity",
    "common_ancestor_distance": "steps", "subset_accuracy": "both pathways right",
    "jaccard": "Jaccard", "micro_f1": "micro F1", "auroc": "AUROC", "auprc": "AUPRC", "exact_match": "exact match",
    "bleu1": "BLEU-1", "bleu4": "BLEU-4", "sentence_bleu4": "sentence BLEU-4", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L", "bertscore_f1": "BERTScore F1", "words": "words", "cut_off": "cut off",
    "repeats_itself": "repeat themselves", "empty": "empty", "contradicts_itself": "contradict themselves",
    "pathway_claims_true": "pathway claims all true of the cell",
    "share_of_pathway_claims_true": "pathway claims true of the cell",
}  # fmt: skip
OF_TERMS = (
    "accuracy", "lenient_accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "macro_precision", "macro_recall",
    "pagerank_similarity", "lin_similarity", "common_ancestor_distance",
)  # fmt: skip
TABLES: dict[str, tuple[str, ...]] = dict.fromkeys(FIELDS, OF_TERMS) | {
    "pathways": ("subset_accuracy", "jaccard", "micro_f1", "macro_f1", "weighted_f1", "auroc", "auprc"),
    "text": (
        "exact_match", "bleu4", "sentence_bleu4", "rouge1", "rouge2", "rougeL", "bertscore_f1", "words", "cut_off",
        "repeats_itself", "empty",
    ),
    "truthfulness": ("contradicts_itself", "pathway_claims_true", "share_of_pathway_claims_true"),
}  # fmt: skip
PARTS = {
    "cell_type": "Cell type", "tissue": "Tissue", "disease": "Disease", "sex": "Sex", "life_stage": "Life stage",
    "pathways": "Pathways", "text": "Text", "truthfulness": "Truthfulness",
}  # fmt: skip


def write_report(evaluation: Evaluation, out: Path, *, embeddings: np.ndarray | None, seed: int) -> None:
    """Write `metrics.json`, `report.md` and `report.html`, each at once or not at all; pictures come last."""
    out.mkdir(parents=True, exist_ok=True)
    metrics = evaluation.metrics
    tables = [table_of(metrics, part) for part in PARTS if part in metrics]
    pairs = field_pairs(evaluation.systems["cell2text"], evaluation.rows)
    figures = {name: confusion_figure(found) for name, found in pairs.items() if len(found.labels) > 1}
    context = {
        "metrics": metrics,
        "tables": tables,
        "parts": PARTS,
        "confusions": {name: found[:10] for name, found in metrics["confusions"].items() if found},
        "errors": worst_errors(evaluation, pairs),
        "differences": differences_table(metrics["differences"]),
        "certainty": certainty_table(metrics["calibration"]),
        "by": {key: part_table(parts) for key, parts in metrics["by"].items()},
        "learned": learned(metrics["settings"]),
    }
    environment = Environment(
        loader=PackageLoader("cell2text.evaluation", "templates"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda value: f"{value:,}"
    environment.filters["cell"] = table_cell
    write_atomically(out / METRICS, json.dumps(metrics, indent=1) + "\n")
    write_atomically(out / "report.md", environment.get_template("report.md").render(**context))
    map_figure = None if embeddings is None else embedding_map(embeddings, pairs, len(evaluation.rows), seed)
    page = environment.get_template("report.html").render(**context, figures=figures, map=map_figure)
    write_atomically(out / "report.html", page)


def table_cell(text: str) -> str:
    """Text that stays in one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def learned(settings: dict) -> str:
    if settings["training_cells"] is None:
        return "No baseline was trained."
    return f"Baselines learned from {settings['training_cells']:,} training cells ({settings['baselines_trained_on']})."


def table_of(metrics: dict, part: str) -> dict:
    """One part's figures, a line a system, as they are printed."""
    by_system = {"cell2text": metrics.get(part)} | {name: found.get(part) for name, found in metrics["systems"].items()}
    columns = [name for name in TABLES[part] if any(scores and name in scores for scores in by_system.values())]
    lines = [
        (SYSTEM_NAMES[name], [cell(scores, column) for column in columns])
        for name, scores in by_system.items()
        if scores
    ]
    return {
        "part": PARTS[part],
        "size": size_of(metrics[part]),
        "columns": [FIGURE_NAMES[c] for c in columns],
        "lines": lines,
    }


def size_of(scores: dict) -> str:
    """Cells of a part, and donors where they are what its intervals are drawn from."""
    donors = f" of {scores['groups']:,} donors" if scores["resampled"] == "donor" else ""
    return f"{scores['n']:,} cells{donors}"


DIFFERENCES = {  # the one figure of each part that short tables show
    **dict.fromkeys(FIELDS, "accuracy"),
    "pathways": "jaccard",
    "text": "rougeL",
}


def differences_table(differences: dict) -> dict:
    """How far Cell2Text is ahead of every other system, a line a system, in points, with interval and p value."""
    parts = [part for part in DIFFERENCES if any(part in found for found in differences.values())]
    columns = [f"{PARTS[part]}, {FIGURE_NAMES[DIFFERENCES[part]]}" for part in parts]
    lines = [
        (SYSTEM_NAMES[name], [difference(found.get(part, {}).get(DIFFERENCES[part])) for part in parts])
        for name, found in differences.items()
    ]
    return {"columns": columns, "lines": lines}


def part_table(parts: dict) -> dict:
    """The model's figures on each part of the rows, a line a part."""
    names = [name for name in DIFFERENCES if any(name in scores for scores in parts.values())]
    lines = [
        (
            value,
            [size_of(scores["truthfulness"]), *(cell(scores[n], DIFFERENCES[n]) if n in scores else "" for n in names)],
        )
        for value, scores in parts.items()
    ]
    columns = [f"{PARTS[name]}, {FIGURE_NAMES[DIFFERENCES[name]]}" for name in names]
    return {"columns": ["", *columns], "lines": lines}


def certainty_table(certainty: dict) -> dict:
    """A line a measure of sureness: its AUROC, and of each of its bins how many cells are right, and of how many."""
    lines = [
        (
            SURENESS[name],
            [
                f"{found['n']:,}",
                "" if found["auroc"] is None else f"{100 * found['auroc']:.1f}",
                *(f"{100 * b['accuracy']:.1f} ({b['n']:,} cells)" if b["n"] else "" for b in found["bins"]),
            ],
        )
        for name, found in certainty.items()
    ]
    spans = [f"{100 * low:g} to {100 * high:g}" for low, high in pairwise(EDGES)]
    return {"columns": ["cells", "AUROC", *spans], "lines": lines}


def difference(found: dict | None) -> str:
    if found is None or found["difference"] is None:
        return ""
    low, high = found["interval"]
    return f"{100 * found['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}, p {found['p']:.3f})"


def cell(scores: dict, name: str) -> str:
    """A figure with its interval: shares in percent, words as they are."""
    value, bounds = scores.get(name), scores["intervals"].get(name)
    if value is None:
        return ""
    scale, digits = (1, 1) if name in ("words", "common_ancestor_distance") else (100, 1)
    text = f"{scale * value:.{digits}f}"
    return text if bounds is None else f"{text} ({scale * bounds[0]:.{digits}f} to {scale * bounds[1]:.{digits}f})"


def confusion_figure(pairs: FieldPairs) -> str:
    """Of the most frequent labels the share of each prediction, labels from top to bottom."""
    n = len(pairs.labels)
    counts = np.zeros((n, n + 1))
    number = {name: i for i, name in enumerate(pairs.labels)} | {NOT_FOUND: n}
    for truth, said in zip(pairs.truth_names, pairs.predicted_names):
        counts[number[truth], number[said]] += 1
    frequent = np.argsort(-counts.sum(axis=1), kind="stable")[:MOST_LABELS]
    frequent = np.sort(frequent[counts[frequent].sum(axis=1) > 0])
    other = counts[frequent].sum(axis=1) - counts[np.ix_(frequent, frequent)].sum(axis=1) - counts[frequent, n]
    shown = np.column_stack([counts[np.ix_(frequent, frequent)], other, counts[frequent, n]])
    shown = shown / shown.sum(axis=1, keepdims=True)
    names = [plain(pairs.labels[i]) for i in frequent]
    size = 2.5 + 0.24 * len(names)
    figure = Figure(figsize=(size + 3, size + 1.5), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shown, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xticks(range(len(names) + 2), [*names, "(another label)", NOT_FOUND], rotation=90, fontsize=7)
    axes.set_ylabel("label")
    axes.set_xlabel("read from the text")
    figure.colorbar(image, ax=axes, label="share of the label's cells", shrink=0.6)
    return svg(figure)


def embedding_map(embeddings: np.ndarray, pairs: dict[str, FieldPairs], n_rows: int, seed: int) -> str | None:
    """Cells in the plane by t-SNE of their embeddings, coloured by label and by what the text says."""
    found = pairs.get("cell_type")
    if found is None or len(found.rows) < 5:
        return None
    chosen = np.arange(len(found.rows))
    if len(chosen) > MOST_POINTS:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, MOST_POINTS, replace=False))
    points = np.asarray(embeddings, dtype=np.float32)[found.rows[chosen]]
    flat = points.ndim != 2 or points.shape[1] < 2 or not np.isfinite(points).all()
    if flat or len(np.unique(points, axis=0)) < 5:  # t-SNE has nothing to spread
        return None
    perplexity = min(30, max(2, (len(chosen) - 1) // 3))
    plane = TSNE(perplexity=perplexity, random_state=seed, init="pca").fit_transform(points)
    truth, said = ([names[i] for i in chosen] for names in (found.truth_names, found.predicted_names))
    frequent = sorted(set(truth), key=lambda name: (-truth.count(name), name))[:MOST_COLOURS]
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    for axes, title, names in zip(figure.subplots(1, 2), ("label", "read from the text"), (truth, said)):
        for i, name in enumerate([*frequent, None]):
            there = np.array([n == name if name else n not in frequent for n in names])
            colour = "#cccccc" if name is None else palette(i)
            label = name or "another label"
            axes.scatter(
                *plane[there].T, s=9, color=colour, label=plain(label), linewidths=0, rasterized=len(chosen) > 1500
            )
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        handles = axes.get_legend_handles_labels()
    figure.legend(*handles, fontsize=7, frameon=False, loc="outside right center", markerscale=2)
    return svg(figure)


def palette(i: int) -> tuple:
    from matplotlib import colormaps

    return colormaps["tab20"]([n for n in range(20) if n not in (14, 15)][i % 18])  # grey is for all other labels


def worst_errors(evaluation: Evaluation, pairs: dict[str, FieldPairs]) -> list[dict]:
    """Rows whose cell type is wrong, those farthest off in the ontology first; by tissue where no type is known."""
    name = next((name for name in ("cell_type", "tissue", "disease") if name in pairs), None)
    if name is None:
        return []
    found = pairs[name]
    graph = load_graph(FIELD_GRAPHS[name])
    wrong = np.flatnonzero(~found.correct())
    near = {i: graph.pagerank_similarity(*found.terms_of(i)) for i in wrong.tolist()}
    first = sorted(near, key=lambda i: (found.predicted_names[i] == NOT_FOUND, near[i], i))[:MOST_ERRORS]
    return [
        {
            "cell_id": row["cell_id"],
            "field": PARTS[name].lower(),
            "label": found.truth_names[i],
            "read": found.predicted_names[i],
            "similarity": round(near[i], 3),
            "prediction": row["prediction"],
            "reference": row["reference"],
        }
        for i in first
        for row in [evaluation.rows[found.rows[i]]]
    ]

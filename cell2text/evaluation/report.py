"""Report of an evaluation: `metrics.json`, `report.md`, and `report.html` with figures and the largest errors.

Builds the tables from the metrics and fills the Jinja templates in `templates/`.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cell2text.evaluation import named_types
from cell2text.evaluation.calibration import BIN_EDGES, CONFIDENCE_MEASURES
from cell2text.evaluation.classification import NOT_FOUND, FieldPairs
from cell2text.evaluation.report_figures import MIN_CELLS, confusion_figure, embedding_map
from cell2text.evaluation.systems import Evaluation, field_pairs
from cell2text.files import write_atomically
from cell2text.language.fields import FIELD_GRAPHS, FIELDS
from cell2text.ontology.graph import load_graph
from cell2text.pages import render_page


PACKAGE = "cell2text.evaluation"  # with the templates
METRICS_FILE = "metrics.json"
MAX_ERRORS, MAX_LISTED_CONFUSIONS = 20, 10
SYSTEM_NAMES = {
    "cell2text": "Cell2Text, read from the text",
    "against": "other system, read from its text",
    "shuffled_cells": "control: the text of another cell",
    "constant": "control: the most frequent label of the evaluated cells",
    "majority": "majority label of the training cells",
    "usual_pathways": "control: the usual pathways of the cell's true type",
    "knn": "kNN",
    "logistic_regression": "logistic regression",
    "lightgbm": "LightGBM",
    "nearest_description": "description of the nearest training cell",
    "linear_head": "linear head on the cell encoder's embedding",
}
METRIC_NAMES = named_types.METRIC_NAMES | {
    "accuracy": "accuracy", "lenient_accuracy": "lenient accuracy", "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1", "weighted_f1": "weighted F1", "macro_precision": "macro precision",
    "macro_recall": "macro recall", "pagerank_similarity": "PageRank similarity", "lin_similarity": "Lin similarity",
    "common_ancestor_distance": "distance", "subset_accuracy": "all pathways correct",
    "jaccard": "Jaccard index", "micro_f1": "micro F1", "auroc": "AUROC", "auprc": "AUPRC",
    "exact_match": "exact match", "bleu1": "BLEU-1", "bleu4": "BLEU-4", "sentence_bleu4": "sentence BLEU-4",
    "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "bertscore_f1": "BERTScore F1", "words": "words",
    "cut_off": "cut off", "repeats_itself": "repetitive", "empty": "empty", "contradicts_itself": "contradictory",
    "loss_without_5": "loss without 5 evidence genes", "random_loss_5": "loss without 5 random genes",
    "loss_without_10": "loss without 10 evidence genes", "random_loss_10": "loss without 10 random genes",
    "marker_share": "markers among evidence", "marker_share_of_similar_rank": "markers among random genes",
    "marker_share_by_chance": "markers among all genes",
    "pathway_claims_true": "texts with active pathways only", "share_of_pathway_claims_true": "active pathways",
}  # fmt: skip
UNSCALED_METRICS = ("words", "common_ancestor_distance")  # all others are shares, shown in percent
FIELD_METRICS = (
    "accuracy", "lenient_accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "macro_precision", "macro_recall",
    "pagerank_similarity", "lin_similarity", "common_ancestor_distance",
)  # fmt: skip
PART_METRICS: dict[str, tuple[str, ...]] = dict.fromkeys(FIELDS, FIELD_METRICS) | {
    "named_types": named_types.NAMED_TYPE_METRICS,
    "pathways": ("subset_accuracy", "jaccard", "micro_f1", "macro_f1", "weighted_f1", "auroc", "auprc"),
    "text": (
        "exact_match", "bleu4", "sentence_bleu4", "rouge1", "rouge2", "rougeL", "bertscore_f1", "words", "cut_off",
        "repeats_itself", "empty",
    ),
    "truthfulness": ("contradicts_itself", "pathway_claims_true", "share_of_pathway_claims_true"),
    "evidence": (
        "loss_without_5", "random_loss_5", "loss_without_10", "random_loss_10", "marker_share",
        "marker_share_of_similar_rank", "marker_share_by_chance",
    ),
}  # fmt: skip
PART_TITLES = {
    "cell_type": "Cell type", "named_types": "Named cell types", "tissue": "Tissue", "disease": "Disease",
    "sex": "Sex", "life_stage": "Life stage", "pathways": "Pathways", "text": "Text", "truthfulness": "Truthfulness",
    "evidence": "Evidence for cell types",
}  # fmt: skip
PART_NOTES = {
    "named_types": "Cells whose label is a term. Named: cells with a cell type. True: named types that are the label, "
    "or an ancestor or descendant of it. Depth: depth of true types in the ontology relative to the label's, at most "
    "100. Calibration error: mean distance of the stated probability from the share of true types, over 15 bins. Wrong "
    "above 90 %: share of all cells whose type is not true and has a higher probability.",
    "evidence": "A sample of cells with a named type, described again. Loss: fall of the type's probability when genes "
    "of the cell are deleted, in percentage points. Random genes have similar ranks. Markers: share of known markers "
    "of the type.",
}
# The metric that short tables show of each part.
SUMMARY_METRICS = {**dict.fromkeys(FIELDS, "accuracy"), "pathways": "jaccard", "text": "rougeL"}


def write_report(evaluation: Evaluation, out: Path, *, embeddings: np.ndarray | None, seed: int) -> None:
    """Write `metrics.json`, `report.md` and `report.html`, each atomically.

    Parameters
    ----------
    evaluation
        Rows, systems and metrics.
    out
        Output folder, created if necessary.
    embeddings
        Cell embeddings for the map, shape (n_rows, n_dimensions); None for no map.
    seed
        Random seed of the map.
    """
    out.mkdir(parents=True, exist_ok=True)
    metrics = evaluation.metrics
    pairs = field_pairs(evaluation.systems["cell2text"], evaluation.rows)
    confusions = {name: found[:MAX_LISTED_CONFUSIONS] for name, found in metrics["confusions"].items() if found}
    context: dict[str, Any] = {
        "metrics": metrics,
        "tables": [_part_table(metrics, part) for part in PART_TITLES if part in metrics],
        "titles": PART_TITLES,
        "confusions": confusions,
        "errors": _largest_errors(evaluation, pairs),
        "differences": _differences_table(metrics["differences"]),
        "calibration": _calibration_table(metrics["calibration"]),
        "by": {key: _value_table(values) for key, values in metrics["by"].items()},
        "training": _training_sentence(metrics["settings"]),
    }
    write_atomically(out / METRICS_FILE, json.dumps(metrics, indent=1) + "\n")
    write_atomically(out / "report.md", render_page(PACKAGE, "report.md", **context))
    figures = {name: confusion_figure(found) for name, found in pairs.items() if len(found.labels) > 1}
    cells = pairs.get("cell_type")
    context["map"] = None
    if embeddings is not None and cells is not None and len(cells.rows) >= MIN_CELLS:
        context["map"] = embedding_map(embeddings, cells, seed)
    write_atomically(out / "report.html", render_page(PACKAGE, "report.html", **context, figures=figures))


def format_metric(scores: dict, name: str) -> str:
    """Format a metric with its interval: shares in percent, words and distances as they are.

    Examples
    --------
    >>> format_metric({"accuracy": 0.5, "intervals": {"accuracy": [0.25, 0.75]}}, "accuracy")
    '50.0 (25.0 to 75.0)'
    """
    value, bounds = scores.get(name), scores["intervals"].get(name)
    if value is None:
        return ""
    scale = 1 if name in UNSCALED_METRICS else 100
    text = f"{scale * value:.1f}"
    return text if bounds is None else f"{text} ({scale * bounds[0]:.1f} to {scale * bounds[1]:.1f})"


def _training_sentence(settings: dict) -> str:
    if settings["training_cells"] is None:
        return "No baseline was trained."
    return f"Baselines learned from {settings['training_cells']:,} training cells ({settings['baselines_trained_on']})."


def _part_table(metrics: dict, part: str) -> dict:
    """Return the table of one part, with a row per system."""
    by_system = {"cell2text": metrics.get(part)}
    by_system |= {name: scores.get(part) for name, scores in metrics["systems"].items()}
    columns = [name for name in PART_METRICS[part] if any(scores and name in scores for scores in by_system.values())]
    rows = [
        (SYSTEM_NAMES[name], [format_metric(scores, column) for column in columns])
        for name, scores in by_system.items()
        if scores
    ]
    return {
        "part": PART_TITLES[part],
        "note": PART_NOTES.get(part),
        "size": _size(metrics[part]),
        "columns": [METRIC_NAMES[column] for column in columns],
        "rows": rows,
    }


def _size(scores: dict) -> str:
    """Return the number of cells of a part, and of donors if the bootstrap resampled donors."""
    donors = f" of {scores['groups']:,} donors" if scores["resampled"] == "donor" else ""
    return f"{scores['n']:,} cells{donors}"


def _summary_column(part: str) -> str:
    return f"{PART_TITLES[part]}, {METRIC_NAMES[SUMMARY_METRICS[part]]}"


def _differences_table(differences: dict) -> dict:
    """Return the lead of Cell2Text over each other system, in percentage points."""
    parts = [part for part in SUMMARY_METRICS if any(part in found for found in differences.values())]
    rows = [
        (SYSTEM_NAMES[name], [_difference(found.get(part, {}).get(SUMMARY_METRICS[part])) for part in parts])
        for name, found in differences.items()
    ]
    return {"columns": [_summary_column(part) for part in parts], "rows": rows}


def _difference(found: dict | None) -> str:
    if found is None or found["difference"] is None:
        return ""
    low, high = found["interval"]
    return f"{100 * found['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}, p {found['p']:.3f})"


def _value_table(values: dict) -> dict:
    """Return the metrics of Cell2Text for each value of a key such as `dataset_id`."""
    parts = [part for part in SUMMARY_METRICS if any(part in scores for scores in values.values())]
    rows = []
    for value, scores in values.items():
        cells = [format_metric(scores[part], SUMMARY_METRICS[part]) if part in scores else "" for part in parts]
        size = next((scores[part] for part in ("truthfulness", *parts) if part in scores), None)
        rows.append((value, [_size(size) if size else "0 cells", *cells]))
    return {"columns": ["cells", *(_summary_column(part) for part in parts)], "rows": rows}


def _calibration_table(calibration: dict) -> dict:
    """Return AUROC and the accuracy by range of each confidence measure."""
    rows = []
    for name, scores in calibration.items():
        auroc = "" if scores["auroc"] is None else f"{100 * scores['auroc']:.1f}"
        bins = [f"{100 * one['accuracy']:.1f} ({one['n']:,} cells)" if one["n"] else "" for one in scores["bins"]]
        rows.append((CONFIDENCE_MEASURES[name], [f"{scores['n']:,}", auroc, *bins]))
    ranges = [f"{100 * low:g} to {100 * high:g}" for low, high in pairwise(BIN_EDGES)]
    return {"columns": ["cells", "AUROC", *ranges], "rows": rows}


def _largest_errors(evaluation: Evaluation, pairs: dict[str, FieldPairs]) -> list[dict]:
    """Return the rows with a wrong cell type, least similar first; tissue or disease if no row has a cell type."""
    name = next((name for name in FIELD_GRAPHS if name in pairs), None)
    if name is None:
        return []
    found, graph = pairs[name], load_graph(FIELD_GRAPHS[name])
    wrong = np.flatnonzero(~found.correct()).tolist()
    similarity = {i: graph.pagerank_similarity(*found.terms(i)) for i in wrong}
    order = sorted(wrong, key=lambda i: (found.predicted_names[i] == NOT_FOUND, similarity[i], i))[:MAX_ERRORS]
    return [
        {
            "cell_id": row["cell_id"],
            "field": PART_TITLES[name].lower(),
            "label": found.truth_names[i],
            "read": found.predicted_names[i],
            "similarity": round(similarity[i], 3),
            "prediction": row["prediction"],
            "reference": row["reference"],
        }
        for i in order
        for row in [evaluation.rows[found.rows[i]]]
    ]

"""Metrics of an evaluation in the two forms that the Hugging Face Hub reads.

`eval_results` makes the `model-index` of a model card. `write_eval_results` writes `.eval_results/cell2text.yaml`, the
newer form, which refers to a data set on the Hub. Depends on huggingface_hub.
"""

import os
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from cell2text.files import write_atomically


EVAL_RESULTS_FILE = ".eval_results/cell2text.yaml"
# Per part of metrics.json: metric, its title, and its type on the Hub.
HUB_METRICS = {
    "cell_type": (("accuracy", "Accuracy", "accuracy"), ("macro_f1", "Macro F1", "f1"),
                  ("pagerank_similarity", "PageRank similarity", "pagerank_similarity")),
    "tissue": (("accuracy", "Accuracy", "accuracy"), ("macro_f1", "Macro F1", "f1")),
    "disease": (("accuracy", "Accuracy", "accuracy"), ("macro_f1", "Macro F1", "f1")),
    "pathways": (("subset_accuracy", "Subset accuracy", "accuracy"), ("jaccard", "Jaccard", "jaccard")),
    "text": (("bleu4", "BLEU-4", "bleu"), ("rougeL", "ROUGE-L", "rouge"), ("exact_match", "Exact match", "exact_match"),
             ("bertscore_f1", "BERTScore F1", "bertscore")),
}  # fmt: skip


def eval_results(metrics: dict, *, dataset_name: str, dataset_type: str = "cell2text") -> list[EvalResult]:
    """Convert metrics to `ModelCardData(eval_results=...)`. Undefined metrics are skipped.

    Parameters
    ----------
    metrics
        Content of `metrics.json`.
    dataset_name
        Name of the evaluated data set.
    dataset_type
        Hub id of the evaluated data set, or a name for its kind.

    Examples
    --------
    >>> metrics = {"cell_type": {"accuracy": 0.91234}, "settings": {"hash": "0" * 16}}
    >>> [result] = eval_results(metrics, dataset_name="held-out cells")
    >>> result.metric_name, result.metric_value
    ('Cell type: Accuracy', 0.9123)
    """
    return [
        EvalResult(
            task_type="text-generation",
            task_name=f"Cell description: {part.replace('_', ' ')}",
            dataset_type=dataset_type,
            dataset_name=dataset_name,
            metric_type=kind,
            metric_name=f"{part.replace('_', ' ').capitalize()}: {title}",
            metric_value=round(metrics[part][metric], 4),
            metric_config=metrics["settings"]["hash"],
        )
        for part, metric, title, kind in _defined_metrics(metrics)
    ]


def eval_result_entries(
    metrics: dict, *, dataset_id: str, dataset_revision: str | None = None, date: str | None = None
) -> list[EvalResultEntry]:
    """Convert metrics to entries of `.eval_results/*.yaml`. Undefined metrics are skipped.

    Parameters
    ----------
    metrics
        Content of `metrics.json`.
    dataset_id
        Hub id of the evaluated data set. Each metric is one task of it, such as `cell_type_accuracy`.
    dataset_revision
        Commit of the data set. If omitted, the entries do not name one.
    date
        Date of the evaluation in ISO 8601. If omitted, the Hub shows the date of the commit.

    Examples
    --------
    >>> metrics = {"cell_type": {"accuracy": 0.91234}, "settings": {"hash": "0" * 16}}
    >>> [entry] = eval_result_entries(metrics, dataset_id="lab/cells")
    >>> entry.task_id, entry.value
    ('cell_type_accuracy', 0.9123)
    """
    return [
        EvalResultEntry(
            dataset_id=dataset_id,
            task_id=f"{part}_{metric}",
            value=round(metrics[part][metric], 4),
            dataset_revision=dataset_revision,
            date=date,
            notes=f"{part.replace('_', ' ').capitalize()}: {title}. Settings {metrics['settings']['hash']}.",
        )
        for part, metric, title, _ in _defined_metrics(metrics)
    ]


def write_eval_results(
    metrics: dict,
    folder: str | os.PathLike,
    *,
    dataset_id: str,
    dataset_revision: str | None = None,
    date: str | None = None,
) -> Path:
    """Write `.eval_results/cell2text.yaml` into the folder of a model and return its path.

    The Hub shows the results on the model page if the data set is registered as a benchmark with these tasks.

    Parameters
    ----------
    metrics, dataset_id, dataset_revision, date
        See :func:`eval_result_entries`.
    folder
        Folder of the model.
    """
    entries = eval_result_entries(metrics, dataset_id=dataset_id, dataset_revision=dataset_revision, date=date)
    path = Path(folder, EVAL_RESULTS_FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False))
    return path


def _defined_metrics(metrics: dict) -> list[tuple[str, str, str, str]]:
    return [
        (part, *metric)
        for part, listed in HUB_METRICS.items()
        if part in metrics
        for metric in listed
        if metrics[part].get(metric[0]) is not None
    ]

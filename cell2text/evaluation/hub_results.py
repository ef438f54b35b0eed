"""`metrics.json` as model-card metadata, which the Hub shows beside a model."""

from huggingface_hub import EvalResult


# Figure of metrics.json, its name on the Hub, and the type the Hub knows.
SHOWN = {
    "cell_type": (("accuracy", "Accuracy", "accuracy"), ("macro_f1", "Macro F1", "f1"),
                  ("pagerank_similarity", "PageRank similarity", "pagerank_similarity")),
    "tissue": (("accuracy", "Accuracy", "accuracy"), ("macro_f1", "Macro F1", "f1")),
    "disease": (("accuracy", "Accuracy", "accuracy"), ("macro_f1", "Macro F1", "f1")),
    "pathways": (("subset_accuracy", "Subset accuracy", "accuracy"), ("jaccard", "Jaccard", "jaccard")),
    "text": (("bleu4", "BLEU-4", "bleu"), ("rougeL", "ROUGE-L", "rouge"), ("exact_match", "Exact match", "exact_match"),
             ("bertscore_f1", "BERTScore F1", "bertscore")),
}  # fmt: skip


def eval_results(metrics: dict, *, dataset_name: str, dataset_type: str = "cell2text") -> list[EvalResult]:
    """Results for `ModelCardData(eval_results=...)`; figures that are undefined are left out.

    Parameters
    ----------
    metrics
        Content of `metrics.json`.
    dataset_name, dataset_type
        What was evaluated: its name, and its Hub id or kind.
    """
    return [
        EvalResult(
            task_type="text-generation",
            task_name=f"Cell description: {part.replace('_', ' ')}",
            dataset_type=dataset_type,
            dataset_name=dataset_name,
            metric_type=kind,
            metric_name=f"{part.replace('_', ' ').capitalize()}: {title}",
            metric_value=round(metrics[part][figure], 4),
            metric_config=metrics["settings"]["hash"],
        )
        for part, figures in SHOWN.items()
        if part in metrics
        for figure, title, kind in figures
        if metrics[part].get(figure) is not None
    ]

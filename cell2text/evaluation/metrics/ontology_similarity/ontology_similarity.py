"""Metric for `evaluate.load`: closeness of predicted terms to the true ones in the ontology."""

import datasets
import evaluate

from cell2text.evaluation.hf_metrics import score_similarity


class OntologySimilarity(evaluate.Metric):
    """PageRank and Lin similarity, lenient accuracy, and distance over the nearest common ancestor.

    `compute` takes `predictions` (descriptions, labels or ontology term ids), `references` (labels or ontology term
    ids) and `field` (`cell_type`, the default, `tissue` or `disease`).

    Examples
    --------
    >>> from cell2text.evaluation import metric_path
    >>> metric = evaluate.load(metric_path("ontology_similarity"))
    >>> metric.compute(predictions=["lymphocyte"], references=["B cell"])["lenient_accuracy"]
    1.0
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Personalised PageRank similarity (arXiv 2509.24840), Lin similarity, lenient accuracy.",
            citation="",
            inputs_description="predictions: labels, term ids or descriptions. references: labels or term ids. field: "
            "cell_type (default), tissue or disease.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, field="cell_type"):
        return score_similarity(predictions, references, field)

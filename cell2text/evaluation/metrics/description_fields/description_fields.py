"""Metric for `evaluate.load`: fields read from descriptions, compared with labels."""

import datasets
import evaluate

from cell2text.evaluation.hf_metrics import score_fields


class DescriptionFields(evaluate.Metric):
    """Accuracy, balanced accuracy, F1, precision and recall of one field, read from descriptions.

    `compute` takes `predictions` (descriptions), `references` (labels or ontology term ids) and `field` (`cell_type`,
    the default, `tissue`, `disease`, `sex` or `life_stage`).

    Examples
    --------
    >>> from cell2text.evaluation import metric_path
    >>> metric = evaluate.load(metric_path("description_fields"))
    >>> metric.compute(predictions=["This cell is a B cell."], references=["B cell"])["accuracy"]
    1.0
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Accuracy, balanced accuracy, F1, precision and recall of a field, read from descriptions.",
            citation="",
            inputs_description="predictions: descriptions. references: labels or ontology term ids. field: "
            "cell_type (default), tissue, disease, sex or life_stage.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, field="cell_type"):
        return score_fields(predictions, references, field)

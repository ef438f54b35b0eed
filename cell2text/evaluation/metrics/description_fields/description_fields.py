"""What descriptions name, against what is true: a metric for `evaluate.load(PATH)`."""

import datasets
import evaluate

from cell2text.evaluation.hf_metrics import score_fields


class DescriptionFields(evaluate.Metric):
    """Accuracy, F1, precision and recall of one field that is read from descriptions."""

    def _info(self):
        return evaluate.MetricInfo(
            description="One field, read from each description, against its label: accuracy, balanced accuracy, F1.",
            citation="",
            inputs_description="predictions: descriptions. references: labels. field: cell_type, tissue, disease, sex "
            "or life_stage.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, field="cell_type"):
        return score_fields(predictions, references, field)

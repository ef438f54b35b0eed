"""Descriptions against reference descriptions: a metric for `evaluate.load(PATH)`."""

import datasets
import evaluate

from cell2text.evaluation.hf_metrics import score_text


class DescriptionText(evaluate.Metric):
    """BLEU, ROUGE, BERTScore where a model is named, exact match, and plain facts of the texts."""

    def _info(self):
        return evaluate.MetricInfo(
            description="BLEU-1 to 4 of the corpus and of sentences, ROUGE-1/2/L, BERTScore, exact match, length.",
            citation="",
            inputs_description="predictions, references: texts. bertscore_model: path or Hub id of an encoder.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, bertscore_model=None):
        return score_text(predictions, references, bertscore_model)

"""Metric for `evaluate.load`: descriptions compared with reference descriptions."""

import datasets
import evaluate

from cell2text.evaluation.hf_metrics import score_descriptions


class DescriptionText(evaluate.Metric):
    """BLEU, ROUGE, BERTScore, exact match and text statistics.

    `compute` takes `predictions` and `references` (texts), and `bertscore_model`, the path or Hub id of an encoder.
    Without a model, BERTScore is skipped.

    Examples
    --------
    >>> from cell2text.evaluation import metric_path
    >>> metric = evaluate.load(metric_path("description_text"))
    >>> metric.compute(predictions=["A B cell."], references=["A B cell."])["exact_match"]
    1.0
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Corpus and sentence BLEU-1 to 4, ROUGE-1/2/L, BERTScore, exact match and length.",
            citation="",
            inputs_description="predictions, references: texts. bertscore_model: path or Hub id of an encoder.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, bertscore_model=None):
        return score_descriptions(predictions, references, bertscore_model)

"""Sets of pathways against sets of pathways: a metric for `evaluate.load(PATH)`."""

import datasets
import evaluate

from cell2text.evaluation.hf_metrics import score_pathways


class PathwaySets(evaluate.Metric):
    """Subset accuracy, Jaccard, F1, AUROC and AUPRC of named pathways."""

    def _info(self):
        names = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description="Subset accuracy, sample Jaccard, micro, macro and weighted F1, AUROC and AUPRC.",
            citation="",
            inputs_description="predictions, references: of each cell the names of its pathways.",
            features=datasets.Features({"predictions": names, "references": names}),
        )

    def _compute(self, predictions, references):
        return score_pathways(predictions, references)

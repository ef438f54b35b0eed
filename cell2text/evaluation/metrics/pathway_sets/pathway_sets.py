"""Metric for `evaluate.load`: predicted sets of pathways compared with true ones."""

import datasets
import evaluate

from cell2text.evaluation.hf_metrics import score_pathways


class PathwaySets(evaluate.Metric):
    """Subset accuracy, Jaccard index, F1, AUROC and AUPRC of sets of pathways.

    `compute` takes `predictions` and `references`, a list of gene-set names per cell.

    Examples
    --------
    >>> from cell2text.evaluation import metric_path
    >>> metric = evaluate.load(metric_path("pathway_sets"))
    >>> metric.compute(predictions=[["A", "B"]], references=[["A", "C"]])["jaccard"]
    0.3333333333333333
    """

    def _info(self):
        names = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description="Subset accuracy, Jaccard index per cell, micro, macro and weighted F1, AUROC and AUPRC.",
            citation="",
            inputs_description="predictions, references: the names of the pathways of each cell.",
            features=datasets.Features({"predictions": names, "references": names}),
        )

    def _compute(self, predictions, references):
        return score_pathways(predictions, references)

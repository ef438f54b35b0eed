"""How near a described term is to the true one in its ontology: a metric for `evaluate.load(PATH)`."""

import datasets
import evaluate

from cell2text.evaluation.hf_metrics import score_similarity


class OntologySimilarity(evaluate.Metric):
    """PageRank and Lin similarity, lenient accuracy, and steps over the common ancestor."""

    def _info(self):
        return evaluate.MetricInfo(
            description="Personalised PageRank similarity (arXiv 2509.24840), Lin similarity, lenient accuracy.",
            citation="",
            inputs_description="predictions: labels, term ids or descriptions. references: labels or term ids. field: "
            "cell_type, tissue or disease.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, field="cell_type"):
        return score_similarity(predictions, references, field)

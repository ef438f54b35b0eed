"""Classification metrics of one field: accuracies, F1, and closeness of predicted terms in the ontology.

Every metric is a function of how often each pair of label and prediction occurs, so bootstrap replicates need the
resampled counts of the pairs only.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import scipy.sparse as sp

from cell2text.evaluation.bootstrap import Resampler
from cell2text.language.fields import FIELD_GRAPHS, Claim
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import resolve


NOT_FOUND = "(not found)"
MAX_CONFUSIONS = 20


@lru_cache(maxsize=1 << 16)  # many cells share a label
def label_claim(field: str, label: str, term_id: str | None) -> Claim:
    """Return the claim of a label. Its term comes from the id, or from the label if the id is missing or unknown."""
    term = resolve(field, label, term_id) if field != "life_stage" else None
    return Claim(str(term.label), term.term_id) if term and term.term_id else Claim(label)


class FieldPairs:
    """Labels and predictions of one field.

    Parameters
    ----------
    field
        Name of the field, one of `FIELDS`.
    truths
        True claim of each row.
    predictions
        Predicted claim of each row; None if the system predicts no value, which counts as wrong.
    rows
        Row numbers in the evaluation.

    Examples
    --------
    >>> truths = [Claim("B cell", "CL:0000236"), Claim("T cell", "CL:0000084")]
    >>> pairs = FieldPairs("cell_type", truths, [truths[0], None], np.arange(2))
    >>> pairs.correct().tolist()
    [True, False]
    """

    def __init__(self, field: str, truths: Sequence[Claim], predictions: Sequence[Claim | None], rows: np.ndarray):
        self.field, self.rows = field, rows
        self.truth_names = [truth.name for truth in truths]
        self.predicted_names = [
            NOT_FOUND if predicted is None else truth.name if predicted.same_as(truth) else predicted.name
            for truth, predicted in zip(truths, predictions)
        ]
        self.labels = sorted({*self.truth_names, *self.predicted_names} - {NOT_FOUND})
        number = {name: i for i, name in enumerate(self.labels)} | {NOT_FOUND: -1}
        codes = np.array(
            [(number[truth], number[predicted]) for truth, predicted in zip(self.truth_names, self.predicted_names)],
            dtype=np.int64,
        ).reshape(-1, 2)
        pairs, first, self._pair_of_row = np.unique(codes, axis=0, return_index=True, return_inverse=True)
        self._pair_of_row = self._pair_of_row.ravel()
        self.truth, self.predicted = pairs.T
        self._claims = [(truths[i], predictions[i]) for i in first]

    def counts(self, resampler: Resampler) -> np.ndarray:
        """Count every pair in the data and in each replicate, shape (1 + n_resamples, n_pairs)."""
        n = len(self._pair_of_row)
        shape = (n, len(self.truth))
        return resampler.sums(sp.csr_matrix((np.ones(n), (np.arange(n), self._pair_of_row)), shape), self.rows)

    def metrics(self, resampler: Resampler) -> dict[str, np.ndarray]:
        """Compute every metric and its replicates, each of shape (1 + n_resamples,)."""
        counts = self.counts(resampler)
        metrics = classification_metrics(counts, self.truth, self.predicted, len(self.labels))
        return metrics | self._ontology_metrics(counts)

    def confusions(self) -> list[dict]:
        """Return the most frequent wrong pairs with their number of rows, `MAX_CONFUSIONS` at most."""
        wrong = [
            {
                "label": self.labels[truth],
                "prediction": self.labels[predicted] if predicted >= 0 else NOT_FOUND,
                "n": int(n),
            }
            for truth, predicted, n in zip(self.truth, self.predicted, np.bincount(self._pair_of_row))
            if truth != predicted
        ]
        return sorted(wrong, key=lambda pair: (-pair["n"], pair["label"], pair["prediction"]))[:MAX_CONFUSIONS]

    def terms(self, i: int) -> tuple[str | None, str | None]:
        """Return the predicted and the true term of the i-th row."""
        truth, predicted = self._claims[self._pair_of_row[i]]
        return (predicted.term_id if predicted else None), truth.term_id

    def correct(self) -> np.ndarray:
        """Return whether the prediction of each row is correct, bool, shape (n_rows,)."""
        return (self.truth == self.predicted)[self._pair_of_row]

    def lenient(self) -> np.ndarray:
        """Return whether the prediction of each row is correct, or an ancestor or descendant of the label.

        The same as :meth:`correct` for fields without an ontology graph.
        """
        if self.field not in FIELD_GRAPHS:
            return self.correct()
        graph = load_graph(FIELD_GRAPHS[self.field])
        related = [graph.related(predicted and predicted.term_id, truth.term_id) for truth, predicted in self._claims]
        return ((self.truth == self.predicted) | np.array(related, dtype=bool))[self._pair_of_row]

    def _ontology_metrics(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Average the closeness of each pair over the rows. A prediction without a term has closeness 0."""
        if self.field not in FIELD_GRAPHS:
            return {}
        graph = load_graph(FIELD_GRAPHS[self.field])
        equal = self.truth == self.predicted
        terms = [(predicted.term_id if predicted else None, truth.term_id) for truth, predicted in self._claims]
        closeness = {
            "lenient_accuracy": [graph.related(*pair) for pair in terms],
            "pagerank_similarity": [graph.pagerank_similarity(*pair) for pair in terms],
            "lin_similarity": [graph.lin_similarity(*pair) for pair in terms],
        }
        steps = [0 if same else graph.common_ancestor_distance(*pair) for same, pair in zip(equal, terms)]
        has_distance = np.array([step is not None for step in steps], dtype=float)
        distances = np.array([step or 0 for step in steps], dtype=float)
        total = counts.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                **{
                    name: counts @ np.maximum(np.array(values, dtype=float), equal) / total
                    for name, values in closeness.items()
                },
                "common_ancestor_distance": counts @ distances / (counts @ has_distance),
                "share_with_distance": counts @ has_distance / total,
            }


def classification_metrics(
    counts: np.ndarray, truth: np.ndarray, predicted: np.ndarray, n_labels: int
) -> dict[str, np.ndarray]:
    """Compute accuracy, balanced accuracy, and macro and weighted F1, precision and recall.

    Parameters
    ----------
    counts
        Number of rows with each pair, shape (n_replicates, n_pairs). The first replicate is the data itself.
    truth, predicted
        Label numbers of each pair. A predicted number of -1 (no value) is wrong for every label.
    n_labels
        Number of labels. Macro means cover the labels that occur as label or prediction in the data; balanced accuracy
        and weighted means cover those that occur as label, as in scikit-learn.

    Returns
    -------
    Metrics by name, each of shape (n_replicates,).
    """
    n_pairs = len(truth)

    def by_label(labels: np.ndarray) -> sp.csr_matrix:
        pairs = np.flatnonzero(labels >= 0)
        return sp.csr_matrix((np.ones(len(pairs)), (pairs, labels[pairs])), shape=(n_pairs, n_labels))

    support = counts @ by_label(truth)
    n_predicted = counts @ by_label(predicted)
    correct = counts @ by_label(np.where(truth == predicted, truth, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(support > 0, correct / support, 0.0)
        precision = np.where(n_predicted > 0, correct / n_predicted, 0.0)
        f1 = np.where(support + n_predicted > 0, 2 * correct / (support + n_predicted), 0.0)
        present, total = support > 0, support.sum(axis=1)
        # Means skip a label that the replicate did not draw, and keep a label that only predictions have.
        union = present | ((support[:1] == 0) & (n_predicted > 0))
        scores = {"f1": f1, "precision": precision, "recall": recall}
        return {
            "accuracy": correct.sum(axis=1) / total,
            "balanced_accuracy": (recall * present).sum(axis=1) / present.sum(axis=1),
            **{f"macro_{name}": (values * union).sum(axis=1) / union.sum(axis=1) for name, values in scores.items()},
            **{f"weighted_{name}": (values * support).sum(axis=1) / total for name, values in scores.items()},
        }

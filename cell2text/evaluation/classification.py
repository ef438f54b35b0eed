"""One field's predictions against its labels: accuracies, F1, and how near a wrong term is in its ontology.

Every figure is a function of how often each pair of label and prediction occurs, so that bootstrap replicates are made
from resampled counts alone.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from cell2text.evaluation.bootstrap import Resampler
from cell2text.language.fields import FIELD_GRAPHS, Claim
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import resolve


NOT_FOUND = "(not found)"
MOST_CONFUSIONS = 20


def truth_claim(field: str, label: str, term_id: str | None) -> Claim:
    """A row's label as a claim: its term by id, by label where the id is missing or no term of this field."""
    term = resolve(field, label, term_id) if field != "life_stage" else None
    return Claim(str(term.label), term.term_id) if term and term.term_id else Claim(label)


class FieldPairs:
    """Labels and predictions of one field.

    Parameters
    ----------
    field
        A key of `FIELDS`.
    truths
        One a row.
    predictions
        One a row, None where nothing was found.
    rows
        Which rows of the evaluation they are.
    """

    def __init__(self, field: str, truths: Sequence[Claim], predictions: Sequence[Claim | None], rows: np.ndarray):
        self.field, self.rows = field, rows
        self.truth_names = [truth.name for truth in truths]
        self.predicted_names = [
            NOT_FOUND if said is None else truth.name if said.same_as(truth) else said.name
            for truth, said in zip(truths, predictions)
        ]
        self.labels = sorted({*self.truth_names, *self.predicted_names} - {NOT_FOUND})
        number = {name: i for i, name in enumerate(self.labels)} | {NOT_FOUND: -1}
        codes = np.array(
            [(number[truth], number[said]) for truth, said in zip(self.truth_names, self.predicted_names)],
            dtype=np.int64,
        ).reshape(-1, 2)
        pairs, first, self._pair_of_row = np.unique(codes, axis=0, return_index=True, return_inverse=True)
        self._pair_of_row = self._pair_of_row.ravel()
        self.truth, self.predicted = pairs.T
        self._claims = [(truths[i], predictions[i]) for i in first]

    def counts(self, resampler: Resampler) -> np.ndarray:
        """How often every pair occurs, in the data and in each replicate, shape (1 + n_resamples, n_pairs)."""
        n = len(self._pair_of_row)
        shape = (n, len(self.truth))
        return resampler.sums(sp.csr_matrix((np.ones(n), (np.arange(n), self._pair_of_row)), shape), self.rows)

    def metrics(self, resampler: Resampler) -> dict[str, np.ndarray]:
        """Every figure and its replicates, each of shape (1 + n_resamples,)."""
        counts = self.counts(resampler)
        return classification_metrics(counts, self.truth, self.predicted, len(self.labels)) | self._nearness(counts)

    def _nearness(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Means over the rows of what the ontology says of each pair; 0 where nothing was found, or nothing known."""
        if self.field not in FIELD_GRAPHS:
            return {}
        graph = load_graph(FIELD_GRAPHS[self.field])
        equal = self.truth == self.predicted
        terms = [(said.term_id if said else None, truth.term_id) for truth, said in self._claims]
        values = {
            "lenient_accuracy": [graph.related(*pair) for pair in terms],
            "pagerank_similarity": [graph.pagerank_similarity(*pair) for pair in terms],
            "lin_similarity": [graph.lin_similarity(*pair) for pair in terms],
        }
        total = counts.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = {
                name: counts @ np.maximum(np.array(value, dtype=float), equal) / total for name, value in values.items()
            }
            steps = [0 if same else graph.common_ancestor_distance(*pair) for same, pair in zip(equal, terms)]
            there = np.array([step is not None for step in steps], dtype=float)
            distance = counts @ np.array([step or 0 for step in steps], dtype=float) / (counts @ there)
            found |= {"common_ancestor_distance": distance, "share_with_distance": counts @ there / total}
        return found

    def confusions(self) -> list[dict]:
        """The most frequent wrong pairs."""
        wrong = [
            {"label": self.labels[truth], "prediction": self.labels[said] if said >= 0 else NOT_FOUND, "n": int(n)}
            for truth, said, n in zip(self.truth, self.predicted, np.bincount(self._pair_of_row))
            if truth != said
        ]
        return sorted(wrong, key=lambda entry: (-entry["n"], entry["label"], entry["prediction"]))[:MOST_CONFUSIONS]

    def terms_of(self, i: int) -> tuple[str | None, str | None]:
        """Predicted and true term of a row."""
        truth, said = self._claims[self._pair_of_row[i]]
        return (said.term_id if said else None), truth.term_id

    def correct(self) -> np.ndarray:
        """Of each row whether it is right."""
        return (self.truth == self.predicted)[self._pair_of_row]


def classification_metrics(
    counts: np.ndarray, truth: np.ndarray, predicted: np.ndarray, n_labels: int
) -> dict[str, np.ndarray]:
    """Accuracy, balanced accuracy, and F1, precision and recall, macro and weighted.

    Parameters
    ----------
    counts
        How often each pair occurs, shape (n_replicates, n_pairs).
    truth, predicted
        Label numbers of each pair; -1 for a prediction that was not found, which is wrong for every label.
    n_labels
        Number of labels. Means go over the labels that occur as truth or as prediction in the data, the first
        replicate; balanced accuracy and weighted means over those that occur as truth, as scikit-learn has it.
    """
    n_pairs = len(truth)

    def by_label(labels: np.ndarray) -> sp.csr_matrix:
        kept = np.flatnonzero(labels >= 0)
        return sp.csr_matrix((np.ones(len(kept)), (kept, labels[kept])), shape=(n_pairs, n_labels))

    support = counts @ by_label(truth)
    called = counts @ by_label(predicted)
    right = counts @ by_label(np.where(truth == predicted, truth, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(support > 0, right / support, 0.0)
        precision = np.where(called > 0, right / called, 0.0)
        f1 = np.where(support + called > 0, 2 * right / (support + called), 0.0)
        present, total = support > 0, support.sum(axis=1)
        # A label that a replicate did not draw is left out of its means; one that no row has, but some text, is not.
        union = present | ((support[:1] == 0) & (called > 0))
        macro = {
            name: (values * union).sum(axis=1) / union.sum(axis=1)
            for name, values in (("f1", f1), ("precision", precision), ("recall", recall))
        }
        weighted = {
            name: (values * support).sum(axis=1) / total
            for name, values in (("f1", f1), ("precision", precision), ("recall", recall))
        }
        return {
            "accuracy": right.sum(axis=1) / total,
            "balanced_accuracy": (recall * present).sum(axis=1) / present.sum(axis=1),
            **{f"macro_{name}": value for name, value in macro.items()},
            **{f"weighted_{name}": value for name, value in weighted.items()},
        }

"""Systems that predict: the model, controls and baselines, all scored on the same rows in the same way."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cell2text.evaluation.bootstrap import Resampler, interval, paired_difference
from cell2text.evaluation.classification import FieldPairs, label_claim
from cell2text.evaluation.named_types import named_type_replicates, named_type_values
from cell2text.evaluation.pathway_metrics import pathway_metrics
from cell2text.evaluation.text_metrics import score_texts
from cell2text.language.fields import FIELDS, Claim, Fields
from cell2text.language.parsing import read_fields


# Metrics by part of the evaluation and name, each followed by its replicates, shape (1 + n_resamples,).
Replicates = dict[str, dict[str, np.ndarray]]
# Metrics whose differences between systems are tested.
COMPARED_METRICS = {
    **dict.fromkeys(FIELDS, ("accuracy", "macro_f1")),
    "cell_type": ("accuracy", "macro_f1", "pagerank_similarity"),
    "pathways": ("subset_accuracy", "jaccard"),
    "text": ("exact_match", "rougeL"),
}


@dataclass
class System:
    """Predictions of one system, one entry per row.

    Parameters
    ----------
    fields
        Claims by field, None in rows for which the system predicts no value. Fields it never predicts are absent.
    pathways
        Gene sets predicted per row; None if the system predicts none at all.
    texts
        Generated texts; None for a classifier.
    contradictions
        Fields for which a text makes two different claims.
    type_probabilities
        Stated probability of each named cell type, None where missing; None for a system that states none.
    """

    fields: dict[str, list[Claim | None]]
    pathways: list[tuple[str, ...]] | None = None
    texts: list[str] | None = None
    contradictions: list[tuple[str, ...]] = field(default_factory=list)
    type_probabilities: list[float | None] | None = None

    def select(self, rows: Iterable[int]) -> "System":
        """Return the predictions of some rows, in the order given."""
        rows = list(rows)

        def selected(values):
            return values and [values[row] for row in rows]

        return System(
            fields={name: [claims[row] for row in rows] for name, claims in self.fields.items()},
            pathways=selected(self.pathways),
            texts=selected(self.texts),
            contradictions=selected(self.contradictions),
            type_probabilities=selected(self.type_probabilities),
        )


@dataclass
class Evaluation:
    """Rows, the predictions of every system for them, and the metrics: the input of the report."""

    rows: list[dict]
    systems: dict[str, System]
    metrics: dict = field(default_factory=dict)


def system_from_texts(
    texts: Sequence[str], pathway_names: Sequence[str], type_probabilities: Sequence[float | None] | None = None
) -> System:
    """Read fields and pathways from generated texts.

    Parameters
    ----------
    texts
        One text per row.
    pathway_names
        Names of the gene sets to look for.
    type_probabilities
        Stated probability of each text's cell type, None where missing.
    """
    names = tuple(pathway_names)
    claims: list[Fields] = [read_fields(text, names) for text in texts]
    return System(
        fields={name: [getattr(fields, name) for fields in claims] for name in FIELDS},
        pathways=[fields.pathways for fields in claims],
        texts=list(texts),
        contradictions=[fields.contradictions for fields in claims],
        type_probabilities=None if type_probabilities is None else list(type_probabilities),
    )


def pathway_names(rows: Sequence[Mapping]) -> list[str]:
    """Return the sorted names of all gene sets in the rows."""
    return sorted({name for row in rows for key in ("pathways", "pathways_active") for name in row[key] or ()})


def field_pairs(system: System, rows: Sequence[Mapping]) -> dict[str, FieldPairs]:
    """Pair labels with predictions for every field that the system predicts and at least one row has.

    Rows that are `declined` count in `named_types` only, see :func:`score_system`.
    """
    pairs = {}
    for name, claims in system.fields.items():
        labelled = np.array([i for i in _rows_where(rows, name) if not rows[i].get("declined")], dtype=np.int64)
        if len(labelled):
            truths = [label_claim(name, rows[i][name], rows[i].get(f"{name}_ontology_term_id")) for i in labelled]
            pairs[name] = FieldPairs(name, truths, [claims[i] for i in labelled], labelled)
    return pairs


def score_system(
    system: System,
    rows: Sequence[Mapping],
    resampler: Resampler,
    *,
    pairs: Mapping[str, FieldPairs] | None = None,
    bertscore_model: str | None = None,
) -> tuple[dict, Replicates]:
    """Compute every metric of a system.

    Parameters
    ----------
    pairs
        Result of :func:`field_pairs`; computed if omitted.
    bertscore_model
        Path or Hub id of the model for BERTScore; if omitted, BERTScore is not computed.

    Returns
    -------
    The metrics with their intervals, as in `metrics.json`, and their replicates for :func:`compare_systems`.
    """
    scores = _Scores(resampler)
    for name, found in (pairs or field_pairs(system, rows)).items():
        scores.add(name, found.metrics(resampler), found.rows)
    if "cell_type" in system.fields:
        _add_named_types(scores, system, rows)
    if system.pathways is not None:
        labelled = np.array([i for i, row in enumerate(rows) if row["pathways"]], dtype=np.int64)
        if len(labelled):
            truths, predicted = [rows[i]["pathways"] for i in labelled], [system.pathways[i] for i in labelled]
            scores.add("pathways", pathway_metrics(truths, predicted, labelled, resampler), labelled)
    if system.texts is not None:
        _add_text_metrics(scores, system.texts, system.contradictions, rows, bertscore_model)
    if system.pathways is not None:
        _add_pathway_claims(scores, system.pathways, rows)
    return scores.summary(), scores.replicates


def compare_systems(first: Replicates, second: Replicates) -> dict:
    """Compute paired differences, first minus second, of the metrics in `COMPARED_METRICS`."""
    return {
        part: {name: paired_difference(first[part][name], second[part][name]) for name in names if name in second[part]}
        for part, names in COMPARED_METRICS.items()
        if part in first and part in second
    }


class _Scores:
    """Metrics of one system, collected part by part."""

    def __init__(self, resampler: Resampler):
        self.resampler = resampler
        self.replicates: Replicates = {}
        self._plain: dict[str, dict] = {}  # values without replicates

    def add(self, part: str, metrics: Mapping[str, np.ndarray], rows: np.ndarray, **plain: float) -> None:
        """Add metrics with replicates and plain values to a part. The first call sets the size of the part."""
        self.replicates.setdefault(part, {}).update(metrics)
        unit, group = self.resampler.groups(rows)
        size = {"n": len(rows), "resampled": unit, "groups": int(group.max()) + 1 if len(group) else 0}
        self._plain.setdefault(part, size).update(plain)

    def summary(self) -> dict:
        """Return the metrics as in `metrics.json`: value and interval, null if undefined."""
        return {
            part: {
                **self._plain[part],
                **{name: float(values[0]) if np.isfinite(values[0]) else None for name, values in metrics.items()},
                "intervals": {
                    name: bounds for name, values in metrics.items() if (bounds := interval(values)) is not None
                },
            }
            for part, metrics in self.replicates.items()
        }


def _add_named_types(scores: _Scores, system: System, rows: Sequence[Mapping]) -> None:
    """Add `named_types`: how often a type is named, whether it is true, how deep it is, and whether it is calibrated.

    It covers the rows whose label is a term of the Cell Ontology, declined ones included.
    """
    labels = {
        int(i): label_claim("cell_type", rows[i]["cell_type"], rows[i].get("cell_type_ontology_term_id")).term_id
        for i in _rows_where(rows, "cell_type")
    }
    numbers = np.array([i for i, label in labels.items() if label is not None], dtype=np.int64)
    if not len(numbers):
        return
    claims = [system.fields["cell_type"][i] for i in numbers]
    stated = None if system.type_probabilities is None else [system.type_probabilities[i] for i in numbers]
    if stated is not None and all(value is None for value in stated):
        stated = None
    named = [claim and (claim.term_id or claim.label) for claim in claims]
    values = named_type_values(named, [labels[i] for i in numbers.tolist()], stated)
    scores.add("named_types", named_type_replicates(values, scores.resampler, numbers), numbers)


def _add_text_metrics(
    scores: _Scores,
    texts: Sequence[str],
    contradictions: Sequence[tuple[str, ...]],
    rows: Sequence[Mapping],
    bertscore_model: str | None,
) -> None:
    """Add `text`, the comparison with the reference texts, and the contradictions in `truthfulness`."""
    with_reference = _rows_where(rows, "reference")
    if len(with_reference):
        references = [rows[i]["reference"] for i in with_reference]
        corpus, values = score_texts([texts[i] for i in with_reference], references, bertscore_model)
        scores.add("text", scores.resampler.all_means(values, with_reference), with_reference, **corpus)
    everyone = np.arange(len(rows))
    contradicting = np.array([bool(fields) for fields in contradictions], dtype=float)
    means = {"contradicts_itself": scores.resampler.means(contradicting, everyone)}
    scores.add("truthfulness", means, everyone)


def _add_pathway_claims(scores: _Scores, pathways: Sequence[tuple[str, ...]], rows: Sequence[Mapping]) -> None:
    """Add to `truthfulness` the share of predicted pathways that are active in the cell itself."""
    claiming = [i for i in _rows_where(rows, "pathways_active") if pathways[i]]
    if not claiming:
        return
    active = [[name in rows[i]["pathways_active"] for name in pathways[i]] for i in claiming]
    shares = {
        "pathway_claims_true": np.array([all(claims) for claims in active], dtype=float),
        "share_of_pathway_claims_true": np.array([np.mean(claims) for claims in active]),
    }
    means = {name: scores.resampler.means(values, np.array(claiming)) for name, values in shares.items()}
    scores.add("truthfulness", means, np.array(claiming), answers_with_pathway_claims=len(claiming))


def _rows_where(rows: Sequence[Mapping], key: str) -> np.ndarray:
    """Return the numbers of the rows that have a value for a key."""
    return np.array([i for i, row in enumerate(rows) if row[key] is not None], dtype=np.int64)

"""Metrics of `cell2text evaluate` for Hugging Face's `evaluate` library.

    evaluate.load(cell2text.evaluation.metric_path("description_fields")).compute(predictions=..., references=...)

Each result contains a hash of its settings. No metric needs the network.
"""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cell2text.errors import UserError
from cell2text.evaluation.bootstrap import Resampler
from cell2text.evaluation.classification import FieldPairs, label_claim
from cell2text.evaluation.pathway_metrics import pathway_metrics
from cell2text.evaluation.settings import LIBRARIES, model_name, settings_hash
from cell2text.evaluation.text_metrics import score_texts
from cell2text.language.fields import FIELD_GRAPHS, FIELDS, Claim
from cell2text.language.free_text import ground_claim
from cell2text.language.parsing import read_fields
from cell2text.ontology.terms import is_term, label_of, ontology_versions
from cell2text.provenance import library_versions


METRIC_FOLDERS = ("description_fields", "ontology_similarity", "pathway_sets", "description_text")
ONTOLOGY_METRICS = ("lenient_accuracy", "pagerank_similarity", "lin_similarity", "common_ancestor_distance")


def metric_path(name: str) -> str:
    """Return the folder of a metric, for `evaluate.load`.

    Parameters
    ----------
    name
        `description_fields`, `ontology_similarity`, `pathway_sets` or `description_text`.

    Raises
    ------
    UserError
        If there is no such metric.

    Examples
    --------
    >>> Path(metric_path("pathway_sets")).name
    'pathway_sets'
    """
    if name not in METRIC_FOLDERS:
        raise UserError(f"No metric is called {name!r}. Expected one of {', '.join(METRIC_FOLDERS)}.")
    return str(Path(__file__).with_name("metrics") / name)


def score_fields(predictions: Sequence[str], references: Sequence[str], field: str) -> dict:
    """Compute classification metrics of one field, read from descriptions.

    Parameters
    ----------
    predictions
        Descriptions.
    references
        Labels or ontology term ids.
    field
        `cell_type`, `tissue`, `disease`, `sex` or `life_stage`.
    """
    if field not in FIELDS:
        raise UserError(f"No field is called {field!r}. Expected one of {', '.join(FIELDS)}.")
    predicted = [getattr(read_fields(text), field) for text in predictions]
    metrics = _score_pairs(field, predicted, references)
    return _with_hash({name: value for name, value in metrics.items() if name not in ONTOLOGY_METRICS}, field=field)


def score_similarity(predictions: Sequence[str], references: Sequence[str], field: str) -> dict:
    """Compute the closeness of predicted terms to the true ones in the ontology.

    Parameters
    ----------
    predictions
        Descriptions, labels or ontology term ids.
    references
        Labels or ontology term ids.
    field
        `cell_type`, `tissue` or `disease`.
    """
    if field not in FIELD_GRAPHS:
        raise UserError(f"The field {field!r} has no ontology. Expected one of {', '.join(FIELD_GRAPHS)}.")
    metrics = _score_pairs(field, [_read_claim(field, text) for text in predictions], references)
    return _with_hash({name: metrics[name] for name in ONTOLOGY_METRICS}, field=field)


def score_pathways(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict:
    """Compute metrics of sets of pathways, given by name."""
    n = len(references)
    return _with_hash(_values(pathway_metrics(references, predictions, np.arange(n), _no_resampling(n))))


def score_descriptions(predictions: Sequence[str], references: Sequence[str], bertscore_model: str | None) -> dict:
    """Compute metrics of texts against reference texts; BERTScore only if a model is given."""
    corpus, values = score_texts(predictions, references, bertscore_model)
    means = {name: float(value.mean()) for name, value in values.items()}
    return _with_hash(corpus | means, bertscore_model=bertscore_model and model_name(bertscore_model))


def _score_pairs(field: str, predicted: Sequence[Claim | None], references: Sequence[str]) -> dict[str, float]:
    n = len(references)
    truths = [label_claim(field, *_label_and_term(field, reference)) for reference in references]
    return _values(FieldPairs(field, truths, predicted, np.arange(n)).metrics(_no_resampling(n)))


def _label_and_term(field: str, reference: str) -> tuple[str, str | None]:
    if field != "life_stage" and is_term(field, reference):
        return label_of(reference), reference
    return reference, None


def _read_claim(field: str, text: str) -> Claim | None:
    """Read a claim from a term id, a label or a description."""
    if is_term(field, text):
        return Claim(label_of(text), text)
    label = ground_claim(field, text.strip())
    if label and label.term_id and label.label != text.strip():
        return label
    return getattr(read_fields(text), field) or label


def _no_resampling(n: int) -> Resampler:
    return Resampler([None] * n, n_resamples=0)


def _values(replicates: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(values[0]) for name, values in replicates.items()}


def _with_hash(metrics: dict, **settings) -> dict:
    versions = {"version": importlib.metadata.version("cell2text"), "ontologies": ontology_versions()}
    settings_used = {**versions, **settings, "libraries": library_versions(LIBRARIES)}
    return {**metrics, "settings_hash": settings_hash(settings_used)}

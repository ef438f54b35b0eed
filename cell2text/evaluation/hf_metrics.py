"""The figures of `cell2text evaluate` one by one, as metrics of Hugging Face's `evaluate`.

    evaluate.load(cell2text.evaluation.metric_path("description_fields")).compute(predictions=..., references=...)

Each result ends with the hash of its settings. None of them needs a network.
"""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cell2text.errors import UserError
from cell2text.evaluation.bootstrap import Resampler
from cell2text.evaluation.classification import FieldPairs, truth_claim
from cell2text.evaluation.pathway_metrics import pathway_metrics
from cell2text.evaluation.settings import LIBRARIES, model_name, settings_hash, version_of
from cell2text.evaluation.text_metrics import text_figures
from cell2text.language.fields import FIELD_GRAPHS, FIELDS, Claim
from cell2text.language.free_text import ground_claim
from cell2text.language.parsing import read_fields
from cell2text.ontology.terms import is_term, label_of, ontology_versions


METRICS = ("description_fields", "ontology_similarity", "pathway_sets", "description_text")
NEARNESS = ("lenient_accuracy", "pagerank_similarity", "lin_similarity", "common_ancestor_distance")


def metric_path(name: str) -> str:
    """Folder of a metric, for `evaluate.load`.

    Raises
    ------
    ValueError
        If there is no such metric.
    """
    if name not in METRICS:
        raise UserError(f"No metric {name!r}: expected one of {METRICS}.")
    return str(Path(__file__).with_name("metrics") / name)


def score_fields(predictions: Sequence[str], references: Sequence[str], field: str) -> dict:
    if field not in FIELDS:
        raise UserError(f"No field {field!r}: expected one of {FIELDS}.")
    truths = [truth_claim(field, *label_and_term(field, label)) for label in references]
    said = [getattr(read_fields(text), field) for text in predictions]
    found = points(FieldPairs(field, truths, said, np.arange(len(truths))).metrics(no_resampling(len(truths))))
    return with_hash({name: value for name, value in found.items() if name not in NEARNESS}, field=field)


def score_similarity(predictions: Sequence[str], references: Sequence[str], field: str) -> dict:
    if field not in FIELD_GRAPHS:
        raise UserError(f"No ontology for {field!r}: expected one of {tuple(FIELD_GRAPHS)}.")
    truths = [truth_claim(field, *label_and_term(field, label)) for label in references]
    said = [claimed(field, text) for text in predictions]
    found = points(FieldPairs(field, truths, said, np.arange(len(truths))).metrics(no_resampling(len(truths))))
    return with_hash({name: found[name] for name in NEARNESS}, field=field)


def score_pathways(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict:
    rows = np.arange(len(references))
    return with_hash(points(pathway_metrics(references, predictions, rows, no_resampling(len(rows)))))


def score_text(predictions: Sequence[str], references: Sequence[str], bertscore_model: str | None) -> dict:
    corpus, values = text_figures(predictions, references, bertscore_model)
    means = {name: float(value.mean()) for name, value in values.items()}
    return with_hash(corpus | means, bertscore_model=bertscore_model and model_name(bertscore_model))


def label_and_term(field: str, label: str) -> tuple[str, str | None]:
    """A label as it is, or the label of a term id."""
    return (label_of(label), label) if field != "life_stage" and is_term(field, label) else (label, None)


def claimed(field: str, text: str) -> Claim | None:
    """What a text names: a term id, a bare label, or a description."""
    if is_term(field, text):
        return Claim(label_of(text), text)
    bare = ground_claim(field, text.strip())
    return bare if bare and bare.term_id and bare.label != text.strip() else getattr(read_fields(text), field) or bare


def no_resampling(n: int) -> Resampler:
    return Resampler([None] * n, n_resamples=0)


def points(replicates: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(values[0]) for name, values in replicates.items()}


def with_hash(found: dict, **settings) -> dict:
    used = {"version": importlib.metadata.version("cell2text"), "ontologies": ontology_versions(), **settings}
    used["libraries"] = {name: version_of(name) for name in LIBRARIES}
    return {**found, "settings_hash": settings_hash(used)}

"""What figures depend on beside the rows, written down and hashed."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path

from cell2text.evaluation.baselines import Training
from cell2text.evaluation.bootstrap import Resampler
from cell2text.evaluation.text_metrics import offline_bert_model
from cell2text.language.fields import FIELDS
from cell2text.ontology.terms import ontology_versions


LIBRARIES = (
    "bert-score", "cellxgene-ontology-guide", "lightgbm", "nltk", "numpy", "rouge-score", "sacrebleu", "scikit-learn",
    "scipy",
)  # fmt: skip


def settings_of(resampler: Resampler, bertscore_model: str | None, training: Training | None) -> dict:
    """Everything that the figures of an evaluation depend on beside its rows, and a hash of it."""
    used = {
        "version": importlib.metadata.version("cell2text"),
        "fields": list(FIELDS),
        "resamples": resampler.n_resamples,
        "seed": resampler.seed,
        "bertscore_model": None if bertscore_model is None else model_name(bertscore_model),
        "baselines_trained_on": None if training is None else training.features,
        "training_cells": None if training is None else len(training.train.rows),
        "ontologies": ontology_versions(),
        "libraries": {name: version_of(name) for name in LIBRARIES},
    }
    return {**used, "hash": settings_hash(used)}


def settings_hash(used: Mapping) -> str:
    return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:16]


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def model_name(model: str) -> str:
    """A model's name, without the folders that lead to it."""
    if model == offline_bert_model():
        return "all-MiniLM-L6-v2"
    return Path(model).name if Path(model).exists() else model

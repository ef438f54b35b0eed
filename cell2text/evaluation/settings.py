"""Settings that metrics depend on besides the rows, and their hash."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

from cell2text.evaluation.baselines import BaselineData
from cell2text.evaluation.bootstrap import Resampler
from cell2text.evaluation.text_metrics import installed_bert_model
from cell2text.language.fields import FIELDS
from cell2text.ontology.terms import ontology_versions
from cell2text.provenance import content_hash, library_versions


LIBRARIES = (
    "bert-score", "cellxgene-ontology-guide", "lightgbm", "nltk", "numpy", "rouge-score", "sacrebleu", "scikit-learn",
    "scipy",
)  # fmt: skip


def evaluation_settings(resampler: Resampler, bertscore_model: str | None, training: BaselineData | None) -> dict:
    """Return all settings of an evaluation and their hash, as in `metrics.json`."""
    settings = {
        "version": importlib.metadata.version("cell2text"),
        "fields": list(FIELDS),
        "resamples": resampler.n_resamples,
        "seed": resampler.seed,
        "bertscore_model": None if bertscore_model is None else model_name(bertscore_model),
        "baselines_trained_on": None if training is None else training.features,
        "training_cells": None if training is None else len(training.train.rows),
        "ontologies": ontology_versions(),
        "libraries": library_versions(LIBRARIES),
    }
    return {**settings, "hash": settings_hash(settings)}


def settings_hash(settings: Mapping) -> str:
    """Return 16 hexadecimal digits that identify the settings.

    Examples
    --------
    >>> settings_hash({"seed": 0})
    'de7d7744ccd7722e'
    """
    return content_hash(dict(settings))[:16]


def model_name(model: str) -> str:
    """Return the name of a model without the folders of its path."""
    if model == installed_bert_model():
        return "all-MiniLM-L6-v2"
    return Path(model).name if Path(model).exists() else model

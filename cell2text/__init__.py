"""Cell2Text: single-cell expression profiles to text that a biologist can check."""

from importlib import import_module

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from configuration_cell2text import Cell2TextConfig
from modeling_cell2text import Cell2TextForConditionalGeneration, Cell2TextModel
from processing_cell2text import Cell2TextProcessor
from vocabulary_cell2text import GeneVocabulary


__version__ = "0.1.0"

AutoConfig.register("cell2text", Cell2TextConfig, exist_ok=True)
for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_class.register(Cell2TextConfig, Cell2TextForConditionalGeneration, exist_ok=True)
AutoProcessor.register(Cell2TextConfig, Cell2TextProcessor, exist_ok=True)

# Names that need anndata, scikit-learn or the ontologies are imported when they are first used.
_LAZY = {
    "example_cells": "cell2text.example",
    "fit_vocabulary": "cell2text.preparation.medians",
    "load": "cell2text.loading",
    "prepare": "cell2text.preparation.run",
}

__all__ = [
    "Cell2TextConfig",
    "Cell2TextForConditionalGeneration",
    "Cell2TextModel",
    "Cell2TextProcessor",
    "GeneVocabulary",
    *_LAZY,
]


def __getattr__(name):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name == "tl":
        return import_module("cell2text.tl")
    raise AttributeError(f"module 'cell2text' has no attribute {name!r}")

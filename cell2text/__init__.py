"""Cell2Text: describe single-cell RNA-seq profiles as text that a biologist can check.

`import cell2text` loads no other library. Public names are imported on first use, and the model is registered with
transformers' Auto classes as soon as transformers is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from cell2text.registration import register, register_with_transformers


if TYPE_CHECKING:
    from cell2text import tl
    from cell2text.describe.gene_lists import describe_gene_lists
    from cell2text.example import example_cells
    from cell2text.loading import load
    from cell2text.preparation.medians import fit_vocabulary
    from cell2text.preparation.run import prepare
    from configuration_cell2text import Cell2TextConfig
    from modeling_cell2text import Cell2TextForConditionalGeneration, Cell2TextModel
    from processing_cell2text import Cell2TextProcessor
    from vocabulary_cell2text import GeneVocabulary


__version__ = "0.1.0"

_MODULES = {
    "Cell2TextConfig": "configuration_cell2text",
    "Cell2TextForConditionalGeneration": "modeling_cell2text",
    "Cell2TextModel": "modeling_cell2text",
    "Cell2TextProcessor": "processing_cell2text",
    "GeneVocabulary": "vocabulary_cell2text",
    "describe_gene_lists": "cell2text.describe.gene_lists",
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
    "describe_gene_lists",
    "example_cells",
    "fit_vocabulary",
    "load",
    "prepare",
    "register",
    "tl",
]


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    if name == "tl":
        return import_module("cell2text.tl")
    raise AttributeError(f"module 'cell2text' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_transformers()

"""The models that ship with the package.

`mini` describes cells: weights, genes, tokenizer, card; `cell2text.load()` loads it. `generator` generates cells.
"""

from pathlib import Path


MINI = Path(__file__).with_name("mini")
MINI_NAME = "cell2text.models.mini"
GENERATOR = Path(__file__).with_name("generator")

__all__ = ["GENERATOR", "MINI", "MINI_NAME"]

"""The model that ships with the package: weights, genes, tokenizer, card. `cell2text.load()` loads it."""

from pathlib import Path


MINI = Path(__file__).with_name("mini")
MINI_NAME = "cell2text.models.mini"

__all__ = ["MINI", "MINI_NAME"]

"""Describe a whole experiment: raw counts in, the same cells with text, terms, numbers and embeddings out.

Public names are imported on first use, so that options can be checked before any library loads.
"""

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from cell2text.describe.gene_lists import describe_gene_lists
    from cell2text.describe.options import DescribeOptions
    from cell2text.describe.run import describe_file


_MODULES = {
    "DescribeOptions": "cell2text.describe.options",
    "describe_file": "cell2text.describe.run",
    "describe_gene_lists": "cell2text.describe.gene_lists",
}

__all__ = ["DescribeOptions", "describe_file", "describe_gene_lists"]


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'cell2text.describe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

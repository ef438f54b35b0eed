"""Describing a whole experiment: counts in, the same cells with text, terms, numbers and embeddings out."""

from cell2text.describe.options import DescribeOptions
from cell2text.describe.run import describe_file


__all__ = ["DescribeOptions", "describe_file"]

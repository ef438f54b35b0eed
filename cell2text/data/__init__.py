"""Counts to training rows: vocabulary, descriptions, splits, rows. Only `rows` and `example` touch files."""

from cell2text.data.descriptions import describe_row
from cell2text.data.example import example_cells, example_cells_path
from cell2text.data.rows import build_rows
from cell2text.data.splits import stratified_split
from cell2text.data.vocabulary import MedianAccumulator, fit_vocabulary


__all__ = [
    "MedianAccumulator",
    "build_rows",
    "describe_row",
    "example_cells",
    "example_cells_path",
    "fit_vocabulary",
    "stratified_split",
]

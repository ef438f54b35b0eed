"""Counts to training rows, one step a module.

    sources, census -> plan: ontology, sampling, splits -> jobs: ranks, pathways, tasks, texts, rows -> card, report

`prepare` runs them.
"""

from cell2text.data.descriptions import describe_row
from cell2text.data.example import example_cells, example_cells_path
from cell2text.data.vocabulary import MedianAccumulator, fit_vocabulary


__all__ = ["MedianAccumulator", "describe_row", "example_cells", "example_cells_path", "fit_vocabulary"]

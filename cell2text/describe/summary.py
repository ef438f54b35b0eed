"""Summarise what the model saw of an experiment: container, matrix, genes, counts used and cells without a text."""

import json
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from cell2text.describe.table import described_columns
from cell2text.inference.probabilities import reliability_factors
from cell2text.language.described import has_description
from ranking_cell2text import reading_text


def summarise(
    reading: dict, tables: Iterable[pa.Table], *, min_genes: int = 0,
    reliability: Sequence[Sequence[float]] | None = None,
) -> dict:  # fmt: skip
    """Return what the model saw of an experiment, ready for JSON.

    Parameters
    ----------
    reading
        Where counts and genes were found, as `CellRanker.reading` returns it.
    tables
        Tables of the described cells, with the columns of :func:`cell2text.describe.table.table_schema`.
    min_genes
        Number of expressed genes that a cell needs for a text.
    reliability
        Points of the model's `type_reliability`.

    Returns
    -------
    `reading` with `cells`, `counts_used` (mean share per cell), `median_genes` per cell, `cells_with_too_few_genes`,
    `cells_with_lowered_probability` (of a type, because of few genes), `cells_of_other_species` (with mostly counts of
    another species) and `cells_without_text`.
    """
    cells, without_text, too_few, lowered, foreign, used = 0, 0, 0, 0, 0, 0.0
    genes = []
    for table in tables:
        cells += len(table)
        n_genes = table["n_genes"].to_numpy()
        without_text += int((~has_description(described_columns(table))).sum())
        enough = n_genes >= max(1, min_genes)
        other_species = is_of_other_species(n_genes, table["counts_used"].to_numpy())
        too_few += int((~enough & ~other_species).sum())
        foreign += int(other_species.sum())
        lowered += int((reliability_factors(n_genes[enough], reliability) < 1).sum())
        genes.append(n_genes)
        used += float(table["counts_used"].to_numpy().astype(np.float64).sum())
    return {
        **reading,
        "cells": cells,
        "counts_used": round(used / max(1, cells), 4),
        "median_genes": float(np.median(np.concatenate(genes))) if cells else 0.0,
        "cells_with_too_few_genes": too_few,
        "cells_with_lowered_probability": lowered,
        "cells_of_other_species": foreign,
        "cells_without_text": without_text,
    }


def is_of_other_species(n_genes: np.ndarray, counts_used: np.ndarray) -> np.ndarray:
    """Return which cells have mostly counts of another species: ranking leaves out their genes, shape (n_cells,)."""
    return (np.asarray(n_genes) == 0) & (np.asarray(counts_used) > 0)


def summary_line(summary: dict) -> str:
    """Return the summary as one line.

    Examples
    --------
    >>> summary = {"container": "h5ad", "counts": "X", "gene_column": "index", "genes_found": 2, "genes_of_model": 4}
    >>> summary |= {"cells": 3, "counts_used": 0.5, "cells_with_too_few_genes": 1, "cells_without_text": 1}
    >>> summary_line(summary).split("; ")[1:]
    ['50.0 % of the counts used', '3 cells, 1 with too few counts, 1 without a description.']
    """
    text = (
        f"{reading_text(summary)}; {100 * summary['counts_used']:.1f} % of the counts used; {summary['cells']:,} cells"
    )
    text += f", {summary['cells_with_too_few_genes']:,} with too few counts"
    if summary.get("cells_of_other_species"):
        text += f", {summary['cells_of_other_species']:,} of another species"
    return f"{text}, {summary['cells_without_text']:,} without a description."


def summary_for_uns(summary: dict) -> str:
    """Return the summary as JSON, which every version of AnnData can store."""
    return json.dumps(summary, sort_keys=True)

"""Summarise what the model saw of an experiment: container, matrix, genes, counts used and cells without a text."""

import json
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa

from cell2text.describe.table import described_columns
from cell2text.language.described import TEXT, has_description, has_result
from cell2text.language.parsing import read_declined
from cell2text.processes import peak_memory
from ranking_cell2text import reading_text


COUNTED = ("cells", "cells_with_too_few_genes", "cells_of_other_species", "cells_declined", "cells_without_text")
REASON_NAMES = {"ambient": "ambient RNA", "two_profiles": "two profiles", "unknown_type": "unknown type"}


def summarise(reading: dict, tables: Iterable[pa.Table], min_genes: int = 0) -> dict:
    """Return what the model saw of an experiment, ready for JSON.

    Parameters
    ----------
    reading
        Where counts and genes were found, as `CellRanker.reading` returns it.
    tables
        Tables of the described cells, with the columns of :func:`cell2text.describe.table.table_schema`.
    min_genes
        Number of expressed genes that a cell needs for a text.

    Returns
    -------
    `reading` with `cells`, `counts_used` (mean share per cell), `median_genes` per cell, `cells_with_too_few_genes`,
    `cells_of_other_species` (with mostly counts of another species), `cells_declined` (with enough counts, but without
    a cell type), `reasons_for_declining` (number of these cells by reason; empty for tables without texts) and
    `cells_without_text` (all cells without a description).
    """
    numbers: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    genes, used = [], 0.0
    for table in tables:
        rows = described_columns(table)
        counts, n_genes = table["counts_used"].to_numpy(), table["n_genes"].to_numpy()
        foreign = is_of_other_species(n_genes, counts)
        thin = (n_genes < max(1, min_genes)) & ~foreign
        without_text = ~has_description(rows)
        numbers["cells"] += len(table)
        numbers["cells_with_too_few_genes"] += int(thin.sum())
        numbers["cells_of_other_species"] += int(foreign.sum())
        numbers["cells_declined"] += int((has_result(rows) & without_text & ~thin & ~foreign).sum())
        numbers["cells_without_text"] += int(without_text.sum())
        reasons.update(count_reasons(rows[TEXT]) if TEXT in rows else {})
        genes.append(n_genes)
        used += float(counts.astype(np.float64).sum())
    return {
        **reading,
        "counts_used": round(used / max(1, numbers["cells"]), 4),
        "median_genes": float(np.median(np.concatenate(genes))) if numbers["cells"] else 0.0,
        **{name: numbers[name] for name in COUNTED},
        "reasons_for_declining": dict(reasons),
    }


def count_reasons(texts: pd.Series) -> dict[str, int]:
    """Count the texts that state why no cell type is assigned, by reason.

    Examples
    --------
    >>> texts = ["No cell type is assigned: the profile combines two cells.", "This cell is a T cell."]
    >>> count_reasons(pd.Series(texts))
    {'two_profiles': 1}
    """
    found = dict.fromkeys(REASON_NAMES, 0)
    for text, number in texts.astype(object).value_counts().items():
        declined = read_declined(text)
        if declined is not None and declined.reason in found:
            found[declined.reason] += int(number)
    return {reason: number for reason, number in found.items() if number}


def reasons_text(reasons: dict[str, int]) -> str:
    """Return the number of cells by reason as text.

    Examples
    --------
    >>> reasons_text({"ambient": 7, "unknown_type": 2})
    '7 ambient RNA, 2 unknown type'
    """
    return ", ".join(f"{number:,} {REASON_NAMES[reason]}" for reason, number in reasons.items())


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
    if summary.get("cells_declined"):
        reasons = reasons_text(summary["reasons_for_declining"])
        text += f", {summary['cells_declined']:,} declined" + (f" ({reasons})" if reasons else "")
    return f"{text}, {summary['cells_without_text']:,} without a description."


def speed_line(n_cells: int, seconds: float) -> str:
    """Return how many cells a run described, in what time, and the peak memory of its largest process.

    Examples
    --------
    >>> speed_line(1000, 4.0)
    'Described 1,000 cells in 4.0 s (250 cells per second); peak memory ... MiB per process.'
    """
    text = f"Described {n_cells:,} cells in {seconds:,.1f} s ({n_cells / seconds:,.0f} cells per second)"
    memory = peak_memory()
    return f"{text}." if memory is None else f"{text}; peak memory {memory:,} MiB per process."


def summary_for_uns(summary: dict) -> str:
    """Return the summary as JSON, which every version of AnnData can store."""
    return json.dumps(summary, sort_keys=True)

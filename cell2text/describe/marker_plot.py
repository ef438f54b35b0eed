"""Plot the expression of marker genes by group: colour for the mean, size for the share of expressing cells.

Depends on `group_markers` for the genes, and on scanpy for the plot. Reads the counts of a sample of the cells.
"""

import warnings
from functools import cache

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cell2text.describe.described_file import Described
from cell2text.describe.group_markers import COUNTS_PER_CELL, group_markers, has_scanpy, read_counts, sample_rows
from cell2text.describe.groups import Groups
from cell2text.describe.inputs import CellReader
from cell2text.describe.provenance import reading_options
from cell2text.errors import UserError
from cell2text.loading import load_model
from cell2text.plots import plain
from cell2text.sources.containers import open_source
from cell2text.sources.discovery import find_source


MAX_GROUPS, GENES_PER_GROUP, MAX_NAME = 15, 3, 40
WITHOUT_SCANPY = "scanpy is not installed: pip install scanpy"


def marker_plot(described: Described, groups: Groups, *, seed: int = 0) -> Figure:
    """Return a dot plot of the best marker genes of the largest groups.

    Parameters
    ----------
    described
        A described experiment, whose file holds the counts.
    groups
        Groups of all cells. The `MAX_GROUPS` largest with markers are shown, each with up to `GENES_PER_GROUP` genes.
    seed
        Random seed for sampling cells of a group.

    Raises
    ------
    UserError
        If scanpy is missing, the counts cannot be read, or no group has a marker gene.
    """
    if not has_scanpy():
        raise UserError(WITHOUT_SCANPY)
    options = reading_options(described.params)
    with open_source(
        find_source(str(described.path)), layer=options.layer, allow_fractional=options.allow_fractional
    ) as source:
        reader = CellReader(source, _processor(), options)
        markers = group_markers(reader, groups, seed=seed) or []
        shown = [code for code in np.argsort(-groups.sizes, kind="stable") if markers[code]][:MAX_GROUPS]
        if not shown:
            raise UserError("No group has a gene that sets it apart from the others.")
        rows = sample_rows(groups, seed)
        rows = rows[np.isin(groups.codes[rows], shown)]
        adata = read_counts(reader, rows)
    names = {code: _short(groups.names[code], code, groups.names) for code in shown}
    adata.obs["group"] = pd.Categorical([names[code] for code in groups.codes[rows]], categories=list(names.values()))
    return _dot_plot(adata, {names[code]: markers[code][:GENES_PER_GROUP] for code in shown})


@cache
def _processor():
    """Return the processor of the packaged model, which knows the genes."""
    return load_model(None, "cpu")[1]


def _short(name: str, code: int, names: list[str]) -> str:
    """Return a name that fits the plot, and that no other group has."""
    short = plain(name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…")
    same = [other for other in names if other[:MAX_NAME] == name[:MAX_NAME]]
    return short if len(same) == 1 else f"{short} ({code})"


def _dot_plot(adata, genes: dict[str, list[str]]) -> Figure:
    """Return scanpy's dot plot of log-normalised expression."""
    import scanpy as sc
    from matplotlib import pyplot

    unique = {group: list(dict.fromkeys(own)) for group, own in genes.items()}
    with warnings.catch_warnings(), pyplot.ioff():
        warnings.simplefilter("ignore")  # cells without counts, and future defaults of scanpy and pandas
        sc.pp.normalize_total(adata, target_sum=COUNTS_PER_CELL)
        sc.pp.log1p(adata)
        plot = sc.pl.dotplot(adata, [gene for own in unique.values() for gene in own], "group", return_fig=True)
        plot.legend(colorbar_title="mean log expression", size_title="expressing cells (%)").make_figure()
        pyplot.close(plot.fig)
    return plot.fig

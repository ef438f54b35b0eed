"""Write a described experiment as one self-contained HTML page: a map, the texts, groups, gene coverage and provenance.

Depends on `described_file`, which reads the experiment, and on Bokeh for the map (the `report` extra).
"""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bokeh.embed import components
from bokeh.models import BooleanFilter, CDSView, ColumnDataSource, Range1d
from bokeh.plotting import figure
from bokeh.resources import Resources
from matplotlib.figure import Figure
from tqdm import tqdm

from cell2text.describe.colours import MISSING_COLOUR, coloured_labels, number_palette
from cell2text.describe.consensus import GroupDescriptions
from cell2text.describe.described_file import (
    Described,
    embedding_layout,
    flat_parameters,
    own_map,
    read_described,
)
from cell2text.describe.evidence import ABSENT_MARKERS, EVIDENCE
from cell2text.describe.groups import find_groups
from cell2text.describe.marker_plot import marker_plot
from cell2text.describe.summary import count_reasons, reasons_text
from cell2text.errors import UserError
from cell2text.files import write_atomically
from cell2text.language.described import CANDIDATES, TEXT, has_description
from cell2text.language.fields import FIELDS
from cell2text.pages import render_page
from cell2text.paths import check_output
from cell2text.plots import COLOURS, svg
from declining_cell2text import DECLINED_START, EMPTY_CELL_TEXT, TOO_FEW_GENES_START


MAX_POINTS = 20_000  # cells on the map; more slow a browser down and hide each other
MAX_GROUPS_SHOWN = 200
DENSITY_BINS = 160
DENSITY_PALETTE: list[Any] = [f"#{level:02x}{level:02x}{level:02x}" for level in range(255, 190, -4)]
STAGES = (
    "Reading descriptions",
    "Placing cells on the map",
    "Summarising groups",
    "Finding marker genes",
    "Writing the page",
)
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LOW_GENES, LOW_COUNTS_USED = 200, 0.5
SCORES = {
    "type_probability": "type probability",
    "n_genes": "genes in the vocabulary",
    "counts_used": "fraction of counts used",
}


def write_report(
    source: str | os.PathLike, out: str | os.PathLike, *, groupby: str | None = None, key: str = "cell2text",
    max_cells: int = MAX_POINTS, seed: int = 0, overwrite: bool = False, progress: bool = False,
) -> Path:  # fmt: skip
    """Write the page of a described experiment.

    Parameters
    ----------
    source
        h5ad file or zarr store that `cell2text describe` or `cell2text.tl.describe` wrote.
    out
        The page, a path that ends in `.html`.
    groupby
        Column of `obs` that defines the groups of the table. Defaults to the groups that were described, otherwise to
        the predicted cell types.
    key
        Name under which the cells were described.
    max_cells
        Maximum number of cells on the map; larger experiments are sampled. Tables and figures cover all cells, and so
        does the density behind the points of a file with its own map.
    seed
        Random seed for sampling the cells on the map, and for UMAP.
    overwrite
        Replace an existing page.
    progress
        Show a progress bar.

    Returns
    -------
    The path `out`.

    Raises
    ------
    UserError
        If `source` holds no descriptions, the column `groupby` does not exist, or `out` exists, is a folder or does
        not end in `.html`.
    """
    out = Path(out)
    _check_arguments(out, max_cells=max_cells, seed=seed, overwrite=overwrite)
    with tqdm(total=len(STAGES), disable=not progress, unit="step", leave=False) as bar:
        write_atomically(out, _page(source, groupby, key, max_cells, seed, bar))
    return out


def _page(source: str | os.PathLike, groupby: str | None, key: str, max_cells: int, seed: int, bar: tqdm) -> str:
    """Return the page; `bar` shows which of `STAGES` it is at."""
    stages = iter(STAGES)
    bar.set_description(next(stages))
    described = read_described(source, key)
    if not len(described.cells):
        raise UserError(f"{source} holds no cells.")
    rows = np.arange(len(described.cells))
    if len(rows) > max_cells:
        rows = np.sort(np.random.default_rng(seed).choice(rows, max_cells, replace=False))
    _advance(bar, next(stages))
    positions, map_name = embedding_layout(described, rows, key, seed)
    _advance(bar, next(stages))
    groups, grouped_by = _group_table(described, groupby, seed)
    column = described.column(grouped_by) if groupby or grouped_by in described.other_columns else None
    _advance(bar, next(stages))
    markers, without_markers = _marker_plot(described, column, grouped_by, seed)
    _advance(bar, next(stages))
    behind = own_map(described, np.arange(len(described.cells))) if len(rows) < len(described.cells) else None
    script, plot = _with_fixed_ids(*components(_cell_map(positions, None if behind is None else behind[0])))
    return render_page(
        "cell2text.describe", "described.html",
        name=described.path.name, n_cells=len(described.cells), n_shown=len(rows), map_name=map_name,
        has_density=behind is not None,
        resources=Resources(mode="inline", components=["bokeh"]).render_js(), script=script, plot=plot,
        data=_page_data(described, rows, column, grouped_by), summary=_summarise(described),
        groups=groups.head(MAX_GROUPS_SHOWN).to_dict("records"), n_groups=len(groups), grouped_by=grouped_by,
        pseudobulk="pseudobulk_cell_type" in groups, candidates=CANDIDATES in groups,
        mapping=svg(_coverage_figure(described.cells)),
        markers=markers, without_markers=without_markers,
        params=flat_parameters(described.params), low_genes=LOW_GENES, low_mapped=LOW_COUNTS_USED,
    )  # fmt: skip


def _marker_plot(
    described: Described, column: pd.Series | None, grouped_by: str, seed: int
) -> tuple[str | None, str | None]:
    """Return the dot plot of marker genes as SVG, or None and the reason for having none."""
    values = described.cells["cell_type"].astype(object) if column is None else column
    try:
        groups = find_groups(values.reset_index(drop=True), grouped_by, None, seed)
        return svg(marker_plot(described, groups, seed=seed), tight=True), None
    except UserError as error:
        return None, str(error)


def _advance(bar: tqdm, stage: str) -> None:
    """Count the stage that is done, and name the next."""
    bar.update()
    bar.set_description(stage)


def _check_arguments(out: Path, *, max_cells: int, seed: int, overwrite: bool) -> None:
    """Raise a `UserError` for an argument that cannot work, before anything is read."""
    if out.suffix != ".html":
        raise UserError(f"out={str(out)!r}: expected a path that ends in .html.")
    if out.is_dir():
        raise UserError(f"out={str(out)!r} is a folder: expected the path of a page.")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed={seed}: expected a number from 0 to {2**32 - 1}.")
    if out.exists() and not overwrite:
        raise UserError(f"out={str(out)!r} exists. Pass overwrite=True to replace it, or choose another path.")
    check_output(out)
    if max_cells < 1:
        raise UserError(f"max_cells={max_cells}: expected at least 1.")


def _cell_map(positions: np.ndarray, everything: np.ndarray | None) -> figure:
    """Return the plot; the script of the page colours and filters its points.

    Where points are a sample, the density of all cells lies behind them.
    """
    n, shown = len(positions), positions if everything is None else everything
    (left, right), (bottom, top) = _padded_range(shown[:, 0]), _padded_range(shown[:, 1])
    columns = {"x": positions[:, 0], "y": positions[:, 1], "colour": [MISSING_COLOUR] * n}
    source = ColumnDataSource(columns, name="cells")
    plot = figure(
        height=560, sizing_mode="stretch_width", tools="pan,wheel_zoom,box_zoom,reset,save,tap",
        active_scroll="wheel_zoom", output_backend="canvas", name="map",
        x_range=Range1d(start=left, end=right), y_range=Range1d(start=bottom, end=top),
    )  # fmt: skip
    if everything is not None:
        counts, _, _ = np.histogram2d(
            everything[:, 1], everything[:, 0], bins=DENSITY_BINS, range=[(bottom, top), (left, right)]
        )
        plot.image(
            [np.log1p(counts).astype(np.float32)], x=left, y=bottom, dw=right - left, dh=top - bottom,
            palette=DENSITY_PALETTE, name="density",
        )  # fmt: skip
    size = float(np.clip(400 / np.sqrt(n), 3, 10))
    plot.scatter(
        "x", "y", source=source, view=CDSView(filter=BooleanFilter(booleans=[True] * n)), size=size, color="colour",
        line_color=None, alpha=0.85, nonselection_alpha=0.85, selection_line_color="#000000", name="points",
    )  # fmt: skip
    plot.toolbar.logo = None
    plot.xaxis.visible = plot.yaxis.visible = plot.xgrid.visible = plot.ygrid.visible = False
    return plot


def _padded_range(values: np.ndarray) -> tuple[float, float]:
    """Return a fixed range around all values, so that filtering cells does not move the map."""
    low, high = float(values.min()), float(values.max())
    padding = 0.05 * (high - low) or 1.0
    return low - padding, high + padding


def _with_fixed_ids(*parts: str) -> list[str]:
    """Replace Bokeh's random ids by numbers, so that equal input gives an equal page."""
    ids: dict[str, str] = {}
    return [UUID.sub(lambda found: ids.setdefault(found[0], f"cell2text-{len(ids)}"), part) for part in parts]


def _page_data(described: Described, rows: np.ndarray, column: pd.Series | None, grouped_by: str) -> dict:
    """Return what the script of the page needs for the cells on the map. Equal texts are stored once."""
    cells = described.cells.iloc[rows]
    labels = {}
    for name in FIELDS:
        if name in cells and cells[name].notna().any():
            labels[name] = coloured_labels(cells[name])
    if column is not None:
        labels[f"group: {grouped_by}"] = coloured_labels(column.iloc[rows])
    numbers = {}
    for name, title in SCORES.items():
        if name not in cells:  # files of earlier versions lack type probabilities
            continue
        values = cells[name].astype(float)
        if values.notna().any():
            numbers[title] = [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]
    codes, unique = _coded_texts(cells, TEXT if TEXT in cells else "cell_type")
    candidate_codes, candidate_texts = _coded_texts(cells, CANDIDATES)
    pathway_codes, pathway_texts = _coded_texts(cells, "pathways")
    evidence_codes, evidence_texts = _coded_texts(cells, EVIDENCE)
    absent_codes, absent_texts = _coded_texts(cells, ABSENT_MARKERS)
    score = _score_column(described.cells)
    return {
        "names": cells.index.tolist(),
        "texts": unique,
        "text": codes,
        "candidate_texts": candidate_texts,
        "candidates": candidate_codes,
        "pathway_texts": pathway_texts,
        "pathways": pathway_codes,
        "evidence_texts": evidence_texts,
        "evidence": evidence_codes,
        "absent_texts": absent_texts,
        "absent": absent_codes,
        "labels": labels,
        "numbers": numbers,
        "score": score and SCORES[score],
        "palette": number_palette(),
        "missing": MISSING_COLOUR,
    }


def _coded_texts(cells: pd.DataFrame, name: str) -> tuple[list[int], list[str]]:
    """Return the index of each cell's text, and the different texts; missing ones are empty."""
    if name not in cells:  # files of earlier versions lack candidates, and evidence is optional
        return [0] * len(cells), [""]
    codes, texts = pd.factorize(cells[name].astype(object).fillna("").astype(str))
    return codes.tolist(), texts.tolist()


def _group_table(described: Described, groupby: str | None, seed: int) -> tuple[pd.DataFrame, str]:
    """Return the consensus of each group, largest group first, and the name of the grouping."""
    if groupby is None and described.groups is not None:
        column = str(described.groups_column)
        return described.groups.sort_values(["n_cells", "group"], ascending=[False, True]), column
    name = groupby or "predicted cell type"
    values = described.column(groupby) if groupby else described.cells["cell_type"].astype(object)
    if values.isna().all():
        return pd.DataFrame(columns=["group"]), name
    groups = find_groups(values.reset_index(drop=True), name, None, seed)
    descriptions = [GroupDescriptions() for _ in groups.names]
    others = ("type_probability", "pathways")
    names = [column for column in described.cells if column in others or column.startswith(FIELDS)]
    cells, is_described = described.cells[names].astype(object), has_description(described.cells)
    for code, counts, row in zip(groups.codes, is_described, cells.where(cells.notna(), None).to_dict("records")):
        if code >= 0 and counts:
            descriptions[code].add(row)
    rows = [
        {"group": group, "n_cells": int(size), **of_group.consensus()}
        for group, size, of_group in zip(groups.names, groups.sizes, descriptions)
    ]
    return pd.DataFrame(rows).sort_values(["n_cells", "group"], ascending=[False, True]), name


def _summarise(described: Described) -> dict:
    """Return figures over all cells."""
    cells = described.cells
    texts = cells[TEXT].astype(str) if TEXT in cells else pd.Series("", index=cells.index)
    empty = texts == EMPTY_CELL_TEXT if TEXT in cells else cells["n_genes"] == 0
    thin, declined = texts.str.startswith(TOO_FEW_GENES_START), texts.str.startswith(DECLINED_START)
    is_described, score = has_description(cells), _score_column(cells)
    return {
        "described": int(is_described.sum()),
        "empty": int(empty.sum()),
        "thin": int(thin.sum()),
        "declined": int(declined.sum()),
        "reasons": reasons_text(count_reasons(texts)),
        "without_text": int((~is_described & ~empty & ~thin & ~declined).sum()),
        "cell_types": int(cells["cell_type"].nunique()),
        "tissues": int(cells["tissue"].nunique()),
        "diseases": int(cells["disease"].nunique()),
        "score_column": score,
        "score_name": score and SCORES[score],
        "median_score": float(cells[score].median()) if score else None,
        "genes": float(cells["n_genes"].median()),
        "mapped": float(cells["counts_used"].mean()) if cells["counts_used"].notna().any() else None,
        "low_genes": int((cells["n_genes"] < LOW_GENES).sum()),
        "low_mapped": int((cells["counts_used"] < LOW_COUNTS_USED).sum()),
    }


def _score_column(cells: pd.DataFrame) -> str | None:
    """Return the column that ranks cells by reliability: the type probability, None for models without concepts."""
    available = "type_probability" in cells and cells["type_probability"].notna().any()
    return "type_probability" if available else None


def _coverage_figure(cells: pd.DataFrame) -> Figure:
    """Return histograms of the mapped fraction, the number of genes, and the score of the cells."""
    names = [name for name in ("counts_used", "n_genes", _score_column(cells)) if name]
    picture = Figure(figsize=(3 * len(names), 2.4), layout="constrained")
    panels = picture.subplots(1, len(names))
    for axes, name, colour in zip(panels, names, COLOURS):
        values = cells[name].astype(float).dropna()
        span = (0, 1) if name != "n_genes" else (0, max(1.0, float(values.max())))
        axes.hist(values, bins=30, range=span, color=colour)
        axes.set_xlabel(SCORES[name])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("cells")
    return picture

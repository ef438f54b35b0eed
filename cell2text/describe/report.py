"""A described experiment as one page that needs nothing else: a map of the cells, their texts, groups and losses."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from bokeh.embed import components
from bokeh.models import BooleanFilter, CDSView, ColumnDataSource, Range1d
from bokeh.palettes import Viridis256
from bokeh.plotting import figure
from bokeh.resources import Resources
from colorcet import b_glasbey_category10
from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.figure import Figure

from cell2text.describe.described_file import Described, embedding_layout, parameters, read_described
from cell2text.describe.engine import TEXT
from cell2text.describe.groups import Tally, find_groups
from cell2text.errors import UserError
from cell2text.files import write_atomically
from cell2text.language.fields import FIELDS
from cell2text.plots import COLOURS, svg
from processing_cell2text import EMPTY_CELL_TEXT


MOST_POINTS = 20_000  # on the map; more slow a browser down, and hide each other
MOST_GROUPS_SHOWN = 200
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
FEW_GENES, LOW_MAPPED = 200, 0.5
NOT_SAID, OTHER = "#d9d9d9", "#9a9a9a"
NUMBERS = {
    "type_probability": "probability of the named type",
    "confidence": "confidence of the text",
    "n_genes": "genes of the vocabulary",
    "mapped_fraction": "share of the counts that is mapped",
}


def write_report(
    source: str | os.PathLike, out: str | os.PathLike, *, groupby: str | None = None, key: str = "cell2text",
    max_cells: int = MOST_POINTS, seed: int = 0, overwrite: bool = False,
) -> Path:  # fmt: skip
    """Write the page of a described experiment.

    Parameters
    ----------
    source
        h5ad file or zarr store that `cell2text describe` or `tl.describe` wrote.
    out
        The page, an html file.
    groupby
        Column of `obs` by whose groups the cells are summed up; the groups that were described if left out, and
        without these the described cell types.
    key
        Name under which the cells were described.
    max_cells
        Cells on the map; of more, so many are drawn by `seed`. The summaries are of all cells.
    seed
        Of the cells on the map, and of UMAP.

    Raises
    ------
    ValueError
        If nothing was described in `source`, or `out` exists and `overwrite` is not set, or is no html file.
    KeyError
        If there is no column `groupby`.
    """
    out = Path(out)
    if out.suffix != ".html":
        raise UserError(f"--out {out}: expected a name that ends with .html.")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: expected the name of a page.")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed={seed}: expected one from 0 to {2**32 - 1}.")
    if out.exists() and not overwrite:
        raise UserError(f"--out {out} exists already: pass --overwrite, or choose another path.")
    if not out.resolve().parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist.")
    if max_cells < 1:
        raise UserError(f"max_cells={max_cells}: expected at least 1.")
    described = read_described(source, key)
    if not len(described.cells):
        raise UserError(f"{source} holds no cell.")
    rows = np.arange(len(described.cells))
    if len(rows) > max_cells:
        rows = np.sort(np.random.default_rng(seed).choice(rows, max_cells, replace=False))
    places, map_name = embedding_layout(described, rows, key, seed)
    groups, grouped_by = group_table(described, groupby, seed)
    column = described.column(grouped_by) if groupby or grouped_by in described.others else None
    script, plot = with_fixed_ids(*components(cell_map(places)))
    page = Environment(
        loader=PackageLoader("cell2text.describe"), autoescape=select_autoescape(), trim_blocks=True
    ).get_template("described.html")
    text = page.render(
        name=described.path.name, n_cells=len(described.cells), n_shown=len(rows), map_name=map_name,
        resources=Resources(mode="inline", components=["bokeh"]).render_js(), script=script, plot=plot,
        data=page_data(described, rows, column, grouped_by), summary=summarise(described),
        groups=groups.head(MOST_GROUPS_SHOWN).to_dict("records"), n_groups=len(groups), grouped_by=grouped_by,
        pseudobulk="pseudobulk_cell_type" in groups, mapping=svg(mapping_figure(described.cells)),
        params=parameters(described.params), few_genes=FEW_GENES, low_mapped=LOW_MAPPED,
    )  # fmt: skip
    write_atomically(out, text)
    return out


def cell_map(places: np.ndarray) -> figure:
    """The plot; the page's script colours and filters its points."""
    n = len(places)
    source = ColumnDataSource({"x": places[:, 0], "y": places[:, 1], "colour": [NOT_SAID] * n}, name="cells")
    plot = figure(
        height=560, sizing_mode="stretch_width", tools="pan,wheel_zoom,box_zoom,reset,save,tap",
        active_scroll="wheel_zoom", output_backend="canvas", name="map",
        x_range=span_of(places[:, 0]), y_range=span_of(places[:, 1]),
    )  # fmt: skip
    size = float(np.clip(400 / np.sqrt(n), 3, 10))
    plot.scatter(
        "x", "y", source=source, view=CDSView(filter=BooleanFilter(booleans=[True] * n)), size=size, color="colour",
        line_color=None, alpha=0.85, nonselection_alpha=0.85, selection_line_color="#000000", name="points",
    )  # fmt: skip
    plot.toolbar.logo = None
    plot.xaxis.visible = plot.yaxis.visible = plot.xgrid.visible = plot.ygrid.visible = False
    return plot


def span_of(values: np.ndarray) -> Range1d:
    """All of an axis with some room, whatever cells are shown."""
    low, high = float(values.min()), float(values.max())
    room = 0.05 * (high - low) or 1.0
    return Range1d(start=low - room, end=high + room)


def with_fixed_ids(*parts: str) -> list[str]:
    """Bokeh's random ids as numbers: a page does not change from run to run."""
    ids: dict[str, str] = {}
    return [UUID.sub(lambda found: ids.setdefault(found[0], f"cell2text-{len(ids)}"), part) for part in parts]


def page_data(described: Described, rows: np.ndarray, column: pd.Series | None, grouped_by: str) -> dict:
    """What the page's script needs of the cells on the map; a text that several cells share stands there once."""
    cells = described.cells.iloc[rows]
    labels = {}
    for name in FIELDS:
        if name in cells and cells[name].notna().any():
            labels[name] = coloured(cells[name])
    if column is not None:
        labels[f"group: {grouped_by}"] = coloured(column.iloc[rows])
    numbers = {}
    for name, title in NUMBERS.items():
        if name not in cells:  # described before it was told
            continue
        values = cells[name].astype(float)
        if values.notna().any():
            numbers[title] = [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]
    texts = cells[TEXT] if TEXT in cells else cells["cell_type"].astype(object).fillna("")
    codes, unique = pd.factorize(texts.astype(str))
    pathways = cells["pathways"].astype(object).fillna("") if "pathways" in cells else pd.Series([""] * len(cells))
    pathway_codes, pathway_texts = pd.factorize(pathways.astype(str))
    return {
        "names": cells.index.tolist(),
        "texts": unique.tolist(),
        "text": codes.tolist(),
        "pathway_texts": pathway_texts.tolist(),
        "pathways": pathway_codes.tolist(),
        "labels": labels,
        "numbers": numbers,
        "sureness": NUMBERS[sureness_of(described.cells)],
        "palette": list(Viridis256),
        "not_said": NOT_SAID,
    }


def coloured(values: pd.Series) -> dict:
    """Labels by their frequency with a colour each, and the number of every cell's label, -1 for none."""
    counts = values.astype(object).value_counts()
    names = sorted(counts.index, key=lambda name: (-counts[name], str(name)))
    numbers = {name: number for number, name in enumerate(names)}
    return {
        "names": [str(name) for name in names],
        "counts": [int(counts[name]) for name in names],
        "colours": [*b_glasbey_category10, *[OTHER] * len(names)][: len(names)],
        "codes": [numbers.get(value, -1) if pd.notna(value) else -1 for value in values.astype(object)],
    }


def group_table(described: Described, groupby: str | None, seed: int) -> tuple[pd.DataFrame, str]:
    """What is said of each group, largest first, and what the cells are grouped by."""
    if groupby is None and described.groups is not None:
        column = str(described.groups_column)
        return described.groups.sort_values(["n_cells", "group"], ascending=[False, True]), column
    name = groupby or "described cell type"
    values = described.column(groupby) if groupby else described.cells["cell_type"].astype(object)
    if values.isna().all():
        return pd.DataFrame(columns=["group"]), name
    groups = find_groups(values.reset_index(drop=True), name, None, seed)
    tallies = [Tally() for _ in groups.names]
    told = ("confidence", "type_probability", "pathways")
    names = [column for column in described.cells if column in told or column.startswith(FIELDS)]
    cells = described.cells[names].astype(object)
    for code, row in zip(groups.codes, cells.where(cells.notna(), None).to_dict("records")):
        if code >= 0:
            tallies[code].add(row)
    rows = [
        {"group": group, "n_cells": int(size), **tally.consensus()}
        for group, size, tally in zip(groups.names, groups.sizes, tallies)
    ]
    return pd.DataFrame(rows).sort_values(["n_cells", "group"], ascending=[False, True]), name


def summarise(described: Described) -> dict:
    """Figures of all cells."""
    cells = described.cells
    empty = cells[TEXT].astype(str) == EMPTY_CELL_TEXT if TEXT in cells else cells["n_genes"] == 0
    measure = sureness_of(cells)
    return {
        "described": int(cells["confidence"].notna().sum()),
        "empty": int(empty.sum()),
        "without_text": int(cells["confidence"].isna().sum() - empty.sum()),
        "cell_types": int(cells["cell_type"].nunique()),
        "tissues": int(cells["tissue"].nunique()),
        "diseases": int(cells["disease"].nunique()),
        "measure": measure,
        "sureness_name": NUMBERS[measure],
        "sureness": float(cells[measure].median()) if cells[measure].notna().any() else None,
        "genes": float(cells["n_genes"].median()),
        "mapped": float(cells["mapped_fraction"].mean()) if cells["mapped_fraction"].notna().any() else None,
        "few_genes": int((cells["n_genes"] < FEW_GENES).sum()),
        "low_mapped": int((cells["mapped_fraction"] < LOW_MAPPED).sum()),
    }


def sureness_of(cells: pd.DataFrame) -> str:
    """The column that tells how sure the model is: of the type, where it tells that, otherwise of the text."""
    told = "type_probability" in cells and cells["type_probability"].notna().any()
    return "type_probability" if told else "confidence"


def mapping_figure(cells: pd.DataFrame) -> Figure:
    """Histograms of what the vocabulary kept of each cell, and of how sure the model is."""
    picture = Figure(figsize=(9, 2.4), layout="constrained")
    panels = picture.subplots(1, 3)
    for axes, name, colour in zip(panels, ("mapped_fraction", "n_genes", sureness_of(cells)), COLOURS):
        values = cells[name].astype(float).dropna()
        span = (0, 1) if name != "n_genes" else (0, max(1.0, float(values.max())))
        axes.hist(values, bins=30, range=span, color=colour)
        axes.set_xlabel(NUMBERS[name])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("cells")
    return picture

"""Write the packaged model's card: model_card.md, filled with the figures of the results files."""

import json
from collections import Counter
from pathlib import Path

import yaml
from jinja2 import Environment, StrictUndefined

from cell2text.files import write_atomically
from cell2text.models import MINI
from declining_cell2text import TYPE_THRESHOLD


PROJECT = Path(__file__).resolve().parents[2]
RECIPES, RESULTS = PROJECT / "recipes" / "mini", PROJECT / "benchmarks" / "results"
FIGURES = {
    "named": "named_share",
    "true": "named_true",
    "depth": "named_depth",
    "ECE": "ece",
    "wrong above 0.9": "wrong_above_90",
    "exact": "exact",
}
TRAININGS = ("base", "on a GPU", "seed 1", "seed 2")  # recipes of folds.yaml that differ in the seed or the device
SITUATIONS = {
    "ambient": "ambient RNA at the cells' depth",
    "shuffled": "shuffled genes",
    "panel": "300 random genes",
    "thinned": "a tenth of the counts",
}


def write_card(sources: dict) -> None:
    """Write the card beside the packaged weights."""
    write_atomically(MINI / "README.md", render_card(sources))


def render_card(sources: dict) -> str:
    """Return the text of the card.

    Raises
    ------
    ValueError
        If reading.yaml has no review of a cell in mini_cells.json, or reviews another text of it.
    """
    results, rows, cells, pathways, sex = (
        json.loads((RESULTS / f"{name}.json").read_text())
        for name in ("mini", "mini_rows", "mini_cells", "own_pathways", "sex_genes")
    )
    folds = json.loads((RESULTS / "mini_folds.json").read_text())
    reviews = yaml.safe_load((RECIPES / "reading.yaml").read_text())
    config = json.loads((MINI / "config.json").read_text())
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"percent": percent, "figure": figure, "thousands": lambda value: f"{value:,}"}
    return environment.from_string((RECIPES / "model_card.md").read_text()).render(
        sources=sources,
        results=results,
        rows=rows,
        trainings=[folds[name]["mean"] for name in TRAININGS if name in folds],
        figures=FIGURES,
        situations=SITUATIONS,
        threshold=config.get("type_threshold", TYPE_THRESHOLD),
        n_types=len(config["cell_concepts"]["hierarchical"]["cell_type"]),
        min_genes=json.loads((MINI / "processor_config.json").read_text())["min_genes"],
        pathways=pathways,
        sex=sex,
        read=review_counts(cells, reviews),
        tissues=len({cell["tissue"] for cell in cells}),
    )


def review_counts(cells: list[dict], reviews: dict) -> Counter:
    """Check that every cell has a review of its present text, and count the verdicts on types."""
    for cell in cells:
        review = reviews.get(cell["cell"])
        if review is None or review["text"] != cell["text"]:
            raise ValueError(f"Cell {cell['cell']} of {cell['study']}: reading.yaml does not review {cell['text']!r}.")
    return Counter(reviews[cell["cell"]]["type"] for cell in cells)


def figure(values: list[float]) -> str:
    """Format a value and its interval, if it has one, as percentages.

    Examples
    --------
    >>> figure([0.5, 0.25, 0.751]), figure([0.5])
    ('50.0 (25.0 to 75.1)', '50.0')
    """
    value, *bounds = (percent(value) for value in values)
    return f"{value} ({' to '.join(bounds)})" if bounds else value


def percent(value: float) -> str:
    """Format a share as a percentage."""
    return f"{100 * value:.1f}"

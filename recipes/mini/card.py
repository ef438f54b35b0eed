"""Write the packaged model's card: model_card.md, filled with the figures of the results files.

Figures and conclusions come from benchmarks/results/mini*.json; the words *ahead*, *level* and *behind* follow from
intervals.
"""

import json
from collections import Counter
from pathlib import Path
from statistics import mean

import yaml
from jinja2 import Environment, StrictUndefined

from cell2text.evaluation.report import SYSTEM_NAMES
from cell2text.files import write_atomically
from cell2text.models import MINI
from cell2text.pages import markdown_cell


PROJECT = Path(__file__).resolve().parents[2]
RECIPES, RESULTS = PROJECT / "recipes" / "mini", PROJECT / "benchmarks" / "results"
BASELINES = ("knn", "logistic_regression", "lightgbm", "nearest_description")
COLUMNS = {
    "cell type": ("cell_type", "accuracy"),
    "lenient": ("cell_type", "lenient_accuracy"),
    "PageRank": ("cell_type", "pagerank_similarity"),
    "tissue": ("tissue", "accuracy"),
    "disease": ("disease", "accuracy"),
    "pathways, Jaccard": ("pathways", "jaccard"),
    "pathway claims true": ("truthfulness", "share_of_pathway_claims_true"),
}
CONCEPT_GROUPS = {
    "cell_type": "cell types",
    "tissue": "tissues",
    "disease": "diseases",
    "sex": "sexes",
    "life_stage": "life stages",
    "pathways": "pathways",
}
SELECTION_COLUMNS = {
    "cell type": "accuracy",
    "lenient": "lenient_accuracy",
    "PageRank": "pagerank_similarity",
    "head: cell type": "head_accuracy",
    "head: lenient": "head_lenient_accuracy",
    "head: PageRank": "head_pagerank_similarity",
    "pathways, Jaccard": "jaccard",
    "pathway claims true": "share_of_pathway_claims_true",
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
    results, selection, cells = (
        json.loads((RESULTS / f"{name}.json").read_text()) for name in ("mini", "mini_selection", "mini_cells")
    )
    reviews, tried, earlier_models = (
        yaml.safe_load((RECIPES / f"{name}.yaml").read_text()) for name in ("reading", "tried", "earlier_models")
    )
    config = json.loads((MINI / "config.json").read_text())
    template = _environment().from_string((RECIPES / "model_card.md").read_text())
    return template.render(
        sources=sources,
        results=results,
        selection=selection,
        tried=tried,
        earlier_models=earlier_models,
        recipe=(RECIPES / "train.yaml").read_text().strip(),
        config=config,
        min_genes=json.loads((MINI / "processor_config.json").read_text())["min_genes"],
        concepts={name: names for kind in config["cell_concepts"].values() for name, names in kind.items()},
        kinds=CONCEPT_GROUPS,
        **result_tables(results),
        **selection_tables(selection, tried, sources["validation_studies"]),
        **review_tables(cells, reviews),
    )


def _environment() -> Environment:
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "figure": figure,
        "difference": difference,
        "percent": percent,
        "thousands": lambda value: f"{value:,}",
        "cell": markdown_cell,
    }
    return environment


def result_tables(results: dict) -> dict:
    """Return what the section *Results* shows beside the figures of mini.json itself."""
    return {
        "mean": results["mean_over_studies"],
        "other": results["by_types"]["studies: other types"],
        "same": results["by_types"]["studies: types trained on"],
        "ahead": differences_to_baselines(results),
        "ahead_pathways": {
            part: results[part]["ahead_of"]["usual_pathways"]["pathways"]["jaccard"] for part in ("donors", "studies")
        },
        "columns": list(COLUMNS),
        "table": system_rows,
    }


def selection_tables(selection: dict, tried: dict, studies: list[str]) -> dict:
    """Return the tables of *Comparison of recipes*."""
    means = means_over_studies(selection, studies)
    return {
        "means": means,
        "criterion": selection_criterion(means),
        "tried_columns": ["recipe", "held out", "cells", *SELECTION_COLUMNS, "second"],
        "tried_lines": selection_rows(selection),
        "not_run": [
            f"{recipe} on {fold}"
            for recipe, options in tried.items()
            for fold in options["folds"]
            if fold not in selection.get(recipe, {"folds": {}})["folds"]
        ],
    }


def review_tables(cells: list[dict], reviews: dict) -> dict:
    """Join cells with their manual reviews, and count the reviews of cells that were not trained on."""
    for cell in cells:
        review = reviews.get(cell["cell"])
        if review is None or review["text"] != cell["text"]:
            raise ValueError(f"Cell {cell['cell']} of {cell['study']}: reading.yaml does not review {cell['text']!r}.")
        cell |= {"verdict": review["verdict"], "type": review["type"]}
    return {
        "cells": cells,
        "read": Counter(cell["type"] for cell in cells if not cell["trained_on"]),
        "trained_studies": list(dict.fromkeys(cell["study"] for cell in cells if cell["trained_on"])),
    }


def means_over_studies(selection: dict, studies: list[str]) -> dict[str, dict[str, float]]:
    """Return the mean metrics of each recipe that was run on all of these studies, with equal weights."""
    return {
        recipe: {
            metric: mean(runs["folds"][name][metric] for name in studies)
            for metric in ("accuracy", "lenient_accuracy", "pagerank_similarity", "jaccard")
        }
        for recipe, runs in selection.items()
        if set(studies) <= set(runs["folds"])
    }


def selection_criterion(means: dict) -> dict | None:
    """Compare `concepts` with `pooled` over two seeds; None unless all four recipes were run on all studies."""
    if not {"concepts", "concepts again", "pooled", "pooled again"} <= set(means):
        return None

    def both(recipe: str, metric: str) -> float:
        return mean(means[name][metric] for name in (recipe, f"{recipe} again"))

    concepts, pooled = both("concepts", "pagerank_similarity"), both("pooled", "pagerank_similarity")
    seeds = abs(means["concepts"]["pagerank_similarity"] - means["concepts again"]["pagerank_similarity"])
    return {
        "concepts": concepts,
        "pooled": pooled,
        "met": concepts - pooled > seeds,
        "concepts_jaccard": both("concepts", "jaccard"),
        "pooled_jaccard": both("pooled", "jaccard"),
    }


def selection_rows(selection: dict) -> list[list[str]]:
    """Return a table row per recipe and fold; figures that were not measured are empty."""
    return [
        [
            recipe,
            fold,
            f"{scores['n']:,.0f}",
            *(percent(scores[name]) if name in scores else "" for name in SELECTION_COLUMNS.values()),
            percent(scores["comparing"]["second"]),
        ]
        for recipe, runs in selection.items()
        for fold, scores in runs["folds"].items()
    ]


def differences_to_baselines(results: dict) -> list[tuple[str, list[list[float]]]]:
    """Return per baseline the differences in accuracy and PageRank similarity, on donors and on unseen studies."""
    parts = {part: results[part]["ahead_of"] for part in ("donors", "studies")}
    metrics = ("accuracy", "pagerank_similarity")
    return [
        (SYSTEM_NAMES[name], [parts[part][name]["cell_type"][metric] for part in parts for metric in metrics])
        for name in parts["donors"]
        if name in BASELINES
    ]


def system_rows(part: dict) -> list[list[str]]:
    """Return a table row per system: its name and metrics, empty where it has none."""
    rows = []
    for name, scores in part["systems"].items():
        metrics = [scores.get(group, {}).get(key) for group, key in COLUMNS.values()]
        rows.append([SYSTEM_NAMES[name], *("" if values is None else figure(values) for values in metrics)])
    return rows


def figure(values: list[float]) -> str:
    """Format a value and its interval, if it has one, as percentages."""
    value, *bounds = (f"{100 * value:.1f}" for value in values)
    return f"{value} ({' to '.join(bounds)})" if bounds else value


def difference(values: list[float]) -> str:
    """Format a difference and say whether the model is ahead, behind or level by its interval.

    Examples
    --------
    >>> difference([0.12, 0.03, 0.18]), difference([-0.01, -0.02, 0.01])
    ('12.0 (3.0 to 18.0), ahead', '-1.0 (-2.0 to 1.0), level')
    """
    _, *bounds = values
    word = "level"
    if bounds and bounds[0] > 0:
        word = "ahead"
    elif bounds and bounds[1] < 0:
        word = "behind"
    return f"{figure(values)}, {word}"


def percent(value: float) -> str:
    """Format a share as a percentage."""
    return f"{100 * value:.1f}"

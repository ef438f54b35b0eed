"""The shipped model's card: recipes/mini/model_card.md, filled from the files that the other steps wrote."""

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
CONFIGS, RESULTS = PROJECT / "recipes" / "mini", PROJECT / "benchmarks" / "results"
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
KINDS = {
    "cell_type": "cell types",
    "tissue": "tissues",
    "disease": "diseases",
    "sex": "sexes",
    "life_stage": "life stages",
    "pathways": "pathways",
}
TRIED = {
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
    """Write the card beside the shipped weights."""
    write_atomically(MINI / "README.md", render_card(sources))


def render_card(sources: dict) -> str:
    """The card's text.

    Raises
    ------
    ValueError
        If a cell that was drawn to be read has no verdict in recipes/mini/reading.yaml, or another text than was read.
    """
    results, selection, cells = (
        json.loads((RESULTS / f"{name}.json").read_text()) for name in ("mini", "mini_selection", "mini_cells")
    )
    verdicts, tried = (yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) for name in ("reading", "tried"))
    for cell in cells:
        read = verdicts.get(cell["cell"])
        if read is None or read["text"] != cell["text"]:
            raise ValueError(f"{cell['cell']} of {cell['study']} was not read as it is described now: {cell['text']}")
        cell |= {"verdict": read["verdict"], "type": read["type"]}
    config = json.loads((MINI / "config.json").read_text())
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "figure": figure,
        "percent": percent,
        "thousands": lambda value: f"{value:,}",
        "cell": markdown_cell,
    }
    return environment.from_string((CONFIGS / "model_card.md").read_text()).render(
        sources=sources,
        results=results,
        selection=selection,
        not_run=[
            f"{recipe} on {fold}"
            for recipe, tries in tried.items()
            for fold in tries["folds"]
            if fold not in selection.get(recipe, {"folds": {}})["folds"]
        ],
        means=means_over_studies(selection, sources["validation_studies"]),
        study_mean=lambda runs, figure: mean(
            run[name][figure] for run in runs for name in sources["validation_studies"]
        ),
        mean=results["mean_over_studies"],
        other=results["by_types"]["studies: other types"],
        same=results["by_types"]["studies: types trained on"],
        ahead=ahead_of_baselines(results),
        ahead_pathways={
            part: results[part]["ahead_of"]["usual_pathways"]["pathways"]["jaccard"] for part in ("donors", "studies")
        },
        cells=cells,
        read=Counter(cell["type"] for cell in cells if not cell["trained_on"]),
        columns=list(COLUMNS),
        table=table,
        tried_columns=["recipe", "held out", "cells", *TRIED, "second"],
        tried_lines=tried_lines(selection),
        recipe=(CONFIGS / "train.yaml").read_text().strip(),
        config=config,
        concepts={name: names for kind in config["cell_concepts"].values() for name, names in kind.items()},
        kinds=KINDS,
    )


def means_over_studies(selection: dict, studies: list[str]) -> dict[str, dict[str, float]]:
    """Figures of the cell type of each recipe that was run on all of these studies, every study weighing the same."""
    return {
        recipe: {
            figure: mean(tries["folds"][name][figure] for name in studies)
            for figure in ("accuracy", "lenient_accuracy", "pagerank_similarity")
        }
        for recipe, tries in selection.items()
        if set(studies) <= set(tries["folds"])
    }


def tried_lines(selection: dict) -> list[list[str]]:
    """A line a recipe and fold, empty where a figure was not measured."""
    return [
        [
            recipe,
            fold,
            f"{found['n']:,.0f}",
            *(percent(found[name]) if name in found else "" for name in TRIED.values()),
            percent(found["comparing"]["second"]),
        ]
        for recipe, tries in selection.items()
        for fold, found in tries["folds"].items()
    ]


def ahead_of_baselines(results: dict) -> list[tuple[str, list[list[float]]]]:
    """How far the model is ahead of each trained system, exactly and in similarity, on donors and on studies."""
    found = {part: results[part]["ahead_of"] for part in ("donors", "studies")}
    names = [name for name in found["donors"] if name in BASELINES]
    figures = ("accuracy", "pagerank_similarity")
    return [
        (SYSTEM_NAMES[name], [found[part][name]["cell_type"][figure] for part in found for figure in figures])
        for name in names
    ]


def table(part: dict) -> list[list[str]]:
    """A line a system: its name and its figures, empty where it has none."""
    lines = []
    for name, scores in part["systems"].items():
        figures = [scores.get(group, {}).get(key) for group, key in COLUMNS.values()]
        lines.append([SYSTEM_NAMES[name], *("" if values is None else figure(values) for values in figures)])
    return lines


def figure(values: list[float]) -> str:
    """In percent, with its interval where it has one."""
    value, *bounds = (f"{100 * value:.1f}" for value in values)
    return f"{value} ({' to '.join(bounds)})" if bounds else value


def percent(value: float) -> str:
    return f"{100 * value:.1f}"

"""Measure how the least probability of a named type trades exact types against true ones.

    python benchmarks/type_threshold.py DATA ATLAS          # benchmarks/results/type_threshold.json

DATA is the folder of the reference h5ad files, ATLAS the folder with further cells. The packaged model names the test
cells of recipes/mini once per value of `type_threshold`. `specific` names the end of the most probable path down the
ontology, however improbable it is; `specific_real` does so among the labels of the real training cells alone, and shows
what the many types of simulated cells cost. Types come from the concept probabilities, which the texts follow.
"""

import argparse
import json
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import anndata as ad
import numpy as np
import torch
import yaml

import cell2text
from cell2text.evaluation.named_types import named_type_metrics
from cell2text.files import write_atomically
from cell2text.models import MINI
from cell2text.ontology.terms import resolve
from concepts_cell2text import ConceptNames
from statements_cell2text import ONE_CELL, PROFILE_GROUP, TYPES, TypeHierarchy


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "type_threshold.json"
THRESHOLDS = (0.51, 0.6, 0.7, 0.8)
SPECIFIC, SPECIFIC_REAL = "specific", "specific_real"
FIGURES = ("named_share", "named_true", "named_depth", "exact")
BATCH_SIZE = 256


def model_with(threshold: float, folder: Path):
    """Load the packaged model with another `type_threshold`."""
    for path in MINI.iterdir():
        if path.is_file() and path.name != "config.json":
            (folder / path.name).symlink_to(path.resolve())
    config = json.loads((MINI / "config.json").read_text()) | {"type_threshold": threshold}
    (folder / "config.json").write_text(json.dumps(config))
    return cell2text.load(folder, device="cpu")


def named_types(adata: ad.AnnData, model, processor, among: list[str] | None = None) -> list[str | None]:
    """Return the term that each cell is named, None for none; the most specific one of the types `among`, if given."""
    names, ranked = model.config.concept_groups, processor.rank_encode(adata, allow_fractional=True)
    hierarchy = TypeHierarchy(model.config.concepts, TYPES, model.config.uninformative_types)
    found: list[str | None] = []
    for start in range(0, len(ranked), BATCH_SIZE):
        cells = processor.pad_cells([[cell] for cell in ranked[start : start + BATCH_SIZE]], return_tensors="pt")
        with torch.inference_mode():
            concepts = {group: values[:, 0] for group, values in model.get_cell_concepts(**cells).items()}
        none = torch.full((len(concepts[TYPES]),), -1)
        if among is not None:
            probabilities = concepts[TYPES][:, [names[TYPES].index(name) for name in among]]
            likely = reduced(hierarchy, among, model.config.uninformative_types).candidates(probabilities, none, 1, 0.0)
            found += [cell[0][0] if cell else None for cell in likely]
            continue
        named = hierarchy.decide(concepts[TYPES], model.config.type_threshold).named
        one_cell = names[PROFILE_GROUP].index(ONE_CELL)
        named = torch.where(concepts[PROFILE_GROUP].argmax(-1) == one_cell, named, none)
        found += [names[TYPES][column] if column >= 0 else None for column in named.tolist()]
    return [resolve("cell_type", name).term_id if name else None for name in found]


def reduced(hierarchy: TypeHierarchy, among: list[str], uninformative: list[str]) -> TypeHierarchy:
    """Return the hierarchy of some of the types."""
    columns = {name: hierarchy.names.index(name) for name in among}
    parents = {
        name: [other for other in among if other != name and hierarchy.above[columns[other], columns[name]]]
        for name in among
    }
    return TypeHierarchy(ConceptNames(hierarchical={TYPES: parents}), TYPES, uninformative)


def score(adata: ad.AnnData, named: list[str | None]) -> dict[str, float]:
    """Return the figures of one study's cells."""
    labels = [
        resolve("cell_type", *row).term_id
        for row in zip(adata.obs["cell_type"], adata.obs[f"{TYPES}_ontology_term_id"])
    ]
    figures = named_type_metrics(named, labels)
    return figures | {
        "cells": adata.n_obs,
        "exact": float(np.mean([name == label for name, label in zip(named, labels)])),
    }


def real_types(files: dict[str, Path], sources: dict, types: list[str]) -> list[str]:
    """Return the types of the model that label real training cells."""
    labels = set()
    for name in sources["train"]:
        obs = ad.read_h5ad(files[name], backed="r").obs
        obs = obs[~obs["donor_id"].isin(sources["test_donors"])]
        pairs = set(zip(obs["cell_type"], obs[f"{TYPES}_ontology_term_id"]))
        labels |= {resolve("cell_type", *pair).term_id for pair in pairs}
    return [name for name in types if resolve("cell_type", name).term_id in labels - {None}]


def mean_of(scores: list[dict[str, float]]) -> dict[str, float]:
    """Average over studies; `exact_of_cells` is the share of all their cells."""
    cells = sum(score["cells"] for score in scores)
    mean = {key: float(np.mean([score[key] for score in scores])) for key in FIGURES}
    mean["exact_of_cells"] = sum(score["cells"] * score["exact"] for score in scores) / cells
    return {key: round(value, 4) for key, value in mean.items()}


def measure(args: argparse.Namespace) -> dict:
    """Name the test cells of every study with every threshold, and average over the studies of each part."""
    sys.path.insert(0, str(PROJECT / "recipes" / "mini"))
    import data
    import scoring

    sources = yaml.safe_load((PROJECT / "recipes" / "mini" / "sources.yaml").read_text())
    files = {name: data.source_file(Namespace(**vars(args)), name) for name in (*sources["unseen"], *sources["train"])}
    studies = {name: scoring.test_cells(file, name, sources) for name, file in files.items()}
    studies = {name: cells for name, cells in studies.items() if cells is not None}
    found = {}
    for threshold in (*THRESHOLDS, SPECIFIC, SPECIFIC_REAL):
        with tempfile.TemporaryDirectory() as folder:
            model, processor = model_with(threshold if threshold in THRESHOLDS else THRESHOLDS[0], Path(folder))
            types = model.config.concept_groups[TYPES]
            among = {SPECIFIC: types, SPECIFIC_REAL: real_types(files, sources, types)}.get(threshold)
            scores = {
                name: score(cells, named_types(cells, model, processor, among)) for name, cells in studies.items()
            }
        parts = {name: scoring.part_of(name, sources) for name in scores}
        found[str(threshold)] = {
            part: mean_of([scores[name] for name in scores if parts[name] == part]) for part in ("unseen", "donors")
        }
        print(threshold, json.dumps(found[str(threshold)]), flush=True)
    return {"type_threshold": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference h5ad files")
    parser.add_argument("atlas", type=Path, help="folder with further cells")
    args = parser.parse_args()
    write_atomically(RESULTS, json.dumps(measure(args), indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Measure how often the pathways that a text states are those of that very cell.

    python benchmarks/own_pathways.py DATA                    # benchmarks/results/own_pathways.json
    python benchmarks/own_pathways.py DATA --model FOLDER --out FILE.json

DATA is the folder of the reference h5ad files. Cells of the test donors of the training studies and of the unseen
studies in `recipes/mini/sources.yaml` are described twice: with the AUCell scores of their own counts given to the
model (`cell`), and with the model's own predictions (`model`). The truth is the cell's two highest Hallmark sets by
AUCell, with ties in the order of the sets. Shares refer to cells whose text states a pathway, except for `stated`.
"""

import argparse
import json
from pathlib import Path

import anndata as ad
import numpy as np
import yaml

import cell2text
from cell2text.describe.inputs import CellReader
from cell2text.describe.options import DescribeOptions
from cell2text.files import write_atomically
from cell2text.signatures.gene_sets import hallmark_gene_sets
from cell2text.signatures.pathways import PathwayScorer, top_pathways
from grammar_cell2text import pathway_words
from source_cell2text import AnnDataContainer, CellSource


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "own_pathways.json"
CELLS_PER_STUDY, SEED = 200, 0
SOURCES = ("cell", "model")


def read_studies(data: Path, n_cells: int) -> dict[str, tuple[str, ad.AnnData]]:
    """Return for each study its kind, `donors` or `studies`, and a sample of its cells."""
    sources = yaml.safe_load((PROJECT / "recipes" / "mini" / "sources.yaml").read_text())
    random, studies = np.random.default_rng(SEED), {}
    for name in [*sources["train"], *sources["unseen"]]:
        if not (data / f"{name}.h5ad").exists():  # studies of the atlas have no test donors
            continue
        adata, kind = ad.read_h5ad(data / f"{name}.h5ad"), "studies"
        if name in sources["train"]:
            adata, kind = adata[adata.obs["donor_id"].astype(str).isin(sources["test_donors"])], "donors"
        if adata.n_obs:
            rows = np.sort(random.choice(adata.n_obs, min(n_cells, adata.n_obs), replace=False))
            studies[name] = (kind, adata[rows].to_memory())
    return studies


def true_pathways(adata: ad.AnnData, processor) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Return the words of the two highest sets of each cell, and of all active sets, highest first."""
    source = CellSource(AnnDataContainer(adata), allow_fractional=True)
    reader = CellReader(source, processor, DescribeOptions(allow_fractional=True))
    scorer = PathwayScorer(hallmark_gene_sets(), source.read_var(), reader.ranker)
    scores = np.concatenate([scorer.score(block) for _, block in source.blocks()])
    top, active = top_pathways(scores, scorer.gene_sets.names, scorer.nameable)
    words = [[tuple(map(pathway_words, names)) for names in cells] for cells in (top, active)]
    return words[0], words[1]


def measure_study(adata: ad.AnnData, loaded, processor, pathways: str) -> dict:
    """Describe cells and compare the pathways of their texts with their own."""
    adata = adata.copy()
    cell2text.tl.describe(adata, (loaded, processor), allow_fractional=True, pathways=pathways)
    top, active = true_pathways(adata, processor)
    stated = [
        tuple(text.split("; ")) if text else () for text in adata.obs["cell2text_pathways"].astype(object).fillna("")
    ]
    rows = [(names, first, every) for names, first, every in zip(stated, top, active) if names]
    pairs = [(name, first, every) for names, first, every in rows for name in names]
    return {
        "cells": adata.n_obs,
        "stated": share([bool(names) for names in stated]),
        "all_true": share([set(names) <= set(first) for names, first, _ in rows]),
        "same_two_in_order": share([names == first for names, first, _ in rows]),
        "pathways_among_two_highest": share([name in first for name, first, _ in pairs]),
        "pathways_active": share([name in every for name, _, every in pairs]),
    }


def share(values: list[bool]) -> float | None:
    """Return the share of true values, rounded to four digits; None without values."""
    return round(float(np.mean(values)), 4) if values else None


def mean_of_studies(rows: list[dict]) -> dict:
    """Return the mean of each share over studies, and the sum of their cells."""
    means = {
        name: round(float(np.mean([row[name] for row in rows if row[name] is not None])), 4)
        for name in rows[0]
        if name != "cells"
    }
    return {"studies": len(rows), "cells": sum(row["cells"] for row in rows), **means}


def measure(args: argparse.Namespace) -> dict:
    """Measure all studies with both sources of pathways."""
    loaded, processor = cell2text.load(args.model, device="cpu")
    studies = read_studies(args.data, args.cells)
    by_source = {
        source: {
            name: {"kind": kind, **measure_study(adata, loaded, processor, source)}
            for name, (kind, adata) in studies.items()
        }
        for source in SOURCES
    }
    means = {
        source: {
            kind: mean_of_studies(
                [{k: v for k, v in row.items() if k != "kind"} for row in rows.values() if row["kind"] == kind]
            )
            for kind in ("donors", "studies")
        }
        for source, rows in by_source.items()
    }
    settings = {"cells_per_study": args.cells, "seed": SEED, "gene_sets": "hallmark"}
    return {"settings": settings, "means": means, "studies": by_source}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference h5ad files")
    parser.add_argument("--model", help="folder or Hub id of a model; the packaged model if omitted")
    parser.add_argument("--cells", type=int, default=CELLS_PER_STUDY, help="cells per study")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the JSON file to write")
    args = parser.parse_args()
    write_atomically(args.out, json.dumps(measure(args), indent=1) + "\n")


if __name__ == "__main__":
    main()

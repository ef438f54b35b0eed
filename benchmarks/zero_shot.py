"""Compare `tl.score` with twelve labels against CellTypist, kNN and logistic regression trained on the same cells.

    python benchmarks/zero_shot.py DATA ATLAS WORK          # benchmarks/results/zero_shot.json

DATA is the folder of the reference h5ad files, ATLAS the folder with further cells, WORK the work folder of
`recipes/mini/build.py` with the rows, the simulated cells and the predictions of the baselines. CellTypist
(`pip install celltypist`) learns log1p-normalised counts of the 12,000 cells that the baselines sample from the
training rows, real and simulated. The test studies trained no system, and nothing is chosen on them.

Each system gives one of the labels, or none of them, with a probability. CellTypist names one of its own types, which
gives the most specific label that is this type or above it. Probabilities of kNN and logistic regression are summed up
the Cell Ontology, calibrated on left-out studies, and read with the rules of `tl.score`.
"""

import argparse
import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from datasets import load_dataset

import cell2text
from cell2text.evaluation.bootstrap import Resampler, interval
from cell2text.evaluation.named_types import named_type_metrics
from cell2text.files import write_atomically
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import resolve
from cell2text.questions.model_types import ModelTypes, nested_labels
from cell2text.questions.scoring import NONE_OF_THEM, choose_labels, twins
from cell2text.training.row_columns import column_values


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "zero_shot.json"
N_LABELS, N_RESAMPLES, SPEED_CELLS = 12, 1000, 1_000
# The twelve labels of each study: its own most frequent ones, or the usual types of blood.
LABELS = {
    "zilionis_nsclc": None,
    "kang_pbmc_sle": [
        "B cell", "plasma cell", "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell",
        "natural killer cell", "CD14-positive monocyte", "CD14-low, CD16-positive monocyte",
        "conventional dendritic cell", "plasmacytoid dendritic cell", "platelet", "neutrophil",
        "hematopoietic stem cell",
    ],
}  # fmt: skip
CELLTYPIST = {"with_mean": False, "use_SGD": True, "mini_batch": True, "batch_size": 1000, "epochs": 10, "n_jobs": 1}
SYSTEMS = ("Cell2Text", "CellTypist", "kNN", "logistic regression")


@dataclass
class Study:
    """Labelled cells of an unseen study, and the labels that systems choose from."""

    name: str
    cells: ad.AnnData
    labels: list[str]

    @property
    def terms(self) -> list[str]:
        """Terms of the annotation."""
        return self.cells.obs["cell_type_ontology_term_id"].astype(str).tolist()

    def expected(self) -> list[str]:
        """Return the label that each cell should get: the most specific one that is its annotation or above it."""
        return [label_above(term, self.labels) for term in self.terms]


def label_above(term: str | None, labels: Sequence[str]) -> str:
    """Return the most specific label that is a term or above it, or "none of them"."""
    graph = load_graph("CL")
    above = graph.ancestors(term) if term in graph else {}
    found = [label for label in labels if resolve("cell_type", label).term_id in above]
    return max(found, key=lambda label: graph.depth(str(resolve("cell_type", label).term_id)), default=NONE_OF_THEM)


def read_study(args: argparse.Namespace, name: str) -> Study:
    cells = ad.read_h5ad(args.data / f"{name}.h5ad")
    cells = cells[cells.obs["cell_type"].astype(str) != "unknown"].copy()
    counts = cells.obs["cell_type"].astype(str).value_counts()
    frequent = sorted(counts.index, key=lambda label: (-counts[label], label))[:N_LABELS]
    return Study(name, cells, LABELS[name] or frequent)


def score(study: Study, best: Sequence[str], probabilities: np.ndarray) -> dict:
    """Return accuracy among the labels, agreement in the ontology, and calibration."""
    expected, best = np.array(study.expected()), np.array(best)
    resampler = Resampler(study.cells.obs["donor_id"].astype(str).tolist(), n_resamples=N_RESAMPLES)
    of_labels = np.flatnonzero(expected != NONE_OF_THEM)
    right = resampler.means((best == expected)[of_labels].astype(float), of_labels)
    named = [None if label == NONE_OF_THEM else resolve("cell_type", label).term_id for label in best]
    stated = np.where(best == NONE_OF_THEM, np.nan, np.clip(probabilities, 0, 1))
    metrics = named_type_metrics(named, study.terms, stated)
    return {
        "cells": len(of_labels), "accuracy": round(float(right[0]), 4),
        "accuracy_interval": [round(value, 4) for value in interval(right)],
        **{key: round(float(metrics[key]), 4) for key in ("named_share", "named_true", "ece", "wrong_above_90")},
        "ece_exact": round(calibration_error(probabilities, best == expected), 4),
        "other_cells": int((expected == NONE_OF_THEM).sum()),
        "other_cells_without_label": int(((expected == NONE_OF_THEM) & (best == NONE_OF_THEM)).sum()),
    }  # fmt: skip


def calibration_error(probabilities: np.ndarray, right: np.ndarray, n_bins: int = 10) -> float:
    """Return the expected calibration error of all choices, that of no label included, in bins of equal width."""
    bins = np.minimum((np.clip(probabilities, 0, 1) * n_bins).astype(int), n_bins - 1)
    gaps = [abs((probabilities[bins == b] - right[bins == b]).sum()) for b in range(n_bins)]
    return float(sum(gaps) / len(right))


def cells_per_second(run: Callable[[ad.AnnData], object], cells: ad.AnnData) -> float:
    """Return the throughput over `SPEED_CELLS` cells, per second of processor time, after a first call on a few."""
    many = cells[np.arange(SPEED_CELLS) % cells.n_obs].copy()
    many.obs_names_make_unique()
    run(many[:8].copy())
    start = time.process_time()
    run(many)
    return round(SPEED_CELLS / (time.process_time() - start), 1)


# Cell2Text


def cell2text_system(study: Study) -> tuple[list[str], np.ndarray, float]:
    model = cell2text.load(device="cpu")

    def run(cells: ad.AnnData) -> ad.AnnData:
        return cell2text.tl.score(cells, study.labels, model, copy=True)

    scored = run(study.cells)
    best, stated = scored.obs["cell2text_score_best"], scored.obs["cell2text_score_best_probability"]
    missing = best.isna().to_numpy()  # cells with too few genes
    probabilities = np.where(missing, 1.0, stated)
    return best.astype(object).where(~missing, NONE_OF_THEM).tolist(), probabilities, cells_per_second(run, study.cells)


# CellTypist


def training_cells(args: argparse.Namespace, genes: pd.Index) -> tuple[ad.AnnData, np.ndarray]:
    """Return counts of the cells that the baselines sample, with their labels."""
    import baselines
    import data

    sample, labels = baselines.sampled_rows(load_dataset(str(args.work / "rows"), split="train"))
    sources, rows = (np.array(column_values(sample, name)) for name in ("source", "source_row"))
    parts: list = [None] * len(sample)
    for source in sorted(set(sources)):
        path = args.work / f"{source}.h5ad"
        path = path if path.exists() else data.source_file(Namespace(**vars(args)), source)
        places = np.flatnonzero(sources == source)
        counts = counts_of(ad.read_h5ad(path), rows[places], genes)
        for place, row in zip(places, range(len(places))):
            parts[place] = counts[row]
        print(f"  {source}: {len(places):,} cells", flush=True)
    return ad.AnnData(sp.csr_matrix(sp.vstack(parts)), var=pd.DataFrame(index=genes)), labels


def counts_of(adata: ad.AnnData, rows: np.ndarray, genes: pd.Index) -> sp.csr_matrix:
    """Return rows of an AnnData with the columns of some genes, zeros for genes that it lacks."""
    names = pd.Index(adata.var["ensembl_id"].astype(str) if "ensembl_id" in adata.var else adata.var_names)
    first = ~names.duplicated()
    places = genes.get_indexer(names[first])
    own = sp.csc_matrix(adata.X[rows])[:, np.flatnonzero(first)[places >= 0]].tocoo()
    columns = places[places >= 0][own.col]
    return sp.csr_matrix((own.data.astype(np.float32), (own.row, columns)), shape=(len(rows), len(genes)))


def normalised(cells: ad.AnnData) -> ad.AnnData:
    import scanpy as sc

    cells = ad.AnnData(sp.csr_matrix(cells.X, dtype=np.float32), obs=cells.obs[[]].copy(), var=cells.var[[]].copy())
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    return cells


def celltypist_model(args: argparse.Namespace, studies: Sequence[Study]):
    """Train CellTypist; return its model, or None if it is not installed."""
    try:
        celltypist = import_module("celltypist")
    except ImportError:
        return None
    genes = pd.Index(sorted(set().union(*(study.cells.var_names for study in studies))))
    cells, labels = training_cells(args, genes)
    kept = np.asarray(cells.X.sum(axis=1)).ravel() > 0
    return celltypist.train(normalised(cells[kept]), labels=labels[kept], check_expression=False, **CELLTYPIST)


def celltypist_system(model, study: Study) -> tuple[list[str], np.ndarray, float]:
    celltypist = import_module("celltypist")

    def run(cells: ad.AnnData):
        prepared = normalised(cells)
        prepared.X = prepared.X.toarray()  # CellTypist cannot clip the sparse matrices of this SciPy
        return celltypist.annotate(prepared, model=model)

    found = run(study.cells)
    names = found.predicted_labels["predicted_labels"].astype(str).tolist()
    probabilities = found.probability_matrix.max(axis=1).to_numpy()
    best = [label_above(resolve("cell_type", name).term_id, study.labels) for name in names]
    return best, probabilities, cells_per_second(run, study.cells)


# Baselines of the recipe


def baseline_system(args: argparse.Namespace, name: str, study: Study) -> tuple[list[str], np.ndarray]:
    """Read the calibrated predictions of a baseline with the rules of `tl.score`."""
    import baselines
    import calibration
    import folds

    plan = folds.load_plan()
    parts = [baselines.load(args, name, fold) for fold in plan["folds"]]
    curve = calibration.cross_fit(parts, plan["ceiling"])["calibration"]
    fold = calibration.Fold(baselines.load(args, name, None))
    values = fold.hierarchy.calibrate(fold.raw, fold.n_genes, curve, one_cell=fold.one_cell).numpy()
    rows = np.flatnonzero(fold.part["study"] == study.name)
    if fold.part["term"][rows].tolist() != study.terms:
        raise ValueError(f"The predictions of {study.name} are of other cells. Run recipes/mini/build.py again.")
    names = calibration.type_names(fold.part)
    types = ModelTypes(SimpleNamespace(concepts=names, uninformative_types=[]))
    labels = [types.map_label(label) for label in study.labels]
    probabilities = np.stack([types.probability(label, values[rows]) for label in labels], axis=1)
    best, chosen = choose_labels(probabilities, nested_labels(labels), twins(labels))
    return [[*study.labels, NONE_OF_THEM][place] for place in best], chosen


def measure(args: argparse.Namespace) -> dict:
    sys.path.insert(0, str(PROJECT / "recipes" / "mini"))
    studies = [read_study(args, name) for name in LABELS]
    typist = celltypist_model(args, studies)
    found: dict = {}
    for study in studies:
        systems: dict[str, dict] = {}
        for name in SYSTEMS:
            speed = None
            if name == "Cell2Text":
                best, probabilities, speed = cell2text_system(study)
            elif name == "CellTypist":
                if typist is None:
                    continue
                best, probabilities, speed = celltypist_system(typist, study)
            else:
                best, probabilities = baseline_system(args, name, study)
            systems[name] = score(study, best, probabilities) | ({"cells_per_second": speed} if speed else {})
            print(study.name, name, json.dumps(systems[name]), flush=True)
        found[study.name] = {"labels": study.labels, "systems": systems}
    versions = {} if typist is None else {"celltypist": import_module("celltypist").__version__}
    return {"settings": {"celltypist": CELLTYPIST, "versions": versions}, "studies": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference h5ad files")
    parser.add_argument("atlas", type=Path, help="folder with further cells")
    parser.add_argument("work", type=Path, help="work folder of recipes/mini/build.py")
    write_atomically(RESULTS, json.dumps(measure(parser.parse_args()), indent=1) + "\n")


if __name__ == "__main__":
    main()

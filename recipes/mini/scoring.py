"""Score the packaged model on held-out donors and studies it has never seen, and on cells without ground for a type."""

import json
from argparse import Namespace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from data import source_file

import cell2text
from cell2text.evaluation.bootstrap import Resampler, interval
from cell2text.evaluation.named_types import NAMED_TYPE_METRICS, named_type_replicates, named_type_values
from cell2text.files import write_atomically
from cell2text.models import MINI
from cell2text.ontology.terms import resolve


RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
MOST_CELLS = 1000  # of a study that are described
CELLS_PER_SITUATION, PANEL_GENES, THIN_SHARE = 200, 300, 0.1
SITUATIONS = ("ambient", "shuffled", "panel", "thinned")
HIGH_PROBABILITY = 0.9
# of the manual review: cells per study that are described, that are read with and without a named type, and their genes
CELLS_TO_SCREEN, NAMED_TO_READ, DECLINED_TO_READ, GENES_PER_CELL, MIN_COUNTS = 60, 4, 3, 12, 3
CANDIDATES = "cell2text_cell_type_candidates"
UNSPECIFIC_GENES = ("MT-", "MTRNR", "RPL", "RPS", "MALAT1")  # beginnings of symbols that indicate no cell type


def test(args: Namespace, sources: dict) -> None:
    """Describe the test cells of every study and score what is named. Writes benchmarks/results/mini.json."""
    model = cell2text.load(device="cpu")
    studies, situations = {}, {}
    for name in (*sources["unseen"], *sources["validation"], *sources["train"]):
        cells = test_cells(source_file(args, name), name, sources)
        if cells is None:
            continue
        described = describe(cells, model)
        studies[name] = {"part": part_of(name, sources)} | figures(described)
        if name in sources["unseen"]:
            situations[name] = {kind: without_ground(cells, kind, model) for kind in SITUATIONS}
        print(name, json.dumps(studies[name]), flush=True)
    results = {
        "model": {
            "parameters": model[0].num_parameters(),
            "megabytes": round(sum(path.stat().st_size for path in MINI.iterdir() if path.suffix != ".md") / 1e6, 1),
        },
        "studies": studies,
        "mean": {part: mean_of(studies, part) for part in ("unseen", "validation", "donors")},
        "situations": situations,
        "situations_mean": {
            kind: {
                key: round(float(np.mean([found[kind][key] for found in situations.values()])), 4)
                for key in ("named", "above_90", "wrong_above_90")
            }
            for kind in SITUATIONS
        },
    }
    write_atomically(RESULTS / "mini.json", json.dumps(results, indent=1) + "\n")


def part_of(name: str, sources: dict) -> str:
    """Return which part of the test a study belongs to."""
    return next((part for part in ("unseen", "validation") if name in sources[part]), "donors")


def test_cells(path: Path, name: str, sources: dict) -> ad.AnnData | None:
    """Return the labelled cells of a study that did not train the model; None if there are none."""
    adata = ad.read_h5ad(path)
    kept = (adata.obs["cell_type"].astype(str) != "unknown").to_numpy()
    if name in sources["train"]:
        kept &= adata.obs["donor_id"].isin(sources["test_donors"]).to_numpy()
    rows = np.random.default_rng(0).permutation(np.flatnonzero(kept))[:MOST_CELLS]
    return adata[np.sort(rows)].copy() if len(rows) else None


def describe(adata: ad.AnnData, model) -> ad.AnnData:
    """Describe cells and keep what the figures need."""
    cell2text.tl.describe(adata, model, allow_fractional=True)
    return adata


def figures(adata: ad.AnnData) -> dict:
    """Return the figures of `named_type_metrics` as value, lower and upper bound, and the exact accuracy."""
    obs = adata.obs
    named = [value if isinstance(value, str) else None for value in obs["cell2text_cell_type_ontology_term_id"]]
    labels = [resolve("cell_type", *row).term_id for row in zip(obs["cell_type"], obs["cell_type_ontology_term_id"])]
    stated = obs["cell2text_type_probability"].to_numpy(dtype=float)
    resampler = Resampler(obs["donor_id"].astype(str).tolist())
    values = named_type_values(named, labels, stated)
    found = named_type_replicates(values, resampler)
    exact = np.array([float(name == label) for name, label in zip(named, labels)])
    found["exact"] = resampler.means(exact, np.arange(len(exact)))
    short = {name: [round(float(part), 4) for part in (of[0], *(interval(of) or ()))] for name, of in found.items()}
    return {"cells": len(obs), "types": len(set(labels)), "donors": int(obs["donor_id"].nunique())} | short


def mean_of(studies: dict, part: str) -> dict:
    """Average the figures of a part over its studies, with equal weights."""
    of_part = [found for found in studies.values() if found["part"] == part]
    names = (*NAMED_TYPE_METRICS, "exact")
    return {name: round(float(np.nanmean([found[name][0] for found in of_part])), 4) for name in names}


def without_ground(adata: ad.AnnData, kind: str, model) -> dict:
    """Describe cells that give little ground for a type, and count how often a type is stated as nearly certain."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(adata.n_obs)[:CELLS_PER_SITUATION]
    counts = situation(sp.csr_matrix(adata.X)[rows], kind, rng)
    obs = adata.obs[["cell_type", "cell_type_ontology_term_id", "donor_id"]].iloc[rows].copy()
    changed = ad.AnnData(counts, obs=obs, var=adata.var)
    if kind == "panel":
        expressed = np.flatnonzero(np.asarray((changed.X > 0).mean(axis=0)).ravel() > 0.01)
        changed = changed[:, np.sort(rng.permutation(expressed)[:PANEL_GENES])].copy()
    cell2text.tl.describe(changed, model, allow_fractional=True)
    stated = changed.obs["cell2text_type_probability"].fillna(0).to_numpy(dtype=float)
    named = changed.obs["cell2text_cell_type"].notna().to_numpy()
    found = figures(changed)
    wrong = found["wrong_above_90"][0] if kind in ("panel", "thinned") else float((stated > HIGH_PROBABILITY).mean())
    return {
        "cells": len(rows), "named": round(float(named.mean()), 4),
        "above_90": round(float((stated > HIGH_PROBABILITY).mean()), 4), "wrong_above_90": round(wrong, 4),
    }  # fmt: skip


def situation(counts: sp.csr_matrix, kind: str, rng: np.random.Generator) -> sp.csr_matrix:
    """Return ambient droplets at the depth of the cells, shuffled genes, or thinned cells; the cells for a panel."""
    counts = counts.rint().astype(np.int64)
    if kind == "ambient":
        soup = np.asarray(counts.sum(axis=0)).ravel() / counts.sum()
        depths = np.asarray(counts.sum(axis=1)).ravel()
        return sp.csr_matrix(np.stack([rng.multinomial(depth, soup) for depth in depths]).astype(np.float32))
    if kind == "shuffled":
        dense = counts.toarray()
        return sp.csr_matrix(rng.permuted(dense, axis=1).astype(np.float32))
    if kind == "thinned":
        thin = counts.copy()
        thin.data = rng.binomial(thin.data, THIN_SHARE)
        thin.eliminate_zeros()
        return thin.astype(np.float32)
    return counts.astype(np.float32)


def read(args: Namespace, sources: dict) -> None:
    """Describe a few cells of every study for manual review. Writes benchmarks/results/mini_cells.json."""
    model = cell2text.load(device="cpu")
    names = [name for part in ("train", "validation", "unseen", "read") for name in sources[part]]
    cells = [cell for name in names for cell in cells_to_review(source_file(args, name), name, model, sources)]
    write_atomically(RESULTS / "mini_cells.json", json.dumps(cells, indent=1, ensure_ascii=False) + "\n")


def cells_to_review(file: Path, name: str, model: tuple, sources: dict) -> list[dict]:
    """Describe cells of a study, choose a few with and without a named type, and list their leading genes.

    Cells come from test donors or unseen studies; from training cells if the study has neither.
    """
    adata = ad.read_h5ad(file)
    labelled = (adata.obs["cell_type"].astype(str) != "unknown").to_numpy()
    unseen = adata.obs["donor_id"].isin(sources["test_donors"]).to_numpy() | (name not in sources["train"])
    pool = next(rows for rows in (labelled & unseen, labelled, unseen) if rows.any())
    screened = adata[varied(adata.obs, np.flatnonzero(pool))[:CELLS_TO_SCREEN]].copy()
    cell2text.tl.describe(screened, model, allow_fractional=True)
    declined = screened.obs["cell2text_cell_type"].isna().to_numpy()
    rows = [*np.flatnonzero(~declined)[:NAMED_TO_READ], *np.flatnonzero(declined)[:DECLINED_TO_READ]]
    chosen = screened[rows].copy()
    return [
        {
            "study": name,
            "trained_on": not unseen.any(),
            "tissue": str(row["tissue"]),
            "cell": str(cell),
            "label": str(row["cell_type"]),
            "text": str(row["cell2text"]),
            "type_probability": rounded(row["cell2text_type_probability"]),
            "candidates": "" if pd.isna(row[CANDIDATES]) else str(row[CANDIDATES]),
            "n_genes": int(row["cell2text_n_genes"]),
            "genes": genes,
        }
        for (cell, row), genes in zip(chosen.obs.iterrows(), leading_genes(chosen, model[1]))
    ]


def varied(obs: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    """Shuffle rows so that one cell of each tissue comes first, then one of each type."""
    shuffled = obs.iloc[np.random.default_rng(0).permutation(rows)]
    first = shuffled.assign(row=np.arange(len(shuffled)))
    first = pd.concat([first.drop_duplicates("tissue"), first.drop_duplicates("cell_type"), first])
    return obs.index.get_indexer(shuffled.index[first["row"].drop_duplicates()])


def rounded(probability: float) -> float | None:
    """Return a probability with two digits, None for NaN."""
    return None if np.isnan(probability) else round(float(probability), 2)


def leading_genes(adata: ad.AnnData, processor) -> list[list[str]]:
    """List the highest-ranked genes with at least `MIN_COUNTS` counts per cell."""
    vocabulary, found = processor.gene_vocabulary, []
    names = adata.var["ensembl_id"].astype(str) if "ensembl_id" in adata.var else adata.var_names
    place = {name: column for column, name in enumerate(names)}
    for row, ranked in enumerate(processor.rank_encode(adata, allow_fractional=True)):
        counts = sp.csr_matrix(adata.X)[row].toarray().ravel()
        genes = [token for token in ranked if vocabulary.tokens[token] in place]
        symbols = [
            str(vocabulary.symbols[token]) for token in genes if counts[place[vocabulary.tokens[token]]] >= MIN_COUNTS
        ]
        found.append([name for name in symbols if not name.startswith(UNSPECIFIC_GENES)][:GENES_PER_CELL])
    return found

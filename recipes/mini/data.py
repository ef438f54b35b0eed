"""Simulate and prepare the rows of the packaged model: real cells, thinned copies of them, and simulated cells."""

import json
from argparse import Namespace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from datasets import load_dataset
from stages import build_once

from cell2text.files import write_atomically
from cell2text.preparation.run import prepare
from cell2text.preparation.simulation import simulate
from cell2text.training.class_balance import SIMULATED


THINNED = "thinned"  # value of `assay` of thinned copies of real cells
COPIES_PER_STUDY = 800
LEAST_SHARE, MOST_SHARE = 0.03, 0.5  # of a cell's counts that a thinned copy keeps
MIN_GENES = 20
ROWS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "mini_rows.json"
INFERRED_SEX = "sex_inferred_from_expression"  # a column of the reference files


def source_file(args: Namespace, name: str) -> Path:
    """Return the path of a source, which lies in the folder of studies or among the cells of the atlas."""
    path = args.data / f"{name}.h5ad"
    return path if path.exists() else args.atlas / "cells" / f"{name}.h5ad"


def prepare_rows(args: Namespace, sources: dict) -> Path:
    """Prepare the rows of all sources, unless they exist with the same settings; return their folder."""
    simulated, thinned = args.work / "simulated.h5ad", args.work / "thinned.h5ad"
    real = [source_file(args, name) for kind in ("train", "validation", "unseen") for name in sources[kind]]
    trained = [source_file(args, name) for name in sources["train"]]
    build_once(
        simulated, json.dumps([sources["simulate"], sources["like"]]), lambda: _simulate(args, sources, simulated)
    )
    build_once(
        thinned, json.dumps([list(sources["train"]), sources["test_donors"]]), lambda: thin(trained, sources, thinned)
    )
    held_out = [f"donor_id={donor}" for donor in sources["test_donors"]]
    held_out += [f"dataset_id={study}" for study in sources["unseen"]]
    named = {"test": held_out, "validation": [f"dataset_id={name}" for name in sources["validation_datasets"]]}
    options = {**sources["prepare"], "split": "named", "named": named}
    files, folder = [*real, simulated, thinned], args.work / "rows"
    settings = json.dumps([options, [path.name for path in files], sources["simulate"]])
    build_once(folder, settings, lambda: prepare([str(path) for path in files], folder, progress=False, **options))
    return folder


def _simulate(args: Namespace, sources: dict, out: Path) -> None:
    profiles = args.atlas / "profiles" / "profiles_permissive.h5ad"
    simulate(
        profiles, out, like=[source_file(args, name) for name in sources["like"]], progress=False, **sources["simulate"]
    )


def thin(files: list[Path], sources: dict, out: Path) -> None:
    """Write copies of labelled training cells that keep a random share of their counts."""
    rng, parts = np.random.default_rng(0), []
    for path in files:
        adata = ad.read_h5ad(path)
        kept = (adata.obs["cell_type"].astype(str) != "unknown") & ~adata.obs["donor_id"].isin(sources["test_donors"])
        rows = rng.permutation(np.flatnonzero(kept))[:COPIES_PER_STUDY]
        parts.append(_thinned(adata[np.sort(rows)], rng))
    joined = ad.concat(parts, join="outer", fill_value=0)
    joined.X = sp.csr_matrix(joined.X)
    joined.write_h5ad(out, compression="gzip")


def _thinned(adata: ad.AnnData, rng: np.random.Generator) -> ad.AnnData:
    counts = sp.csr_matrix(adata.X).rint()
    shares = np.exp(rng.uniform(np.log(LEAST_SHARE), np.log(MOST_SHARE), adata.n_obs))
    counts.data = rng.binomial(counts.data.astype(np.int64), np.repeat(shares, np.diff(counts.indptr))).astype(
        np.float32
    )
    counts.eliminate_zeros()
    columns = ["cell_type", "cell_type_ontology_term_id", "sex", "donor_id", "dataset_id"]
    obs = adata.obs[[name for name in columns if name in adata.obs]].astype(str)
    if INFERRED_SEX in adata.obs:  # the texts state what XIST and Y genes show
        obs["sex"] = adata.obs[INFERRED_SEX].astype(str)
    obs.index = [f"thinned-{name}" for name in obs.index]
    var = adata.var[[]].copy()
    if "ensembl_id" in adata.var:
        var.index = adata.var["ensembl_id"].astype(str)
    thinned = ad.AnnData(counts, obs=obs.assign(assay=THINNED), var=var)
    thinned.var_names_make_unique()
    human = thinned.var_names.str.startswith("ENSG") & ~thinned.var_names.str.contains("-")
    return thinned[np.diff(counts.indptr) >= MIN_GENES, human].copy()


def kind_of(assay: str | None) -> str:
    """Return whether a row is a real cell, a thinned copy of one, or simulated."""
    return {SIMULATED: "simulated", THINNED: "thinned"}.get(assay or "", "real")


def summarise_rows(args: Namespace, folder: Path) -> None:
    """Count cells, types, studies and donors of each kind of training row. Writes benchmarks/results/mini_rows.json."""
    columns = ["cell_type_ontology_term_id", "dataset_id", "donor_id", "assay"]
    rows = load_dataset(str(folder), split="train").select_columns(columns).to_pandas()
    kinds = rows["assay"].map(kind_of)
    found = {
        kind: {
            "cells": len(of_kind),
            "types": int(of_kind[columns[0]].nunique()),
            "data_sets": int(of_kind["dataset_id"].nunique()),
        }
        for kind, of_kind in rows.groupby(kinds)
    }
    real, simulated = (set(rows.loc[kinds == kind, columns[0]].dropna()) for kind in ("real", "simulated"))
    found["real"]["donors"] = int(rows.loc[kinds == "real", "donor_id"].nunique())
    found["simulated"] |= {"types_without_real_cells": len(simulated - real)} | _profiles_of(args)
    write_atomically(ROWS, json.dumps(found, indent=1) + "\n")


def _profiles_of(args: Namespace) -> dict[str, int]:
    """Count profiles and tissues of the simulated cells."""
    obs: pd.DataFrame = ad.read_h5ad(args.work / "simulated.h5ad", backed="r").obs
    return {"profiles": int(obs["profile_id"].nunique()), "tissues": int(obs["tissue"].nunique())}

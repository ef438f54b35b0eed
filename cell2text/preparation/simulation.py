"""Run `cell2text simulate`: sample cells around mean profiles of cell types, for training.

    profiles + real cells -> expected shares -> counts -> an ordinary h5ad file for `cell2text prepare`

Blocks of cells are written as they are sampled, so memory holds the profiles, a sample of the real cells, and the cells
of one profile.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cell2text.errors import UserError
from cell2text.paths import check_input, check_output
from cell2text.preparation.counts_file import open_counts_file
from cell2text.preparation.profiles import Profiles, read_profiles
from cell2text.preparation.real_cells import RealStudy, fit_dispersion, gene_kinds, read_real_studies
from cell2text.preparation.simulated_counts import KINDS, CellSimulator
from cell2text.preparation.simulation_config import SimulationConfig
from cell2text.preparation.simulation_provenance import KEY, RECORD
from cell2text.provenance import library_versions
from cell2text.sources.containers import fingerprint
from cell2text.sources.discovery import SourceLocation


OUTLIER_SHARES = {"ambient": 0.35, "doublet": 0.3, "shuffled": 0.15, "thinned": 0.2}
UNLABELLED = ("ambient", "shuffled")  # kinds without a cell type
LIBRARIES = ("cell2text", "anndata", "numpy", "scipy")
# Value of the column `profile`, from which `prepare` and training learn what a profile is.
PROFILE_OF_KIND = {
    "cell": "one cell", "thinned": "one cell", "ambient": "ambient RNA", "doublet": "two cells", "shuffled": "no cell",
}  # fmt: skip


def simulate(
    profiles: str | os.PathLike,
    out: str | os.PathLike,
    *,
    like: Sequence[str | os.PathLike],
    config: SimulationConfig | None = None,
    progress: bool = True,
    **options,
) -> dict:
    """Simulate cells of the types of mean expression profiles.

    Parameters
    ----------
    profiles
        h5ad file of mean profiles x genes; see :func:`~cell2text.preparation.profiles.read_profiles`.
    out
        h5ad file to write: raw integer counts with Ensembl ids and the `obs` columns of CELLxGENE. It must not exist.
    like
        Files of real cells. They set depth, noise, genes per file, and the share of mitochondrial, ribosomal and other
        genes that profiles lack.
    config
        Options of the simulation.
    progress
        Show a progress bar.
    **options
        Options of :class:`SimulationConfig` by name, instead of `config`.

    Returns
    -------
    Summary: `cells`, `kinds` (cells by kind), `profiles`, `cell_types`, `skipped` (profiles by reason), `studies` (with
    their profiles and terms), `like`.

    Raises
    ------
    UserError
        If `out` exists, the profiles cannot be sampled, or a real file has no counts or Ensembl ids.

    Examples
    --------
    >>> simulate("profiles.h5ad", "simulated.h5ad", like=["blood.h5ad"])
    Traceback (most recent call last):
    errors_cell2text.UserError: profiles.h5ad does not exist.
    """
    config = config or SimulationConfig(**options)
    check_paths(profiles, out, like)
    table = read_profiles(
        profiles, only_study=config.only_study, without_study=config.without_study, ranked=config.ranked_profiles
    )
    studies, genes = read_real_studies(
        [os.fspath(path) for path in like], table.genes, allow_fractional=config.allow_fractional, seed=config.seed
    )
    simulator = CellSimulator(
        table, studies, genes, gene_kinds(genes, studies, table), fit_dispersion(studies), config.seed
    )
    parts = []
    with open_counts_file(out, len(genes)) as file:
        for number, kinds in enumerate(tqdm(_kinds(len(table), config), unit=" profiles", disable=not progress)):
            counts, donors, partners = simulator.cells(number, kinds)
            file.append(counts)
            parts.append(_obs(table, number, kinds, donors, partners, config.seed))
        obs = pd.concat(parts)
        summary = _summary(obs, table, studies)
        provenance = _provenance(profiles, config, summary)
        file.finish(_categories(obs), _var(genes, table), {KEY: {RECORD: provenance}})
    return summary


def check_paths(profiles: str | os.PathLike, out: str | os.PathLike, like: Sequence[str | os.PathLike]) -> None:
    """Raise unless the inputs exist and the output can be written and does not exist."""
    for path in (profiles, *like):
        check_input(path)
    if not str(out).endswith(".h5ad"):
        raise UserError(f"out={str(out)!r}: expected a file with the suffix .h5ad.")
    check_output(out)
    if Path(out).exists():
        raise UserError(f"out={str(out)!r} exists. Remove it, or choose another path.")


def _kinds(n_profiles: int, config: SimulationConfig) -> list[list[str]]:
    """Return the kinds of the cells of each profile; outliers are spread evenly over profiles."""
    per_profile = config.cells_per_profile * config.outliers / (1 - config.outliers)
    ends = np.floor(per_profile * np.arange(n_profiles + 1) + 0.5).astype(int)
    rng = np.random.default_rng(config.seed)
    outliers = rng.choice(list(OUTLIER_SHARES), p=list(OUTLIER_SHARES.values()), size=ends[-1]).tolist()
    return [["cell"] * config.cells_per_profile + outliers[start:stop] for start, stop in pairwise(ends)]


def _obs(
    table: Profiles, number: int, kinds: list[str], donors: list[str], partners: list[str | None], seed: int
) -> pd.DataFrame:
    profile = table.obs.iloc[number]
    unlabelled = np.isin(kinds, UNLABELLED)
    names = [f"simulated-{seed}-{profile.name}-{i}" for i in range(len(kinds))]
    return pd.DataFrame(
        {
            "cell_type": np.where(unlabelled, "unknown", profile["cell_type"]),
            "cell_type_ontology_term_id": np.where(unlabelled, "unknown", profile["cell_type_ontology_term_id"]),
            "tissue": profile["tissue"],
            "tissue_ontology_term_id": profile["tissue_ontology_term_id"],
            "disease": "unknown",
            "sex": "unknown",
            "development_stage": "unknown",
            "donor_id": donors,
            "dataset_id": profile["dataset"],
            "study": profile["study"],
            "assay": "simulated",
            "simulated": True,
            "simulated_kind": kinds,
            "second_cell_type": [name or "" for name in partners],
            "profile": [PROFILE_OF_KIND[kind] for kind in kinds],
            "profile_id": profile.name,
            "licence": profile["data_terms"] or profile["repo_licence"] or "unknown",
        },
        index=names,
    )


def _categories(obs: pd.DataFrame) -> pd.DataFrame:
    return obs.astype({name: "category" for name in obs.columns if name != "simulated"})


def _var(genes: np.ndarray, table: Profiles) -> pd.DataFrame:
    names = [table.symbols.get(gene, gene) for gene in genes]
    return pd.DataFrame({"feature_name": names}, index=pd.Index(genes.astype(object), name="ensembl_id"))


def _summary(obs: pd.DataFrame, table: Profiles, studies: Sequence[RealStudy]) -> dict:
    kinds = Counter(obs["simulated_kind"])
    sources = {
        study: {"profiles": len(rows), "datasets": sorted(set(rows["dataset"])), "terms": sorted(_terms(rows))}
        for study, rows in table.obs.groupby("study")
    }
    return {
        "cells": len(obs),
        "kinds": {kind: kinds[kind] for kind in KINDS if kinds[kind]},
        "profiles": len(table),
        "cell_types": int(table.obs["cell_type"].nunique()),
        "skipped": table.skipped,
        "studies": sources,
        "like": [study.name for study in studies],
    }


def _terms(rows: pd.DataFrame) -> set[str]:
    return {row.data_terms or row.repo_licence or "unknown" for row in rows.itertuples()}


def _provenance(profiles: str | os.PathLike, config: SimulationConfig, summary: dict) -> dict[str, str]:
    """Return what the cells depend on, as texts for `uns["cell2text"]["simulation"]`."""
    path = Path(profiles)
    return {
        "profiles": path.name,
        "profiles_sha256": fingerprint(SourceLocation(path.stem, str(path.absolute()), "h5ad")),
        "seed": str(config.seed),
        "options": json.dumps(asdict(config), sort_keys=True),
        "summary": json.dumps(summary, sort_keys=True),
        "libraries": json.dumps(library_versions(LIBRARIES)),
    }

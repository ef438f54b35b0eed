"""Read the cells and mean profiles that train the generator: one matrix of counts, one table of conditions.

The sources are those of the packaged model (recipes/mini/sources.yaml): its training studies without their test donors,
and its mean profiles.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import yaml

from cell2text.models import MINI
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import resolve
from cell2text.preparation.profiles import read_profiles
from vocabulary_cell2text import GeneVocabulary


SOURCES = Path(__file__).resolve().parents[1] / "mini" / "sources.yaml"
PROFILES = "profiles_permissive.h5ad"
MIN_CELLS = 10  # that express a gene, for genes that no profile measures
MIN_PROFILE_GENES = 5_000
COLUMNS = ("cell_type", "tissue", "disease", "sex", "stage", "style", "donor")
FETAL = "fetal"
INFERRED_SEX = "sex_inferred_from_expression"  # a column of the reference files
# What the file of profiles states about diseases, as terms.
PROFILE_DISEASES = {"COVID-19 (mixed with controls)": "COVID-19", "normal or unknown": "normal"}


@dataclass
class TrainingCells:
    """Cells and profiles on the genes of the generator.

    Parameters
    ----------
    counts
        Raw counts of the cells, CSR float32, shape (n_cells, n_genes).
    obs
        Conditions of the cells, with the columns `COLUMNS`: ontology terms, `"male"` or `"female"`, `"fetal"`, the name
        of the study and of the donor; empty where unknown.
    measured
        Whether the file of a study has a gene, by the name of the study, each of shape (n_genes,).
    fractions
        Shares of the genes in the profiles, float32, shape (n_profiles, n_genes); NaN for genes that were not measured.
    profiles
        Conditions of the profiles, with the columns `COLUMNS`.
    genes
        Ensembl ids, in the order of the vocabulary.
    assays
        Name of the assay of each study.
    """

    counts: sp.csr_matrix
    obs: pd.DataFrame
    measured: dict[str, np.ndarray]
    fractions: np.ndarray
    profiles: pd.DataFrame
    genes: np.ndarray
    assays: dict[str, str]


def load_sources() -> dict:
    """Return the content of recipes/mini/sources.yaml."""
    return yaml.safe_load(SOURCES.read_text())


def source_file(data: Path, atlas: Path, name: str) -> Path:
    """Return the path of a source, which lies in the folder of studies or among the cells of the atlas."""
    path = data / f"{name}.h5ad"
    return path if path.exists() else atlas / "cells" / f"{name}.h5ad"


def read_cells(path: Path) -> ad.AnnData:
    """Read the labelled cells of a file: rounded counts, Ensembl ids, and the columns `COLUMNS` alone."""
    adata = ad.read_h5ad(path)
    ids = adata.var.get("ensembl_id", adata.var_names)
    terms = _terms("cell_type", adata.obs, "cell_type")
    kept = np.flatnonzero(terms != "")
    obs = conditions(adata.obs.iloc[kept], INFERRED_SEX).assign(cell_type=terms[kept], style=path.stem)
    obs["donor"] = path.stem + " " + adata.obs["donor_id"].astype(str).iloc[kept]
    counts = sp.csr_matrix(adata.X[kept], dtype=np.float32).rint()
    counts.eliminate_zeros()
    var = pd.DataFrame(index=pd.Index(ids.astype(str), name="ensembl_id"))
    uns = {"assay": str(adata.obs["assay"].iloc[0])}
    return ad.AnnData(counts, obs=obs, var=var, uns=uns)


def conditions(obs: pd.DataFrame, sex: str) -> pd.DataFrame:
    """Return tissue, disease, sex and stage of rows as terms and words; empty where unknown."""
    stage = obs["stage"] if "stage" in obs else obs["development_stage"]
    sexes = obs[sex].astype(str) if sex in obs else pd.Series("unknown", index=obs.index)
    return pd.DataFrame(
        {
            "tissue": _terms("tissue", obs, "tissue"),
            "disease": _terms("disease", obs.replace({"disease": PROFILE_DISEASES}), "disease"),
            "sex": np.where(sexes.isin(["male", "female"]), sexes, ""),
            "stage": np.where(stage.astype(str).str.startswith(FETAL), FETAL, ""),
        },
        index=obs.index.astype(str),
    )


def _terms(field: str, obs: pd.DataFrame, column: str) -> np.ndarray:
    ids = f"{column}_ontology_term_id"
    pairs = list(zip(obs[column].astype(str), obs[ids].astype(str) if ids in obs else [None] * len(obs)))
    known = {pair: resolve(field, *pair).term_id or "" for pair in set(pairs)}
    return np.array([known[pair] for pair in pairs], dtype=object)


def load_training_cells(data: Path, atlas: Path, *, without_donors: Collection[str] = ()) -> TrainingCells:
    """Read all training studies and profiles.

    Parameters
    ----------
    data
        Folder of the reference h5ad files.
    atlas
        Folder with `profiles` and `cells`.
    without_donors
        Further donors to leave out, besides the test donors: values of the column `donor`, such as
        `"baron_pancreas human2"`.
    """
    sources = load_sources()
    studies = {name: read_cells(source_file(data, atlas, name)) for name in sources["train"]}
    for name, adata in studies.items():
        donors = adata.obs["donor"].str.removeprefix(f"{name} ")
        studies[name] = adata[~donors.isin(sources["test_donors"]) & ~adata.obs["donor"].isin(without_donors)]
    table = read_profiles(atlas / "profiles" / PROFILES, ranked=True)
    genes = choose_genes(list(studies.values()), table.genes)
    fractions = _on_genes(table.fractions, table.genes, genes)
    kept = np.isfinite(fractions).sum(axis=1) >= MIN_PROFILE_GENES
    raw = ad.read_h5ad(atlas / "profiles" / PROFILES, backed="r").obs.loc[table.obs.index]
    profiles = conditions(raw, "sex").assign(cell_type=_terms("cell_type", raw, "cell_type"), donor="")
    profiles["style"] = raw["dataset"].astype(str)
    kept &= (profiles["cell_type"] != "").to_numpy()
    return TrainingCells(
        sp.csr_matrix(sp.vstack([counts_on(adata, genes) for adata in studies.values()])),
        pd.concat([adata.obs for adata in studies.values()])[list(COLUMNS)],
        {name: pd.Index(genes).isin(adata.var_names) for name, adata in studies.items()},
        fractions[kept],
        profiles.loc[kept, list(COLUMNS)],
        genes,
        {name: adata.uns["assay"] for name, adata in studies.items()},
    )


def without_combinations(cells: TrainingCells, pairs: Sequence[Sequence[str]]) -> TrainingCells:
    """Leave out pairs of study and type: their cells, and profiles of the type or of types below it in the tissue."""
    graph = load_graph("CL")
    kept, kept_profiles = np.ones(len(cells.obs), dtype=bool), np.ones(len(cells.profiles), dtype=bool)
    for style, term in pairs:
        tissue = cells.obs.loc[cells.obs["style"] == style, "tissue"].iloc[0]
        for table, rows in ((cells.obs, kept), (cells.profiles, kept_profiles)):
            of_type = table["cell_type"].map(lambda name, term=term: term in graph.ancestors(name))
            rows &= ~(of_type & (table["tissue"] == tissue)).to_numpy()
    return replace(
        cells, counts=cells.counts[kept], obs=cells.obs[kept], fractions=cells.fractions[kept_profiles],
        profiles=cells.profiles[kept_profiles],
    )  # fmt: skip


def choose_genes(studies: list[ad.AnnData], profile_genes: np.ndarray) -> np.ndarray:
    """Return the genes of the packaged vocabulary that a profile measures or enough cells express."""
    expressing: dict[str, int] = {}
    for adata in studies:
        for gene, n in zip(adata.var_names, np.asarray((adata.X > 0).sum(axis=0)).ravel()):
            expressing[gene] = expressing.get(gene, 0) + int(n)
    chosen = {gene for gene, n in expressing.items() if n >= MIN_CELLS} | set(profile_genes)
    return np.array([gene for gene in GeneVocabulary.from_pretrained(MINI).tokens if gene in chosen])


def counts_on(adata: ad.AnnData, genes: np.ndarray) -> sp.csr_matrix:
    """Return the counts of an AnnData on other genes, 0 for genes that it lacks; repeated genes are summed."""
    place = {gene: i for i, gene in enumerate(genes)}
    pairs = np.array([(i, place[gene]) for i, gene in enumerate(adata.var_names) if gene in place])
    to_genes = sp.csr_matrix((np.ones(len(pairs), dtype=np.float32), pairs.T), shape=(adata.n_vars, len(genes)))
    return sp.csr_matrix(adata.X @ to_genes)


def _on_genes(values: np.ndarray, names: np.ndarray, genes: np.ndarray) -> np.ndarray:
    place = {gene: i for i, gene in enumerate(names)}
    found = np.full((len(values), len(genes)), np.nan, dtype=np.float32)
    columns = np.array([i for i, gene in enumerate(genes) if gene in place])
    found[:, columns] = values[:, [place[gene] for gene in genes[columns]]]
    return found

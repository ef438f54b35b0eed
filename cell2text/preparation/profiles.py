"""Read mean expression profiles of cell types, the input of `cell2text simulate`. Depends on anndata and NumPy."""

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2text.errors import UserError
from cell2text.ontology.terms import clean_label, resolve
from cell2text.sources.amounts import check_element
from cell2text.sources.gene_tables import approved_symbols, ensembl_ids
from cell2text.sources.safety import open_hdf5
from genes_cell2text import names_in, text_columns


SCALES = ("linear", "linear, summed raw counts")  # of profiles that counts can be sampled from
LOGARITHMIC, MICROARRAY = "log", "microarray"  # values of scale and modality that mark profiles used by rank only
REQUIRED = ("cell_type", "study", "scale")
OPTIONAL = {
    "cell_type_ontology_term_id": "unknown", "tissue": "unknown", "tissue_ontology_term_id": "unknown",
    "dataset": "", "data_terms": "", "repo_licence": "",
}  # fmt: skip
TINY_SHARE = 1e-8  # added before the logarithm of a share
MIN_ENSEMBL_SHARE = 0.5  # of the names in `var`


@dataclass
class Profiles:
    """Mean expression profiles of cell types.

    Parameters
    ----------
    fractions
        Share of each measured gene in a profile's expression, float32, shape (n_profiles, n_genes); rows sum to 1, and
        NaN stands for a gene that was not measured.
    obs
        One row per profile, with the columns `REQUIRED` and `OPTIONAL` and the profile's name as index.
    genes
        Ensembl ids, shape (n_genes,).
    symbols
        Symbols of the genes as far as known, by Ensembl id.
    skipped
        Number of profiles that are not used, by reason.
    """

    fractions: np.ndarray
    obs: pd.DataFrame
    genes: np.ndarray
    symbols: dict[str, str]
    skipped: dict[str, int]

    def __len__(self) -> int:
        return len(self.obs)


def read_profiles(
    path: str | os.PathLike, *, only_study: Collection[str] = (), without_study: Collection[str] = (),
    ranked: bool = False,
) -> Profiles:  # fmt: skip
    """Read the profiles that counts can be sampled from.

    Parameters
    ----------
    path
        h5ad file of profiles x genes. `var` names Ensembl ids; `obs` has the columns `cell_type`, `study` and `scale`.
        Rows whose `scale` is not one of `SCALES` are skipped. NaN stands for a gene that was not measured.
    only_study
        Values of the columns `study` or `dataset` to keep; all if empty.
    without_study
        Values of the columns `study` or `dataset` to leave out.
    ranked
        Use profiles on a logarithmic scale as well, but no microarrays. Each gene takes the mean value that genes of
        its rank have in the linear profiles.

    Raises
    ------
    UserError
        If the file is not a table of profiles, names no Ensembl ids, holds negative values, has no linear profile, or
        lacks a named study.
    """
    try:
        with open_hdf5(path, str(path)) as root:  # checks that the file holds all of its content
            check_element(root)
        adata = ad.read_h5ad(path)
    except UserError:
        raise
    except Exception as error:  # h5py and anndata raise many classes
        raise UserError(f"{path} cannot be read as h5ad: {type(error).__name__}: {error}") from error
    obs = _check_obs(path, adata.obs)
    genes, columns = _gene_ids(path, adata.var)
    kept, skipped = _choose_rows(path, obs, only_study, without_study, ranked)
    values = adata.X[kept]
    values = np.asarray(values.toarray() if sp.issparse(values) else values, dtype=np.float32)[:, columns]
    linear = np.isin(obs["scale"].astype(str).to_numpy()[kept], SCALES)
    _check_values(path, values[linear], obs.index[kept][linear])
    if not linear.all():
        values[~linear] = values_by_rank(values[~linear], values[linear])
    total = np.asarray(np.nansum(values, axis=1, dtype=np.float64))
    usable = np.asarray(total > 0)
    if not usable.all():
        skipped["no measured gene is expressed"] = int((~usable).sum())
    if not usable.any():
        raise UserError(f"{path}: none of the {len(usable):,} linear profiles has a value above 0.")
    fractions = (values[usable] / total[usable, None]).astype(np.float32)
    return Profiles(fractions, _fill(obs.iloc[kept][usable]), genes, _symbols(genes, adata.var, columns), skipped)


def values_by_rank(ranked: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """Give the genes of profiles the values that genes of the same rank have in linear profiles.

    Parameters
    ----------
    ranked
        Profiles used only by the order of their genes, shape (n_profiles, n_genes); NaN for genes that were not
        measured. Genes with the lowest value of a profile are not expressed.
    linear
        Linear profiles, shape (n_linear, n_genes).

    Returns
    -------
    Profiles on the linear scale, float32, of the shape of `ranked`.

    Examples
    --------
    >>> values_by_rank(np.array([[0.0, 3.0, 1.0]]), np.array([[8.0, 1.0, 1.0]])).round(2)
    array([[0. , 0.8, 0.1]], dtype=float32)
    """
    shares = np.sort(np.nan_to_num(linear).clip(0), axis=1)[:, ::-1].astype(np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    curve = np.exp(np.log(shares + TINY_SHARE).mean(axis=0))
    found = np.full(ranked.shape, np.nan, dtype=np.float32)
    for row, values in enumerate(ranked):
        measured = np.flatnonzero(~np.isnan(values))
        order = np.argsort(-values[measured], kind="stable")
        by_rank = np.empty(len(measured))
        by_rank[order] = curve[: len(measured)]
        found[row, measured] = np.where(values[measured] > values[measured].min(), by_rank, 0.0)
    return found


def _check_obs(path, obs: pd.DataFrame) -> pd.DataFrame:
    missing = [column for column in REQUIRED if column not in obs]
    if missing:
        raise UserError(
            f"{path}: obs lacks the column(s) {', '.join(missing)}; it has {', '.join(map(str, obs.columns))}. Each "
            f"profile needs a cell type, a study, and a scale, which is one of {SCALES} for profiles to sample from."
        )
    return obs


def _gene_ids(path, var: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return Ensembl ids and their columns in the matrix; the index or any column of text may hold the ids."""
    candidates = {name: human_ids(names_in(var, name)) for name in text_columns(var)}
    best = max(candidates, key=lambda name: sum(map(bool, candidates[name])))
    found = np.array(candidates[best], dtype=object)
    columns = np.flatnonzero(found != "")
    if len(columns) < MIN_ENSEMBL_SHARE * len(found) or not len(columns):
        raise UserError(
            f"{path}: {len(columns):,} of {len(found):,} genes have an Ensembl id; the first names are "
            f"{names_in(var, 'index')[:3]}. Expected human Ensembl ids, such as ENSG00000141510, in the index of var."
        )
    repeated = [gene for gene, number in Counter(found[columns]).items() if number > 1]
    if repeated:
        raise UserError(f"{path}: {len(repeated):,} Ensembl ids are repeated, the first is {repeated[0]}. Join them.")
    return found[columns].astype(str), columns


def human_ids(names: list[str]) -> list[str]:
    """Return the human Ensembl id without version of each name that is one, `""` for other names.

    Examples
    --------
    >>> human_ids(["ENSG00000141510.18", "TP53"])
    ['ENSG00000141510', '']
    """
    return [
        gene if route == "ensembl_id" else ""
        for gene, route in zip(*ensembl_ids(name if name.startswith("ENSG") else "" for name in names))
    ]


def _choose_rows(
    path, obs: pd.DataFrame, only: Collection[str], without: Collection[str], ranked: bool
) -> tuple[np.ndarray, dict[str, int]]:
    """Return the rows to sample, and the number of others by reason."""
    names = [obs[column].astype(str).to_numpy() for column in ("study", "dataset") if column in obs]
    _check_studies(path, names, only_study=only, without_study=without)
    chosen = np.ones(len(obs), dtype=bool)
    if only:
        chosen &= np.logical_or.reduce([np.isin(column, list(only)) for column in names])
    chosen &= ~np.logical_or.reduce([np.isin(column, list(without)) for column in names])
    scale = obs["scale"].astype(str).to_numpy()
    unlabelled = np.array([clean_label(label) is None for label in obs["cell_type"]], dtype=bool)
    skipped = {"study not chosen": int((~chosen).sum())}
    usable = np.isin(scale, SCALES)
    if ranked and (chosen & usable).any():
        modality = obs["modality"].astype(str) if "modality" in obs else pd.Series("", index=obs.index)
        usable |= np.char.startswith(scale.astype(str), LOGARITHMIC) & ~modality.str.contains(MICROARRAY).to_numpy()
    skipped |= {f"scale {name!r}": number for name, number in Counter(scale[chosen & ~usable]).items()}
    skipped["unknown cell type"] = int((chosen & usable & unlabelled).sum())
    kept = np.flatnonzero(chosen & usable & ~unlabelled)
    skipped = {reason: number for reason, number in skipped.items() if number}
    if not len(kept):
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in skipped.items())
        raise UserError(f"{path}: no profile can be sampled ({reasons}). Expected rows whose scale is one of {SCALES}.")
    return kept, skipped


def _check_studies(path, columns: list[np.ndarray], **options: Collection[str]) -> None:
    known = sorted({str(name) for column in columns for name in column})
    for option, names in options.items():
        for name in names:
            if name not in known:
                near = get_close_matches(name, known, n=3, cutoff=0.5) or known[:3]
                raise UserError(f"{option}={name!r}: {path} has no such study. Near names: {', '.join(near)}.")


def _check_values(path, values: np.ndarray, names: pd.Index) -> None:
    for flaw, message in ((values < 0, "negative"), (np.isinf(values), "infinite")):
        rows = np.flatnonzero(flaw.any(axis=1))
        if len(rows):
            worst = values[rows[0]][flaw[rows[0]]][0]
            raise UserError(
                f"{path}: {len(rows):,} profiles whose scale is linear hold {message} values, the first is {worst:.4g} "
                f"in {names[rows[0]]!r}. Expected mean counts or shares. Set another scale for logarithmic profiles."
            )


def _fill(obs: pd.DataFrame) -> pd.DataFrame:
    """Return `obs` as text with all columns, and with the ontology term of each cell type."""
    filled = pd.DataFrame(index=obs.index.astype(str))
    for column in (*REQUIRED, *OPTIONAL):
        values = obs[column].astype(object) if column in obs else pd.Series(None, index=obs.index, dtype=object)
        filled[column] = values.where(values.notna(), OPTIONAL.get(column, "unknown")).astype(str).to_numpy()
    filled["dataset"] = filled["dataset"].where(filled["dataset"] != "", filled["study"])
    terms = [resolve("cell_type", *row) for row in zip(filled.cell_type, filled.cell_type_ontology_term_id)]
    filled["cell_type"] = [term.label for term in terms]
    filled["cell_type_ontology_term_id"] = [term.term_id or "unknown" for term in terms]
    return filled


def _symbols(genes: np.ndarray, var: pd.DataFrame, columns: np.ndarray) -> dict[str, str]:
    column = next((name for name in ("symbol", "feature_name", "gene_symbol") if name in var), None)
    approved = approved_symbols()
    own = names_in(var.iloc[columns], column) if column else genes
    return {gene: approved.get(gene, name) for gene, name in zip(genes, own)}

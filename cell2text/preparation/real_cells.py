"""Learn from real cells what a mean profile does not hold: depth, technical genes and the spread around a mean.

Depends on `cell2text.sources` and the Cell Ontology. At most `MAX_CELLS` cells of a file are held in memory.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from cell2text.errors import UserError
from cell2text.ontology.terms import ancestors, resolve
from cell2text.preparation.profiles import Profiles, human_ids
from cell2text.sources.checks import BadFileError
from cell2text.sources.containers import open_source
from cell2text.sources.discovery import SourceLocation, find_sources
from cell2text.sources.gene_tables import approved_symbols
from genes_cell2text import names_in, text_columns


MAX_CELLS = 2000
MIN_GROUP = 10  # cells of a type, for a mean of its own
MIN_SPREAD_CELLS, MIN_SPREAD_COUNTS = 50, 30  # cells of a type and counts of a gene, to estimate its dispersion
RELATED = 0.6  # share of common ancestors from which two cell types lend each other genes
MAX_SPECIFICITY = 4.0  # highest share of a gene in a type, divided by its mean share in the other types
MIN_TYPES, MIN_PROFILES = 3, 5  # of a file and of a data set, to judge how specific a gene is
NOISE_SHARE = 1e-5  # share below which differences between types are noise
_MITOCHONDRIAL = re.compile(r"MT-.+")
_RIBOSOMAL = re.compile(r"RP[LS](P[0-2]|\d+[AX]?|A)")
_NUCLEAR = {"MALAT1", "NEAT1"}


@dataclass
class RealStudy:
    """Cells of one file, on the genes of a simulation.

    Parameters
    ----------
    name
        Name of the file.
    counts
        Raw counts, CSR, shape (n_cells, n_genes).
    measured
        Whether the file has a gene, shape (n_genes,).
    types
        Ontology term of each group of cells; None for cells without one.
    group
        Group of each cell, shape (n_cells,).
    means
        Mean share of each gene per group, float32, shape (n_groups, n_genes). A small group has the file's mean.
    """

    name: str
    counts: sp.csr_matrix
    measured: np.ndarray
    types: list[str | None]
    group: np.ndarray
    means: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.totals = np.asarray(self.counts.sum(axis=1), dtype=np.float64).ravel()
        shares = sp.diags(1 / self.totals) @ self.counts
        overall = np.asarray(shares.mean(axis=0)).ravel()
        sizes = np.bincount(self.group, minlength=len(self.types))
        self.means = np.array(
            [
                np.asarray(shares[self.group == i].mean(axis=0)).ravel() if size >= MIN_GROUP else overall
                for i, size in enumerate(sizes)
            ],
            dtype=np.float32,
        )
        self.large = sizes >= MIN_GROUP

    def choose(self, term: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        """Return rows of `n` cells of the types nearest to a term, and whether these are related to it."""
        similarity = np.array([related(term, other) for other in self.types])
        if similarity.max(initial=0) < RELATED:
            return rng.integers(self.counts.shape[0], size=n), False
        rows = np.flatnonzero((similarity >= similarity.max() - 0.1)[self.group])
        return rng.choice(rows, size=n), True


@dataclass(frozen=True)
class GeneKinds:
    """Genes whose share depends on the assay and the cell's state rather than on its type, masks of shape (n_genes,).

    Parameters
    ----------
    mitochondrial, ribosomal
        Genes of the mitochondrial genome, and of ribosomal proteins without the sex-linked ones.
    unspecific
        Genes whose mean differs little between the cell types of every real file, and nuclear RNAs such as MALAT1.
    housekeeping
        Those of them whose mean also differs little between the profiles of a data set.
    """

    mitochondrial: np.ndarray
    ribosomal: np.ndarray
    unspecific: np.ndarray
    housekeeping: np.ndarray


@dataclass(frozen=True)
class Dispersion:
    """Overdispersion of counts around a mean: variance = mean + phi * mean^2.

    Parameters
    ----------
    log_share
        Logarithm to base 10 of a gene's share of the counts, ascending, shape (n_points,).
    log_phi
        Natural logarithm of the median phi at these shares, shape (n_points,).
    scatter
        Standard deviation of log phi between genes of the same share.
    """

    log_share: np.ndarray
    log_phi: np.ndarray
    scatter: float

    def __call__(self, shares: np.ndarray) -> np.ndarray:
        """Return the median phi at shares of the counts, any shape."""
        return np.exp(np.interp(np.log10(np.maximum(shares, 1e-9)), self.log_share, self.log_phi))


DEFAULT_DISPERSION = Dispersion(np.array([-6.0, -2.0]), np.log([1.0, 0.3]), 0.5)  # without types of enough cells


def related(term: str | None, other: str | None) -> float:
    """Return the share of ancestors that two terms of the Cell Ontology have in common, 0 if either is unknown.

    Examples
    --------
    >>> round(related("CL:0000084", "CL:0000624"), 1), round(related("CL:0000084", "CL:0000540"), 1)  # T cell, neuron
    (0.7, 0.1)
    """
    one, two = ancestors(term or ""), ancestors(other or "")
    return len(one & two) / len(one | two) if one and two else 0.0


def open_genes(locations: Sequence[SourceLocation], *, allow_fractional: bool) -> dict[str, np.ndarray]:
    """Return the human Ensembl ids of each file, `""` for other features.

    Raises
    ------
    BadFileError
        If a file has no counts or no Ensembl ids.
    """
    found = {}
    for location in locations:
        with open_source(location, allow_fractional=allow_fractional) as source:
            found[location.name] = _gene_ids(location, source.read_var())
    return found


def _gene_ids(location: SourceLocation, var) -> np.ndarray:
    candidates = [human_ids(names_in(var, column)) for column in text_columns(var)]
    best = max(candidates, key=lambda ids: sum(map(bool, ids)))
    if not any(best):
        raise BadFileError(
            location.name,
            f"names no human Ensembl ids: the first genes are {names_in(var, 'index')[:3]}. Real "
            "cells for a simulation need ids such as ENSG00000141510 in the index or a column of var.",
        )
    return np.array(best, dtype=object)


def read_real_study(
    location: SourceLocation, genes: np.ndarray, ids: np.ndarray, *, allow_fractional: bool, seed: int
) -> RealStudy:
    """Read a sample of a file's cells.

    Parameters
    ----------
    location
        Location from `find_sources`.
    genes
        Ensembl ids of the simulation, sorted, shape (n_genes,).
    ids
        Ensembl ids of the file, `""` for other features.
    allow_fractional
        Accept non-integer counts.
    seed
        Random seed of the sample.
    """
    with open_source(location, allow_fractional=allow_fractional) as source:
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(source.n_cells, size=min(source.n_cells, MAX_CELLS), replace=False))
        columns = [name for name in ("cell_type", "cell_type_ontology_term_id") if name in source.obs_columns()]
        counts = source.read_counts(rows)
        labels = source.read_obs(columns).iloc[rows] if columns else None
    present = np.flatnonzero(ids != "")
    place = np.searchsorted(genes, ids[present].astype(str))
    to_genes = sp.csr_matrix((np.ones(len(present)), (present, place)), shape=(len(ids), len(genes)))
    counts = sp.csr_matrix(counts @ to_genes)
    filled = np.asarray(counts.sum(axis=1)).ravel() > 0
    if not filled.any():
        raise BadFileError(location.name, "none of the sampled cells has counts of human genes.")
    measured = np.zeros(len(genes), dtype=bool)
    measured[place] = True
    types, group = _groups(labels, len(rows))
    return RealStudy(location.name, counts[filled], measured, types, group[filled])


def _groups(labels, n_cells: int) -> tuple[list[str | None], np.ndarray]:
    """Return the distinct terms of the cells, and the number of each cell's term."""
    if labels is None:
        return [None], np.zeros(n_cells, dtype=np.int64)
    rows = list(labels.itertuples(index=False, name=None))
    terms = {row: _term(dict(zip(labels.columns, row))) for row in dict.fromkeys(rows)}
    types = list(dict.fromkeys(terms.values()))
    return types, np.array([types.index(terms[row]) for row in rows])


def _term(row: dict) -> str | None:
    values = {name: None if value != value else value for name, value in row.items()}
    return resolve("cell_type", values.get("cell_type"), values.get("cell_type_ontology_term_id")).term_id


def read_real_studies(inputs: Sequence[str], profile_genes: np.ndarray, *, allow_fractional: bool, seed: int):
    """Read the real files of a simulation.

    Parameters
    ----------
    inputs
        Files, folders or globs.
    profile_genes
        Ensembl ids of the profiles.

    Returns
    -------
    The studies, and the genes of the simulation: the sorted union of the files' and the profiles' genes.
    """
    if not inputs:
        raise UserError("like=[]: name at least one file of real cells, which sets depth, noise and technical genes.")
    locations = find_sources(inputs)
    ids = open_genes(locations, allow_fractional=allow_fractional)
    genes = np.unique(np.concatenate([profile_genes, *(names[names != ""].astype(str) for names in ids.values())]))
    return [
        read_real_study(location, genes, ids[location.name], allow_fractional=allow_fractional, seed=seed)
        for location in locations
    ], genes


def gene_kinds(genes: np.ndarray, studies: Sequence[RealStudy], profiles: Profiles) -> GeneKinds:
    """Classify the genes of a simulation by name, and by their specificity in real cells and profiles."""
    approved = approved_symbols()
    symbols = [approved.get(gene, "") for gene in genes]
    mitochondrial = np.array([bool(_MITOCHONDRIAL.fullmatch(name)) for name in symbols])
    ribosomal = np.array([bool(_RIBOSOMAL.fullmatch(name)) for name in symbols])
    measures = [_is_even(study.means[study.large]) for study in studies if study.large.sum() >= MIN_TYPES]
    unspecific = np.logical_and.reduce(measures) if measures else np.zeros(len(genes), dtype=bool)
    unspecific |= np.isin(symbols, sorted(_NUCLEAR))
    unspecific &= ~mitochondrial & ~ribosomal
    even = np.zeros(len(genes), dtype=bool)
    even[np.searchsorted(genes, profiles.genes)] = _even_in_profiles(profiles)
    return GeneKinds(mitochondrial, ribosomal, unspecific, unspecific & even)


def _is_even(means: np.ndarray) -> np.ndarray:
    """Return the genes whose highest mean is not far above the mean of the other rows, shape (n_genes,)."""
    highest = means.max(axis=0)
    others = (means.sum(axis=0) - highest) / (len(means) - 1)
    return highest <= MAX_SPECIFICITY * others + NOISE_SHARE


def _even_in_profiles(profiles: Profiles) -> np.ndarray:
    """Return the genes that are even in most data sets which measure them, shape (n_genes,)."""
    even, measured = np.zeros(len(profiles.genes)), np.zeros(len(profiles.genes))
    for rows in profiles.obs.groupby("dataset").indices.values():
        if len(rows) >= MIN_PROFILES:
            values = profiles.fractions[rows]
            present = np.isfinite(values).all(axis=0)
            even += present & _is_even(np.nan_to_num(values))
            measured += present
    return (measured > 0) & (even > measured / 2)


def fit_dispersion(studies: Sequence[RealStudy]) -> Dispersion:
    """Estimate the overdispersion of genes by the method of moments, within cells of one type of one file."""
    shares, phis = [], []
    for study in studies:
        for number, term in enumerate(study.types):
            rows = np.flatnonzero(study.group == number)
            if term is not None and len(rows) >= MIN_SPREAD_CELLS:
                share, phi = _moments(study.counts[rows], study.totals[rows])
                shares.append(share)
                phis.append(phi)
    if not shares:
        return DEFAULT_DISPERSION
    log_share, phi = np.log10(np.concatenate(shares)), np.concatenate(phis)
    edges = np.quantile(log_share, np.linspace(0, 1, 16))
    bins = np.clip(np.searchsorted(edges, log_share, side="right") - 1, 0, 14)
    points = np.array([np.median(log_share[bins == i]) for i in range(15)])
    trend = np.log(np.clip([np.median(phi[bins == i]) for i in range(15)], 0.02, 5.0))
    top = bins >= 12  # where counts are many, estimates differ because genes do
    spread = np.log(np.clip(phi[top], 0.01, 10.0)) - np.interp(log_share[top], points, trend)
    scatter = 0.7413 * float(np.subtract(*np.quantile(spread, [0.75, 0.25])))
    return Dispersion(points, trend, min(scatter, 1.0))


def _moments(counts: sp.csr_matrix, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return share and phi of the genes with enough counts, each of shape (n_genes,)."""
    sums = np.asarray(counts.sum(axis=0)).ravel()
    enough = sums >= MIN_SPREAD_COUNTS
    block = counts[:, enough].toarray()
    share = sums[enough] / totals.sum()
    expected = totals[:, None] * share
    excess = ((block - expected) ** 2 - expected).sum(axis=0)
    return share, excess / (expected**2).sum(axis=0)

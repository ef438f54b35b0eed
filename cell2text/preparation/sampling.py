"""Sample cells and measure how diverse a sample is. Depends on the tissue ontology for organs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cell2text.errors import UserError
from cell2text.ontology.terms import ancestors


# Organs that the published strata cap; a tissue counts as the organ if it is one of its parts.
ORGANS = {"UBERON:0000955": "brain", "UBERON:0000178": "blood"}
DIVERSITY_COLUMNS = ("cell_type", "tissue", "disease", "sex", "life_stage", "assay", "donor_id", "dataset_id")


@dataclass(frozen=True)
class SamplingStratum:
    """A share of the sample in which no category of a column may exceed a cap.

    Parameters
    ----------
    share
        Share of the whole sample, 0 to 1.
    column
        Column whose categories are capped.
    caps
        Largest share of this stratum for single categories.
    cap
        Largest share of this stratum for every other category. Defaults to no cap.
    rarest
        Sample from the rarest categories only: this share of all categories. Defaults to all categories.
    """

    share: float
    column: str
    caps: Mapping[str, float] = field(default_factory=dict)
    cap: float | None = None
    rarest: float | None = None


# arXiv 2509.24840: overall distribution, cell type, disease, donor, and rare tissues.
PUBLISHED_STRATA = (
    SamplingStratum(0.30, "organ", caps={"brain": 0.20, "blood": 0.15}),
    SamplingStratum(0.25, "cell_type", cap=0.03),
    SamplingStratum(0.20, "disease", caps={"COVID-19": 0.05, "normal": 0.70}, cap=0.03),
    SamplingStratum(0.15, "donor", cap=0.02),
    SamplingStratum(0.10, "organ", rarest=0.10),
)


def sample_cells(
    cells: pd.DataFrame, method: str, *, n_cells: int | None, balance: str = "cell_type", seed: int
) -> tuple[np.ndarray, list[dict]]:
    """Sample cells.

    Parameters
    ----------
    cells
        Metadata, one row per cell, in the order of sources and rows. The sample depends on this order.
    method
        `"all"`; `"random"`; `"balanced"`: the same number of cells from every category of `balance`, as far as there
        are enough; or `"published"`: the five strata of arXiv 2509.24840.
    n_cells
        Size of the sample. Defaults to all cells. Strata whose caps leave too few cells stay smaller.
    balance
        Column that `"balanced"` evens out.
    seed
        Random seed.

    Returns
    -------
    Positions of the sampled cells, ascending, and for every stratum its target (`asked`) and actual (`taken`) size.

    Raises
    ------
    UserError
        If the method is unknown, or `n_cells` is not positive.
    """
    total = len(cells)
    if n_cells is not None and n_cells < 1:
        raise UserError(f"n_cells={n_cells}: expected a positive number of cells.")
    target = total if n_cells is None else min(n_cells, total)
    generator = np.random.default_rng([seed, 1])
    if method == "published":
        return sample_strata(add_organ(cells), PUBLISHED_STRATA, target, generator)
    if method == "balanced":
        sampled = _sample_evenly(_category_codes(cells[balance]), target, generator)
    elif method == "random" or (method == "all" and target < total):
        sampled = generator.permutation(total)[:target]
    elif method == "all":
        sampled = np.arange(total)
    else:
        raise UserError(f"sampling={method!r}: expected 'all', 'random', 'balanced' or 'published'.")
    return np.sort(sampled), [{"part": method, "asked": target, "taken": len(sampled)}]


def add_organ(cells: pd.DataFrame) -> pd.DataFrame:
    """Add a column `organ`: the tissue, in which all parts of an organ in `ORGANS` have the organ's name."""
    organ = cells["tissue"].astype(object)
    terms = cells["tissue_ontology_term_id"].astype(object)
    for term in terms.dropna().unique():
        names = [name for root, name in ORGANS.items() if root in ancestors(term)]
        if names:
            organ = organ.mask(terms == term, names[0])
    return cells.assign(organ=organ)


def sample_strata(
    cells: pd.DataFrame, strata: Sequence[SamplingStratum], n_cells: int, generator: np.random.Generator
) -> tuple[np.ndarray, list[dict]]:
    """Sample strata one after the other, each from the cells that no earlier stratum sampled.

    Parameters
    ----------
    cells
        Metadata with the columns of the strata.
    strata
        Strata in the order in which they are sampled.
    n_cells
        Size of the whole sample.
    generator
        Source of randomness.

    Returns
    -------
    As for `sample_cells`.
    """
    available = np.ones(len(cells), dtype=bool)
    report = []
    for stratum in strata:
        n = round(stratum.share * n_cells)
        codes = _category_codes(cells[stratum.column])
        candidates = available.copy()
        if stratum.rarest is not None:
            sizes = np.bincount(codes[codes >= 0])
            rare = np.argsort(sizes, kind="stable")[: max(1, round(stratum.rarest * len(sizes)))]
            candidates &= np.isin(codes, rare)
        pool = generator.permutation(np.flatnonzero(candidates))
        names = pd.Categorical(cells[stratum.column]).categories
        quotas = np.full(len(names) + 1, n if stratum.cap is None else max(1, int(stratum.cap * n)))
        for name, cap in stratum.caps.items():
            if name in names:
                quotas[names.get_loc(name)] = max(1, int(cap * n))
        order = _count_earlier_in_category(codes[pool])
        sampled = pool[order < quotas[codes[pool]]][:n]
        available[sampled] = False
        label = f"{stratum.column}, the rarest {stratum.rarest:.0%}" if stratum.rarest else stratum.column
        report.append({"part": label, "asked": n, "taken": len(sampled)})
    return np.flatnonzero(~available), report


def _sample_evenly(codes: np.ndarray, n_cells: int, generator: np.random.Generator) -> np.ndarray:
    """Sample one cell of every category in turn until `n_cells` are sampled."""
    pool = generator.permutation(np.flatnonzero(codes >= 0))
    order = _count_earlier_in_category(codes[pool])
    return pool[np.argsort(order, kind="stable")][:n_cells]


def _category_codes(column: pd.Series) -> np.ndarray:
    """Return each cell's category as an integer, -1 for missing."""
    return pd.Categorical(column).codes.astype(np.int64)


def _count_earlier_in_category(codes: np.ndarray) -> np.ndarray:
    """Count for each cell the earlier cells of its category."""
    return pd.Series(codes).groupby(codes).cumcount().to_numpy()


def diversity(cells: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Measure the diversity of each column in `DIVERSITY_COLUMNS`.

    Returns
    -------
    For each column `shannon` (Shannon diversity in nats), `categories` (their number) and `known` (cells with a value).
    """
    result = {}
    for column in DIVERSITY_COLUMNS:
        counts = cells[column].value_counts()
        counts = counts[counts > 0].to_numpy(dtype=float)
        shares = counts / counts.sum() if len(counts) else counts
        shannon = float(-(shares * np.log(shares)).sum()) + 0.0
        result[column] = {"shannon": round(shannon, 6), "categories": len(counts), "known": int(counts.sum())}
    return result

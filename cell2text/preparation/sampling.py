"""Which cells are taken, and how diverse they are."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cell2text.errors import UserError
from cell2text.ontology.terms import ancestors


ORGANS = {
    "UBERON:0000955": "brain",
    "UBERON:0000178": "blood",
}  # tissues that the published caps name, with their parts
DIVERSITY_COLUMNS = ("cell_type", "tissue", "disease", "sex", "life_stage", "assay", "donor_id", "dataset_id")


@dataclass(frozen=True)
class SamplingStratum:
    """A share of the sample, drawn at random with at most a given share of it from each category of a column.

    Parameters
    ----------
    share
        Share of the whole sample.
    column
        Column whose categories are capped.
    caps
        Largest share of this part for single categories.
    cap
        Largest share for every other category; None for no bound.
    rarest
        Draw from the categories with the fewest cells only: this share of the categories.
    """

    share: float
    column: str
    caps: Mapping[str, float] = field(default_factory=dict)
    cap: float | None = None
    rarest: float | None = None


# arXiv 2509.24840: by distribution, by cell type, by disease, by donor, and rare tissues.
PUBLISHED = (
    SamplingStratum(0.30, "organ", caps={"brain": 0.20, "blood": 0.15}),
    SamplingStratum(0.25, "cell_type", cap=0.03),
    SamplingStratum(0.20, "disease", caps={"COVID-19": 0.05, "normal": 0.70}, cap=0.03),
    SamplingStratum(0.15, "donor", cap=0.02),
    SamplingStratum(0.10, "organ", rarest=0.10),
)


def sample_cells(
    cells: pd.DataFrame, method: str, *, n_cells: int | None, balance: str = "cell_type", seed: int
) -> tuple[np.ndarray, list[dict]]:
    """Choose cells.

    Parameters
    ----------
    cells
        Metadata in the order of sources and rows, which alone makes the sample independent of how files were named.
    method
        `"all"`; `"random"`; `"balanced"`, as even over the categories of `balance` as there are cells; or
        `"published"`, the five parts of the published system.
    n_cells
        Size of the sample; all cells when left out. A part whose caps leave too few cells stays smaller.
    balance
        Column of `"balanced"`.

    Returns
    -------
    Positions of the chosen cells, ascending, and for every part what was asked for and taken.

    Raises
    ------
    ValueError
        If the method is none of these, or `n_cells` is not positive.
    """
    total = len(cells)
    if n_cells is not None and n_cells < 1:
        raise UserError(f"n_cells={n_cells}: expected a positive number of cells.")
    wanted = total if n_cells is None else min(n_cells, total)
    generator = np.random.default_rng([seed, 1])
    if method == "published":
        return sample_parts(with_organ(cells), PUBLISHED, wanted, generator)
    if method == "balanced":
        chosen = balanced(codes_of(cells[balance]), wanted, generator)
    elif method == "random" or (method == "all" and wanted < total):
        chosen = generator.permutation(total)[:wanted]
    elif method == "all":
        chosen = np.arange(total)
    else:
        raise UserError(f"sampling={method!r}: expected 'all', 'random', 'balanced' or 'published'.")
    return np.sort(chosen), [{"part": method, "asked": wanted, "taken": len(chosen)}]


def with_organ(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with a column `organ`: the tissue, with all parts of brain and of blood under one name."""
    organ = cells["tissue"].astype(object)
    terms = cells["tissue_ontology_term_id"].astype(object)
    for term in terms.dropna().unique():
        names = [name for root, name in ORGANS.items() if root in ancestors(term)]
        if names:
            organ = organ.mask(terms == term, names[0])
    return cells.assign(organ=organ)


def sample_parts(cells: pd.DataFrame, parts, wanted: int, generator) -> tuple[np.ndarray, list[dict]]:
    """Draw parts one after the other, each from the cells that are left."""
    left = np.ones(len(cells), dtype=bool)
    report = []
    for part in parts:
        n = round(part.share * wanted)
        codes = codes_of(cells[part.column])
        candidates = left.copy()
        if part.rarest is not None:
            sizes = np.bincount(codes[codes >= 0])
            rare = np.argsort(sizes, kind="stable")[: max(1, round(part.rarest * len(sizes)))]
            candidates &= np.isin(codes, rare)
        pool = generator.permutation(np.flatnonzero(candidates))
        names = pd.Categorical(cells[part.column]).categories
        quotas = np.full(len(names) + 1, n if part.cap is None else max(1, int(part.cap * n)))
        for name, cap in part.caps.items():
            if name in names:
                quotas[names.get_loc(name)] = max(1, int(cap * n))
        order = occurrence(codes[pool])
        taken = pool[order < quotas[codes[pool]]][:n]
        left[taken] = False
        label = f"{part.column}, the rarest {part.rarest:.0%}" if part.rarest else part.column
        report.append({"part": label, "asked": n, "taken": len(taken)})
    return np.flatnonzero(~left), report


def balanced(codes: np.ndarray, wanted: int, generator) -> np.ndarray:
    """As many cells of every category as there are, up to the level at which `wanted` are taken in all."""
    pool = generator.permutation(np.flatnonzero(codes >= 0))
    order = occurrence(codes[pool])
    return pool[np.argsort(order, kind="stable")][:wanted]


def codes_of(column: pd.Series) -> np.ndarray:
    """Category of each cell as an integer, -1 where unknown."""
    return pd.Categorical(column).codes.astype(np.int64)


def occurrence(codes: np.ndarray) -> np.ndarray:
    """How many cells of the same category stand before each one."""
    return pd.Series(codes).groupby(codes).cumcount().to_numpy()


def diversity(cells: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Of every column: Shannon diversity in nats, the number of categories, and of cells where it is known."""
    result = {}
    for column in DIVERSITY_COLUMNS:
        counts = cells[column].value_counts()
        counts = counts[counts > 0].to_numpy(dtype=float)
        shares = counts / counts.sum() if len(counts) else counts
        shannon = float(-(shares * np.log(shares)).sum()) + 0.0
        result[column] = {"shannon": round(shannon, 6), "categories": len(counts), "known": int(counts.sum())}
    return result

"""Pathway activity of single cells: gene sets from a GMT file, scored with AUCell.

A cell's genes are ordered by count; a set scores by how many of its genes stand among the top 5 % and how high, 0 to 1.
Most counts are ties. By default a tied gene counts with the mean over all orders of its ties, so that a score depends
on the cell alone: no seed, no other cell of the batch. `ties="seeded"` breaks ties by one shuffle of the genes, as
pySCENIC does.

Reference: Aibar et al. 2017, Nature Methods 14:1083.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp

from cell2text.errors import UserError
from ranking_cell2text import CellRanker, csr_arrays


TOP_FRACTION = 0.05
MIN_GENES = 50  # of fewer, the top 5 % hold no rank that counts, or one
MIN_COVERAGE = 0.8  # a set with fewer of its genes in the file is scored but never named; pySCENIC's bound
HISTOGRAM = 16384  # integer counts below this are sorted by counting


@dataclass(frozen=True)
class GeneSets:
    """Gene sets by name, in the order of their file."""

    names: list[str]
    genes: list[list[str]]

    def __len__(self) -> int:
        return len(self.names)


def read_gmt(path: str | Path) -> GeneSets:
    """Read gene sets from a GMT file: a line holds a name, a description and genes, separated by tabs.

    Raises
    ------
    ValueError
        If the file cannot be read, a line has no gene, or a name stands twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read gene sets from {path}: {error}. Expected a GMT file (tab-separated).") from error
    names, genes = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *rest = line.split("\t")
        members = list(dict.fromkeys(gene.strip() for gene in rest[1:] if gene.strip()))
        if not members:
            raise UserError(
                f"{path}, line {number}: expected name, description and genes separated by tabs, found {line[:60]!r}."
            )
        names.append(name.strip())
        genes.append(members)
    if not names:
        raise UserError(f"{path} holds no gene set: expected a GMT file.")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"{path} names gene sets twice: {sorted(twice)[:3]}.")
    return GeneSets(names, genes)


def match_columns(gene_sets: GeneSets, var, ranker: CellRanker) -> list[np.ndarray]:
    """Columns of each set's genes in a file's counts, after `ranker.collapse`.

    A gene is looked up in the vocabulary, which knows aliases and retired ids, then among the file's own names.
    """
    by_name: dict[str, int] = {}
    for name in ("index", *var.columns):
        values = var.index if name == "index" else var[name]
        for column, value in enumerate(values.astype(str)):
            by_name.setdefault(value.split(".")[0] if value.startswith("ENS") else value, int(ranker.columns[column]))
    by_token = dict(zip(ranker.token_ids.tolist(), ranker.columns.tolist()))
    names = list(dict.fromkeys(gene for genes in gene_sets.genes for gene in genes))
    tokens, _ = ranker.vocabulary.map_genes(names)
    of_gene: dict[str, Any] = {
        name: by_token[token] if token in by_token and token >= 0 else by_name.get(name)
        for name, token in zip(names, tokens.tolist())
    }
    found = [{of_gene[gene] for gene in genes} - {None} for genes in gene_sets.genes]
    return [np.array(sorted(columns), dtype=np.int64) for columns in found]


def aucell(
    counts,
    set_columns: Sequence[np.ndarray],
    *,
    top_fraction: float = TOP_FRACTION,
    ties: str = "expected",
    seed: int | None = None,
) -> np.ndarray:
    """Score gene sets in every cell.

    Parameters
    ----------
    counts
        Raw counts, CSR, shape (n_cells, n_genes), all genes of the file: a filter changes the scores. Any
        transformation that keeps each cell's order, such as log1p, gives the same scores.
    set_columns
        Columns of each set's genes, n_sets integer arrays.
    top_fraction
        Share of the genes that counts as the top of the ranking.
    ties
        `"expected"`: mean over all orders of tied genes; `"seeded"`: one order, by a shuffle of the genes with `seed`.
    seed
        Seed of the shuffle, equal to `random_state` of pySCENIC's ranking.

    Returns
    -------
    Scores from 0 to 1, float64, shape (n_cells, n_sets); NaN for a set without a gene in the file.

    Raises
    ------
    ValueError
        If `ties` is neither of the two, a seed is missing or useless, or the top of the ranking is empty.
    """
    if ties not in ("expected", "seeded") or (ties == "seeded") == (seed is None):
        raise UserError(f"ties={ties!r}, seed={seed!r}: expected ties='expected', or ties='seeded' with a seed.")
    counts = sp.csr_matrix(counts)
    n_genes = counts.shape[1]
    cutoff = round(top_fraction * n_genes) - 1  # as in R's AUCell and in pySCENIC: the last rank does not count
    if not 0 < cutoff < n_genes:
        raise UserError(f"{n_genes} genes are too few: the top {top_fraction:.0%} of them hold no rank that counts.")
    sizes = np.array([len(columns) for columns in set_columns], dtype=np.int64)
    members = np.concatenate([*set_columns, np.zeros(0, dtype=np.int64)]).astype(np.int64)
    sets = np.repeat(np.arange(len(sizes)), sizes)[np.argsort(members, kind="stable")]
    starts = np.searchsorted(np.sort(members), np.arange(n_genes + 1))
    scores = np.zeros((counts.shape[0], len(sizes)))
    arrays = (*csr_arrays(counts), starts, sets, sizes, n_genes, cutoff, scores)
    if ties == "expected":
        compiled(score_rows_expected)(*arrays)
    else:
        order = np.random.RandomState(seed).choice(n_genes, size=n_genes, replace=False)
        compiled(score_rows_seeded)(*arrays, order.astype(np.int64))
    with np.errstate(invalid="ignore"):
        return scores / ((cutoff + 1.0) * sizes)


@cache
def compiled(kernel):
    return numba.njit(nogil=True, cache=True)(kernel)


def score_rows_expected(indptr, indices, data, starts, sets, sizes, n_genes, cutoff, scores):
    """Add to `scores` what every gene contributes, tied genes with the mean over their ranks; for numba."""
    histogram = np.zeros(HISTOGRAM, dtype=np.int64)
    gains = np.zeros(HISTOGRAM)  # what a gene of this count contributes
    hits = np.zeros(len(sizes), dtype=np.int64)
    for row in range(len(indptr) - 1):
        begin, end = indptr[row], indptr[row + 1]
        n, highest, countable = 0, 0.0, True
        for position in range(begin, end):
            value = data[position]
            if value > 0:
                n += 1
                highest = max(highest, value)
                if value >= HISTOGRAM or value != np.floor(value):
                    countable = False
        zero_gain = 0.0
        if n < cutoff:
            zero_gain = (cutoff - n) * (cutoff - n + 1) / 2 / (n_genes - n)
        hits[:] = 0
        if countable:
            for position in range(begin, end):
                histogram[int(data[position])] += 1
            above = 0
            for value in range(int(highest), 0, -1):
                size = histogram[value]
                histogram[value] = 0
                if size:
                    last = min(above + size, cutoff)
                    gains[value] = max(0, last - above) * (2 * cutoff - above - last + 1) / 2 / size
                    above += size
            histogram[0] = 0
            for position in range(begin, end):
                value = int(data[position])
                if value > 0:
                    column = indices[position]
                    for k in range(starts[column], starts[column + 1]):
                        scores[row, sets[k]] += gains[value]
                        hits[sets[k]] += 1
        else:
            order = np.argsort(-data[begin:end])
            first = 0
            while first < n:
                last = first
                while last < n and data[begin + order[last]] == data[begin + order[first]]:
                    last += 1
                top = min(last, cutoff)
                gain = max(0, top - first) * (2 * cutoff - first - top + 1) / 2 / (last - first)
                for i in range(first, last):
                    column = indices[begin + order[i]]
                    for k in range(starts[column], starts[column + 1]):
                        scores[row, sets[k]] += gain
                        hits[sets[k]] += 1
                first = last
        for s in range(len(sizes)):
            scores[row, s] += (sizes[s] - hits[s]) * zero_gain


def score_rows_seeded(indptr, indices, data, starts, sets, sizes, n_genes, cutoff, scores, order):
    """Add to `scores` what every gene contributes, ties in the order of `order`; for numba."""
    place = np.empty(n_genes, dtype=np.int64)
    for i in range(n_genes):
        place[order[i]] = i
    values = np.zeros(n_genes, dtype=data.dtype)  # the row's counts in the shuffled order
    histogram = np.zeros(HISTOGRAM, dtype=np.int64)
    for row in range(len(indptr) - 1):
        begin, end = indptr[row], indptr[row + 1]
        n, highest, countable = 0, 0.0, True
        for position in range(begin, end):
            value = data[position]
            values[place[indices[position]]] = value
            if value > 0:
                n += 1
                highest = max(highest, value)
                if value >= HISTOGRAM or value != np.floor(value):
                    countable = False
        if countable:
            for position in range(begin, end):
                histogram[int(data[position])] += 1
            above = 0
            for value in range(int(highest), 0, -1):
                histogram[value], above = above, above + histogram[value]
            next_zero = n
            for i in range(n_genes):
                value = int(values[i])
                if value > 0:
                    rank = histogram[value]
                    histogram[value] += 1
                else:
                    rank = next_zero
                    next_zero += 1
                if rank < cutoff:
                    for k in range(starts[order[i]], starts[order[i] + 1]):
                        scores[row, sets[k]] += cutoff - rank
            histogram[: int(highest) + 1] = 0
        else:
            by_value = np.argsort(-values, kind="mergesort")
            for rank in range(cutoff):
                column = order[by_value[rank]]
                for k in range(starts[column], starts[column + 1]):
                    scores[row, sets[k]] += cutoff - rank
        for position in range(begin, end):
            values[place[indices[position]]] = 0


def download_hallmark() -> GeneSets:
    """MSigDB's Hallmark sets through decoupler, which downloads them.

    Raises
    ------
    ValueError
        If decoupler is not installed, or cannot download them.
    """
    try:
        import decoupler
    except ImportError as error:
        raise UserError('--gene-sets hallmark needs decoupler: pip install "cell2text[hallmark]".') from error
    try:
        network = decoupler.op.hallmark(organism="human")
    except Exception as error:  # whatever the network raises
        raise UserError(f"Hallmark cannot be downloaded ({error}): pass a GMT file with --gene-sets.") from error
    members = network.groupby("source", sort=True)["target"].agg(lambda genes: list(dict.fromkeys(genes)))
    return GeneSets([str(name) for name in members.index], list(members))

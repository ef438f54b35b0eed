"""Fit a gene vocabulary to data: non-zero medians over counts that are streamed once."""

import re
from collections.abc import Iterable

import numpy as np
import scipy.sparse as sp

from cell2text.errors import UserError
from counts_cell2text import CountCheck, count_blocks, row_sums, select_counts
from ranking_cell2text import TARGET_SUM
from vocabulary_cell2text import SPECIAL_TOKENS, GeneVocabulary


PAR_Y = 2**31  # added to the number of a gene of chromosome Y's pseudoautosomal regions


class MedianAccumulator:
    """Non-zero medians of many genes from a stream, in memory that does not grow with the number of cells.

    Values are counted in bins of their leading 10 mantissa bits, so that a median is within 0.05 % of the exact one.
    The bins of two accumulators add up: neither the order of cells nor their distribution over workers changes the
    result.
    """

    MANTISSA_BITS = 10

    def __init__(self):
        self.keys = np.zeros(0, dtype=np.uint64)  # gene in the upper 32 bits, leading bits of a float32 in the lower
        self.counts = np.zeros(0, dtype=np.int64)

    def add(self, genes: np.ndarray, values: np.ndarray) -> None:
        """Count the positive ones of values, shape (n,), of genes, integers of the same shape."""
        positive = values > 0
        bits = values[positive].astype(np.float32).view(np.uint32) >> self._shift
        self._merge(*np.unique((genes[positive].astype(np.uint64) << 32) | bits, return_counts=True))

    def add_counts(self, genes: np.ndarray, block: sp.csr_matrix) -> None:
        """Count a block of cells, normalised to 10,000 a cell; `genes` numbers its columns."""
        totals = np.maximum(row_sums(block), np.finfo(float).tiny)
        values = block.data.astype(np.float64) * np.repeat(TARGET_SUM / totals, np.diff(block.indptr))
        self.add(genes[block.indices], values)

    def merge(self, other: "MedianAccumulator") -> None:
        """Add everything another accumulator has counted."""
        self._merge(other.keys, other.counts)

    def _merge(self, keys: np.ndarray, counts: np.ndarray) -> None:
        self.keys, position = np.unique(np.concatenate([self.keys, keys]), return_inverse=True)
        self.counts = np.bincount(
            position, weights=np.concatenate([self.counts, counts]), minlength=len(self.keys)
        ).astype(np.int64)

    def medians(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Genes in ascending order, their medians, and how often each was counted; all of shape (n_genes,)."""
        gene_of_bin = (self.keys >> 32).astype(np.int64)
        first = np.flatnonzero(np.diff(gene_of_bin, prepend=-1))
        upto = np.cumsum(self.counts)
        before = upto[first] - self.counts[first]
        seen = np.diff(np.append(before, self.counts.sum()))
        lower = np.searchsorted(upto, before + (seen - 1) // 2, side="right")
        upper = np.searchsorted(upto, before + seen // 2, side="right")
        centres = self._bin_centres()
        return gene_of_bin[first], (centres[lower] + centres[upper]) / 2, seen

    @property
    def _shift(self) -> int:
        return 23 - self.MANTISSA_BITS

    def _bin_centres(self) -> np.ndarray:
        bits = (self.keys & 0xFFFFFFFF).astype(np.uint32)
        edges = [(value << self._shift).view(np.float32).astype(np.float64) for value in (bits, bits + np.uint32(1))]
        return (edges[0] + edges[1]) / 2


def fit_vocabulary(
    adatas: Iterable,
    *,
    layer: str | None = None,
    max_genes: int = 2048,
    min_cells: int = 3,
    allow_fractional: bool = False,
) -> GeneVocabulary:
    """Fit a vocabulary to the cells of one or more AnnData, in memory or backed.

    Counts are normalised to 10,000 a cell; the median of a gene is taken over the cells that express it, as
    Geneformer's was.

    Parameters
    ----------
    adatas
        Human cells with Ensembl ids in the index of `var`; a version after the id is cut off. One AnnData is taken as
        a list of one.
    layer
        Layer that holds the raw counts, or `"raw"`; `X` when left out.
    max_genes
        Longest ranked cell, special tokens included.
    min_cells
        Genes seen in fewer cells are left out.
    allow_fractional
        Accept expected counts that are no integers.

    Raises
    ------
    ValueError
        If the values are no counts, if the genes carry no Ensembl ids, or if no gene is left.
    """
    symbols: dict[str, str] = {}
    accumulator = MedianAccumulator()
    for adata in [adatas] if hasattr(adatas, "obs_names") else adatas:  # which by itself would run over its cells
        matrix, var, source = select_counts(adata, layer)
        genes = gene_numbers(var.index)
        symbols |= symbols_of(var)
        check = CountCheck(adata, source, allow_fractional)
        for start, block in count_blocks(matrix):
            check(block, start)
            accumulator.add_counts(genes, block)
    return vocabulary_of(accumulator, symbols, max_genes=max_genes, min_cells=min_cells)


def vocabulary_of(
    accumulator: MedianAccumulator, symbols: dict[str, str], *, max_genes: int, min_cells: int
) -> GeneVocabulary:
    """The vocabulary of what an accumulator has counted, genes numbered by `gene_numbers`.

    Raises
    ------
    ValueError
        If no gene is seen in `min_cells` cells.
    """
    numbers, medians, seen = accumulator.medians()
    kept = sorted(
        (gene_name(gene), median) for gene, median, count in zip(numbers, medians, seen) if count >= min_cells
    )
    if not kept:
        raise UserError(f"No gene is seen in at least min_cells={min_cells} cells: nothing to fit.")
    return GeneVocabulary(
        tokens=[*SPECIAL_TOKENS, *(name for name, _ in kept)],
        medians=np.array([np.nan] * len(SPECIAL_TOKENS) + [median for _, median in kept]),
        symbols=[*[""] * len(SPECIAL_TOKENS), *(symbols.get(name, "") for name, _ in kept)],
        max_genes=max_genes,
    )


def symbols_of(var) -> dict[str, str]:
    """Symbol of each Ensembl id, where the file has CELLxGENE's column of them."""
    if "feature_name" not in var.columns:
        return {}
    return dict(zip((ensembl_id(name) for name in var.index.astype(str)), var["feature_name"].astype(str)))


def gene_numbers(names) -> np.ndarray:
    """Human Ensembl ids as integers below 2**32, alike in every file."""
    ids = (ensembl_id(name) for name in names.astype(str))
    return np.array([int(name.lstrip("ENSGR")) + PAR_Y * name.startswith("ENSGR") for name in ids], dtype=np.int64)


def gene_name(number: int) -> str:
    return f"ENSGR{number - PAR_Y:010d}" if number >= PAR_Y else f"ENSG{number:011d}"


def ensembl_id(name: str) -> str:
    """A human Ensembl gene id without its version."""
    bare = name.split(".")[0]
    if not re.fullmatch(r"ENSG(R)?\d+", bare):
        raise UserError(
            f"{name!r} in adata.var_names is no human Ensembl gene id: a vocabulary is fitted to Ensembl ids only. Map "
            f"symbols first, or rank the cells with a vocabulary that knows them, such as Geneformer's."
        )
    return bare

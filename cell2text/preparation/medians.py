"""Fit a gene vocabulary to data: non-zero medians over counts that are streamed once.

Depends on `counts_cell2text`, `vocabulary_cell2text` and the gene names of `cell2text.sources`.
"""

from collections.abc import Iterable

import numpy as np
import scipy.sparse as sp

from cell2text.errors import UserError
from cell2text.sources.gene_tables import aliases_for, approved_symbols, ensembl_id
from counts_cell2text import row_sums
from genes_cell2text import ROUTES, map_names
from ranking_cell2text import TARGET_SUM, MappedGenes
from source_cell2text import AnnDataContainer, CellSource
from vocabulary_cell2text import SPECIAL_TOKENS, GeneVocabulary


PAR_Y_OFFSET = 2**31  # added to the number of a gene in a pseudoautosomal region of chromosome Y (ENSGR...)


class MedianAccumulator:
    """Count expression values of genes in a stream, and compute their non-zero medians.

    Values are counted in bins of their leading 10 mantissa bits, so a median is within 0.05 % of the exact one, and
    memory does not grow with the number of cells. Bins of two accumulators add up, so neither the order of the cells
    nor their distribution over workers changes the medians.

    Attributes
    ----------
    keys
        Bins: the gene in the upper 32 bits, the leading bits of a float32 in the lower 32.
    counts
        Number of values in each bin.
    """

    MANTISSA_BITS = 10

    def __init__(self):
        self.keys = np.zeros(0, dtype=np.uint64)
        self.counts = np.zeros(0, dtype=np.int64)

    def add(self, genes: np.ndarray, values: np.ndarray) -> None:
        """Count the positive values.

        Parameters
        ----------
        genes
            Number of each value's gene, shape (n,).
        values
            Values, shape (n,).
        """
        positive = values > 0
        bits = values[positive].astype(np.float32).view(np.uint32) >> self._shift
        self._merge(*np.unique((genes[positive].astype(np.uint64) << 32) | bits, return_counts=True))

    def add_counts(self, genes: np.ndarray, block: sp.csr_matrix) -> None:
        """Count a block of cells, each normalised to a total of 10,000.

        Parameters
        ----------
        genes
            Number of each column's gene, shape (n_genes,); -1 for columns that are not counted as genes.
        block
            Raw counts, shape (n_cells, n_genes).
        """
        totals = np.maximum(row_sums(block), np.finfo(float).tiny)
        values = block.data.astype(np.float64) * np.repeat(TARGET_SUM / totals, np.diff(block.indptr))
        numbers = genes[block.indices]
        known = numbers >= 0
        self.add(numbers[known], values[known])

    def merge(self, other: "MedianAccumulator") -> None:
        """Add the counts of another accumulator."""
        self._merge(other.keys, other.counts)

    def _merge(self, keys: np.ndarray, counts: np.ndarray) -> None:
        self.keys, position = np.unique(np.concatenate([self.keys, keys]), return_inverse=True)
        self.counts = np.bincount(
            position, weights=np.concatenate([self.counts, counts]), minlength=len(self.keys)
        ).astype(np.int64)

    def medians(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return gene numbers in ascending order, their medians, and the number of values, each of shape (n_genes,)."""
        gene_of_bin = (self.keys >> 32).astype(np.int64)
        first = np.flatnonzero(np.diff(gene_of_bin, prepend=-1))
        cumulative = np.cumsum(self.counts)
        before = cumulative[first] - self.counts[first]
        n_values = np.diff(np.append(before, self.counts.sum()))
        lower = np.searchsorted(cumulative, before + (n_values - 1) // 2, side="right")
        upper = np.searchsorted(cumulative, before + n_values // 2, side="right")
        centres = self._bin_centres()
        return gene_of_bin[first], (centres[lower] + centres[upper]) / 2, n_values

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
    gene_key: str | None = None,
    species: str = "human",
    max_genes: int = 2048,
    min_cells: int = 3,
    allow_fractional: bool = False,
) -> GeneVocabulary:
    """Fit a gene vocabulary to one or more AnnData objects, in memory or backed.

    Counts are normalised to 10,000 per cell. A gene's median is taken over the cells that express it, as in Geneformer.

    Parameters
    ----------
    adatas
        One AnnData or several. Genes without a human Ensembl id, or a symbol that HGNC knows, are left out.
    layer
        Layer with the raw counts, `"X"`, or `"raw"` for `.raw`. Defaults to the matrix that holds integers.
    gene_key
        Column of `var` with Ensembl ids or gene symbols, or `"index"`. Defaults to the one with most human genes.
    species
        Species of the cells: `"human"`, or `"mouse"`, whose genes are mapped to human genes by one-to-one orthologs.
    max_genes
        Maximum number of genes per ranked cell, special tokens included.
    min_cells
        Minimum number of cells that express a gene; rarer genes are excluded.
    allow_fractional
        Accept non-integer counts, such as estimated counts of Smart-seq2.

    Returns
    -------
    The vocabulary; save it with `save_pretrained`.

    Raises
    ------
    UserError
        If the values are not counts, there are no human genes, or no gene is expressed in enough cells.

    Examples
    --------
    >>> from cell2text import example_cells
    >>> vocabulary = fit_vocabulary(example_cells()[:200], min_cells=20, allow_fractional=True)
    >>> vocabulary.max_genes
    2048
    """
    symbols: dict[str, str] = {}
    accumulator = MedianAccumulator()
    for adata in [adatas] if hasattr(adatas, "obs_names") else adatas:  # iterating over an AnnData fails
        source = CellSource(AnnDataContainer(adata), layer=layer, allow_fractional=allow_fractional)
        genes = GeneColumns(source, gene_key=gene_key, species=species)
        symbols |= genes.symbols
        for _, block in source.blocks():
            accumulator.add_counts(genes.numbers, genes.collapse(block))
    return build_vocabulary(accumulator, symbols, max_genes=max_genes, min_cells=min_cells)


def build_vocabulary(
    accumulator: MedianAccumulator, symbols: dict[str, str], *, max_genes: int, min_cells: int
) -> GeneVocabulary:
    """Build a vocabulary from counted values, with previous symbols and aliases of its genes from HGNC.

    Parameters
    ----------
    accumulator
        Values of genes that `gene_numbers` numbered.
    symbols
        Gene symbols by Ensembl id. Missing ones, and those that only repeat the id, are filled in from HGNC.
    max_genes
        Maximum number of genes per ranked cell, special tokens included.
    min_cells
        Minimum number of cells that express a gene.

    Raises
    ------
    UserError
        If no gene is expressed in `min_cells` cells.
    """
    numbers, medians, n_cells = accumulator.medians()
    kept = sorted(
        (_ensembl_id(gene), median) for gene, median, count in zip(numbers, medians, n_cells) if count >= min_cells
    )
    if not kept:
        raise UserError(f"No gene is expressed in at least {min_cells} cells. Add cells, or lower min_cells=.")
    genes = [name for name, _ in kept]
    named = fill_symbols(genes, symbols)
    return GeneVocabulary(
        tokens=[*SPECIAL_TOKENS, *genes],
        medians=np.array([np.nan] * len(SPECIAL_TOKENS) + [median for _, median in kept]),
        symbols=[*[""] * len(SPECIAL_TOKENS), *named],
        aliases=aliases_for(genes, named),
        max_genes=max_genes,
    )


def fill_symbols(genes: list[str], symbols: dict[str, str]) -> list[str]:
    """Return the symbol of each gene: its own, or the one that HGNC approves if no other gene uses that.

    Parameters
    ----------
    genes
        Ensembl ids.
    symbols
        Symbols by Ensembl id. An empty symbol, or the id in its place, counts as missing.

    Returns
    -------
    One symbol per gene. A gene without any keeps what `symbols` has, or has `""`.

    Examples
    --------
    >>> fill_symbols(["ENSG00000141510", "ENSG00000204628"], {"ENSG00000204628": "GNB2L1"})
    ['TP53', 'GNB2L1']
    """
    given = {gene: symbols[gene] for gene in genes if symbols.get(gene, gene) not in ("", gene)}
    approved, used = approved_symbols(), set(given.values())
    missing = {gene: approved.get(gene, "") for gene in genes if gene not in given}
    return [given.get(gene) or (missing[gene] not in used and missing[gene]) or symbols.get(gene, "") for gene in genes]


class HumanGenes:
    """All human genes, in place of a vocabulary: numbers of Ensembl ids stand for token ids."""

    tokens: tuple[str, ...] = ()

    def map_genes(self, names) -> tuple[np.ndarray, np.ndarray]:
        """Look up Ensembl ids and symbols; return their numbers, -1 if unknown, and indices into `ROUTES`."""
        return map_names(names, _look_up)

    def __len__(self) -> int:
        return len(approved_symbols())


HUMAN_GENES = HumanGenes()
_ROUTES_OF_TABLES = {
    route: ROUTES.index(name)
    for route, name in (
        ("ensembl_id", "ensembl_id"),
        ("symbol", "symbol"),
        ("previous_symbol", "alias"),
        ("alias", "alias"),
    )
}


def _look_up(name: str) -> tuple[int, int] | None:
    gene, route = ensembl_id(name)
    return (_gene_number(gene), _ROUTES_OF_TABLES[route]) if gene else None


class GeneColumns:
    """The human genes of a source, as numbers that are equal in every file.

    Parameters
    ----------
    source
        Open source.
    gene_key
        Column of `var` with Ensembl ids or gene symbols, or `"index"`. Defaults to the one with most human genes.
    species
        `"human"`, or `"mouse"` to map genes by one-to-one orthologs.

    Attributes
    ----------
    numbers
        Number of the gene of each column after `collapse`, -1 if it is not a human gene, int64.
    symbols
        The file's own gene symbols by Ensembl id, from CELLxGENE's column `feature_name`; empty without it.

    Raises
    ------
    UserError
        If there are no human genes.
    """

    def __init__(self, source: CellSource, *, gene_key: str | None = None, species: str = "human"):
        var = source.read_var()
        self._mapped = MappedGenes.of_source(source, HUMAN_GENES, gene_key=gene_key, species=species)
        self.numbers = self._mapped.column_tokens
        own = var["feature_name"].astype(str).tolist() if "feature_name" in var and species == "human" else []
        ids = [_ensembl_id(number) if number >= 0 else "" for number in self._mapped.token_ids.tolist()]
        self.symbols = {gene: symbol for gene, symbol in zip(ids, own) if gene}

    def collapse(self, block: sp.csr_matrix) -> sp.csr_matrix:
        """Add up the columns of the same gene."""
        return self._mapped.collapse(block)


def _gene_number(gene: str) -> int:
    return int(gene.lstrip("ENSGR")) + PAR_Y_OFFSET * gene.startswith("ENSGR")


def _ensembl_id(number: int) -> str:
    return f"ENSGR{number - PAR_Y_OFFSET:010d}" if number >= PAR_Y_OFFSET else f"ENSG{number:011d}"

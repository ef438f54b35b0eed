"""Rank the genes of cells: find a file's genes in the vocabulary, and order each cell's genes by expression.

Depends on NumPy, SciPy, `counts_cell2text.py` and `vocabulary_cell2text.py`. Numba is optional: it gives the same
tokens faster.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import scipy.sparse as sp


try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError

try:
    from .counts_cell2text import row_sums
except ImportError:
    from counts_cell2text import row_sums

try:
    from .genes_cell2text import ROUTES, choose_gene_column
except ImportError:
    from genes_cell2text import ROUTES, choose_gene_column

try:
    from .source_cell2text import AnnDataContainer, CellSource
except ImportError:
    from source_cell2text import AnnDataContainer, CellSource

try:
    from .vocabulary_cell2text import SPECIAL_TOKENS, GeneVocabulary
except ImportError:
    from vocabulary_cell2text import SPECIAL_TOKENS, GeneVocabulary

try:
    import numba
except ImportError:
    numba = None  # type: ignore[assignment]


TARGET_SUM = 10_000.0  # counts per cell after normalisation
_OTHER_SPECIES, _UNMAPPED = ROUTES.index("other_species"), ROUTES.index("unmapped")
_NUMBA_MIN_CELLS = 256  # compiling costs more than it saves for fewer cells
MAX_FOREIGN_SHARE = 0.5  # of a cell's counts on genes of another species; a cell above it has no ranked genes


@dataclass
class RankingReport:
    """Reports what the model sees of a file: its counts, genes and cells.

    Args:
        reading: Container, matrix of the counts, gene column and genes found, as [`CellRanker.reading`] returns them.
        genes_by_route: Number of genes in the file by the route that mapped them, keys as in `ROUTES`.
        counts_by_route: Fraction of all counts by the same routes.
        merged_genes: Number of the file's genes that were added to another one with the same token.
        n_genes: Expressed genes of the vocabulary per cell, before truncation, shape `(n_cells,)`.
        counts_used: Fraction of each cell's counts on genes of the vocabulary, shape `(n_cells,)`; 0 for a cell
            without counts.
        truncated_cells: Number of cells with more genes than a ranked cell may hold.
        empty_cells: Names of the cells without counts on genes of the vocabulary. They are kept, with no genes.
    """

    reading: dict
    genes_by_route: dict[str, int]
    counts_by_route: dict[str, float]
    merged_genes: int
    n_genes: np.ndarray
    counts_used: np.ndarray
    truncated_cells: int
    empty_cells: list[str]

    @property
    def coverage(self) -> float:
        """Fraction of the vocabulary's genes that the file has."""
        return self.reading["coverage"]

    def __str__(self) -> str:
        text = f"{len(self.n_genes):,} cells; {reading_text(self.reading)}"
        routes = ROUTES[:_OTHER_SPECIES]
        mapped = ", ".join(
            f"{self.genes_by_route[route]:,} by {route}" for route in routes if self.genes_by_route[route]
        )
        lost = self.counts_by_route["unmapped"] + self.counts_by_route["other_species"]
        text += f" ({mapped}); {lost:.1%} of the counts lost"
        if self.merged_genes:
            text += f"; {self.merged_genes:,} genes added to another of the same token"
        if self.truncated_cells:
            text += f"; {self.truncated_cells:,} cells truncated to their highest-ranked genes"
        if self.empty_cells:
            text += f"; {len(self.empty_cells):,} cells without counts (first: {self.empty_cells[0]!r})"
        return text + "."


def reading_text(reading: dict) -> str:
    """Return one clause on where counts and genes were found.

    Args:
        reading (`dict`): As [`CellRanker.reading`] returns it.

    Examples:

    ```python
    >>> reading = {"container": "h5ad", "counts": "X", "gene_column": "index", "genes_found": 2, "genes_of_model": 4}
    >>> reading_text(reading)
    "h5ad, counts from X, genes from index: 2 of the model's 4 genes found"

    ```
    """
    text = f"{reading['container']}, counts from {reading['counts']}, genes from {reading['gene_column']}"
    if reading.get("species", "human") != "human":
        text += f" ({reading['species']}, mapped to human orthologs)"
    text += f": {reading['genes_found']:,} of the model's {reading['genes_of_model']:,} genes found"
    if reading.get("left_out"):
        left_out = ", ".join(f"{count:,} {kind}" for kind, count in reading["left_out"].items())
        text += f", {left_out} left out"
    return text


def rank_encode(counts, token_ids: np.ndarray, medians: np.ndarray, *, max_genes: int, totals=None) -> list[np.ndarray]:
    """Order each cell's expressed genes by median-normalised expression.

    The score of a gene is `count / total * 10,000 / median` in float64.

    Args:
        counts (`scipy.sparse.csr_matrix` of shape `(n_cells, n_genes)`):
            Raw counts.
        token_ids (`np.ndarray` of shape `(n_genes,)`):
            Token id of each column; -1 excludes a column.
        medians (`np.ndarray` of shape `(n_genes,)`):
            Non-zero median of each column's gene over a corpus, counts per 10,000.
        max_genes (`int`):
            Maximum number of genes per cell.
        totals (`np.ndarray` of shape `(n_cells,)`, *optional*):
            Counts of each cell, excluded columns included. Defaults to the row sums.

    Returns:
        One array of token ids per cell, highest score first, ties by token id, at most `max_genes` long.

    Reference:
        Theodoris et al. 2023, Nature 618:616.

    Examples:

    ```python
    >>> counts = sp.csr_matrix([[4, 3, 8]])
    >>> rank_encode(counts, np.array([10, 11, 12]), np.array([1.0, 0.5, 4.0]), max_genes=2)[0].tolist()
    [11, 10]

    ```
    """
    counts = sp.csr_matrix(counts)
    totals = row_sums(counts) if totals is None else np.asarray(totals, dtype=np.float64)
    tokens, lengths, _ = _rank_block(counts, totals, token_ids, medians, max_genes=max_genes, dtype=np.int64)
    return np.split(tokens, np.cumsum(lengths)[:-1]) if len(lengths) else []


def _rank_block(counts, totals, token_ids, medians, *, max_genes: int, dtype, first: int = -1, last: int = -1):
    """Rank a CSR matrix.

    `first` and `last` are tokens that open and close every row in addition to `max_genes` genes; -1 for none.

    Returns:
        Tokens of all rows in one array, and per row its length and its number of genes before truncation.
    """
    widths = np.minimum(np.diff(counts.indptr), max_genes) + (first >= 0) + (last >= 0)
    ranked = np.empty(int(widths.sum()), dtype=dtype)
    kernel: Any = rank_rows_compiled() if _use_numba(counts) else rank_rows
    arrays = (*csr_arrays(counts), totals, token_ids.astype(np.int64), medians.astype(np.float64))
    lengths, n_genes = kernel(*arrays, max_genes, first, last, ranked)
    return ranked[: lengths.sum()], lengths, n_genes


def csr_arrays(block: sp.csr_matrix):
    """Return `indptr`, `indices` and `data` in the types that the kernels are compiled for."""
    data = block.data if block.data.dtype == np.float32 else block.data.astype(np.float64, copy=False)
    return block.indptr.astype(np.int64, copy=False), block.indices.astype(np.int32, copy=False), data


def _use_numba(block) -> bool:
    return numba is not None and block.shape[0] >= _NUMBA_MIN_CELLS


def rank_rows(indptr, indices, data, totals, token_ids, medians, max_genes, first, last, ranked):
    """Rank every row of a CSR matrix into `ranked`, and return each row's length and its genes before truncation."""
    n_rows = len(indptr) - 1
    lengths, n_genes = np.zeros(n_rows, dtype=np.int64), np.zeros(n_rows, dtype=np.int64)
    written = 0
    for row in range(n_rows):
        columns = indices[indptr[row] : indptr[row + 1]]
        values = data[indptr[row] : indptr[row + 1]].astype(np.float64)
        kept = (token_ids[columns] >= 0) & (values != 0)
        columns, values = columns[kept], values[kept]
        tokens, scores = token_ids[columns], values / totals[row] * TARGET_SUM / medians[columns]
        ordered = tokens[np.lexsort((tokens, -scores))][:max_genes]
        framed = np.concatenate([[first][: first >= 0], ordered, [last][: last >= 0]])
        ranked[written : written + len(framed)] = framed
        written += len(framed)
        lengths[row], n_genes[row] = len(framed), len(tokens)
    return lengths, n_genes


def _rank_rows_radix(indptr, indices, data, totals, token_ids, medians, max_genes, first, last, ranked):
    """Do the work of `rank_rows` in numba: radix sort on float32 keys, then float64 scores and tokens break ties."""
    n_rows = len(indptr) - 1
    lengths, n_genes = np.zeros(n_rows, dtype=np.int64), np.zeros(n_rows, dtype=np.int64)
    longest = 0
    for row in range(n_rows):
        longest = max(longest, indptr[row + 1] - indptr[row])
    tokens, scores = np.empty(longest, dtype=np.int32), np.empty(longest, dtype=np.float64)
    floats = np.empty(longest, dtype=np.float32)
    keys = floats.view(np.uint32)
    order, swap = np.empty(longest, dtype=np.int32), np.empty(longest, dtype=np.int32)
    buckets = np.empty((3, 2048), dtype=np.int32)
    written = 0
    for row in range(n_rows):
        n = 0
        buckets[:] = 0
        for position in range(indptr[row], indptr[row + 1]):
            column = indices[position]
            if token_ids[column] >= 0 and data[position] != 0:
                tokens[n] = token_ids[column]
                scores[n] = data[position] / totals[row] * TARGET_SUM / medians[column]
                floats[n] = scores[n]
                key = ~keys[n]  # positive floats sort like their bits; inverted, the highest score comes first
                buckets[0, key & 2047] += 1
                buckets[1, (key >> 11) & 2047] += 1
                buckets[2, key >> 22] += 1
                order[n] = n
                n += 1
        for digit in range(3):
            start = 0
            for bucket in range(2048):
                start, buckets[digit, bucket] = start + buckets[digit, bucket], start
            for i in range(n):
                bucket = (~keys[order[i]] >> (11 * digit)) & 2047
                swap[buckets[digit, bucket]] = order[i]
                buckets[digit, bucket] += 1
            order, swap = swap, order
        for i in range(1, n):
            current, j = order[i], i
            while j > 0 and keys[order[j - 1]] == keys[current]:
                before = order[j - 1]
                if scores[before] > scores[current]:
                    break
                if scores[before] == scores[current] and tokens[before] < tokens[current]:
                    break
                order[j] = before
                j -= 1
            order[j] = current
        begin = written
        if first >= 0:
            ranked[written] = first
            written += 1
        for i in range(min(n, max_genes)):
            ranked[written] = tokens[order[i]]
            written += 1
        if last >= 0:
            ranked[written] = last
            written += 1
        lengths[row], n_genes[row] = written - begin, n
    return lengths, n_genes


def _sum_counts(indptr, indices, data, routes, n_routes):
    """Return the counts of every row by the route of their gene, shape `(n_rows, n_routes)`."""
    shape = (len(indptr) - 1, len(routes))
    block = sp.csr_matrix((data.astype(np.float64), indices, indptr), shape=shape)
    return block @ (routes[:, None] == np.arange(n_routes)).astype(np.float64)


def _sum_counts_in_one_pass(indptr, indices, data, routes, n_routes):
    """Do the work of `_sum_counts` in numba. Registers hold the sums of the first and last route, nearly all counts."""
    sums = np.zeros((len(indptr) - 1, n_routes))
    for row in range(len(indptr) - 1):
        first, last = 0.0, 0.0
        for position in range(indptr[row], indptr[row + 1]):
            route = routes[indices[position]]
            if route == 0:
                first += data[position]
            elif route == n_routes - 1:
                last += data[position]
            else:
                sums[row, route] += data[position]
        sums[row, 0], sums[row, n_routes - 1] = first, last
    return sums


@cache
def rank_rows_compiled():
    """Return `rank_rows` as numba compiles it."""
    return numba.njit(nogil=True, cache=True)(_rank_rows_radix)


@cache
def _sum_counts_compiled():
    return numba.njit(nogil=True, cache=True)(_sum_counts_in_one_pass)


class MappedGenes:
    """The genes of a file, mapped to a vocabulary.

    Args:
        var (`pandas.DataFrame`):
            Names of the file's genes.
        vocabulary (`GeneVocabulary`):
            Genes of the model, with `map_genes`.
        gene_key (`str`, *optional*):
            Column of `var` with Ensembl ids or gene symbols, or `"index"`. Defaults to the column with the most genes
            in the vocabulary.
        species (`str`, defaults to `"human"`):
            `"mouse"` maps mouse genes to human genes by one-to-one orthologs.

    Attributes:
        gene_column: Column of the gene names in `var`, or `"index"`.
        token_ids: Token id of each gene of the file, -1 if unmapped, shape `(n_genes,)`.
        routes: Index into `ROUTES` of each gene of the file, shape `(n_genes,)`.
        columns: Column of each gene of the file after [`~MappedGenes.collapse`], shape `(n_genes,)`.
        column_tokens: Token id of each column after `collapse`, -1 if unmapped.
        merged_genes: Number of the file's genes that are added to another one with the same token.
        n_found_genes: Number of different genes of the vocabulary that the file has.
        notes: What a user should know about the mapping.

    Raises:
        ValueError: If the genes are not in the vocabulary.
        KeyError: If the column does not exist.
    """

    def __init__(self, var, vocabulary, *, gene_key: str | None = None, species: str = "human"):
        self.vocabulary, self.species = vocabulary, species
        self.token_ids, self.routes, self.gene_column = choose_gene_column(var, vocabulary, gene_key, species)
        self.notes: list[str] = []
        mapped = self.token_ids >= 0
        tokens, of_mapped = np.unique(self.token_ids[mapped], return_inverse=True)
        self.merged_genes, self.n_found_genes = int(mapped.sum()) - len(tokens), len(tokens)
        self.columns, self.column_tokens = np.arange(len(mapped)), self.token_ids
        self._collapse = None
        if self.merged_genes:
            self.columns[mapped] = of_mapped
            self.columns[~mapped] = len(tokens) + np.arange((~mapped).sum())
            self._collapse = sp.csr_matrix(
                (np.ones(len(mapped), dtype=np.float32), (np.arange(len(mapped)), self.columns))
            )
            self.column_tokens = np.concatenate([tokens, np.full((~mapped).sum(), -1)])

    @classmethod
    def of_source(cls, source: CellSource, *args, **options):
        """Map the genes of an open source.

        Args:
            source (`CellSource`): Open source.
            *args, **options: As for the class, without `var`.

        Raises:
            ValueError: If the genes are not in the vocabulary, or the counts are mostly of another species.
            KeyError: If the column does not exist.
        """
        try:
            genes = cls(source.read_var(), *args, **options)
        except UserError as error:
            text = str(error)
            if "transposed" not in text and not isinstance(error, KeyError) and _cells_are_genes(source, *args):
                text = text.partition(" Pass gene_key=")[0]
                text += " The cells are named like genes: is the matrix transposed? Pass cells as rows (adata.T)."
            raise source.container.error(text, missing=isinstance(error, KeyError)) from error
        genes.check_species(source)
        return genes

    def collapse(self, block: sp.csr_matrix) -> sp.csr_matrix:
        """Add up the columns of the same gene. Column `i` is added to column `columns[i]`."""
        return block if self._collapse is None else sp.csr_matrix(block @ self._collapse)

    @property
    def n_model_genes(self) -> int:
        """Number of genes in the vocabulary."""
        return len(self.vocabulary) - sum(token in SPECIAL_TOKENS for token in self.vocabulary.tokens[:8])

    @property
    def coverage(self) -> float:
        """Fraction of the vocabulary's genes that the file has, expressed or not."""
        return self.n_found_genes / max(1, self.n_model_genes)

    def reading(self, source: CellSource) -> dict:
        """Return where the counts and genes of a source were found, ready for JSON."""
        return {
            "container": source.container.kind,
            "counts": source.counts_name,
            "gene_column": self.gene_column,
            "species": self.species,
            "genes_found": self.n_found_genes,
            "genes_of_model": self.n_model_genes,
            "coverage": round(self.coverage, 4),
            "left_out": source.left_out,
            "notes": [*source.notes, *self.notes],
        }

    def check_species(self, source: CellSource) -> None:
        """Check the share of human counts in a file with genes of several species, and note it.

        Raises:
            ValueError: If no cell of a sample has most of its counts on human genes.
        """
        if self.species != "human":
            unmapped = int((self.token_ids < 0).sum())
            self.notes.append(
                f"The model was trained on human cells. {self.n_found_genes:,} genes have one human ortholog in the "
                f"vocabulary, and {unmapped:,} of {len(self.routes):,} {self.species} genes are left out."
            )
        n_foreign = int((self.routes == _OTHER_SPECIES).sum())
        if not n_foreign:
            return
        sample = source.sample()
        totals = np.maximum(row_sums(sample), np.finfo(float).tiny)
        shares = sample.astype(np.float64) @ (self.routes == _OTHER_SPECIES) / totals
        text = (
            f"{n_foreign:,} of {len(self.routes):,} genes are of another species, and {1 - shares.mean():.0%} of a "
            "cell's counts are human on average"
        )
        n_left_out = int((shares > MAX_FOREIGN_SHARE).sum())
        if n_left_out == len(shares) > 0:
            raise source.container.error(
                f"holds genes of several species: {text}. No cell has mostly human counts. Pass a file of human cells, "
                'or, for mouse cells, species="mouse".'
            )
        self.notes.append(
            f"{text}. Cells with mostly counts of another species are not described: {n_left_out:,} of {len(shares):,} "
            "sampled cells."
        )

    def genes_by_route(self) -> dict[str, int]:
        """Return the number of genes in the file by the route that mapped them, keys as in `ROUTES`."""
        return dict(zip(ROUTES, np.bincount(self.routes, minlength=len(ROUTES)).tolist()))


def _cells_are_genes(source: CellSource, vocabulary, *_) -> bool:
    """Return whether most names of a sample of cells are genes of the vocabulary."""
    names = source.read_cell_names(np.arange(min(source.n_cells, 500)))
    return bool(len(names)) and (vocabulary.map_genes(map(str, names))[0] >= 0).mean() > 0.5


class CellRanker(MappedGenes):
    """Ranks the cells of one file block by block, and tracks how its counts are mapped.

    Args:
        var, vocabulary, gene_key, species:
            As for [`MappedGenes`].
        max_genes (`int`):
            Maximum length of a ranked cell, special tokens included.

    Attributes:
        max_ranked: Maximum number of genes per cell, special tokens excluded.
        route_totals: Counts of all blocks so far by the route that mapped their gene, in the order of `ROUTES`.

    Raises:
        ValueError: If the genes are not in the vocabulary.
        KeyError: If the column does not exist.
    """

    def __init__(self, var, vocabulary: GeneVocabulary, *, max_genes: int, gene_key=None, species: str = "human"):
        super().__init__(var, vocabulary, gene_key=gene_key, species=species)
        self.route_totals = np.zeros(len(ROUTES))
        self._column_medians = vocabulary.medians[np.maximum(self.column_tokens, 0)]
        self._frame = [-1 if token is None else token for token in (vocabulary.cls_token_id, vocabulary.eos_token_id)]
        self.max_ranked = max_genes - sum(token >= 0 for token in self._frame)

    def rank(self, block: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rank a block of cells.

        Returns:
            Tokens of all cells in one array of the vocabulary's type, special tokens included; and per cell, each of
            shape `(n_cells,)`: its length, its number of genes before truncation, and the fraction of its counts on
            genes of the vocabulary.
        """
        add_up: Any = _sum_counts_compiled() if _use_numba(block) else _sum_counts
        sums = add_up(*csr_arrays(block), self.routes, len(ROUTES))
        self.route_totals += sums.sum(axis=0)
        totals = sums.sum(axis=1)
        foreign = sums[:, _OTHER_SPECIES] > MAX_FOREIGN_SHARE * totals
        if foreign.any():
            block = sp.csr_matrix(sp.diags_array((~foreign).astype(np.float32)) @ block)
        lost = sums[:, _UNMAPPED] + sums[:, _OTHER_SPECIES]
        mapped = 1 - lost / np.maximum(totals, np.finfo(float).tiny)
        mapped[totals == 0] = 0
        tokens, lengths, n_genes = _rank_block(
            self.collapse(block), totals, self.column_tokens, self._column_medians, max_genes=self.max_ranked,
            dtype=self.vocabulary.dtype, first=self._frame[0], last=self._frame[1],
        )  # fmt: skip
        return tokens, lengths, n_genes, mapped

    def rank_blocks(self, blocks) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Rank blocks of cells.

        Returns:
            One array of token ids per cell; and per cell, of shape `(n_cells,)`, its number of genes before truncation
            and the fraction of its counts on genes of the vocabulary.
        """
        cells: list[np.ndarray] = []
        n_genes, counts_used = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
        for block in blocks:
            if block.shape[0]:
                tokens, lengths, expressed, used = self.rank(block)
                cells += np.split(tokens, np.cumsum(lengths)[:-1])
                n_genes.append(expressed)
                counts_used.append(used)
        return cells, np.concatenate(n_genes), np.concatenate(counts_used)

    def counts_by_route(self) -> dict[str, float]:
        """Return the counts of all blocks so far by the route that mapped their gene, keys as in `ROUTES`."""
        return dict(zip(ROUTES, self.route_totals.tolist()))


def rank_anndata(
    adata,
    vocabulary: GeneVocabulary,
    *,
    layer: str | None = None,
    gene_key: str | None = None,
    max_genes: int,
    allow_fractional: bool = False,
    species: str = "human",
) -> tuple[list[np.ndarray], RankingReport]:
    """Rank the genes of every cell of an AnnData, in memory or backed, block by block.

    Args:
        adata (`AnnData`):
            Raw counts, cells by genes.
        vocabulary (`GeneVocabulary`):
            Genes, medians and special tokens.
        layer (`str`, *optional*):
            Layer of the counts, `"X"`, or `"raw"` for `adata.raw`. Defaults to the matrix that holds integers.
        gene_key (`str`, *optional*):
            Column of `var` with Ensembl ids or gene symbols, or `"index"`. Defaults to the column with the most genes
            in the vocabulary.
        max_genes (`int`):
            Maximum length of a ranked cell, special tokens included.
        allow_fractional (`bool`, defaults to `False`):
            Accept non-integer counts, such as RSEM's expected counts. Otherwise they raise an error.
        species (`str`, defaults to `"human"`):
            `"mouse"` maps mouse genes to human genes by one-to-one orthologs.

    Returns:
        One array of token ids per cell, special tokens included, in the order of the file, and a report.

    Raises:
        ValueError: If the values are not counts, or the genes are not in the vocabulary.
        KeyError: If the layer or the column does not exist.
    """
    source = CellSource(AnnDataContainer(adata), layer=layer, allow_fractional=allow_fractional)
    ranker = CellRanker.of_source(source, vocabulary, max_genes=max_genes, gene_key=gene_key, species=species)
    cells, n_genes, counts_used = ranker.rank_blocks(block for _, block in source.blocks())
    counts = ranker.counts_by_route()
    total = max(sum(counts.values()), np.finfo(float).tiny)
    report = RankingReport(
        reading=ranker.reading(source),
        genes_by_route=ranker.genes_by_route(),
        counts_by_route={route: count / total for route, count in counts.items()},
        merged_genes=ranker.merged_genes,
        n_genes=n_genes,
        counts_used=counts_used,
        truncated_cells=int((n_genes > ranker.max_ranked).sum()),
        empty_cells=[str(name) for name in source.read_cell_names(np.flatnonzero(n_genes == 0))],
    )
    return cells, report

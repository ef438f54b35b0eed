"""Rank the genes of cells: find a file's genes in the vocabulary, and order each cell's genes by expression.

Depends on NumPy, SciPy, `counts_cell2text.py` and `vocabulary_cell2text.py`. Numba is optional: it gives the same
tokens faster.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import scipy.sparse as sp


try:
    from .errors_cell2text import UserError, UserKeyError
except ImportError:
    from errors_cell2text import UserError, UserKeyError

try:
    from .counts_cell2text import CountCheck, count_blocks, row_sums, select_counts
except ImportError:
    from counts_cell2text import CountCheck, count_blocks, row_sums, select_counts

try:
    from .vocabulary_cell2text import ROUTES, GeneVocabulary
except ImportError:
    from vocabulary_cell2text import ROUTES, GeneVocabulary

try:
    import numba
except ImportError:
    numba = None  # type: ignore[assignment]


TARGET_SUM = 10_000.0  # counts per cell after normalisation
_UNMAPPED = ROUTES.index("unmapped")
_NUMBA_MIN_CELLS = 256  # compiling costs more than it saves for fewer cells
_MIN_MAPPED_FRACTION = 0.01  # human files map far more genes; another species' symbols match by accident


@dataclass
class RankingReport:
    """Reports how the genes and counts of a file were mapped to the vocabulary.

    Args:
        source: Matrix of the counts: `"X"`, `"layers['counts']"` or `"raw.X"`.
        gene_column: Column of the gene names in `var`, or `"index"`.
        genes_by_route: Number of genes in the file by the route that mapped them, keys as in `ROUTES`.
        counts_by_route: Fraction of all counts by the same routes; the fraction of `"unmapped"` is lost.
        merged_genes: Number of the file's genes that were added to another one with the same token.
        n_genes: Expressed genes of the vocabulary per cell, before truncation, shape `(n_cells,)`.
        mapped_fraction: Fraction of each cell's counts on genes of the vocabulary, shape `(n_cells,)`; 0 for a cell
            without counts.
        truncated_cells: Number of cells with more genes than a ranked cell may hold.
        empty_cells: Names of the cells without counts on genes of the vocabulary. They are kept, with no genes.
    """

    source: str
    gene_column: str
    genes_by_route: dict[str, int]
    counts_by_route: dict[str, float]
    merged_genes: int
    n_genes: np.ndarray
    mapped_fraction: np.ndarray
    truncated_cells: int
    empty_cells: list[str]

    def __str__(self) -> str:
        routes = ", ".join(
            f"{count:,} by {route}" for route, count in self.genes_by_route.items() if route != "unmapped" and count
        )
        mapped = sum(count for route, count in self.genes_by_route.items() if route != "unmapped")
        text = (
            f"{len(self.n_genes):,} cells from {self.source}; {mapped:,} of {sum(self.genes_by_route.values()):,} "
            f"genes mapped from {self.gene_column} ({routes}); {self.counts_by_route['unmapped']:.1%} of the counts "
            "lost"
        )
        if self.merged_genes:
            text += f"; {self.merged_genes:,} genes added to another of the same token"
        if self.truncated_cells:
            text += f"; {self.truncated_cells:,} cells truncated to their highest-ranked genes"
        if self.empty_cells:
            text += f"; {len(self.empty_cells):,} cells without counts (first: {self.empty_cells[0]!r})"
        return text + "."


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


class CellRanker:
    """Ranks the cells of one file block by block, and tracks how its genes and counts are mapped.

    Args:
        var (`pandas.DataFrame`):
            Names of the file's genes.
        vocabulary (`GeneVocabulary`):
            Genes, medians and special tokens.
        gene_key (`str`, *optional*):
            Column of `var` with Ensembl ids or gene symbols, or `"index"`. Defaults to the column with the most genes
            in the vocabulary.
        max_genes (`int`):
            Maximum length of a ranked cell, special tokens included.

    Attributes:
        gene_column: Column of the gene names in `var`, or `"index"`.
        token_ids: Token id of each gene of the file, -1 if unmapped, shape `(n_genes,)`.
        columns: Column of each gene of the file after [`~CellRanker.collapse`], shape `(n_genes,)`.
        merged_genes: Number of the file's genes that are added to another one with the same token.
        max_ranked: Maximum number of genes per cell, special tokens excluded.
        route_totals: Counts of all blocks so far by the route that mapped their gene, in the order of `ROUTES`.

    Raises:
        ValueError: If the genes are not in the vocabulary.
        KeyError: If the column does not exist.
    """

    def __init__(self, var, vocabulary: GeneVocabulary, *, gene_key: str | None = None, max_genes: int):
        self.vocabulary = vocabulary
        self.token_ids, self.routes, self.gene_column = choose_gene_column(var, vocabulary, gene_key)
        self.route_totals = np.zeros(len(ROUTES))
        mapped = self.token_ids >= 0
        tokens, of_mapped = np.unique(self.token_ids[mapped], return_inverse=True)
        self.merged_genes = int(mapped.sum()) - len(tokens)
        self.columns = np.arange(len(mapped))
        self._collapse = None
        self._column_tokens = self.token_ids
        if self.merged_genes:
            self.columns[mapped] = of_mapped
            self.columns[~mapped] = len(tokens) + np.arange((~mapped).sum())
            self._collapse = sp.csr_matrix(
                (np.ones(len(mapped), dtype=np.float32), (np.arange(len(mapped)), self.columns))
            )
            self._column_tokens = np.concatenate([tokens, np.full((~mapped).sum(), -1)])
        self._column_medians = vocabulary.medians[np.maximum(self._column_tokens, 0)]
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
        mapped = 1 - sums[:, _UNMAPPED] / np.maximum(totals, np.finfo(float).tiny)
        mapped[totals == 0] = 0
        tokens, lengths, n_genes = _rank_block(
            self.collapse(block), totals, self._column_tokens, self._column_medians, max_genes=self.max_ranked,
            dtype=self.vocabulary.dtype, first=self._frame[0], last=self._frame[1],
        )  # fmt: skip
        return tokens, lengths, n_genes, mapped

    def collapse(self, block: sp.csr_matrix) -> sp.csr_matrix:
        """Add up the columns of the same gene. Column `i` is added to column `columns[i]`."""
        return block if self._collapse is None else sp.csr_matrix(block @ self._collapse)

    def counts_by_route(self) -> dict[str, float]:
        """Return the counts of all blocks so far by the route that mapped their gene, keys as in `ROUTES`."""
        return dict(zip(ROUTES, self.route_totals.tolist()))

    def genes_by_route(self) -> dict[str, int]:
        """Return the number of genes in the file by the route that mapped them, keys as in `ROUTES`."""
        return dict(zip(ROUTES, np.bincount(self.routes, minlength=len(ROUTES)).tolist()))


def rank_anndata(
    adata,
    vocabulary: GeneVocabulary,
    *,
    layer: str | None = None,
    gene_key: str | None = None,
    max_genes: int,
    allow_fractional: bool = False,
) -> tuple[list[np.ndarray], RankingReport]:
    """Rank the genes of every cell of an AnnData, in memory or backed, block by block.

    Args:
        adata (`AnnData`):
            Raw counts, cells by genes.
        vocabulary (`GeneVocabulary`):
            Genes, medians and special tokens.
        layer (`str`, *optional*):
            Layer of the counts, or `"raw"` for `adata.raw`. Defaults to `X`.
        gene_key (`str`, *optional*):
            Column of `var` with Ensembl ids or gene symbols, or `"index"`. Defaults to the column with the most genes
            in the vocabulary.
        max_genes (`int`):
            Maximum length of a ranked cell, special tokens included.
        allow_fractional (`bool`, defaults to `False`):
            Accept non-integer counts, such as RSEM's expected counts. Otherwise they raise an error.

    Returns:
        One array of token ids per cell, special tokens included, in the order of the file, and a report.

    Raises:
        ValueError: If the values are not counts, or the genes are not in the vocabulary.
        KeyError: If the layer or the column does not exist.
    """
    matrix, var, source = select_counts(adata, layer)
    ranker = CellRanker(var, vocabulary, gene_key=gene_key, max_genes=max_genes)
    check = CountCheck(adata, source, allow_fractional)
    cells: list[np.ndarray] = []
    n_genes, mapped = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    for start, block in count_blocks(matrix):
        check(block, start)
        tokens, lengths, expressed, share = ranker.rank(block)
        cells += np.split(tokens, np.cumsum(lengths)[:-1])
        n_genes.append(expressed)
        mapped.append(share)
    counts = ranker.counts_by_route()
    total = max(sum(counts.values()), np.finfo(float).tiny)
    n_genes_per_cell = np.concatenate(n_genes)
    report = RankingReport(
        source=source,
        gene_column=ranker.gene_column,
        genes_by_route=ranker.genes_by_route(),
        counts_by_route={route: count / total for route, count in counts.items()},
        merged_genes=ranker.merged_genes,
        n_genes=n_genes_per_cell,
        mapped_fraction=np.concatenate(mapped),
        truncated_cells=int((n_genes_per_cell > ranker.max_ranked).sum()),
        empty_cells=[str(name) for name in adata.obs_names[n_genes_per_cell == 0]],
    )
    return cells, report


def choose_gene_column(var, vocabulary: GeneVocabulary, gene_key: str | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Choose the column of `var` with the most genes in the vocabulary.

    Args:
        var (`pandas.DataFrame`): Names of the genes, in the index and in columns of text.
        vocabulary (`GeneVocabulary`): Genes of the model.
        gene_key (`str`, *optional*): The only column to consider, or `"index"`.

    Returns:
        Token ids and routes of the genes, as [`GeneVocabulary.map_genes`] returns them, and the column's name.
    """
    if gene_key is not None and gene_key != "index" and gene_key not in var.columns:
        raise UserKeyError(
            f"gene_key={gene_key!r}: adata.var has no such column; it has {list(map(str, var.columns))}."
        )
    text_columns = [
        c for c in var.columns if var[c].dtype == object or str(var[c].dtype) in ("category", "string", "str")
    ]
    candidates = [gene_key] if gene_key is not None else ["index", *text_columns]
    found = []
    for name in candidates:
        values = var.index if name == "index" else var[name]
        found.append((*vocabulary.map_genes(values.astype(str)), name))
    token_ids, routes, name = max(found, key=lambda candidate: int((candidate[0] >= 0).sum()))
    mapped = int((token_ids >= 0).sum())
    if mapped < max(1, _MIN_MAPPED_FRACTION * len(var)):
        values = [str(value) for value in (var.index if name == "index" else var[name])]
        raise UserError(_unknown_genes_message(values, mapped, name, gene_key))
    return token_ids, routes, name


def _unknown_genes_message(names: list[str], mapped: int, column: str, gene_key: str | None) -> str:
    example = f"first: {names[0]!r}" if names else "the file lists none"
    text = f"{mapped} of {len(names):,} genes are in the vocabulary ({example}, from {column}). "
    mouse_ids = sum(name.startswith("ENSMUSG") for name in names)
    mouse_symbols = sum(re.fullmatch(r"[A-Z][a-z]+\d*[a-z]?\d*", name) is not None for name in names)
    if mouse_ids > len(names) / 2:
        text += "These are mouse Ensembl ids, and the vocabulary is human: map them to human orthologs first."
    elif mouse_symbols > len(names) / 4:
        text += "Mouse symbols? Map them to human orthologs first, or pass gene_key= for a column of human Ensembl ids."
    elif gene_key is None:
        text += "Pass gene_key= for a column of human Ensembl ids or gene symbols."
    else:
        text += (
            "Does this column hold human Ensembl ids or gene symbols? Omit gene_key to choose a column automatically."
        )
    return text

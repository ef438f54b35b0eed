"""Counts to ranked genes: find a file's genes in the vocabulary, order each cell's genes.

Works on NumPy and SciPy alone; numba, where installed, gives the same tokens faster.
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


TARGET_SUM = 10_000.0
UNMAPPED = ROUTES.index("unmapped")
NUMBA_MIN_CELLS = 256  # below this, compiling takes longer than it saves
MIN_MAPPED_GENES = 0.01  # a human file maps far more; another species' symbols match by accident


@dataclass
class RankingReport:
    """What became of a file's genes and counts on the way to ranked cells.

    Args:
        source: Where the counts were read: `"X"`, `"layers['counts']"` or `"raw.X"`.
        gene_names: Where the gene names were read: `"index"` or a column of `var`.
        genes_by_route: Genes of the file by the way they were found, keys as in `ROUTES`.
        counts_by_route: Share of all counts by the same routes; `"unmapped"` is what was lost.
        merged_genes: Rows of the file that were added to another row of the same gene.
        n_genes: Expressed genes of the vocabulary in each cell, before the cut to the longest cell, shape (n_cells,).
        mapped_fraction: Share of each cell's counts that falls on the vocabulary, shape (n_cells,); 0 without counts.
        truncated_cells: Cells with more genes than the longest ranked cell holds.
        empty_cells: Names of the cells without a count on the vocabulary. They are kept, ranked as no genes.
    """

    source: str
    gene_names: str
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
            "genes "
            f"mapped from {self.gene_names} ({routes}); {self.counts_by_route['unmapped']:.1%} of the counts lost"
        )
        if self.merged_genes:
            text += f"; {self.merged_genes:,} rows added to another row of the same gene"
        if self.truncated_cells:
            text += f"; {self.truncated_cells:,} cells cut to their highest-ranked genes"
        if self.empty_cells:
            text += f"; {len(self.empty_cells):,} cells without counts (first: {self.empty_cells[0]!r})"
        return text + "."


def rank_encode(counts, token_ids: np.ndarray, medians: np.ndarray, *, max_genes: int, totals=None) -> list[np.ndarray]:
    """Order each cell's expressed genes by median-normalised expression.

    The score of a gene is `count / total * 10,000 / median` in float64.

    Args:
        counts (`scipy.sparse.csr_matrix` of shape `(n_cells, n_genes)`): Raw counts.
        token_ids (`np.ndarray` of shape `(n_genes,)`): Token of each column; -1 leaves a column out.
        medians (`np.ndarray` of shape `(n_genes,)`): Non-zero median of each column's gene, counts per 10,000.
        max_genes (`int`): Longest cell returned.
        totals (`np.ndarray` of shape `(n_cells,)`, *optional*): Counts of each cell, left-out columns included; the
            row sums when left out.

    Returns:
        One array of token ids a cell, highest score first, ties by token id, at most `max_genes` long.

    Reference:
        Theodoris et al. 2023, Nature 618:616.
    """
    counts = sp.csr_matrix(counts)
    totals = row_sums(counts) if totals is None else np.asarray(totals, dtype=np.float64)
    tokens, lengths, _ = rank_block(counts, totals, token_ids, medians, max_genes=max_genes, dtype=np.int64)
    return np.split(tokens, np.cumsum(lengths)[:-1]) if len(lengths) else []


def rank_block(counts, totals, token_ids, medians, *, max_genes: int, dtype, first: int = -1, last: int = -1):
    """Rank a CSR matrix: tokens of all rows end to end, the length of each row, and its genes before the cut.

    `first` and `last` are tokens that open and close every row, beyond `max_genes`; -1 for none.
    """
    widths = np.minimum(np.diff(counts.indptr), max_genes) + (first >= 0) + (last >= 0)
    ranked = np.empty(int(widths.sum()), dtype=dtype)
    kernel: Any = rank_rows_compiled() if use_numba(counts) else rank_rows
    arrays = (*csr_arrays(counts), totals, token_ids.astype(np.int64), medians.astype(np.float64))
    lengths, n_genes = kernel(*arrays, max_genes, first, last, ranked)
    return ranked[: lengths.sum()], lengths, n_genes


def csr_arrays(block: sp.csr_matrix):
    """`indptr`, `indices` and `data` in the few types that the kernels are compiled for."""
    data = block.data if block.data.dtype == np.float32 else block.data.astype(np.float64, copy=False)
    return block.indptr.astype(np.int64, copy=False), block.indices.astype(np.int32, copy=False), data


def use_numba(block) -> bool:
    return numba is not None and block.shape[0] >= NUMBA_MIN_CELLS


def rank_rows(indptr, indices, data, totals, token_ids, medians, max_genes, first, last, ranked):
    """Rank every row of a CSR matrix into `ranked`, end to end; each row's length, and its genes before the cut."""
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


def rank_rows_radix(indptr, indices, data, totals, token_ids, medians, max_genes, first, last, ranked):
    """`rank_rows` for numba: a radix sort on float32 keys, then float64 scores and tokens settle equal keys."""
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
                key = ~keys[n]  # positive floats order as their bits do; inverted, the highest comes first
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


def sum_counts(indptr, indices, data, routes, n_routes):
    """Counts of every row by the route of their gene, shape (n_rows, n_routes)."""
    shape = (len(indptr) - 1, len(routes))
    block = sp.csr_matrix((data.astype(np.float64), indices, indptr), shape=shape)
    return block @ (routes[:, None] == np.arange(n_routes)).astype(np.float64)


def sum_counts_in_one_pass(indptr, indices, data, routes, n_routes):
    """`sum_counts` for numba. The first and the last route, nearly all counts, are added up in registers."""
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
    return numba.njit(nogil=True, cache=True)(rank_rows_radix)


@cache
def sum_counts_compiled():
    return numba.njit(nogil=True, cache=True)(sum_counts_in_one_pass)


class CellRanker:
    """Ranks the cells of one file, a block at a time, and counts what becomes of its genes and counts.

    Args:
        var (`pandas.DataFrame`): Names of the file's genes.
        vocabulary (`GeneVocabulary`): Genes, medians and special tokens.
        gene_key (`str`, *optional*): Column of `var` with the gene names, or `"index"`; whichever of them the
            vocabulary knows best when left out.
        max_genes (`int`): Longest cell returned, special tokens included.

    Attributes:
        token_ids: Token of each gene of the file, -1 where unmapped, shape (n_genes,).
        columns: Column of each gene of the file after :meth:`collapse`, shape (n_genes,).
        merged_genes: Columns of the file that are added to another one of the same gene.
        route_totals: Counts over all blocks so far by the way their gene was found, in the order of `ROUTES`.

    Raises:
        ValueError: If the genes are not the vocabulary's.
        KeyError: If the column does not exist.
    """

    def __init__(self, var, vocabulary: GeneVocabulary, *, gene_key: str | None = None, max_genes: int):
        self.vocabulary = vocabulary
        self.token_ids, self.routes, self.gene_names = choose_gene_names(var, vocabulary, gene_key)
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
            Tokens of all cells end to end, special tokens in place, in the vocabulary's type; and of each cell, shape
            (n_cells,): its length, its genes before the cut, and the share of its counts that falls on the vocabulary.
        """
        add_up: Any = sum_counts_compiled() if use_numba(block) else sum_counts
        sums = add_up(*csr_arrays(block), self.routes, len(ROUTES))
        self.route_totals += sums.sum(axis=0)
        totals = sums.sum(axis=1)
        mapped = 1 - sums[:, UNMAPPED] / np.maximum(totals, np.finfo(float).tiny)
        mapped[totals == 0] = 0
        tokens, lengths, n_genes = rank_block(
            self.collapse(block), totals, self._column_tokens, self._column_medians, max_genes=self.max_ranked,
            dtype=self.vocabulary.dtype, first=self._frame[0], last=self._frame[1],
        )  # fmt: skip
        return tokens, lengths, n_genes, mapped

    def collapse(self, block: sp.csr_matrix) -> sp.csr_matrix:
        """Columns of the same gene added up, where the file has any; column `i` goes to column `columns[i]`."""
        return block if self._collapse is None else sp.csr_matrix(block @ self._collapse)

    def counts_by_route(self) -> dict[str, float]:
        """Counts over all blocks so far by the way their gene was found, keys as in `ROUTES`."""
        return dict(zip(ROUTES, self.route_totals.tolist()))

    def genes_by_route(self) -> dict[str, int]:
        """Genes of the file by the way they were found, keys as in `ROUTES`."""
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
    """Rank every cell of an AnnData, in memory or backed, a block of cells at a time.

    Args:
        adata (`AnnData`): Cells by genes.
        vocabulary (`GeneVocabulary`): Genes, medians and special tokens.
        layer (`str`, *optional*): Layer that holds the counts, or `"raw"`; `X` when left out.
        gene_key (`str`, *optional*): Column of `var` with the gene names, or `"index"`; whichever of them the
            vocabulary knows best when left out.
        max_genes (`int`): Longest cell returned, special tokens included.
        allow_fractional (`bool`, defaults to `False`): Accept expected counts, such as RSEM's, which are no integers.

    Returns:
        The cells in order, as arrays of token ids with the special tokens in place, and a report.

    Raises:
        ValueError: If the values are no counts, or the genes are not the vocabulary's.
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
        gene_names=ranker.gene_names,
        genes_by_route=ranker.genes_by_route(),
        counts_by_route={route: count / total for route, count in counts.items()},
        merged_genes=ranker.merged_genes,
        n_genes=n_genes_per_cell,
        mapped_fraction=np.concatenate(mapped),
        truncated_cells=int((n_genes_per_cell > ranker.max_ranked).sum()),
        empty_cells=[str(name) for name in adata.obs_names[n_genes_per_cell == 0]],
    )
    return cells, report


def choose_gene_names(var, vocabulary: GeneVocabulary, gene_key: str | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Token ids and routes of the column of names that the vocabulary knows best, and the column's name."""
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
    if mapped < max(1, MIN_MAPPED_GENES * len(var)):
        values = [str(value) for value in (var.index if name == "index" else var[name])]
        raise UserError(unknown_genes_message(values, mapped, name, gene_key))
    return token_ids, routes, name


def unknown_genes_message(names: list[str], mapped: int, column: str, gene_key: str | None) -> str:
    example = f"first: {names[0]!r}" if names else "the file lists none"
    text = f"{mapped} of {len(names):,} genes are in the vocabulary ({example}, from {column}). "
    mouse_ids = sum(name.startswith("ENSMUSG") for name in names)
    mouse_symbols = sum(re.fullmatch(r"[A-Z][a-z]+\d*[a-z]?\d*", name) is not None for name in names)
    if mouse_ids > len(names) / 2:
        text += "These are mouse Ensembl ids, and the vocabulary is human: map them to human orthologs first."
    elif mouse_symbols > len(names) / 4:
        text += "Mouse symbols? Pass gene_key= for a column of human Ensembl ids, or map them to human orthologs first."
    elif gene_key is None:
        text += "Pass gene_key= for a column of human Ensembl ids or gene symbols."
    else:
        text += "Is this column the one with human Ensembl ids or gene symbols? Leave gene_key out to have it found."
    return text

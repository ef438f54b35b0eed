"""Counts to ranked genes: read an AnnData in blocks of cells, check that it holds counts, order each cell's genes.

Works on NumPy and SciPy alone; numba, where installed, gives the same tokens faster.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy.sparse as sp


try:
    from .vocabulary_cell2text import ROUTES, GeneVocabulary
except ImportError:
    from vocabulary_cell2text import ROUTES, GeneVocabulary

try:
    import numba
except ImportError:
    numba = None  # type: ignore[assignment]


TARGET_SUM = 10_000.0
BLOCK_CELLS = 2048
NUMBA_MIN_CELLS = 512  # below this, compiling takes longer than it saves
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
    kernel = rank_rows_compiled() if numba is not None and counts.shape[0] >= NUMBA_MIN_CELLS else rank_rows
    data = counts.data.astype(np.float64, copy=False)
    tokens, lengths = kernel(
        counts.indptr, counts.indices, data, totals, token_ids.astype(np.int64), medians.astype(np.float64), max_genes
    )
    return np.split(tokens, np.cumsum(lengths)[:-1]) if len(lengths) else []


def rank_rows(indptr, indices, data, totals, token_ids, medians, max_genes):
    """Rank every row of a CSR matrix: tokens of all rows end to end, and the length of each row."""
    ranked = []
    for row in range(len(indptr) - 1):
        columns, values = indices[indptr[row] : indptr[row + 1]], data[indptr[row] : indptr[row + 1]]
        kept = (token_ids[columns] >= 0) & (values != 0)
        columns, values = columns[kept], values[kept]
        tokens, scores = token_ids[columns], values / totals[row] * TARGET_SUM / medians[columns]
        ranked.append(tokens[np.lexsort((tokens, -scores))][:max_genes])
    lengths = np.array([len(tokens) for tokens in ranked], dtype=np.int64)
    return (np.concatenate(ranked) if ranked else np.zeros(0, dtype=np.int64)), lengths


def rank_rows_radix(indptr, indices, data, totals, token_ids, medians, max_genes):
    """`rank_rows` for numba: a radix sort on float32 keys, then float64 scores and tokens settle equal keys."""
    n_rows = len(indptr) - 1
    lengths = np.zeros(n_rows, dtype=np.int64)
    size, longest = 0, 0
    for row in range(n_rows):
        width = indptr[row + 1] - indptr[row]
        size += min(width, max_genes)
        longest = max(longest, width)
    ranked = np.empty(size, dtype=np.int64)
    tokens, scores = np.empty(longest, dtype=np.int64), np.empty(longest, dtype=np.float64)
    floats = np.empty(longest, dtype=np.float32)
    keys = floats.view(np.uint32)
    order, swap = np.empty(longest, dtype=np.int64), np.empty(longest, dtype=np.int64)
    buckets = np.empty((3, 2048), dtype=np.int64)
    written = 0
    for row in range(n_rows):
        n = 0
        for position in range(indptr[row], indptr[row + 1]):
            column = indices[position]
            if token_ids[column] >= 0 and data[position] != 0:
                tokens[n] = token_ids[column]
                scores[n] = data[position] / totals[row] * TARGET_SUM / medians[column]
                floats[n] = scores[n]
                n += 1
        buckets[:] = 0
        for i in range(n):
            key = ~keys[i]  # positive floats order as their bits do; inverted, the highest comes first
            buckets[0, key & 2047] += 1
            buckets[1, (key >> 11) & 2047] += 1
            buckets[2, key >> 22] += 1
            order[i] = i
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
        lengths[row] = min(n, max_genes)
        for i in range(lengths[row]):
            ranked[written] = tokens[order[i]]
            written += 1
    return ranked[:written], lengths


@cache
def rank_rows_compiled():
    return numba.njit(nogil=True)(rank_rows_radix)


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
    token_ids, routes, gene_names = choose_gene_names(var, vocabulary, gene_key)
    check = CountCheck(adata, source, allow_fractional)
    tokens_present, columns = np.unique(token_ids[token_ids >= 0], return_inverse=True)
    merged = int((token_ids >= 0).sum()) - len(tokens_present)
    collapse = None
    if merged:
        rows = np.flatnonzero(token_ids >= 0)
        collapse = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(token_ids), len(tokens_present)))
    column_tokens = tokens_present if merged else token_ids
    column_medians = vocabulary.medians[np.maximum(column_tokens, 0)]
    n_special = (vocabulary.cls_token_id is not None) + (vocabulary.eos_token_id is not None)

    cells: list[np.ndarray] = []
    gene_totals = np.zeros(len(token_ids))
    n_genes, mapped = [], []
    for start, block in count_blocks(matrix):
        check(block, start)
        totals = row_sums(block)
        gene_totals += np.asarray(block.sum(axis=0), dtype=np.float64).ravel()
        kept = block @ collapse if merged else block
        expressed = sp.csr_matrix(
            ((kept.data != 0) & (column_tokens[kept.indices] >= 0), kept.indices, kept.indptr), shape=kept.shape
        )
        n_genes.append(row_sums(expressed).astype(np.int64))
        mapped.append(block @ (token_ids >= 0).astype(np.float64) / np.maximum(totals, np.finfo(float).tiny))
        cells += rank_encode(kept, column_tokens, column_medians, max_genes=max_genes - n_special, totals=totals)
    per_route = np.bincount(routes, weights=gene_totals, minlength=len(ROUTES)) / max(gene_totals.sum(), 1e-300)
    n_genes_per_cell = np.concatenate(n_genes) if n_genes else np.zeros(0, dtype=np.int64)
    report = RankingReport(
        source=source,
        gene_names=gene_names,
        genes_by_route=dict(zip(ROUTES, np.bincount(routes, minlength=len(ROUTES)).tolist())),
        counts_by_route=dict(zip(ROUTES, per_route.tolist())),
        merged_genes=merged,
        n_genes=n_genes_per_cell,
        mapped_fraction=np.concatenate(mapped) if mapped else np.zeros(0),
        truncated_cells=int((n_genes_per_cell > max_genes - n_special).sum()),
        empty_cells=[str(name) for name in adata.obs_names[n_genes_per_cell == 0]],
    )
    return [add_special_tokens(cell, vocabulary) for cell in cells], report


def add_special_tokens(cell: np.ndarray, vocabulary: GeneVocabulary) -> np.ndarray:
    first = [] if vocabulary.cls_token_id is None else [vocabulary.cls_token_id]
    last = [] if vocabulary.eos_token_id is None else [vocabulary.eos_token_id]
    return np.concatenate([first, cell, last]).astype(vocabulary.dtype)


def select_counts(adata, layer: str | None):
    """The matrix that holds the counts, the `var` that names its genes, and what to call it in messages."""
    if not (hasattr(adata, "X") and hasattr(adata, "var") and hasattr(adata, "layers")):
        raise TypeError(f"Expected an AnnData, found {type(adata).__name__}: read a file with anndata.read_h5ad(PATH).")
    if layer is None:
        matrix, var, source = adata.X, adata.var, "X"
    elif layer in adata.layers:
        matrix, var, source = adata.layers[layer], adata.var, f"layers[{layer!r}]"
    elif layer == "raw" and adata.raw is not None:
        matrix, var, source = adata.raw.X, adata.raw.var, "raw.X"
    else:
        raw = "an adata.raw" if adata.raw is not None else "no adata.raw"
        raise KeyError(f"layer={layer!r}: adata.layers holds {sorted(adata.layers)}, and there is {raw}.")
    if matrix is None:
        raise ValueError(
            f"adata.{source} is None: rank encoding needs counts. adata.layers holds {sorted(adata.layers)}."
        )
    return matrix, var, source


def choose_gene_names(var, vocabulary: GeneVocabulary, gene_key: str | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Token ids and routes of the column of names that the vocabulary knows best, and the column's name."""
    if gene_key is not None and gene_key != "index" and gene_key not in var.columns:
        raise KeyError(f"gene_key={gene_key!r}: adata.var has no such column; it has {list(map(str, var.columns))}.")
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
        raise ValueError(unknown_genes_message(values, mapped, name, gene_key))
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


def count_blocks(matrix, block_cells: int = BLOCK_CELLS) -> Iterator[tuple[int, sp.csr_matrix]]:
    """Blocks of cells as CSR with the number of their first cell, from any matrix an AnnData may hold."""
    if getattr(matrix, "format", None) == "csc":  # rows of a column-wise matrix can only be had all at once
        matrix = (matrix.to_memory() if hasattr(matrix, "to_memory") else matrix).tocsr()
    for start in range(0, matrix.shape[0], block_cells):
        block = matrix[start : start + block_cells]
        if hasattr(block, "compute"):
            block = block.compute()
        yield start, sp.csr_matrix(block)


def row_sums(block: sp.csr_matrix) -> np.ndarray:
    return np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()


class CountCheck:
    """Raises, naming cell, gene and value, at the first block that holds anything but counts."""

    def __init__(self, adata, source: str, allow_fractional: bool):
        self.adata, self.source, self.allow_fractional = adata, source, allow_fractional

    def __call__(self, block: sp.csr_matrix, start: int):
        data = block.data
        if not np.isfinite(data).all():
            where = self._name(block, start, ~np.isfinite(data))
            raise ValueError(
                f"adata.{self.source} holds NaN or infinite values ({where}): rank encoding needs raw counts."
            )
        if (data < 0).any():
            where = self._name(block, start, data < 0)
            raise ValueError(f"adata.{self.source} holds negative values ({where}): {self._advice('scaled')}")
        fractional = data != np.floor(data)
        if fractional.any() and not self.allow_fractional:
            where = self._name(block, start, fractional)
            raise ValueError(f"adata.{self.source} holds fractional values ({where}): {self._advice('normalised')}")

    def _name(self, block, start, bad) -> str:
        position = int(bad.argmax())
        row = int(np.searchsorted(block.indptr, position, side="right")) - 1
        return f"cell {str(self.adata.obs_names[start + row])!r}: {block.data[position]:.6g}"

    def _advice(self, kind: str) -> str:
        for layer in [*self.adata.layers, *(["raw"] if self.adata.raw is not None else [])]:
            if self._holds_counts(layer):
                name = "raw.X" if layer == "raw" and "raw" not in self.adata.layers else f"layers[{layer!r}]"
                return f"rank encoding needs raw counts. Found integers in {name}: pass layer={layer!r}."
        if f"{self.source}" != "X" and self._holds_counts(None):
            return "rank encoding needs raw counts. Found integers in X: leave layer out."
        advice = (
            f"rank encoding needs raw counts, and these look {kind}. No layer holds integers: read the file of raw "
            "counts"
        )
        return advice + (", or pass allow_fractional=True for expected counts." if kind == "normalised" else ".")

    def _holds_counts(self, layer: str | None) -> bool:
        matrix = select_counts(self.adata, layer)[0] if layer is not None or self.adata.X is not None else None
        if matrix is None:
            return False
        _, block = next(count_blocks(matrix), (0, sp.csr_matrix((0, 0))))
        return block.nnz > 0 and bool((block.data >= 0).all() and (block.data == np.floor(block.data)).all())

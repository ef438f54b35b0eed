"""Ranked gene lists as cells: names of genes, highest expression first, become gene tokens.

Papers and benchmarks often give cells in this form, as *cell sentences*. Depends on `genes_cell2text.py` for names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError

try:
    from .genes_cell2text import gene_mapper, names_advice
except ImportError:
    from genes_cell2text import gene_mapper, names_advice


MIN_KNOWN_SHARE = 0.5  # of the different names of all lists; other input is something else than human genes
SHOWN_NAMES = 3
MAX_DEPTH = 2  # of nested lists: texts, and their cells


@dataclass
class RankedLists:
    """Gene tokens of ranked gene lists.

    Args:
        cells: Gene token ids of each list, special tokens included, at most `max_genes` long.
        genes: All different genes of the vocabulary in each list, as token ids without special tokens.
        known: Fraction of each list's names that are in the vocabulary, shape `(n_lists,)`; 0 for an empty list.
        unknown: Different names that are not in the vocabulary, in the order of the lists.
        n_names: Number of different names in all lists.
    """

    cells: list[np.ndarray]
    genes: list[np.ndarray]
    known: np.ndarray
    unknown: list[str]
    n_names: int

    @property
    def n_genes(self) -> np.ndarray:
        """Number of different genes of the vocabulary in each list, before truncation, shape `(n_lists,)`."""
        return np.array([len(genes) for genes in self.genes], dtype=np.int64)

    @property
    def note(self) -> str:
        """A sentence on the names that are skipped; empty if there are none."""
        if not self.unknown:
            return ""
        first = ", ".join(self.unknown[:SHOWN_NAMES])
        return f"{len(self.unknown):,} of {self.n_names:,} names are not genes of the model and are skipped: {first}."


def rank_gene_lists(lists, vocabulary, *, max_genes: int, species: str = "human") -> RankedLists:
    """Convert ranked gene lists to gene tokens. A gene that a list names twice keeps its first place.

    Args:
        lists (`list[list[str]]`):
            Gene symbols or Ensembl ids, with or without a version, highest expression first. Previous symbols and
            aliases are found as well.
        vocabulary (`GeneVocabulary`):
            Genes and special tokens.
        max_genes (`int`):
            Maximum length of a ranked cell, special tokens included.
        species (`str`, defaults to `"human"`):
            `"mouse"` maps mouse genes to human genes by one-to-one orthologs.

    Raises:
        UserError: If an entry is not the name of one gene, or fewer than half of the names are in the vocabulary.

    Examples:

    ```python
    >>> import cell2text
    >>> _, processor = cell2text.load()
    >>> ranked = rank_gene_lists([["CD3D", "TRAC", "NOGENE", "CD3D"]], processor.gene_vocabulary, max_genes=9)
    >>> ranked.n_genes.tolist(), ranked.unknown
    ([2], ['NOGENE'])

    ```
    """
    lists = [_check_list(index, genes) for index, genes in enumerate(lists)]
    names = list(dict.fromkeys(name for genes in lists for name in genes))
    token_ids = gene_mapper(vocabulary, species)(names)[0]
    token_of = dict(zip(names, token_ids.tolist()))
    unknown = [name for name in names if token_of[name] < 0]
    if len(unknown) > (1 - MIN_KNOWN_SHARE) * len(names):
        raise UserError(
            f"{len(names) - len(unknown):,} of {len(names):,} names in the gene lists are genes of the model (first "
            f"unknown: {', '.join(map(repr, unknown[:SHOWN_NAMES]))}). {names_advice(names)}"
        )
    frame = [[] if token is None else [token] for token in (vocabulary.cls_token_id, vocabulary.eos_token_id)]
    longest = max_genes - len(frame[0]) - len(frame[1])
    tokens = [list(dict.fromkeys(token_of[name] for name in genes if token_of[name] >= 0)) for genes in lists]
    return RankedLists(
        cells=[np.array([*frame[0], *genes[:longest], *frame[1]], dtype=vocabulary.dtype) for genes in tokens],
        genes=[np.array(genes, dtype=vocabulary.dtype) for genes in tokens],
        known=np.array([sum(token_of[name] >= 0 for name in genes) / max(1, len(genes)) for genes in lists]),
        unknown=unknown,
        n_names=len(names),
    )


def is_gene_list(value) -> bool:
    """Return whether a value is one ranked gene list: a flat sequence that starts with a text.

    Examples:

    ```python
    >>> is_gene_list(["CD3D", "TRAC"]), is_gene_list([5, 6]), is_gene_list([["CD3D"]])
    (True, False, False)

    ```
    """
    if isinstance(value, str) or getattr(value, "ndim", 1) != 1 or not hasattr(value, "__iter__"):
        return False
    return isinstance(next(iter(value), None), str)


def replace_gene_lists(cells, rank):
    """Replace the gene lists in nested lists of cells by gene tokens.

    Args:
        cells (`list`): One cell, a list of cells, or a list of lists of cells; token ids stay unchanged.
        rank: Function from gene lists to one array of token ids each.

    Raises:
        UserError: If a cell is a text.
    """
    found: list = []
    _apply_to_gene_lists(cells, found.append)
    if not found:
        return cells
    ranked = iter(rank(found))
    return _apply_to_gene_lists(cells, lambda _: next(ranked))


def _apply_to_gene_lists(value, function, depth: int = 0):
    """Return nested lists of cells with a function applied to each gene list."""
    if isinstance(value, str):
        raise UserError(
            f"A cell is the text {shorten(value)!r}: expected a list of gene names, highest first. Split it first, for "
            "example with text.split()."
        )
    if is_gene_list(value):
        return function(value)
    if getattr(getattr(value, "dtype", None), "kind", None) in {"O", "U"}:  # an array of texts with several axes
        value = list(value)
    has_tokens = not isinstance(value, (list, tuple)) or isinstance(next(iter(value), None), (int, np.integer))
    if has_tokens or depth == MAX_DEPTH:
        return value
    return [_apply_to_gene_lists(item, function, depth + 1) for item in value]


def shorten(text: str) -> str:
    """Return the beginning of a text, for messages."""
    return text if len(text) <= 40 else f"{text[:37]}..."


def _check_list(index: int, genes: Sequence) -> list[str]:
    """Return the names of a list without surrounding blanks; raise unless each is one gene's."""
    if isinstance(genes, str):
        raise UserError(
            f"List {index} is the text {shorten(genes)!r}: expected a list of gene names. Split it first, for example "
            "with text.split()."
        )
    names = []
    for name in genes:
        if not isinstance(name, str):
            raise UserError(f"List {index} holds {name!r}: expected names of genes, as text.")
        if len(name.split()) > 1 or "," in name:
            raise UserError(
                f"List {index} holds the text {shorten(name)!r} as one gene: expected one gene per entry. Split it "
                "first, for example with text.split()."
            )
        names.append(name.strip())
    return [name for name in names if name]


__all__ = ["RankedLists", "is_gene_list", "rank_gene_lists", "replace_gene_lists"]

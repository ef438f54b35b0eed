"""Rank genes of lists that are ordered by expression.

Benchmarks order the genes of a cell by their counts, so that genes that are high in every cell come first. The model
reads genes ordered by their expression relative to each gene's median. Depends on `gene_lists_cell2text.py`.
"""

from collections.abc import Sequence

import numpy as np

from gene_lists_cell2text import rank_gene_lists


EXPRESSION, RELATIVE = "expression", "relative"
GENE_ORDERS = (EXPRESSION, RELATIVE)
EXPONENT = 0.5  # of the fall of expression with the rank in a list; chosen on validation cells


def rank_by_expression(
    lists: Sequence[Sequence[str]], processor, *, gene_order: str = EXPRESSION, species: str = "human"
) -> list[np.ndarray]:
    """Return ranked cells of gene lists.

    The expression of a gene is taken to fall with its place in the list by a power law, which is divided by the gene's
    median over the vocabulary's corpus.

    Parameters
    ----------
    lists
        Genes of each cell, highest first.
    processor
        Provides the gene vocabulary with its medians, and the length of a ranked cell.
    gene_order
        `"expression"`: the lists are ordered by counts. `"relative"`: they are in the model's own order already.
    species
        `"mouse"` maps mouse genes to human genes.

    Returns
    -------
    Gene token ids of each cell, special tokens included.

    Raises
    ------
    UserError
        If an entry is not the name of one gene, or fewer than half of the names are genes of the model.

    Examples
    --------
    Genes that are high in most cells move behind those that are not:

    >>> import cell2text
    >>> _, processor = cell2text.load()
    >>> (cell,) = rank_by_expression([["MALAT1", "RPL13", "CD3D", "TRAC"]], processor)
    >>> [processor.gene_vocabulary.symbols[token] for token in cell if processor.gene_vocabulary.symbols[token]]
    ['TRAC', 'CD3D', 'RPL13', 'MALAT1']
    """
    vocabulary = processor.gene_vocabulary
    ranked = rank_gene_lists(lists, vocabulary, max_genes=processor.max_genes, species=species)
    if gene_order == RELATIVE:
        return ranked.cells
    first, last = ([] if token is None else [token] for token in (vocabulary.cls_token_id, vocabulary.eos_token_id))
    longest = processor.max_genes - len(first) - len(last)
    return [
        np.array([*first, *_relative(genes, vocabulary.medians)[:longest], *last], dtype=vocabulary.dtype)
        for genes in ranked.genes
    ]


def _relative(genes: np.ndarray, medians: np.ndarray) -> np.ndarray:
    """Return genes by falling estimate of their expression relative to their median."""
    estimates = -EXPONENT * np.log(np.arange(1, len(genes) + 1)) - np.log(medians[genes])
    return genes[np.argsort(-estimates, kind="stable")]

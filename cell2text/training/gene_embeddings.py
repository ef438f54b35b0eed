"""Gene embeddings of a fresh encoder from co-expression, so that it need not learn every gene from a few cells.

Trained from random values, an embedding table of thousands of genes memorises a small set of cells: rare genes above
all. Left singular directions of the ranked cells place genes that are expressed together side by side, without any
label, and are then kept as they are. Dimensions of their own may say which gene sets a gene belongs to: the mean over a
cell's genes is then a score of every set.
"""

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.decomposition import TruncatedSVD
from transformers.utils import logging

from cell2text.errors import UserError
from cell2text.preparation.gene_sets import GeneSets
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor
from projectors_cell2text import rank_weights


MIN_CELLS = 3  # a gene seen in fewer says nothing about its neighbours
SCALE = 0.1  # standard deviation of a well-described gene's embedding, large beside what positions learn
MEMBER = 0.2  # what stands for being in a gene set; at 1 it drowned co-expression

logger = logging.get_logger(__name__)


def initialise_gene_embeddings(
    model: Cell2TextForConditionalGeneration, processor: Cell2TextProcessor, cells: list, *, seed: int,
    gene_sets: GeneSets | None = None,
) -> None:  # fmt: skip
    """Set the encoder's gene embeddings, in place.

    Parameters
    ----------
    cells
        Ranked training cells, one sequence of token ids each.
    gene_sets
        Each takes one dimension of the embeddings from co-expression.

    Raises
    ------
    ValueError
        If the encoder has no BERT-like embedding tables, is no wider than there are gene sets, or knows none of their
        genes.
    """
    tables: Any = getattr(model.model.cell_encoder, "embeddings", None)
    if not all(hasattr(tables, f"{kind}_embeddings") for kind in ("word", "position", "token_type")):
        raise UserError(
            "gene_embeddings=svd and svd_sets need a BERT-like encoder, found "
            f"{type(model.model.cell_encoder).__name__}: use random."
        )
    matrix = ranked_matrix(cells, processor)
    table = tables.word_embeddings.weight
    members = None if gene_sets is None else set_members(gene_sets, processor)
    n_sets = 0 if members is None else members.shape[1]
    if n_sets >= table.shape[1]:
        raise UserError(f"{n_sets} gene sets fill the {table.shape[1]} dimensions of the encoder: make it wider.")
    n_components = min(table.shape[1] - n_sets, min(matrix.shape) - 1)
    directions = TruncatedSVD(n_components, random_state=seed).fit(matrix).components_.T
    spread = directions.std(axis=1)
    directions *= SCALE / np.quantile(spread[spread > 0], 0.9)
    with torch.no_grad():
        for offset in (tables.position_embeddings, tables.token_type_embeddings):
            offset.weight.zero_()  # LayerNorm brings every gene to one length: an offset would drown the rare ones
        table.zero_()
        table[:, :n_components] = torch.from_numpy(directions).to(table)
        if members is not None:
            table[:, -n_sets:] = torch.from_numpy(MEMBER * members).to(table)


def set_members(gene_sets: GeneSets, processor: Cell2TextProcessor) -> np.ndarray:
    """Which genes of the vocabulary are in which set, 0 or 1, shape (n_tokens, n_sets)."""
    members = np.zeros((len(processor.gene_vocabulary), len(gene_sets)))
    for column, genes in enumerate(gene_sets.genes):
        tokens, _ = processor.gene_vocabulary.map_genes(genes)
        members[tokens[tokens >= 0], column] = 1
    named = {gene for genes in gene_sets.genes for gene in genes}
    found = int(members.any(axis=1).sum())
    if not found:
        raise UserError(
            f"The vocabulary knows none of the {len(named):,} genes of the gene sets: expected human symbols."
        )
    logger.info(f"{found:,} of the {len(named):,} genes of {len(gene_sets)} gene sets are in the vocabulary.")
    empty = [name for name, there in zip(gene_sets.names, members.max(axis=0)) if not there]
    if empty:
        logger.warning(f"{len(empty):,} of {len(gene_sets):,} gene sets have no gene in the vocabulary: {empty[:5]}.")
    return members


def freeze_gene_embeddings(model: Cell2TextForConditionalGeneration) -> None:
    """Keep the encoder's gene embeddings as they are in this run.

    Without an attention layer the offsets by position stay as well: a learned one says little more than how long a
    cell is, by which a study is told from the next. With one, attention has no other way to see a gene's rank.
    """
    encoder = model.model.cell_encoder
    encoder.get_input_embeddings().requires_grad_(False)
    if not encoder.config.num_hidden_layers:
        for offset in (encoder.embeddings.position_embeddings, encoder.embeddings.token_type_embeddings):
            offset.requires_grad_(False)


def ranked_matrix(cells: list, processor: Cell2TextProcessor) -> sp.csr_matrix:
    """Cells by tokens, weighted by rank and of unit length; special tokens and rare genes are left out."""
    vocabulary = processor.gene_vocabulary
    special = [token for token in (vocabulary.cls_token_id, vocabulary.eos_token_id) if token is not None]
    genes = [np.asarray(cell)[~np.isin(cell, special)] for cell in cells]
    weights = [rank_weights(torch.arange(len(cell)), processor.max_genes).numpy() for cell in genes]
    indptr = np.concatenate([[0], np.cumsum([len(cell) for cell in genes])])
    matrix = sp.csr_matrix(
        (np.concatenate(weights), np.concatenate(genes).astype(np.int64), indptr), shape=(len(cells), len(vocabulary))
    )
    common = np.asarray((matrix > 0).sum(axis=0)).ravel() >= min(MIN_CELLS, len(cells))
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    scaled = sp.diags_array(1 / np.maximum(length, 1e-12)) @ matrix @ sp.diags_array(common.astype(float))
    return scaled.tocsr()

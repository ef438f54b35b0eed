"""Gene embeddings of a fresh encoder from co-expression, so that it need not learn every gene from a few cells.

Trained from random values, an embedding table of thousands of genes memorises a small set of cells: rare genes above
all. Left singular directions of the ranked cells place genes that are expressed together side by side, without any
label, and are then kept as they are.
"""

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.decomposition import TruncatedSVD

from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor
from projectors_cell2text import rank_weights


MIN_CELLS = 3  # a gene seen in fewer says nothing about its neighbours
SCALE = 0.1  # standard deviation of a well-described gene's embedding, large beside what positions learn


def initialise_gene_embeddings(
    model: Cell2TextForConditionalGeneration, processor: Cell2TextProcessor, cells: list, *, seed: int
) -> None:
    """Set the encoder's gene embeddings, in place.

    Parameters
    ----------
    cells
        Ranked training cells, one sequence of token ids each.

    Raises
    ------
    ValueError
        If the encoder has no BERT-like embedding tables.
    """
    tables: Any = getattr(model.model.cell_encoder, "embeddings", None)
    if not all(hasattr(tables, f"{kind}_embeddings") for kind in ("word", "position", "token_type")):
        raise ValueError(
            f"gene_embeddings=svd needs a BERT-like encoder, found {type(model.model.cell_encoder).__name__}: use "
            "random."
        )
    matrix = ranked_matrix(cells, processor)
    table = tables.word_embeddings.weight
    n_components = min(table.shape[1], min(matrix.shape) - 1)
    directions = TruncatedSVD(n_components, random_state=seed).fit(matrix).components_.T
    spread = directions.std(axis=1)
    directions *= SCALE / np.quantile(spread[spread > 0], 0.9)
    with torch.no_grad():
        for offset in (tables.position_embeddings, tables.token_type_embeddings):
            offset.weight.zero_()  # LayerNorm brings every gene to one length: an offset would drown the rare ones
        table.zero_()
        table[:, :n_components] = torch.from_numpy(directions).to(table)


def freeze_gene_embeddings(model: Cell2TextForConditionalGeneration) -> None:
    """Keep the encoder's gene embeddings as they are in this run."""
    model.model.cell_encoder.get_input_embeddings().requires_grad_(False)


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

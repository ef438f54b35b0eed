"""Embed many ranked cells. Depends on the encoder of `generation_cell2text.py` and on `batch_size`."""

from collections.abc import Sequence

import numpy as np

from cell2text.inference.batch_size import LengthSortedBatches, free_memory, gene_tokens_that_fit
from generation_cell2text import encode_cells


CELLS_PER_BATCH = 64


def embed_cells(model, processor, cells: Sequence, *, gene_tokens: int | None = None) -> np.ndarray:
    """Embed ranked cells: the mean over each cell's genes of the encoder's states at the projected layer.

    Parameters
    ----------
    model, processor
        A Cell2Text model on its device, and its processor.
    cells
        Ranked cells: gene token ids, one sequence per cell.
    gene_tokens
        Gene tokens, padding included, per pass through the encoder. Chosen from the free memory if omitted.

    Returns
    -------
    Embeddings in the order of `cells`, float32, shape (n_cells, cell_hidden); zeros for cells without genes.
    """
    if gene_tokens is None:
        gene_tokens = gene_tokens_that_fit(model, processor.max_genes, free_memory(model.device))
    embeddings = np.zeros((len(cells), model.config.cell_config.hidden_size), dtype=np.float32)
    rows = np.array([i for i, cell in enumerate(cells) if not processor.is_empty(cell)], dtype=np.int64)
    expressed = [cells[i] for i in rows]

    def encode(indices: np.ndarray, limit: int | None) -> np.ndarray:
        return encode_cells(model, processor, [[expressed[i]] for i in indices], limit).embeddings

    for indices, found in LengthSortedBatches(CELLS_PER_BATCH, gene_tokens).run(expressed, encode):
        embeddings[rows[indices]] = found
    return embeddings

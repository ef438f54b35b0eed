"""Predict the concepts of many ranked cells without generating texts.

Depends on the encoder of `generation_cell2text.py` and on `batch_size`.
"""

from collections.abc import Sequence

import numpy as np

from cell2text.inference.batch_size import LengthSortedBatches, free_memory, gene_tokens_that_fit
from cell2text.inference.embedding import CELLS_PER_BATCH
from generation_cell2text import encode_cells


def predict_concepts(
    model, processor, cells: Sequence, concept_overrides: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the concept probabilities of ranked cells by group, calibrated where the model is.

    Parameters
    ----------
    model, processor
        A Cell2Text model on its device, and its processor.
    cells
        Ranked cells: gene token ids, one sequence per cell.
    concept_overrides
        Values that replace predictions, float32, shape (n_cells, n_concepts); NaN keeps the prediction.

    Returns
    -------
    By group, float32, shape (n_cells, n_names), names as in `model.config.concept_groups`; NaN for cells that cannot be
    described. Empty for a model without concepts.

    Examples
    --------
    >>> import cell2text
    >>> model, processor = cell2text.load()
    >>> cells = processor.rank_encode(cell2text.example_cells(unseen=True)[:2])
    >>> predict_concepts(model, processor, cells)["sex"].shape
    (2, 3)
    """
    groups = model.config.concept_groups
    values = np.full((len(cells), model.config.concepts.n_concepts), np.nan, dtype=np.float32)
    if not groups:
        return {}
    rows = np.array([i for i, cell in enumerate(cells) if processor.reason_not_described(cell) is None], dtype=np.int64)
    described = [cells[i] for i in rows]
    gene_tokens = gene_tokens_that_fit(model, processor.max_genes, free_memory(model.device))

    def predict(indices: np.ndarray, limit: int | None) -> np.ndarray:
        chosen = None if concept_overrides is None else concept_overrides[rows[indices]][:, None]
        return encode_cells(model, processor, [[described[i]] for i in indices], limit, chosen).concepts[:, 0].numpy()

    for indices, found in LengthSortedBatches(CELLS_PER_BATCH, gene_tokens).run(described, predict):
        values[rows[indices]] = found
    places = np.cumsum([len(names) for names in groups.values()])[:-1]
    return dict(zip(groups, np.split(values, places, axis=1)))

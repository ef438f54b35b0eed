"""Read the features of cells: their embedding, and their concept probabilities by group.

Pathways are AUCell scores of the cell's own counts where the genes suffice, since every cell then has a value for every
pathway. Depends on `describe`, which reads any source, and on `inference`.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cell2text.describe.inputs import CellReader
from cell2text.inference.concepts import predict_concepts
from cell2text.inference.embedding import embed_cells
from cell2text.signatures.gene_sets import hallmark_gene_sets
from cell2text.signatures.pathways import PathwayScorer


logger = logging.getLogger(__name__)

EMBEDDING, PATHWAYS = "embedding", "pathways"
CELLS_PER_PART = 1024
MIN_SCORED_COVERAGE = 0.3  # share of the genes of a pathway; a text needs more to name it


@dataclass(frozen=True)
class CellFeatures:
    """Features of cells.

    Parameters
    ----------
    values
        Float32, shape (n_cells, n_features); NaN rows for cells that cannot be described.
    groups
        Group of each feature: `"embedding"`, or the group of a concept, such as `"cell_type"`.
    names
        Name of each feature: the concept, or the number of an embedding dimension.
    """

    values: np.ndarray
    groups: np.ndarray
    names: np.ndarray

    @property
    def usable(self) -> np.ndarray:
        """Cells with features, boolean, shape (n_cells,)."""
        return np.isfinite(self.values).all(axis=1)


def read_features(reader: CellReader, model, processor, rows: np.ndarray) -> CellFeatures:
    """Return the features of ascending rows of a reader.

    Parameters
    ----------
    reader
        Cells of an AnnData or of a file. Its options should have `pathways="model"`: the two most active pathways of a
        text are not used here.
    model, processor
        A Cell2Text model, and its processor.
    rows
        Rows to read.

    Examples
    --------
    >>> import cell2text
    >>> from cell2text.describe.options import DescribeOptions
    >>> from cell2text.questions.reading import open_anndata
    >>> model, processor = cell2text.load()
    >>> source = open_anndata(cell2text.example_cells(unseen=True)[:3])
    >>> reader = CellReader(source, processor, DescribeOptions(pathways="model"), model.config.concepts)
    >>> read_features(reader, model, processor, np.array([0, 2])).values.shape
    (2, 762)
    """
    scorer = PathwayScorer(hallmark_gene_sets(), reader.source.read_var(), reader.ranker)
    scored = np.flatnonzero((scorer.coverage >= MIN_SCORED_COVERAGE) & scorer.has_enough_genes)
    parts: dict[str, list[np.ndarray]] = {}
    for chosen in _parts(rows):
        for group, values in _read_part(reader, model, processor, scorer, scored, chosen).items():
            parts.setdefault(group, []).append(values)
    by_group = {group: np.concatenate(values) for group, values in parts.items()}
    names = {EMBEDDING: [str(i) for i in range(by_group[EMBEDDING].shape[1])], **model.config.concept_groups}
    if len(scored):
        names[PATHWAYS] = [scorer.gene_sets.names[column] for column in scored]
    if missing := len(scorer.gene_sets) - len(scored):
        logger.warning(
            f"{missing} of {len(scorer.gene_sets)} pathways have too few genes in the file for AUCell scores."
        )
    values = np.concatenate([by_group[group] for group in by_group], axis=1).astype(np.float32)
    values[~np.isfinite(values).all(axis=1)] = np.nan
    groups = np.repeat(list(by_group), [part.shape[1] for part in by_group.values()])
    return CellFeatures(values, groups, np.array([name for group in by_group for name in names[group]], dtype=object))


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), CELLS_PER_PART):
        yield rows[start : start + CELLS_PER_PART]


def _read_part(
    reader: CellReader, model, processor, scorer: PathwayScorer, scored: np.ndarray, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the features of some rows by group, NaN in some column of cells that cannot be described.

    `scored` are the gene sets to score. Without any, pathways are the model's predictions, if it has them.
    """
    cells = reader.read_rows(rows)
    embedding = embed_cells(model, processor, cells.cells)
    embedding[[processor.reason_not_described(cell) is not None for cell in cells.cells]] = np.nan
    found = {EMBEDDING: embedding, **predict_concepts(model, processor, cells.cells, cells.concept_overrides)}
    if len(scored):
        found[PATHWAYS] = np.concatenate([scorer.score(block)[:, scored] for _, block in reader.source.blocks(rows)])
    return found

"""Measure the evidence of a model on the cells of an experiment.

Depends on the engine for the named types, and on :mod:`cell2text.evidence.faithfulness` for the measurement.
"""

import os

import numpy as np
from anndata import AnnData

from cell2text.describe.engine import Describer
from cell2text.describe.inputs import CellReader
from cell2text.describe.options import DescribeOptions
from cell2text.describe.table import TEXT
from cell2text.errors import UserError
from cell2text.evidence.attribution import ConceptScore, GeneAttribution
from cell2text.evidence.explainer import words_in_text
from cell2text.evidence.faithfulness import StatedCell, faithfulness
from cell2text.evidence.statements import Statement
from cell2text.language.parsing import read_fields
from cell2text.loading import load_or_reuse
from cell2text.sources.containers import load_anndata
from cell2text.sources.discovery import find_source
from declining_cell2text import is_description
from source_cell2text import AnnDataContainer, CellSource


CELL_TYPE = "cell_type"
DONOR_COLUMN = "donor_id"  # of the CELLxGENE schema


def evidence_metrics(
    source: AnnData | str | os.PathLike, model=None, *, n_cells: int = 300, options: DescribeOptions | None = None,
    seed: int = 0,
) -> dict:  # fmt: skip
    """Describe a sample of cells, and measure whether the evidence genes carry the named cell types.

    Parameters
    ----------
    source
        Raw counts: an AnnData, or a file that `describe` reads.
    model
        Folder or Hub id of a Cell2Text model, or a pair of a loaded model and its processor. Defaults to the packaged
        model.
    n_cells
        Number of cells to sample; all cells if there are fewer.
    options
        How counts and genes are found.
    seed
        Random seed of the sample, of randomly deleted genes and of the bootstrap.

    Returns
    -------
    See :func:`cell2text.evidence.faithfulness.faithfulness`. Intervals are over the values of `obs["donor_id"]`, or
    over cells without that column.

    Raises
    ------
    UserError
        If no sampled cell gets a cell type, or the counts or genes cannot be read.

    Examples
    --------
    >>> import cell2text
    >>> options = DescribeOptions(allow_fractional=True)
    >>> metrics = evidence_metrics(cell2text.example_cells(), n_cells=20, options=options)
    >>> metrics["loss_without_10"] > metrics["random_loss_10"]
    True
    """
    adata = source if isinstance(source, AnnData) else load_anndata(find_source(str(source)))
    rows = np.sort(np.random.default_rng(seed).permutation(adata.n_obs)[:n_cells])
    loaded, processor, _ = load_or_reuse(model)
    cells = stated_cells(adata[rows].to_memory(), loaded, processor, options or DescribeOptions())
    if not cells:
        raise UserError(f"None of {len(rows):,} sampled cells gets a cell type, so there is no evidence to measure.")
    return faithfulness(GeneAttribution(loaded, processor), cells, seed=seed)


def stated_cells(adata: AnnData, model, processor, options: DescribeOptions) -> list[StatedCell]:
    """Describe cells, and return those whose text names a cell type.

    Parameters
    ----------
    adata
        Raw counts.
    model, processor
        A loaded model, and its processor.
    options
        How counts and genes are found.
    """
    source = CellSource(AnnDataContainer(adata), layer=options.layer, allow_fractional=options.allow_fractional)
    reader = CellReader(source, processor, options, model.config.concepts)
    ranked = reader.read(0, source.n_cells)
    texts = Describer(model, processor, options)(ranked)[TEXT].to_pylist()
    donors = adata.obs[DONOR_COLUMN].astype(str).tolist() if DONOR_COLUMN in adata.obs else [None] * adata.n_obs
    known, found = model.config.concept_groups.get(CELL_TYPE, []), []
    for cell, text, donor in zip(ranked.cells, texts, donors):
        claim = read_fields(text).cell_type if text and is_description(text) else None
        if claim is None or (known and claim.name not in known):
            continue
        statement = Statement(CELL_TYPE, claim.name, claim.term_id, claim.label)
        score = ConceptScore(CELL_TYPE, claim.name) if known else words_in_text(text, statement)
        if score is not None:
            found.append(StatedCell(cell, score, statement, donor))
    return found

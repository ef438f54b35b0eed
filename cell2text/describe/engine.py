"""Describe ranked cells: texts, fields, scores and embeddings. The result does not depend on which cells share a batch.

Depends on `inference`, which generates and embeds, and on `table`, which parses the texts.
"""

import numpy as np
import pyarrow as pa

from cell2text.describe.evidence import EvidenceFinder
from cell2text.describe.options import DescribeOptions
from cell2text.describe.ranked_cells import RankedCells
from cell2text.describe.summary import is_of_other_species
from cell2text.describe.table import make_table, with_type_probabilities
from cell2text.inference.cell_types import CellTypes
from cell2text.inference.embedding import embed_cells
from cell2text.inference.generation import BatchedTextGenerator
from cell2text.inference.prompts import build_conversation
from declining_cell2text import FOREIGN_CELL_TEXT
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor
from statements_cell2text import ONE_CELL, PROFILE_GROUP, TYPES


class Describer:
    """Describe cells with one prompt.

    Parameters
    ----------
    model, processor
        A Cell2Text model on its device, and its processor.
    options
        Prompt, batch size and length of the texts.
    comparison
        The cell that every cell is compared to. None if cells are described alone.

    Attributes
    ----------
    conversation
        The prompt as chat messages.
    """

    def __init__(
        self, model: Cell2TextForConditionalGeneration, processor: Cell2TextProcessor, options: DescribeOptions,
        comparison: RankedCells | None = None,
    ):  # fmt: skip
        self.conversation = build_conversation(processor, options.prompt, compare_to=options.compare_to)
        overrides = None if comparison is None else comparison.concept_overrides
        self.generator = BatchedTextGenerator(
            model, processor, self.conversation, batch_size=options.batch_size, max_new_tokens=options.max_new_tokens,
            compiled=options.compile,
            comparison_cell=None if comparison is None else comparison.cells[0],
            comparison_overrides=None if overrides is None else overrides[0],
        )  # fmt: skip
        self.model, self.processor, self.options = model, processor, options
        self.types = CellTypes(model.config.concepts, model.config.uninformative_types)
        self.evidence = None
        if options.evidence is not None:
            self.evidence = EvidenceFinder(
                model, processor, self.conversation, options.evidence, in_text=options.evidence_in_text
            )

    def __call__(self, cells: RankedCells) -> pa.Table:
        """Return one row per cell, in order; see :func:`cell2text.describe.table.table_schema`."""
        n = len(cells.cells)
        to_describe = np.ones(n, dtype=bool) if cells.to_describe is None else cells.to_describe
        foreign = is_of_other_species(cells.n_genes, cells.counts_used)
        described, others = np.flatnonzero(to_describe), np.flatnonzero(~to_describe)
        overrides = None if cells.concept_overrides is None else cells.concept_overrides[described]
        generated = self.generator([cells.cells[i] for i in described], overrides)
        texts: list[str | None] = [None] * n
        for i, text in zip(described, generated.texts):
            texts[i] = FOREIGN_CELL_TEXT if foreign[i] else text
        embeddings = np.empty((n, self.model.config.cell_config.hidden_size), dtype=np.float32)
        embeddings[described] = generated.embeddings
        embeddings[others] = embed_cells(
            self.model, self.processor, [cells.cells[i] for i in others],
            gene_tokens=self.generator.batches.gene_tokens,
        )  # fmt: skip
        concepts = np.full((n, len(self.types.names)), np.nan, dtype=np.float32)
        if self.types.names:
            concepts[described] = generated.concepts[TYPES]
        table = make_table(cells, texts, embeddings, self.types, concepts, fields_only=self.options.fields_only)
        if self.evidence is not None:
            table = self.evidence.add(table, cells, texts)
        if self.options.groupby is None or TYPES not in self.model.config.concepts.hierarchical:
            return table
        if PROFILE_GROUP in generated.concepts:  # two cells and ambient RNA have no type of their own
            profile = generated.concepts[PROFILE_GROUP]
            other = profile.argmax(axis=1) != self.model.config.concept_groups[PROFILE_GROUP].index(ONE_CELL)
            concepts[described[other]] = np.nan
        return with_type_probabilities(table, concepts)

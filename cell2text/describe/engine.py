"""Ranked cells in, rows of text, fields, numbers and embeddings out, the same whatever cells are worked on together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from cell2text.describe.options import DescribeOptions, conversation
from cell2text.evaluation.fields import FIELDS, Fields, read_fields
from generation_cell2text import Answers, CellAnswerer
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import EMPTY_CELL_TEXT, Cell2TextProcessor


ID, TEXT, EMBEDDING = "cell_id", "text", "embedding"


@dataclass
class RankedCells:
    """Some cells of one experiment, in its order.

    Parameters
    ----------
    names
        Their names, shape (n_cells,).
    cells
        Their gene tokens.
    n_genes
        Expressed genes of the vocabulary, shape (n_cells,).
    mapped_fraction
        Share of the counts that falls on the vocabulary, shape (n_cells,).
    """

    names: Sequence[str]
    cells: list[np.ndarray]
    n_genes: np.ndarray
    mapped_fraction: np.ndarray


class Describer:
    """Asks one question about every cell.

    Parameters
    ----------
    model, processor
        A Cell2Text model on its device, and its processor.
    options
        What is asked.
    second
        The ranked cell that all are compared to; None where cells are not compared.
    """

    def __init__(
        self, model: Cell2TextForConditionalGeneration, processor: Cell2TextProcessor, options: DescribeOptions,
        second: np.ndarray | None = None,
    ):  # fmt: skip
        self.chat = conversation(options, processor)
        self.answer = CellAnswerer(model, processor, self.chat, max_new_tokens=options.max_new_tokens)
        self.options, self.second, self.batch_size = options, second, options.batch_size
        self.steps = self.useful = 0

    def __call__(self, cells: RankedCells) -> pa.Table:
        """One row a cell, in order; see :func:`row_schema`."""
        n = len(cells.cells)
        texts, confidence = [""] * n, np.empty(n, dtype=np.float32)
        embeddings = np.empty((n, self.answer.model.config.cell_config.hidden_size), dtype=np.float32)
        for chosen, answers in self._batches(cells.cells):
            for i, text in zip(chosen, answers.texts):
                texts[i] = text
            confidence[chosen], embeddings[chosen] = answers.confidence, answers.embeddings
            self.steps, self.useful = self.steps + answers.steps, self.useful + answers.useful
        return make_table(cells, texts, confidence, embeddings, fields_only=self.options.fields_only)

    def _batches(self, cells: list[np.ndarray]) -> Iterator[tuple[np.ndarray, Answers]]:
        """Batches of cells of like length, so that little is padded; smaller ones where memory does not suffice."""
        order = np.argsort([len(cell) for cell in cells], kind="stable")
        start = 0
        while start < len(order):
            chosen = order[start : start + self.batch_size]
            second = [] if self.second is None else [self.second]
            try:
                answers = self.answer([[cells[i], *second] for i in chosen])
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size = max(1, self.batch_size // 2)
                torch.cuda.empty_cache()
                continue
            yield chosen, answers
            start += len(chosen)


def row_schema(width: int, *, fields_only: bool) -> pa.Schema:
    """Columns of a described cell; `width` is that of its embedding."""
    texts = [] if fields_only else [(TEXT, pa.string())]
    fields = [column for name in FIELDS for column in ((name, pa.string()), (f"{name}_ontology_term_id", pa.string()))]
    return pa.schema(
        [
            (ID, pa.string()),
            *texts,
            *(column for column in fields if column[0] != "life_stage_ontology_term_id"),
            ("pathways", pa.string()),
            ("confidence", pa.float32()),
            ("n_genes", pa.int32()),
            ("mapped_fraction", pa.float32()),
            (EMBEDDING, pa.list_(pa.float32(), width)),
        ]
    )


def make_table(
    cells: RankedCells, texts: list[str], confidence: np.ndarray, embeddings: np.ndarray, *, fields_only: bool
) -> pa.Table:
    schema = row_schema(embeddings.shape[1], fields_only=fields_only)
    read = [Fields() if text == EMPTY_CELL_TEXT else read_fields(text) for text in texts]
    columns: dict[str, object] = {
        ID: [str(name) for name in cells.names],
        TEXT: texts,
        "pathways": ["; ".join(fields.pathways) or None for fields in read],
        "confidence": pa.array(confidence, from_pandas=True),
        "n_genes": np.asarray(cells.n_genes, dtype=np.int32),
        "mapped_fraction": np.asarray(cells.mapped_fraction, dtype=np.float32),
        EMBEDDING: pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1]),
    }
    for name in FIELDS:
        claims = [getattr(fields, name) for fields in read]
        columns[name] = [claim and claim.name for claim in claims]
        columns[f"{name}_ontology_term_id"] = [claim and claim.term_id for claim in claims]
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)

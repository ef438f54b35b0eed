"""Ranked cells in, rows of text, fields, numbers and embeddings out, the same whatever cells are worked on together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from cell2text.describe.options import DescribeOptions, conversation
from cell2text.evaluation.calibration import four_digits, probability_of_types
from cell2text.inference.batch_size import free_bytes, genes_that_fit, rows_that_fit
from cell2text.language.fields import FIELDS, Fields
from cell2text.language.parsing import read_fields
from generation_cell2text import CellTextGenerator, GeneratedTexts, encode_cells
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import EMPTY_CELL_TEXT, Cell2TextProcessor


ID, TEXT, EMBEDDING = "cell_id", "text", "embedding"
EMBEDDED_AT_ONCE = 64  # cells that are sorted into parts of like length


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
    asked
        Which of them get a text, shape (n_cells,); all if None. The others get an embedding alone.
    """

    names: Sequence[str]
    cells: list[np.ndarray]
    n_genes: np.ndarray
    mapped_fraction: np.ndarray
    asked: np.ndarray | None = None

    def part(self, start: int, stop: int) -> "RankedCells":
        asked = None if self.asked is None else self.asked[start:stop]
        return RankedCells(
            self.names[start:stop], self.cells[start:stop], self.n_genes[start:stop], self.mapped_fraction[start:stop],
            asked,
        )  # fmt: skip


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
        free = free_bytes(model.device)
        self.genes_at_once = genes_that_fit(model, processor.max_genes, free)
        self.answer = CellTextGenerator(
            model, processor, self.chat, self.genes_at_once, max_new_tokens=options.max_new_tokens
        )
        n_tokens = len(self.answer.prompt) + options.max_new_tokens
        self.batch_size = options.batch_size or rows_that_fit(model, n_tokens, free)
        self.processor, self.options, self.second = processor, options, second
        self.steps = self.useful = 0

    def __call__(self, cells: RankedCells) -> pa.Table:
        """One row a cell, in order; see :func:`row_schema`."""
        n = len(cells.cells)
        texts: list[str | None] = [None] * n
        confidence = np.full(n, np.nan, dtype=np.float32)
        types = self.answer.model.config.concept_groups.get("cell_type", [])
        types_told = np.full((n, len(types)), np.nan, dtype=np.float32)
        asked = np.ones(n, dtype=bool) if cells.asked is None else cells.asked
        embeddings = np.empty((n, self.answer.model.config.cell_config.hidden_size), dtype=np.float32)
        for chosen, answers in self._batches(cells.cells, np.flatnonzero(asked)):
            for i, text in zip(chosen, answers.texts):
                texts[i] = text
            confidence[chosen], embeddings[chosen] = answers.confidence, answers.embeddings
            if types:
                types_told[chosen] = answers.concepts["cell_type"]
            self.steps, self.useful = self.steps + answers.steps, self.useful + answers.useful
        others = [cells.cells[i] for i in np.flatnonzero(~asked)]
        embeddings[~asked] = embed_cells(self.answer.model, self.processor, others, self.genes_at_once)
        fields_only = self.options.fields_only
        return make_table(cells, texts, confidence, embeddings, types, types_told, fields_only=fields_only)

    def _batches(self, cells: list[np.ndarray], asked: np.ndarray) -> Iterator[tuple[np.ndarray, GeneratedTexts]]:
        """Batches of cells of like length, so that little is padded; smaller ones where memory does not suffice."""
        order, start = asked[by_length([cells[i] for i in asked])], 0
        while start < len(order):
            chosen = order[start : start + self.batch_size]
            second = [] if self.second is None else [self.second]
            try:
                answers = self.answer([[cells[i], *second] for i in chosen])
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size, self.genes_at_once = self.batch_size // 2, self.genes_at_once // 2
                self.answer.genes_at_once = self.genes_at_once
                torch.cuda.empty_cache()
                continue
            yield chosen, answers
            start += len(chosen)


def by_length(cells: Sequence[np.ndarray]) -> np.ndarray:
    """Numbers of cells, shortest cell first."""
    return np.argsort(np.array([len(cell) for cell in cells], dtype=np.int64), kind="stable")


def embed_cells(model, processor, cells: Sequence[np.ndarray], genes_at_once: int | None = None) -> np.ndarray:
    """Embeddings of cells, float32, shape (n_cells, cell_hidden); zeros for a cell without counts.

    Parameters
    ----------
    genes_at_once
        Gene tokens that go through the encoder together; see :func:`generation_cell2text.encode_cells`.
    """
    found = np.zeros((len(cells), model.config.cell_config.hidden_size), dtype=np.float32)
    order = np.array([i for i in by_length(cells) if not processor.is_empty(cells[i])], dtype=np.int64)
    start, size = 0, EMBEDDED_AT_ONCE
    while start < len(order):
        chosen = order[start : start + size]
        try:
            found[chosen] = encode_cells(model, processor, [[cells[i]] for i in chosen], genes_at_once).embeddings
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size, genes_at_once = size // 2, genes_at_once and genes_at_once // 2
            torch.cuda.empty_cache()
            continue
        start += len(chosen)
    return found


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
            ("type_probability", pa.float32()),
            ("n_genes", pa.int32()),
            ("mapped_fraction", pa.float32()),
            (EMBEDDING, pa.list_(pa.float32(), width)),
        ]
    )


def numbers(values: np.ndarray) -> pa.Array:
    """Four digits of each, none for NaN."""
    return pa.array(four_digits(values), pa.float32(), from_pandas=True)


def make_table(
    cells: RankedCells, texts: list[str | None], confidence: np.ndarray, embeddings: np.ndarray,
    types: Sequence[str] = (), types_told: np.ndarray | None = None, *, fields_only: bool,
) -> pa.Table:  # fmt: skip
    """Rows of :func:`row_schema`; `types` and `types_told` as :func:`probability_of_types` takes them."""
    schema = row_schema(embeddings.shape[1], fields_only=fields_only)
    read = [Fields() if text in (None, EMPTY_CELL_TEXT) else read_fields(text) for text in texts]
    told = np.empty((len(texts), 0)) if types_told is None else types_told
    sure = probability_of_types([fields.cell_type for fields in read], types, told)
    columns: dict[str, object] = {
        ID: [str(name) for name in cells.names],
        TEXT: [text and text.replace("\0", "") for text in texts],  # which HDF5 cannot hold
        "pathways": ["; ".join(fields.pathways) or None for fields in read],
        "confidence": numbers(confidence),
        "type_probability": numbers(sure),
        "n_genes": np.asarray(cells.n_genes, dtype=np.int32),
        "mapped_fraction": np.asarray(cells.mapped_fraction, dtype=np.float32),
        EMBEDDING: pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1]),
    }
    for name in FIELDS:
        claims = [getattr(fields, name) for fields in read]
        columns[name] = [claim and claim.name for claim in claims]
        columns[f"{name}_ontology_term_id"] = [claim and claim.term_id for claim in claims]
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)

"""The table of described cells: one row per cell with text, parsed fields, scores and embedding.

Depends on `language.parsing`, which reads the fields from a text.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from cell2text.describe.ranked_cells import RankedCells
from cell2text.inference.probabilities import round_to_four_digits, type_probabilities
from cell2text.language.described import CANDIDATES, TEXT
from cell2text.language.fields import FIELDS, TERM_FIELDS, Claim, Fields
from cell2text.language.parsing import read_fields
from declining_cell2text import is_description


if TYPE_CHECKING:  # it imports torch, which reading a table does not need
    from cell2text.inference.cell_types import CellTypes

ID, EMBEDDING = "cell_id", "embedding"
TYPE_PROBABILITIES = "type_probabilities"  # of all types; only for the types of groups, never written to an output


def table_schema(embedding_size: int, *, fields_only: bool) -> pa.Schema:
    """Return the columns of the table; `fields_only` leaves out the text."""
    texts = [] if fields_only else [(TEXT, pa.string())]
    fields = [
        (column, pa.string())
        for name in FIELDS
        for column in ((name, f"{name}_ontology_term_id") if name in TERM_FIELDS else (name,))
    ]
    return pa.schema(
        [
            (ID, pa.string()),
            *texts,
            *fields,
            ("pathways", pa.string()),
            ("type_probability", pa.float32()),
            (CANDIDATES, pa.string()),
            ("n_genes", pa.int32()),
            ("counts_used", pa.float32()),
            ("coverage", pa.float32()),
            (EMBEDDING, pa.list_(pa.float32(), embedding_size)),
        ]
    )


def output_names(schema: pa.Schema) -> list[str]:
    """Return the columns of a table that an output has."""
    return [name for name in schema.names if name != TYPE_PROBABILITIES]


def with_type_probabilities(table: pa.Table, probabilities: np.ndarray) -> pa.Table:
    """Add the probabilities of all types, shape (n_cells, n_types); null for rows with NaN."""
    known = np.isfinite(probabilities).all(axis=1)
    ends = np.concatenate([[0], np.cumsum(known * probabilities.shape[1])]).astype(np.int32)
    values = pa.array(probabilities[known].astype(np.float32).ravel(), pa.float32())
    column = pa.ListArray.from_arrays(pa.array(ends), values, mask=pa.array(~known))
    return table.append_column(TYPE_PROBABILITIES, column)


def type_probability_matrix(table: pa.Table) -> np.ndarray:
    """Return the probabilities of all types, float32, shape (n_cells, n_types); NaN for cells without any."""
    column = table[TYPE_PROBABILITIES].combine_chunks()
    known = column.is_valid().to_numpy(zero_copy_only=False)
    values = column.flatten().to_numpy().reshape(int(known.sum()), -1) if known.any() else np.empty((0, 0))
    matrix = np.full((len(table), values.shape[1]), np.nan, dtype=np.float32)
    matrix[known] = values
    return matrix


def make_table(
    cells: RankedCells, texts: Sequence[str | None], embeddings: np.ndarray,
    types: "CellTypes | None" = None, concept_probabilities: np.ndarray | None = None, *, fields_only: bool,
) -> pa.Table:  # fmt: skip
    """Parse texts and return one row per cell, with the columns of :func:`table_schema`.

    Parameters
    ----------
    cells
        The cells that were described.
    texts
        One text per cell; None for cells without a text.
    embeddings
        Shape (n_cells, cell_hidden).
    types, concept_probabilities
        Cell types that the model has a concept for, and their probabilities, shape (n_cells, n_types). Omitted for
        models without concepts.
    fields_only
        Leave out the text.
    """
    schema = table_schema(embeddings.shape[1], fields_only=fields_only)
    parsed = [read_fields(text) if text is not None and is_description(text) else Fields() for text in texts]
    concepts = np.empty((len(texts), 0)) if concept_probabilities is None else concept_probabilities
    type_names = [] if types is None else types.names
    named = [fields.cell_type for fields in parsed]
    columns: dict[str, object] = {
        ID: [str(name) for name in cells.names],
        TEXT: [text and text.replace("\0", "") for text in texts],  # HDF5 strings cannot hold NUL
        "pathways": ["; ".join(fields.pathways) or None for fields in parsed],
        "type_probability": _score_column(type_probabilities(named, type_names, concepts)),
        CANDIDATES: [None] * len(texts) if types is None else _candidates(types, named, concepts),
        "n_genes": np.asarray(cells.n_genes, dtype=np.int32),
        "counts_used": np.asarray(cells.counts_used, dtype=np.float32),
        "coverage": np.full(len(texts), cells.coverage, dtype=np.float32),
        EMBEDDING: pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1]),
    }
    for name in FIELDS:
        claims = [getattr(fields, name) for fields in parsed]
        columns[name] = [claim and claim.name for claim in claims]
        columns[f"{name}_ontology_term_id"] = [claim and claim.term_id for claim in claims]
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def described_columns(table: pa.Table) -> pd.DataFrame:
    """Return the columns that show which rows hold a description, or the reason for having none."""
    return table.select([name for name in (TEXT, *FIELDS, CANDIDATES) if name in table.column_names]).to_pandas()


def _candidates(types: "CellTypes", named: Sequence[Claim | None], concepts: np.ndarray) -> list[str | None]:
    """Return candidates as text, such as "CD8-positive, alpha-beta T cell (0.62)"; None for cells without any."""
    return [candidates_text(candidates) for candidates in types.candidates(named, concepts)]


def candidates_text(candidates: Iterable[tuple[str, float]]) -> str | None:
    """Return names with their probabilities as text, None for no names.

    Examples
    --------
    >>> candidates_text([("CD8-positive, alpha-beta T cell", 0.617), ("CD4-positive, alpha-beta T cell", 0.31)])
    'CD8-positive, alpha-beta T cell (0.62); CD4-positive, alpha-beta T cell (0.31)'
    """
    return "; ".join(f"{name} ({value:.2f})" for name, value in candidates) or None


def _score_column(values: np.ndarray) -> pa.Array:
    """Return values with four digits, null for NaN."""
    return pa.array(round_to_four_digits(values), pa.float32(), from_pandas=True)

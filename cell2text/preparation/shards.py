"""Write Parquet shards. Depends on pyarrow."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cell2text.files import atomic_path


ROWS_PER_GROUP = 512
GENE_TOKENS = "cells.list.element.list.element"
PATHWAY_SCORES = "pathway_scores.list.element"


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table to a Parquet file, atomically.

    Gene tokens and scores are split by byte, which compresses them well; strings get dictionaries.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: kind for field in table.schema for name, kind in _leaf_columns(field.name, field.type)}
    with atomic_path(path) as partial:
        pq.write_table(
            table,
            partial,
            row_group_size=ROWS_PER_GROUP,
            compression="zstd",
            use_dictionary=[name for name, kind in columns.items() if pa.types.is_string(kind)],
            column_encoding={GENE_TOKENS: "BYTE_STREAM_SPLIT", PATHWAY_SCORES: "BYTE_STREAM_SPLIT"},
        )


def _leaf_columns(name: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """Yield the Parquet columns of an Arrow column, with their types."""
    if pa.types.is_list(kind):
        yield from _leaf_columns(f"{name}.list.element", kind.value_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaf_columns(f"{name}.{field.name}", field.type)
    else:
        yield name, kind

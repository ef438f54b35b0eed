"""Parquet shards: what they are called and how they are written."""

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


ROW_GROUP = 512
TOKENS = "cells.list.element.list.element"


def shard_path(folder: Path, split: str, number: int) -> Path:
    return folder / "data" / f"{split}-{number:05d}.parquet"


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file beside its place and rename it. Tokens are split by byte: small and fast."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    columns = {name: kind for field in table.schema for name, kind in leaves(field.name, field.type)}
    try:
        pq.write_table(
            table,
            partial,
            row_group_size=ROW_GROUP,
            compression="zstd",
            use_dictionary=[name for name, kind in columns.items() if pa.types.is_string(kind)],
            column_encoding={TOKENS: "BYTE_STREAM_SPLIT", "pathway_scores.list.element": "BYTE_STREAM_SPLIT"},
        )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def leaves(name: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """Columns that Parquet makes of an Arrow column, with their types."""
    if pa.types.is_list(kind):
        yield from leaves(f"{name}.list.element", kind.value_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from leaves(f"{name}.{field.name}", field.type)
    else:
        yield name, kind

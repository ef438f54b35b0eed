"""Parquet shards: what they are called and how they are written."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


ROW_GROUP = 1024
TOKENS = "cells.list.element.list.element"


def shard_path(folder: Path, split: str, number: int) -> Path:
    return folder / "data" / f"{split}-{number:05d}.parquet"


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file beside its place and rename it. Tokens are split by byte: small and fast."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    texts = [
        name for name in table.column_names if name not in ("cells", "pathway_scores", "n_genes", "mapped_fraction")
    ]
    dictionary = [name for name in texts if pa.types.is_string(table.schema.field(name).type)]
    nested = ["prompt", "completion"]
    dictionary += [f"{name}.list.element.content.list.element.text" for name in nested]
    dictionary += [f"{name}.list.element.content.list.element.type" for name in nested]
    dictionary += [f"{name}.list.element.role" for name in nested]
    dictionary += ["pathways.list.element", "pathways_active.list.element"]
    try:
        pq.write_table(
            table, partial, row_group_size=ROW_GROUP, compression="zstd", use_dictionary=dictionary,
            column_encoding={TOKENS: "BYTE_STREAM_SPLIT", "pathway_scores.list.element": "BYTE_STREAM_SPLIT"},
        )  # fmt: skip
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

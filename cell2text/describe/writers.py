"""The output of a run: the input as AnnData with what was said added to it, or a plain table.

Shards are read one after another; of a table nothing is held, of an AnnData one column at a time.
"""

import csv
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import anndata as ad
import fsspec
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cell2text.describe.engine import EMBEDDING, ID, TEXT
from cell2text.errors import UserError
from cell2text.sources.discovery import SourceLocation


KEY = "cell2text"


def format_of(path: Path) -> str:
    """Name of the format by a path's ending.

    Raises
    ------
    ValueError
        If it is none that can be written.
    """
    name = path.suffix.removeprefix(".")
    if name not in FORMATS:
        raise UserError(f"--out {path}: expected an ending of {', '.join(FORMATS)}.")
    if path.suffix in TABLES and path.stem.endswith(".groups"):
        raise UserError(f"--out {path} is named as the table of groups of another output: choose another name.")
    return name


def write_output(
    source: SourceLocation, out: Path, shards: Sequence[Path], params: dict[str, str], groups: pd.DataFrame | None = None
) -> None:
    """Write the shards' rows in the format of `out`, which is there whole or not at all, and the table of groups."""
    partial = out.with_name(f".{out.stem}.partial{out.suffix}")
    remove(partial)
    try:
        if out.suffix in TABLES:
            TABLES[out.suffix](partial, shards, params)
            if groups is not None:  # a run that ends between the two goes on, and writes both again
                write_groups(groups, groups_path(out))
            else:
                groups_path(out).unlink(missing_ok=True)  # of the output that is replaced
        else:
            write_anndata(source, partial, shards, params, groups)
        if out.is_dir():  # which nothing can replace at once: it is kept under another name until the new one stands
            before = out.with_name(f".{out.stem}.before{out.suffix}")
            remove(before)
            os.replace(out, before)
            os.replace(partial, out)
            remove(before)
        else:
            os.replace(partial, out)
    finally:
        remove(partial)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def read_shards(shards: Sequence[Path]) -> Iterator[pa.Table]:
    """The shards without their embeddings."""
    for path in shards:
        names = [name for name in pq.read_schema(path).names if name != EMBEDDING]
        yield pq.read_table(path, columns=names)


def rows(shards: Sequence[Path]) -> Iterator[dict]:
    """Every row without its embedding."""
    for table in read_shards(shards):
        yield from table.to_pylist()


def write_jsonl(out: Path, shards: Sequence[Path], params: dict[str, str]) -> None:
    with open(out, "w", encoding="utf-8") as file:
        for row in rows(shards):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_csv(out: Path, shards: Sequence[Path], params: dict[str, str]) -> None:
    names = [name for name in pq.read_schema(shards[0]).names if name != EMBEDDING]
    with open(out, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows(shards))


def write_parquet(out: Path, shards: Sequence[Path], params: dict[str, str]) -> None:
    schema = pq.read_schema(shards[0]).with_metadata({KEY: json.dumps({"params": params})})
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for path in shards:
            writer.write_table(pq.read_table(path).replace_schema_metadata(schema.metadata))


def groups_path(out: Path) -> Path:
    """Where the table of groups of a plain table lies: `described.groups.csv` beside `described.csv`."""
    return out.with_name(f"{out.stem}.groups{out.suffix}")


def write_groups(groups: pd.DataFrame, path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.suffix == ".parquet":
            groups.to_parquet(partial, index=False)
        elif path.suffix == ".csv":
            groups.to_csv(partial, index=False)
        else:
            groups.to_json(partial, orient="records", lines=True, force_ascii=False)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def as_frame(groups: pd.DataFrame) -> pd.DataFrame:
    """The table of groups as AnnData can hold it: no text is missing, labels are categories."""
    texts = [name for name in groups if name == TEXT or str(name).endswith(f"_{TEXT}")]
    changed: dict = {}
    for name in groups.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in groups.dtypes]]:
        column = groups[name]
        changed[name] = column.fillna("").astype(object) if name in texts else pd.Categorical(column)
    frame = groups.assign(**changed)
    frame.index = frame.index.astype(str)
    return frame


def write_anndata(
    source: SourceLocation, out: Path, shards: Sequence[Path], params: dict[str, str], groups: pd.DataFrame | None
) -> None:
    """Copy the input as it is and add to the copy; an input of the other format is read and written anew."""
    path, format_ = source.url.removeprefix("file://"), format_of(out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr's and anndata's, of defaults that will change
        copy_anndata(source, path, format_, out)
        if format_ == "h5ad":
            with h5py.File(out, "r+") as root:
                add_results(root, shards, params, groups)
        else:
            add_to_zarr(out, shards, params, groups)


def copy_anndata(source: SourceLocation, path: str, format_: str, out: Path) -> None:
    if source.format == format_ and Path(path).exists():
        shutil.copytree(path, out) if Path(path).is_dir() else shutil.copyfile(path, out)
    else:
        adata = ad.io.read_zarr(source.url) if source.format == "zarr" else read_h5ad(source.url)
        with ad.settings.override(zarr_write_format=3):
            adata.write_h5ad(out) if format_ == "h5ad" else adata.write_zarr(out)


def read_h5ad(url: str) -> ad.AnnData:
    """An h5ad file from wherever fsspec reaches."""
    with fsspec.open(url, "rb") as file:
        return ad.io.read_h5ad(file)


def add_to_zarr(out: Path, shards: Sequence[Path], params: dict[str, str], groups: pd.DataFrame | None) -> None:
    import zarr

    add_results(zarr.open_group(str(out), mode="r+", use_consolidated=False), shards, params, groups)
    metadata = out / "zarr.json"
    listed = metadata.exists() and "consolidated_metadata" in json.loads(metadata.read_text(encoding="utf-8"))
    if listed or (out / ".zmetadata").exists():  # one list of all arrays, which must know the new ones
        zarr.consolidate_metadata(str(out))


def add_results(root, shards: Sequence[Path], params: dict[str, str], groups: pd.DataFrame | None) -> None:
    """Write columns, embedding, parameters and groups into an open AnnData; nothing else in it is touched."""
    obs, order = root["obs"], [str(name) for name in root["obs"].attrs["column-order"]]
    for name, column in columns(shards):
        if column not in order:
            order.append(column)
        ad.io.write_elem(obs, column, read_column(shards, name))
    obs.attrs["column-order"] = np.array(order, dtype=object) if isinstance(root, h5py.Group) else order
    write_embedding(root, f"X_{KEY}", shards)
    for group in ("obsm", "uns"):
        if group not in root:
            ad.io.write_elem(root, group, {})
    tables = {} if groups is None else {"groups": as_frame(groups)}
    ad.io.write_elem(root["uns"], KEY, {"params": params, **tables})


def columns(shards: Sequence[Path]) -> list[tuple[str, str]]:
    """Columns of the shards, and what they are called in `obs`."""
    names = [name for name in pq.read_schema(shards[0]).names if name not in (ID, EMBEDDING)]
    return [(name, KEY if name == TEXT else f"{KEY}_{name}") for name in names]


def as_obs(column: pa.ChunkedArray, name: str):
    """A column as `obs` has it: texts as they are, labels as categories, numbers as numbers."""
    if not pa.types.is_string(column.type):
        return column.to_numpy()
    values = column.to_pandas()
    return values.fillna("").to_numpy(dtype=object) if name == TEXT else pd.Categorical(values)


def read_column(shards: Sequence[Path], name: str):
    return as_obs(pq.read_table(shards, columns=[name])[name], name)


def as_matrix(column: pa.ChunkedArray) -> np.ndarray:
    parts = [chunk.flatten().to_numpy().reshape(len(chunk), -1) for chunk in column.chunks]
    return np.concatenate(parts)


def write_embedding(root, name: str, shards: Sequence[Path]) -> None:
    """`obsm[name]`, a shard at a time."""
    if "obsm" not in root:
        ad.io.write_elem(root, "obsm", {})
    obsm = root["obsm"]
    n = sum(pq.read_metadata(path).num_rows for path in shards)
    first = as_matrix(pq.read_table(shards[0], columns=[EMBEDDING])[EMBEDDING])
    ad.io.write_elem(obsm, name, np.zeros((0, first.shape[1]), dtype=np.float32))
    attributes = dict(obsm[name].attrs)
    del obsm[name]
    create: Callable = getattr(obsm, "create_array", None) or obsm.create_dataset
    matrix = create(name, shape=(n, first.shape[1]), dtype=np.float32, chunks=(min(n, 4096), first.shape[1]))
    matrix.attrs.update(attributes)
    start = 0
    for path in shards:
        block = as_matrix(pq.read_table(path, columns=[EMBEDDING])[EMBEDDING])
        matrix[start : start + len(block)] = block
        start += len(block)


TABLES: dict[str, Callable] = {".jsonl": write_jsonl, ".parquet": write_parquet, ".csv": write_csv}
FORMATS = ("h5ad", "zarr", *(ending.removeprefix(".") for ending in TABLES))

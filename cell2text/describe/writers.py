"""Write the output of a run: a copy of the input with the descriptions added, or a plain table.

Shards are read one after another: a table is never held in memory, an AnnData one column at a time. Depends on `table`
for column names.
"""

import csv
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cell2text.describe.evidence import EVIDENCE_COLUMNS, summarise_evidence
from cell2text.describe.shards import ShardFolder
from cell2text.describe.table import EMBEDDING, ID, TEXT, output_names, table_schema
from cell2text.errors import UserError
from cell2text.files import atomic_path, remove
from cell2text.language.described import SUMMARY
from cell2text.sources.containers import load_anndata, needs_conversion
from cell2text.sources.discovery import SourceLocation
from cell2text.sources.safety import check_store, open_hdf5
from cell2text.spreadsheets import harmless
from errors_cell2text import first_line


KEY = "cell2text"
EMBEDDING_CHUNK_ROWS = 4096
FORMER_COLUMNS = ("confidence", "mapped_fraction")  # of earlier versions; describing again removes them


def format_of(path: Path) -> str:
    """Return the format that a path's suffix names, such as `h5ad`.

    Raises
    ------
    UserError
        If the suffix is unknown, or the name is reserved for the table of groups of another output.
    """
    name = path.suffix.removeprefix(".")
    if name not in FORMATS:
        raise UserError(f"out={str(path)!r}: expected one of the suffixes {', '.join(FORMATS)}.")
    if path.suffix in TABLES and path.stem.endswith(".groups"):
        raise UserError(f"out={str(path)!r} is the name of another output's table of groups. Choose another name.")
    return name


def groups_path(out: Path) -> Path:
    """Return the path of the table of groups beside a plain table: `NAME.groups.csv` for `NAME.csv`."""
    return out.with_name(f"{out.stem}.groups{out.suffix}")


def write_output(
    source: SourceLocation, folder: ShardFolder, shards: Sequence[Path], added: dict,
    groups: pd.DataFrame | None = None, *, plain_csv: bool = False, check: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Write the rows of all shards, and the table of groups, in the format of the output.

    Both are written inside the folder of the shards and then moved: the output is complete or as it was before.

    Parameters
    ----------
    source
        The input, which is copied into an output that is an AnnData.
    folder
        Folder of the shards, which knows the output.
    shards
        The shards, in the order of their rows.
    added
        Content of `uns["cell2text"]`.
    groups
        Table of groups; None without groups.
    plain_csv
        Write texts into csv files as they are; see :mod:`cell2text.spreadsheets`.
    check
        Called before the output is moved. An error that it raises leaves the former output.
    """
    out, unfinished = folder.out, folder.unfinished
    remove(unfinished)
    tables = {groups_path(out): groups_path(unfinished)} if out.suffix in TABLES else {}
    if out.suffix in TABLES:
        TABLES[out.suffix](unfinished, shards, added, plain_csv)
        if groups is not None:
            write_groups(groups, groups_path(unfinished), plain_csv=plain_csv)
    else:
        _write_anndata(source, unfinished, shards, added, groups)
    check()
    for final, written in tables.items():  # an interruption between the two files is resumed and writes both again
        if groups is not None:
            os.replace(written, final)
        else:
            final.unlink(missing_ok=True)  # belongs to the output that is replaced
    _replace(unfinished, out, folder.previous)


def read_shards(shards: Sequence[Path]) -> Iterator[pa.Table]:
    """Yield the shards without their embeddings."""
    for path in shards:
        names = [name for name in pq.read_schema(path).names if name != EMBEDDING]
        yield pq.read_table(path, columns=names)


def write_groups(groups: pd.DataFrame, path: Path, *, plain_csv: bool = False) -> None:
    """Write the table of groups as jsonl, parquet or csv, by the suffix of `path`."""
    with atomic_path(path) as partial:
        if path.suffix == ".parquet":
            groups.to_parquet(partial, index=False)
        elif path.suffix == ".csv":
            (groups if plain_csv else groups.map(harmless)).to_csv(partial, index=False)
        else:
            groups.to_json(partial, orient="records", lines=True, force_ascii=False)


def groups_for_uns(groups: pd.DataFrame) -> pd.DataFrame:
    """Return the table of groups in a form that AnnData can store: missing texts are empty, labels are categories."""
    texts = [name for name in groups if name in (TEXT, SUMMARY) or str(name).endswith(f"_{TEXT}")]
    changed: dict = {}
    for name in groups.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in groups.dtypes]]:
        column = groups[name]
        changed[name] = column.fillna("").astype(object) if name in texts else pd.Categorical(column)
    frame = groups.assign(**changed)
    frame.index = frame.index.astype(str)
    return frame


def obs_column(column: pa.ChunkedArray, name: str):
    """Return a column in a form that `obs` can store: texts as strings, labels as categories, numbers as numbers."""
    if not pa.types.is_string(column.type):
        return column.to_numpy()
    values = column.to_pandas()
    return values.fillna("").to_numpy(dtype=object) if name == TEXT else pd.Categorical(values)


def embedding_matrix(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of embeddings as a matrix, float32, shape (n_cells, cell_hidden)."""
    return np.concatenate([chunk.flatten().to_numpy().reshape(len(chunk), -1) for chunk in column.chunks])


def write_embedding(root, name: str, shards: Sequence[Path]) -> None:
    """Write `obsm[name]` of an open AnnData, a shard at a time."""
    if "obsm" not in root:
        ad.io.write_elem(root, "obsm", {})
    obsm = root["obsm"]
    n = sum(pq.read_metadata(path).num_rows for path in shards)
    first = embedding_matrix(pq.read_table(shards[0], columns=[EMBEDDING])[EMBEDDING])
    ad.io.write_elem(obsm, name, np.zeros((0, first.shape[1]), dtype=np.float32))
    attributes = dict(obsm[name].attrs)
    del obsm[name]
    create: Callable = getattr(obsm, "create_array", None) or obsm.create_dataset
    chunks = (min(n, EMBEDDING_CHUNK_ROWS), first.shape[1])
    matrix = create(name, shape=(n, first.shape[1]), dtype=np.float32, chunks=chunks)
    matrix.attrs.update(attributes)
    start = 0
    for path in shards:
        block = embedding_matrix(pq.read_table(path, columns=[EMBEDDING])[EMBEDDING])
        matrix[start : start + len(block)] = block
        start += len(block)


def _replace(unfinished: Path, out: Path, previous: Path) -> None:
    """Rename a finished file or folder to `out`."""
    if not out.is_dir():
        os.replace(unfinished, out)
        return
    remove(previous)  # a rename cannot replace a folder
    os.replace(out, previous)
    os.replace(unfinished, out)
    os.utime(out)  # a copied store keeps the time of its source, and late processes look at the time
    remove(previous)


def _rows(shards: Sequence[Path]) -> Iterator[dict]:
    """Yield every row without its embedding."""
    for table in read_shards(shards):
        yield from table.select(output_names(table.schema)).to_pylist()


def _write_jsonl(out: Path, shards: Sequence[Path], added: dict, plain_csv: bool) -> None:
    with open(out, "w", encoding="utf-8") as file:
        for row in _rows(shards):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_csv(out: Path, shards: Sequence[Path], added: dict, plain_csv: bool) -> None:
    names = [name for name in output_names(pq.read_schema(shards[0])) if name != EMBEDDING]
    with open(out, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for table in read_shards(shards):
            columns = (table[name] for name in names)
            writer.writerows(zip(*(_csv_values(column, plain_csv=plain_csv) for column in columns)))


def _csv_values(column: pa.ChunkedArray, *, plain_csv: bool) -> list:
    """Return the values of a column, with an apostrophe before texts that a spreadsheet would run as a formula."""
    if plain_csv or not pa.types.is_string(column.type):
        return column.to_pylist()
    return [harmless(value) for value in column.to_pylist()]


def _write_parquet(out: Path, shards: Sequence[Path], added: dict, plain_csv: bool) -> None:
    stored = pq.read_schema(shards[0])
    schema = pa.schema([stored.field(name) for name in output_names(stored)], {KEY: json.dumps(added)})
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for path in shards:
            writer.write_table(pq.read_table(path, columns=schema.names).replace_schema_metadata(schema.metadata))


def _write_anndata(
    source: SourceLocation, out: Path, shards: Sequence[Path], added: dict, groups: pd.DataFrame | None
) -> None:
    """Copy the input and add the results to the copy; an input in the other format is converted."""
    path, format_ = source.url.removeprefix("file://"), format_of(out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr and anndata warn about future defaults
        _copy_anndata(source, path, format_, out)
        if format_ == "h5ad":
            with open_hdf5(out, source.name, "r+") as root:
                _add_results(root, shards, added, groups)
        else:
            _add_results_to_zarr(out, shards, added, groups)


def _copy_anndata(source: SourceLocation, path: str, format_: str, out: Path) -> None:
    if source.format == format_ and Path(path).exists() and not needs_conversion(source):
        shutil.copytree(path, out, symlinks=True) if Path(path).is_dir() else shutil.copyfile(path, out)
        if Path(path).is_dir():
            check_store(out, source.name)
    else:
        adata = load_anndata(source)
        try:
            with ad.settings.override(zarr_write_format=3, allow_write_nullable_strings=True):
                adata.write_h5ad(out) if format_ == "h5ad" else adata.write_zarr(out)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:  # such as a slash in a name, for zarr
            raise UserError(
                f"out={str(out)!r}: anndata cannot write {source.name} as {format_} ({first_line(error)}). Write a "
                "table instead: .csv, .jsonl or .parquet."
            ) from error


def _add_results_to_zarr(out: Path, shards: Sequence[Path], added: dict, groups: pd.DataFrame | None) -> None:
    import zarr

    _add_results(zarr.open_group(str(out), mode="r+", use_consolidated=False), shards, added, groups)
    metadata = out / "zarr.json"
    consolidated = metadata.exists() and "consolidated_metadata" in json.loads(metadata.read_text(encoding="utf-8"))
    if consolidated or (out / ".zmetadata").exists():  # the list of arrays must include the new ones
        zarr.consolidate_metadata(str(out))


def _add_results(root, shards: Sequence[Path], added: dict, groups: pd.DataFrame | None) -> None:
    """Write columns, embedding, parameters and groups into an open AnnData; everything else stays unchanged."""
    obs, order = root["obs"], [str(name) for name in root["obs"].attrs["column-order"]]
    for column in _described_columns() & set(order):  # of an earlier description, perhaps with other columns
        del obs[column]
        order.remove(column)
    for name, column in _obs_names(shards):
        if column not in order:
            order.append(column)
        ad.io.write_elem(obs, column, obs_column(pq.read_table(shards, columns=[name])[name], name))
    obs.attrs["column-order"] = np.array(order, dtype=object) if isinstance(root, h5py.Group) else order
    write_embedding(root, f"X_{KEY}", shards)
    for group in ("obsm", "uns"):
        if group not in root:
            ad.io.write_elem(root, group, {})
    tables = {} if groups is None else {"groups": groups_for_uns(groups)}
    if (evidence := summarise_evidence(read_shards(shards))) is not None:
        tables["evidence"] = groups_for_uns(evidence)
    ad.io.write_elem(root["uns"], KEY, {**added, **tables})


def _described_columns() -> set[str]:
    """Return the names in `obs` of all columns that a description can have."""
    names = {*table_schema(1, fields_only=False).names, *EVIDENCE_COLUMNS, *FORMER_COLUMNS} - {ID, EMBEDDING, TEXT}
    return {KEY} | {f"{KEY}_{name}" for name in names}


def _obs_names(shards: Sequence[Path]) -> list[tuple[str, str]]:
    """Return the columns of the shards with their names in `obs`."""
    names = [name for name in output_names(pq.read_schema(shards[0])) if name not in (ID, EMBEDDING)]
    return [(name, KEY if name == TEXT else f"{KEY}_{name}") for name in names]


TABLES: dict[str, Callable] = {".jsonl": _write_jsonl, ".parquet": _write_parquet, ".csv": _write_csv}
FORMATS = ("h5ad", "zarr", *(suffix.removeprefix(".") for suffix in TABLES))

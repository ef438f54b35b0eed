"""Where counts come from: h5ad files and zarr stores, on this machine or anywhere fsspec reaches.

A source is opened as a reader of metadata columns and of row ranges of counts. Nothing is held in memory but what is
asked for. `census.py` reads the CELLxGENE Census behind the same face.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import anndata as ad
import fsspec
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from isal import isal_zlib

from cell2text.errors import UserError
from cell2text.sources.compressed import CompressedRows
from counts_cell2text import find_flaw


SUFFIXES = (".h5ad", ".zarr")
READING_ERRORS: Any = (OSError, ValueError, RuntimeError, isal_zlib.error)
LARGEST_GAP = 32  # rows that are read and dropped rather than skipped


class BadFileError(ValueError):
    """A file that cannot be used, and why. Carries the source's name."""

    def __init__(self, source: str, message: str):
        super().__init__(source, message)
        self.source, self.message = source, message

    def __str__(self) -> str:
        return f"{self.source}: {self.message}"


@dataclass(frozen=True)
class Source:
    """A file of cells: its short name, unique in a run, and where it is."""

    name: str
    url: str
    format: str

    def to_json(self) -> dict:
        return asdict(self)


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """Files that the inputs name, sorted by name.

    Parameters
    ----------
    inputs
        Files, folders (searched for `.h5ad` and `.zarr`, with their subfolders), globs, or fsspec addresses of them.

    Raises
    ------
    ValueError
        If an input names nothing, or two names the same file.
    """
    urls: list[str] = []
    for text in inputs:
        fs, path = fsspec.core.url_to_fs(str(text))
        if any(character in path for character in "*?["):
            found = [name for name in fs.glob(path) if name.endswith(SUFFIXES)]
        elif path.rstrip("/").endswith(SUFFIXES) and fs.exists(path):
            found = [path.rstrip("/")]
        elif fs.isdir(path):
            found = list(walk(fs, path))
        elif fs.exists(path):
            raise UserError(f"{text} is neither an .h5ad file nor a .zarr store.")
        else:
            raise UserError(f"{text} does not exist.")
        if not found:
            raise UserError(f"{text} holds no .h5ad file and no .zarr store.")
        urls += [fs.unstrip_protocol(name) for name in found]
    twice = {url for url in urls if urls.count(url) > 1}
    if twice:
        raise UserError(f"Named twice: {sorted(twice)}.")
    names = short_names(urls)
    return sorted((Source(names[url], url, url.rsplit(".", 1)[1]) for url in urls), key=lambda source: source.name)


def walk(fs, folder: str) -> Iterator[str]:
    """Files and stores under a folder; what lies inside a store is not searched."""
    for entry in sorted(fs.ls(folder, detail=True), key=lambda entry: entry["name"]):
        name = entry["name"].rstrip("/")
        if name.endswith(SUFFIXES):
            yield name
        elif entry["type"] == "directory":
            yield from walk(fs, name)


def short_names(urls: Sequence[str]) -> dict[str, str]:
    """The shortest end of each address that no other shares, without the suffix."""
    parts = {url: PurePosixPath(url.split("://")[-1].rsplit(".", 1)[0]).parts for url in urls}
    names: dict[str, str] = {}
    length = 1
    while len(names) < len(urls):
        ends = {url: "/".join(parts[url][-length:]) for url in urls if url not in names}
        unique = {url: end for url, end in ends.items() if list(ends.values()).count(end) == 1}
        if length > max(map(len, parts.values())):  # cells.h5ad beside cells.zarr
            unique = {url: f"{end}.{url.rsplit('.', 1)[1]}" for url, end in ends.items()}
        names |= unique
        length += 1
    return names


def open_source(source: Source, layer: str | None = None) -> "FileReader":
    """Open a source for reading.

    Raises
    ------
    BadFileError
        If it is damaged, no AnnData, or lacks the layer.
    """
    return FileReader(source, layer)


class FileReader:
    """Metadata and counts of one h5ad file or zarr store, read a range at a time.

    Attributes
    ----------
    n_cells
        Cells of the file.
    counts_name
        Where the counts are, as messages call it.
    note
        What a reader of the report should know about how the file is stored; empty if nothing.
    """

    def __init__(self, source: Source, layer: str | None):
        self.source = source
        self.note = ""
        self._root = self._open()
        try:
            self._counts, self._var, self.counts_name = self._find_counts(layer)
            self._read_rows = self._row_reader()
            self.n_cells = int(self._root["obs"][index_name(self._root["obs"])].shape[0])
            self._check_shape()
        except BadFileError:
            self.close()
            raise
        except (KeyError, OSError, ValueError, AttributeError, RuntimeError, TypeError, IndexError) as error:
            self.close()
            raise BadFileError(source.name, f"no AnnData that can be read ({first_line(error)}).") from error

    def _open(self):
        try:
            if self.source.format == "zarr":
                import zarr

                return zarr.open_group(self.source.url, mode="r")
            self._file = fsspec.open(self.source.url, "rb").open()
            local = self._file.name if self.source.url.startswith("file://") else self._file
            return h5py.File(local, "r")
        except Exception as error:  # fsspec, zarr and HDF5 each raise their own kinds
            raise BadFileError(
                self.source.name,
                f"cannot be opened: damaged, truncated or no {self.source.format} ({first_line(error)}).",
            ) from error

    def _find_counts(self, layer: str | None):
        missing = [name for name in ("obs", "var") if name not in self._root]
        if missing:
            raise BadFileError(self.source.name, f"no AnnData: it lacks {missing} (it has {sorted(self._root)}).")
        layers = sorted(self._root["layers"]) if "layers" in self._root else []
        if layer is None and "X" in self._root:
            return self._root["X"], self._root["var"], "X"
        if layer in layers:
            return self._root["layers"][layer], self._root["var"], f"layers[{layer!r}]"
        if layer == "raw" and "raw" in self._root:
            return self._root["raw"]["X"], self._root["raw"]["var"], "raw.X"
        raise BadFileError(
            self.source.name,
            f"has no {'X' if layer is None else f'layer {layer!r}'}: it has layers {layers} and "
            f"{'a' if 'raw' in self._root else 'no'} raw.",
        )

    def _check_shape(self) -> None:
        """Counts, cells and genes must fit together: a column beyond the genes would be read out of bounds."""
        shape = self._counts.shape if hasattr(self._counts, "shape") else self._counts.attrs["shape"]
        expected = (self.n_cells, int(self._var[index_name(self._var)].shape[0]))
        found = tuple(int(size) for size in shape)
        if found != expected:
            raise BadFileError(
                self.source.name,
                f"{self.counts_name} has shape {found}, but obs names {expected[0]:,} cells and var {expected[1]:,} "
                "genes.",
            )

    def _row_reader(self):
        encoding = dict(self._counts.attrs).get("encoding-type", "array")
        if encoding == "csr_matrix" and isinstance(self._counts, h5py.Group):
            return CompressedRows(self._counts).read
        if encoding == "csc_matrix":
            self.note = "stored by columns: read whole into memory"
            whole = cache(lambda: ad.io.read_elem(self._counts).tocsr())
            return lambda start, stop: whole()[start:stop]
        if encoding == "csr_matrix":
            matrix = ad.io.sparse_dataset(self._counts)
            return lambda start, stop: matrix[start:stop]
        return lambda start, stop: sp.csr_matrix(self._counts[start:stop])

    def layers(self) -> list[str]:
        """Other places than the one that is read where counts may lie."""
        names = [*(sorted(self._root["layers"]) if "layers" in self._root else []), *["raw"] * ("raw" in self._root)]
        return [name for name in names if self.counts_name not in (f"layers[{name!r}]", f"{name}.X")]

    def holds_counts(self, layer: str, rows: np.ndarray) -> bool:
        """Whether a layer holds counts in some of the cells."""
        with FileReader(self.source, layer) as other:
            block = other.counts_of(rows)
        return block.nnz > 0 and find_flaw(block) is None

    def var(self) -> pd.DataFrame:
        """Names of the genes: the index and the text columns."""
        group = self._var
        columns = {}
        for name in group:
            if name not in (index_name(group), "__categories") and is_text(group[name]):
                columns[name] = np.asarray(read_column(group, name)).astype(object).astype(str)
        return pd.DataFrame(columns, index=self._texts(group[index_name(group)], slice(None)))

    def obs_columns(self) -> list[str]:
        group = self._root["obs"]
        return [name for name in group if name not in (index_name(group), "__categories")]

    def obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """Columns of all cells as categories of text, missing values as they are."""
        values = {}
        for name in columns:
            column = pd.Series(read_column(self._root["obs"], name))
            present = column.notna()
            values[name] = column.astype(str).where(present).astype("category")
        return pd.DataFrame(values, index=pd.RangeIndex(self.n_cells))

    def cell_names(self, rows: np.ndarray) -> np.ndarray:
        """Names of cells; `rows` ascend."""
        if not len(rows):
            return np.zeros(0, dtype=object)
        group = self._root["obs"]
        names = self._texts(group[index_name(group)], slice(int(rows[0]), int(rows[-1]) + 1))
        return names[rows - rows[0]]

    def _texts(self, dataset, rows: slice) -> np.ndarray:
        if isinstance(dataset, h5py.Dataset) and h5py.check_string_dtype(dataset.dtype):
            return np.asarray(dataset.asstr()[rows], dtype=object)
        values = np.asarray(dataset[rows])
        return (np.char.decode(values) if values.dtype.kind == "S" else values).astype(object)

    def counts_of(self, rows: np.ndarray) -> sp.csr_matrix:
        """Counts of cells, shape (len(rows), n_genes); `rows` ascend, and small gaps between them are read along."""
        runs = np.split(rows, np.flatnonzero(np.diff(rows) > LARGEST_GAP) + 1)
        blocks = []
        for run in runs:
            block = self.counts(int(run[0]), int(run[-1]) + 1)
            blocks.append(block if block.shape[0] == len(run) else block[run - run[0]])
        return blocks[0] if len(blocks) == 1 else sp.vstack(blocks, format="csr")

    def counts(self, start: int, stop: int) -> sp.csr_matrix:
        """Counts of a range of cells, shape (stop - start, n_genes).

        Raises
        ------
        BadFileError
            If the file is damaged there.
        """
        try:
            return self._read_rows(start, stop)
        except READING_ERRORS as error:
            raise BadFileError(
                self.source.name, f"damaged: cells {start:,} to {stop:,} cannot be read ({first_line(error)})."
            ) from error

    def fingerprint(self) -> str:
        """SHA-256 of the file; of names and contents of a store's files."""
        digest = hashlib.sha256()
        fs, path = fsspec.core.url_to_fs(self.source.url)
        for name in [path] if self.source.format == "h5ad" else sorted(fs.find(path)):
            digest.update(name[len(path) :].encode())
            with fs.open(name, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def close(self) -> None:
        if isinstance(self._root, h5py.File):
            self._root.close()
            self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def index_name(group) -> str:
    name = group.attrs["_index"]
    return name.decode() if isinstance(name, bytes) else str(name)


def read_column(group, name: str):
    """A column of `obs` or `var`; files of anndata 0.7 keep the categories apart."""
    element = group[name]
    if "categories" in element.attrs and isinstance(element, h5py.Dataset):
        categories = element.file[element.attrs["categories"]]
        texts = h5py.check_string_dtype(categories.dtype)
        values = categories.asstr()[:] if texts else categories[:]
        return pd.Categorical.from_codes(element[:], pd.Index(values).astype(str))
    return ad.io.read_elem(element)


def is_text(element) -> bool:
    if "categories" in element.attrs:
        return True
    if dict(element.attrs).get("encoding-type") in ("categorical", "string-array", "nullable-string-array"):
        return True
    return getattr(element, "dtype", None) is not None and element.dtype.kind in "OSUT"


def first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]

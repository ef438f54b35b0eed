"""Read h5ad files and zarr stores, on this machine or anywhere fsspec reaches.

A `FileReader` reads metadata columns and row ranges of counts, and keeps nothing else in memory. `open_source` also
opens the CELLxGENE Census (`census.CensusReader`), which has the same methods. Depends on anndata, h5py and fsspec;
zarr is imported when a store is opened.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import anndata as ad
import fsspec
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from isal import isal_zlib

from cell2text.sources.blocks import CompressedRows
from cell2text.sources.census import CensusReader, open_census
from cell2text.sources.checks import BadFileError, first_line
from cell2text.sources.discovery import SourceLocation
from counts_cell2text import find_flaw


OPENING_ERRORS: Any = (KeyError, OSError, ValueError, AttributeError, RuntimeError, TypeError, IndexError)
READING_ERRORS: Any = (OSError, ValueError, RuntimeError, isal_zlib.error)
MAX_GAP_ROWS = 32  # shorter gaps between rows are read and dropped, which is faster than a second read
HASH_BLOCK_BYTES = 1 << 20


def open_source(
    source: SourceLocation, *, layer: str | None = None, value_filter: str | None = None
) -> "FileReader | CensusReader":
    """Open a source for reading.

    Parameters
    ----------
    source
        Location from `find_sources` or `find_census`.
    layer
        Layer with the raw counts, or `"raw"` for `.raw`. Defaults to `X`. Ignored for the Census.
    value_filter
        Cells of the Census to read, in SOMA's filter language. Defaults to all cells. Ignored for files.

    Raises
    ------
    BadFileError
        If the source is damaged, is not an AnnData, or lacks the layer.
    """
    if source.format == "soma":
        return open_census(source, value_filter)
    return FileReader(source, layer)


class FileReader:
    """Metadata and counts of one h5ad file or zarr store.

    Parameters
    ----------
    source
        Location of the file.
    layer
        Layer with the raw counts, or `"raw"` for `.raw`. Defaults to `X`.

    Attributes
    ----------
    n_cells
        Number of cells in the file.
    counts_name
        Where the counts are, for messages: `X`, `layers['counts']` or `raw.X`.
    note
        Storage format that slows reading, for the report; empty otherwise.

    Raises
    ------
    BadFileError
        If the file is damaged, is not an AnnData, or lacks the layer.
    """

    def __init__(self, source: SourceLocation, layer: str | None = None):
        self.source = source
        self.note = ""
        self._root = self._open()
        try:
            self._counts, self._var, self.counts_name = self._find_counts(layer)
            self._read_rows = self._choose_row_reader()
            self.n_cells = int(self._root["obs"][index_name(self._root["obs"])].shape[0])
            self._check_shape()
        except BadFileError:
            self.close()
            raise
        except OPENING_ERRORS as error:
            self.close()
            raise BadFileError(source.name, f"is not a readable AnnData ({first_line(error)}).") from error

    def _open(self):
        try:
            if self.source.format == "zarr":
                import zarr

                return zarr.open_group(self.source.url, mode="r")
            self._file = fsspec.open(self.source.url, "rb").open()
            local = self._file.name if self.source.url.startswith("file://") else self._file
            return h5py.File(local, "r")
        except Exception as error:  # fsspec, zarr and HDF5 each raise their own classes
            raise BadFileError(
                self.source.name,
                f"cannot be opened: it is damaged, truncated or not {self.source.format} ({first_line(error)}).",
            ) from error

    def _find_counts(self, layer: str | None):
        """Return the matrix with the counts, the `var` that names its genes, and its name in messages."""
        missing = [name for name in ("obs", "var") if name not in self._root]
        if missing:
            raise BadFileError(self.source.name, f"is not an AnnData: it lacks {missing} and has {sorted(self._root)}.")
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
        """Raise unless counts, cells and genes fit together: a column beyond the genes would be read out of bounds."""
        shape = self._counts.shape if hasattr(self._counts, "shape") else self._counts.attrs["shape"]
        expected = (self.n_cells, int(self._var[index_name(self._var)].shape[0]))
        found = tuple(int(size) for size in shape)
        if found != expected:
            raise BadFileError(
                self.source.name,
                f"{self.counts_name} has shape {found}, but obs names {expected[0]:,} cells and var {expected[1]:,} "
                "genes.",
            )

    def _choose_row_reader(self) -> Callable[[int, int], sp.csr_matrix]:
        encoding = dict(self._counts.attrs).get("encoding-type", "array")
        if encoding == "csr_matrix" and isinstance(self._counts, h5py.Group):
            return CompressedRows(self._counts).read
        if encoding == "csc_matrix":
            self.note = "Counts are stored by column (CSC), so the whole matrix is read into memory."
            whole = cache(lambda: ad.io.read_elem(self._counts).tocsr())
            return lambda start, stop: whole()[start:stop]
        if encoding == "csr_matrix":
            matrix = ad.io.sparse_dataset(self._counts)
            return lambda start, stop: matrix[start:stop]
        return lambda start, stop: sp.csr_matrix(self._counts[start:stop])

    def other_layers(self) -> list[str]:
        """Return the layers that may hold counts instead of the matrix that is open; `"raw"` means `.raw`."""
        names = [*(sorted(self._root["layers"]) if "layers" in self._root else []), *["raw"] * ("raw" in self._root)]
        return [name for name in names if self.counts_name not in (f"layers[{name!r}]", f"{name}.X")]

    def layer_holds_counts(self, layer: str, rows: np.ndarray) -> bool:
        """Return whether a layer holds integer counts in the cells `rows`."""
        with FileReader(self.source, layer) as other:
            block = other.read_counts(rows)
        return block.nnz > 0 and find_flaw(block) is None

    def read_var(self) -> pd.DataFrame:
        """Read the names of the genes: the index and the text columns of `var`, one row per gene."""
        group = self._var
        columns = {}
        for name in group:
            if name not in (index_name(group), "__categories") and _is_text(group[name]):
                columns[name] = np.asarray(read_column(group, name)).astype(object).astype(str)
        return pd.DataFrame(columns, index=_read_texts(group[index_name(group)], slice(None)))

    def obs_columns(self) -> list[str]:
        """Return the names of the columns of `obs`."""
        group = self._root["obs"]
        return [name for name in group if name not in (index_name(group), "__categories")]

    def read_obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """Read columns of all cells as categories of text, one row per cell; missing values stay missing."""
        values = {}
        for name in columns:
            column = pd.Series(read_column(self._root["obs"], name))
            present = column.notna()
            values[name] = column.astype(str).where(present).astype("category")
        return pd.DataFrame(values, index=pd.RangeIndex(self.n_cells))

    def read_cell_names(self, rows: np.ndarray) -> np.ndarray:
        """Read the names of the cells `rows`, ascending."""
        if not len(rows):
            return np.zeros(0, dtype=object)
        group = self._root["obs"]
        names = _read_texts(group[index_name(group)], slice(int(rows[0]), int(rows[-1]) + 1))
        return names[rows - rows[0]]

    def read_counts(self, rows: np.ndarray) -> sp.csr_matrix:
        """Read the counts of the cells `rows`, ascending, shape (len(rows), n_genes).

        Raises
        ------
        BadFileError
            If the file is damaged at one of the cells.
        """
        runs = np.split(rows, np.flatnonzero(np.diff(rows) > MAX_GAP_ROWS) + 1)
        blocks = []
        for run in runs:
            block = self._read_count_range(int(run[0]), int(run[-1]) + 1)
            blocks.append(block if block.shape[0] == len(run) else block[run - run[0]])
        return blocks[0] if len(blocks) == 1 else sp.vstack(blocks, format="csr")

    def _read_count_range(self, start: int, stop: int) -> sp.csr_matrix:
        try:
            return self._read_rows(start, stop)
        except READING_ERRORS as error:
            raise BadFileError(
                self.source.name, f"is damaged: cells {start:,} to {stop:,} cannot be read ({first_line(error)})."
            ) from error

    def fingerprint(self) -> str:
        """Return the SHA-256 of an h5ad file, or of the names and contents of the files in a zarr store."""
        digest = hashlib.sha256()
        fs, path = fsspec.core.url_to_fs(self.source.url)
        for name in [path] if self.source.format == "h5ad" else sorted(fs.find(path)):
            digest.update(name[len(path) :].encode())
            with fs.open(name, "rb") as file:
                while block := file.read(HASH_BLOCK_BYTES):
                    digest.update(block)
        return digest.hexdigest()

    def close(self) -> None:
        """Close the file, so that its owner can write it."""
        if isinstance(self._root, h5py.File):
            self._root.close()
            self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def index_name(group) -> str:
    """Return the name of the index column of a stored data frame."""
    name = group.attrs["_index"]
    return name.decode() if isinstance(name, bytes) else str(name)


def read_column(group, name: str):
    """Read a column of a stored `obs` or `var`; files of anndata 0.7 store categories apart from their codes."""
    element = group[name]
    if "categories" in element.attrs and isinstance(element, h5py.Dataset):
        categories = element.file[element.attrs["categories"]]
        is_string = h5py.check_string_dtype(categories.dtype)
        values = categories.asstr()[:] if is_string else categories[:]
        return pd.Categorical.from_codes(element[:], pd.Index(values).astype(str))
    return ad.io.read_elem(element)


def _read_texts(dataset, rows: slice) -> np.ndarray:
    if isinstance(dataset, h5py.Dataset) and h5py.check_string_dtype(dataset.dtype):
        return np.asarray(dataset.asstr()[rows], dtype=object)
    values = np.asarray(dataset[rows])
    return (np.char.decode(values) if values.dtype.kind == "S" else values).astype(object)


def _is_text(element) -> bool:
    if "categories" in element.attrs:
        return True
    if dict(element.attrs).get("encoding-type") in ("categorical", "string-array", "nullable-string-array"):
        return True
    return getattr(element, "dtype", None) is not None and element.dtype.kind in "OSUT"

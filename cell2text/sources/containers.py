"""Open the containers that cells are stored in, on this machine or anywhere fsspec reaches.

`StoredAnnData` streams h5ad files and zarr stores: it reads metadata columns and row ranges, and keeps nothing else in
memory. Every other format is read into memory by `readers`. `open_source` returns a `CellSource`, which applies the
rules on counts and genes. Depends on anndata, h5py and fsspec; zarr is imported when a store is opened.
"""

import functools
import gzip
import hashlib
import io
from collections.abc import Sequence
from typing import Any

import anndata as ad
import fsspec
import h5py
import numpy as np
import pandas as pd

from cell2text.errors import UserError
from cell2text.sources.amounts import check_array, check_element, read_element
from cell2text.sources.blocks import vector_reader
from cell2text.sources.ceilings import check_bytes, check_names, memory_ceiling
from cell2text.sources.census import open_census
from cell2text.sources.checks import BadFileError
from cell2text.sources.discovery import SourceLocation
from cell2text.sources.safety import check_hdf5, check_store, open_hdf5
from cell2text.sources.stored_columns import column_names
from counts_cell2text import CscRows, CsrRows, DenseRows
from errors_cell2text import CEILING_PREFIX, ceiling, first_line
from source_cell2text import SAMPLE_CELLS, AnnDataContainer, CellSource


OPENING_ERRORS: Any = (KeyError, OSError, ValueError, AttributeError, RuntimeError, TypeError, IndexError)
HASH_BLOCK_BYTES = 1 << 20


def open_source(
    location: SourceLocation, *, layer: str | None = None, allow_fractional: bool = False,
    value_filter: str | None = None,
) -> CellSource:  # fmt: skip
    """Open a source for reading.

    Parameters
    ----------
    location
        Location from `find_sources` or `find_census`.
    layer
        Layer with the raw counts, `"X"`, or `"raw"` for `.raw`. Defaults to the matrix that holds integers. Ignored
        for the Census.
    allow_fractional
        Accept non-integer counts, such as expected counts of RSEM.
    value_filter
        Cells of the Census to read, in SOMA's filter language. Defaults to all cells. Ignored for files.

    Raises
    ------
    BadFileError
        If the source is damaged, is not an AnnData, or has no matrix of counts.
    """
    if location.format == "soma":
        return CellSource(open_census(location, value_filter))
    container = open_container(location)
    try:
        return CellSource(container, layer=layer, allow_fractional=allow_fractional)
    except BadFileError:
        container.close()
        raise
    except OPENING_ERRORS as error:
        container.close()
        raise BadFileError(location.name, f"is not a readable AnnData ({first_line(error)}).") from error


def open_container(location: SourceLocation) -> "StoredAnnData | LoadedFile":
    """Open a file: h5ad files and zarr stores for streaming, other formats by reading them into memory."""
    if location.format not in ("h5ad", "zarr"):
        from cell2text.sources.readers import read_anndata

        loaded = read_anndata(location)
        return LoadedFile(loaded.adata, location, location.format, loaded.note)
    stored = StoredAnnData(location)
    if not stored.is_legacy:
        return stored
    stored.close()
    try:
        adata = load_anndata(location)
    except Exception as error:  # anndata raises many classes for old layouts
        raise stored.error(
            f"was written by anndata before 0.7 and cannot be read ({first_line(error)}). Convert it with "
            "anndata 0.10: anndata.read_h5ad(FILE).write_h5ad(NEW)."
        ) from error
    note = "The file was written by anndata before 0.7, so it is read into memory."
    return LoadedFile(adata, location, "h5ad of anndata before 0.7", note)


def needs_conversion(location: SourceLocation) -> bool:
    """Return whether anndata has to read an h5ad file before results can be added to a copy of it."""
    if location.format != "h5ad" or location.url.lower().endswith(".gz"):
        return location.format != "zarr"
    with StoredAnnData(location) as stored:
        return stored.is_legacy


def load_anndata(location: SourceLocation) -> ad.AnnData:
    """Read a file of any format into memory."""
    if location.format == "zarr":
        import zarr

        check_store(location.url.removeprefix("file://"), location.name)
        check_element(zarr.open_group(location.url, mode="r"))
        return ad.io.read_zarr(location.url)
    if location.format == "h5ad":
        compression = "gzip" if location.url.lower().endswith(".gz") else None
        with fsspec.open(location.url, "rb", compression=compression) as file:
            content = io.BytesIO(file.read()) if compression else file
            with open_hdf5(content, location.name) as root:
                check_element(root)
            content.seek(0)
            return ad.io.read_h5ad(content)
    from cell2text.sources.readers import read_anndata

    return read_anndata(location).adata


def _names_damage(read):
    """Decorate a method of `StoredAnnData`, so that an error of a library names the file."""

    @functools.wraps(read)
    def checked(self, *args):
        try:
            return read(self, *args)
        except UserError:
            raise
        except (OSError, ValueError, RuntimeError, TypeError, IndexError) as error:
            raise self.error(f"cannot be read: it is damaged ({first_line(error)}).") from error

    return checked


class LoadedFile(AnnDataContainer):
    """A file that was read into memory."""

    def __init__(self, adata: ad.AnnData, location: SourceLocation, kind: str, note: str = ""):
        super().__init__(adata)
        self.location, self.kind = location, kind
        self.note = " ".join(filter(None, (location.note, note)))

    def error(self, message: str, *, missing: bool = False) -> Exception:
        return BadFileError(self.location.name, message)


class StoredAnnData:
    """Metadata and matrices of one h5ad file or zarr store, read where they are stored.

    Parameters
    ----------
    location
        Location of the file.

    Raises
    ------
    BadFileError
        If the file is damaged or is not an AnnData.
    """

    def __init__(self, location: SourceLocation):
        self.location, self.kind, self.note = location, location.format, location.note
        self.root = self._open()
        self.is_legacy = isinstance(self.root.get("obs"), h5py.Dataset)
        try:
            missing = [name for name in ("obs", "var") if name not in self.root]
            if missing:
                raise self.error(f"is not an AnnData: it lacks {missing} and has {sorted(self.root)}.")
            self.n_cells = 0 if self.is_legacy else _length(self._index("obs"))
            check_names(self.n_cells, "obs")
        except BadFileError:
            self.close()
            raise
        except UserError as error:
            self.close()
            raise self.error(str(error)) from error
        except OPENING_ERRORS as error:
            self.close()
            raise self.error(f"is not a readable AnnData ({first_line(error)}).") from error

    def error(self, message: str, *, missing: bool = False) -> Exception:
        """Return the exception for a fault of this file."""
        return BadFileError(self.location.name, message)

    def _open(self):
        try:
            if self.location.format == "zarr":
                import zarr

                check_store(self.location.url.removeprefix("file://"), self.location.name)
                return zarr.open_group(self.location.url, mode="r")
            self._file = fsspec.open(self.location.url, "rb").open()
            if self.location.url.lower().endswith(".gz"):
                self._file = io.BytesIO(self._decompressed())
            local = self._file.name if self.location.url.startswith("file://") and hasattr(self._file, "name") else None
            root = h5py.File(local or self._file, "r")
            check_hdf5(root, self.location.name)
            return root
        except BadFileError:
            raise
        except Exception as error:  # fsspec, zarr and HDF5 each raise their own classes
            raise self.error(
                f"cannot be opened: it is damaged, truncated or not {self.location.format} ({first_line(error)})."
            ) from error

    def _decompressed(self) -> bytes:
        limit = ceiling("BYTES", memory_ceiling())
        with self._file as compressed, gzip.GzipFile(fileobj=compressed) as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise self.error(
                f"inflates to more than {limit / 2**30:.1f} GiB. Decompress it first (gunzip FILE), or set the "
                f"environment variable {CEILING_PREFIX}BYTES to accept more."
            )
        return content

    def matrices(self) -> list[str]:
        """Return the matrices that may hold counts: `X`, `layers['counts']`, `raw.X`."""
        names = ["X"] if "X" in self.root else []
        names += [f"layers[{name!r}]" for name in sorted(self.root["layers"])] if "layers" in self.root else []
        return names + (["raw.X"] if "raw" in self.root and "X" in self.root["raw"] else [])

    def open_matrix(self, name: str):
        """Return the row reader of a matrix."""
        element = self._element(name)
        encoding = dict(element.attrs).get("encoding-type", "array")
        if encoding not in ("csr_matrix", "csc_matrix"):
            if not hasattr(element, "shape"):
                raise ValueError(f"it is stored as {encoding!r}, not as a matrix")
            check_array(element)
            check_bytes(
                SAMPLE_CELLS * element.dtype.itemsize * int(element.shape[-1]),
                f"{self.location.name}: a block of {name}",
            )
            return DenseRows(element)
        check_element(element if encoding == "csc_matrix" else element["indptr"])
        arrays = [vector_reader(element[part]) for part in ("data", "indices", "indptr")]
        rows: Any = CsrRows if encoding == "csr_matrix" else CscRows
        return rows(*arrays, element.attrs["shape"])

    def _element(self, name: str):
        if name in ("X", "raw.X"):
            return self.root["X"] if name == "X" else self.root["raw"]["X"]
        layers = self.root["layers"]
        return next(layers[key] for key in layers if f"layers[{key!r}]" == name)

    @_names_damage
    def read_var(self, name: str) -> pd.DataFrame:
        """Read the index and the text columns of the `var` that names the columns of a matrix."""
        group = self.root["raw"]["var"] if name == "raw.X" else self.root["var"]
        columns = {}
        for column in column_names(group):
            if _is_text(group[column]):
                columns[column] = np.asarray(read_column(group, column)).astype(object).astype(str)
        return pd.DataFrame(columns, index=pd.Index(read_texts(group[index_name(group)]), dtype=object))

    def obs_columns(self) -> list[str]:
        """Return the names of the columns of `obs`."""
        return column_names(self.root["obs"])

    @_names_damage
    def read_obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """Read columns of all cells as categories of text, one row per cell; missing values stay missing."""
        values = {}
        for name in columns:
            column = pd.Series(read_column(self.root["obs"], name))
            present = column.notna()
            values[name] = column.astype(str).where(present).astype("category")
        return pd.DataFrame(values, index=pd.RangeIndex(self.n_cells))

    @_names_damage
    def read_cell_names(self, rows: np.ndarray) -> np.ndarray:
        """Read the names of the cells `rows`, ascending."""
        if not len(rows):
            return np.zeros(0, dtype=object)
        names = read_texts(self._index("obs"), slice(int(rows[0]), int(rows[-1]) + 1))
        return names[rows - rows[0]]

    def _index(self, part: str):
        return self.root[part][index_name(self.root[part])]

    def close(self) -> None:
        """Close the file, so that its owner can write it."""
        if isinstance(self.root, h5py.File):
            self.root.close()
            self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def fingerprint(location: SourceLocation) -> str:
    """Return the SHA-256 of a file, or of the names and contents of the files in a folder or zarr store.

    A release of the Census is identified by its address.
    """
    if location.format == "soma":  # a public release never changes
        return location.url if location.url.startswith("s3://") else hashlib.sha256(location.url.encode()).hexdigest()
    digest = hashlib.sha256()
    fs, path = fsspec.core.url_to_fs(location.url)
    names = sorted(fs.find(path)) if fs.isdir(path) else [path]
    if location.format == "10x_mtx":
        from cell2text.sources.market_matrix import companions

        names += [fs._strip_protocol(url) for url in companions(location)]
    for name in names:
        digest.update(name[len(path) :].encode())
        with fs.open(name, "rb") as file:
            while block := file.read(HASH_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def index_name(group) -> str:
    """Return the name of the index column of a stored data frame.

    Raises
    ------
    KeyError
        If it has none, as where another tool wrote the file.
    """
    if "_index" not in group.attrs:
        raise KeyError(f"{group.name} does not name its index")
    name = group.attrs["_index"]
    return name.decode() if isinstance(name, bytes) else str(name)


def read_column(group, name: str):
    """Read a column of a stored `obs` or `var`; files of anndata 0.7 store categories apart from their codes."""
    element = group[name]
    _check_rows(group, name, element)
    if "categories" in element.attrs and isinstance(element, h5py.Dataset):
        categories = element.file[element.attrs["categories"]]
        is_string = h5py.check_string_dtype(categories.dtype)
        values = categories.asstr()[:] if is_string else categories[:]
        return pd.Categorical.from_codes(element[:], pd.Index(values).astype(str))
    return read_element(element)


def read_texts(element, rows: slice = slice(None)) -> np.ndarray:
    """Read a stored column of text, such as an index, as an array of `str`."""
    if not hasattr(element, "shape"):  # nullable strings and categories are groups
        return np.asarray(read_element(element)).astype(object)[rows]
    check_array(element)
    if isinstance(element, h5py.Dataset) and h5py.check_string_dtype(element.dtype):
        return np.asarray(element.asstr()[rows], dtype=object)
    values = np.asarray(element[rows])
    return (np.char.decode(values) if values.dtype.kind == "S" else values).astype(object)


def _check_rows(group, name: str, element) -> None:
    """Raise a `UserError` unless a column has as many values as the index of its data frame."""
    if "_index" not in group.attrs:
        return
    rows = _length(group[index_name(group)])
    parts = (
        [element] if hasattr(element, "shape") else [element[part] for part in ("codes", "values") if part in element]
    )
    if parts and parts[0].shape != (rows,):
        raise UserError(
            f"{group.name}/{name} has the shape {parts[0].shape} in a table of {rows:,} rows. The file is damaged."
        )


def _length(element) -> int:
    """Return the number of entries of a stored column."""
    if hasattr(element, "shape"):
        return int(element.shape[0])
    return int(element["codes" if "codes" in element else "values"].shape[0])


def _is_text(element) -> bool:
    if "categories" in element.attrs:
        return True
    if dict(element.attrs).get("encoding-type") in ("categorical", "string-array", "nullable-string-array"):
        return True
    return getattr(element, "dtype", None) is not None and element.dtype.kind in "OSUT"

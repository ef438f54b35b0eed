"""Check what stored arrays ask for before they are read: names, memory, and the size of a decompressed chunk.

A file of some kilobytes can declare terabytes. Depends on h5py, and on anndata when an element is read.
"""

from typing import Any

import h5py
import numpy as np

from cell2text.errors import UserError
from cell2text.sources.ceilings import check_bytes, check_names
from cell2text.sources.inflation import inflates_beyond
from counts_cell2text import MAX_CHUNK_BYTES
from errors_cell2text import excess


TEXT_BYTES = 64  # of a text in memory, beside its characters


def read_element(element) -> Any:
    """Read a stored element of an AnnData into memory, after :func:`check_element`.

    Parameters
    ----------
    element
        Group or array of an open h5ad file or zarr store.
    """
    import anndata as ad

    check_element(element)
    return ad.io.read_elem(element)


def check_element(element) -> None:
    """Raise unless a stored element can be read into memory.

    Parameters
    ----------
    element
        Group or array of an open h5ad file or zarr store. Its headers are read, and no data.

    Raises
    ------
    UserError
        If it holds too many names or bytes, or a chunk that is too large.

    Examples
    --------
    >>> file = h5py.File("large.h5", "w", driver="core", backing_store=False)
    >>> check_element(file.create_dataset("names", (10**8,), dtype="S8"))
    Traceback (most recent call last):
    errors_cell2text.UserError: large.h5: /names holds 100,000,000 names, expected at most 20,000,000. To accept it...
    """
    size = _checked_bytes(element)
    check_bytes(size, _place(element))


def check_array(array) -> None:
    """Raise unless the parts of a stored array can be read: chunks, and the number of names.

    Parameters
    ----------
    array
        Array of an open h5ad file or zarr store.

    Raises
    ------
    UserError
        As :func:`check_element` does.
    """
    if _is_text(array):
        check_names(_length(array), _place(array))
    size = check_chunks(array)
    if size and inflates_beyond(array, size):
        raise UserError(f"{_place(array)} is damaged: a chunk inflates to more than its {size:,} bytes.")


def check_chunks(array) -> int:
    """Return how many bytes a chunk of a stored array declares, 0 without chunks; raise beyond `CHUNK_BYTES`."""
    size = int(np.prod(getattr(array, "chunks", None) or (0,), dtype=np.float64)) * array.dtype.itemsize
    reason = excess("CHUNK_BYTES", size, MAX_CHUNK_BYTES)
    if reason:
        raise UserError(f"{_place(array)} has chunks that would inflate to {size:,} bytes, {reason}.")
    return size


def _checked_bytes(element) -> int:
    """Return how many bytes an element takes in memory, after checking its arrays."""
    if hasattr(element, "keys"):
        return sum(_checked_bytes(element[name]) for name in element)
    if not hasattr(element, "shape"):  # a named type of HDF5
        return 0
    check_array(element)
    return _length(element) * (element.dtype.itemsize + (TEXT_BYTES if _is_text(element) else 0))


def _length(array) -> int:
    return 0 if array.shape is None else int(np.prod(array.shape, dtype=np.float64))  # HDF5 has arrays of no shape


def _is_text(array) -> bool:
    return array.dtype.kind in "OSUT"


def _place(element) -> str:
    """Return the file of an element, if it is known, and the element's name."""
    if isinstance(element, (h5py.Dataset, h5py.Group)):
        file, name = element.file.filename, element.name
        return f"{file}: {name}" if isinstance(file, str) else str(name)
    return f"{element.store_path.store}/{element.path}".removeprefix("file://")

"""Ceilings on what stored arrays may ask for: names, memory, and the size of a decompressed chunk.

A file of some kilobytes can declare terabytes. Sizes are compared with the ceilings of :func:`errors_cell2text.ceiling`
before anything is read. Depends on h5py and psutil.
"""

import zlib
from typing import Any

import anndata as ad
import h5py
import numpy as np
import psutil

from cell2text.errors import UserError
from counts_cell2text import MAX_CHUNK_BYTES
from errors_cell2text import excess


MAX_NAMES = 20_000_000  # texts in one array, such as the names of all cells
TEXT_BYTES = 64  # of a text in memory, beside its characters
MEMORY_SHARE = 0.5  # of the free memory that content may take
MAX_INFLATION = 1_032  # of deflate, which gzip uses
UNCHECKED_BYTES = 256 << 20  # that a chunk may inflate to without a closer look
INFLATE_STEP_BYTES = 1 << 20


def memory_ceiling() -> int:
    """Return how many bytes content may take in memory if the environment sets no ceiling `BYTES`."""
    return int(psutil.virtual_memory().available * MEMORY_SHARE)


def check_bytes(size: int, what: str) -> None:
    """Raise a `UserError` if content would take more than the ceiling `BYTES`, half of the free memory by default.

    Parameters
    ----------
    size
        Bytes in memory.
    what
        What takes them, for the message.
    """
    reason = excess("BYTES", size, memory_ceiling())
    if reason:
        raise UserError(f"{what} takes {size:,} bytes, {reason}.")


def check_names(number: int, what: str) -> None:
    """Raise a `UserError` if there are more texts than the ceiling `NAMES`.

    Parameters
    ----------
    number
        Number of texts.
    what
        What holds them, for the message.
    """
    reason = excess("NAMES", number, MAX_NAMES)
    if reason:
        raise UserError(f"{what} holds {number:,} names, {reason}.")


def read_element(element) -> Any:
    """Read a stored element of an AnnData into memory, after :func:`check_element`.

    Parameters
    ----------
    element
        Group or array of an open h5ad file or zarr store.
    """
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
    if isinstance(array, h5py.Dataset) and array.compression == "gzip":
        _check_inflation(array, size)


def check_chunks(array) -> int:
    """Return how many bytes a chunk of a stored array declares, 0 without chunks; raise beyond `CHUNK_BYTES`."""
    size = int(np.prod(getattr(array, "chunks", None) or (0,), dtype=np.float64)) * array.dtype.itemsize
    reason = excess("CHUNK_BYTES", size, MAX_CHUNK_BYTES)
    if reason:
        raise UserError(f"{_place(array)} has chunks that would inflate to {size:,} bytes, {reason}.")
    return size


def _checked_bytes(element) -> int:
    """Return how many bytes an element takes in memory, after checking its arrays."""
    if not hasattr(element, "shape"):
        return sum(_checked_bytes(element[name]) for name in element)
    check_array(element)
    return _length(element) * (element.dtype.itemsize + (TEXT_BYTES if _is_text(element) else 0))


def _check_inflation(dataset: h5py.Dataset, declared: int) -> None:
    """Raise if a chunk inflates to more than its header declares: HDF5 would fill the memory with it."""
    suspects: list = []
    if dataset.id.get_storage_size() * MAX_INFLATION > UNCHECKED_BYTES:
        dataset.id.chunk_iter(lambda chunk: suspects.append(chunk) if _may_inflate(chunk, declared) else None)
    for chunk in suspects:
        inflater, content = zlib.decompressobj(), dataset.id.read_direct_chunk(chunk.chunk_offset)[1]
        found = 0
        while content and not inflater.eof and found <= declared:
            found += len(inflater.decompress(content, INFLATE_STEP_BYTES))
            content = inflater.unconsumed_tail
        if found > declared:
            raise UserError(f"{_place(dataset)} is damaged: a chunk inflates to more than its {declared:,} bytes.")


def _may_inflate(chunk, declared: int) -> bool:
    """Return whether a chunk could inflate to far more than it declares."""
    return chunk.filter_mask == 0 and chunk.size * MAX_INFLATION > max(UNCHECKED_BYTES, declared)


def _length(array) -> int:
    return int(np.prod(array.shape, dtype=np.float64))


def _is_text(array) -> bool:
    return array.dtype.kind in "OSUT"


def _place(element) -> str:
    """Return the file of an element, if it is known, and the element's name."""
    if isinstance(element, (h5py.Dataset, h5py.Group)):
        file, name = element.file.filename, element.name
        return f"{file}: {name}" if isinstance(file, str) else str(name)
    return f"{element.store_path.store}/{element.path}".removeprefix("file://")

"""Find chunks that inflate to more than the header of their array declares: HDF5 and zarr would fill the memory.

HDF5 and the codecs of zarr inflate a chunk to its end before they compare its size. Depends on h5py, PyArrow and
`zarr_chunks`.
"""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import h5py

from cell2text.sources.zarr_chunks import ChunkLayout, layout_of, places_of_chunks


MAX_INFLATION = 1_032  # of deflate, which gzip and zlib use
UNCHECKED_BYTES = 256 << 20  # that a chunk may inflate to without a closer look
STEP_BYTES = 1 << 20
HEAD_BYTES = 18
ZSTD = b"\x28\xb5\x2f\xfd"
METADATA = {"zarr.json", ".zarray", ".zattrs"}
_ZSTD_SIZE_BYTES = (1, 2, 4, 8)  # of the size in the header of a frame, by its flag
_ANY_HEADER_BITS = 47  # zlib detects the headers of gzip and zlib


def inflates_beyond(array, declared: int) -> bool:
    """Return whether a chunk of a stored array inflates to more than it declares, and to more than `UNCHECKED_BYTES`.

    Parameters
    ----------
    array
        Array of an open h5ad file or zarr store. Stores that are not folders of this machine are not checked.
    declared
        Bytes of a chunk, by the header of the array.

    Raises
    ------
    UserError
        If an array of zarr has a codec that is not read, or its shards are damaged.
    """
    if isinstance(array, h5py.Dataset):
        return array.compression == "gzip" and _hdf5_inflates(array, declared)
    layout, root = layout_of(array), getattr(array.store_path.store, "root", None)
    if not isinstance(root, Path):
        return False
    return any(_file_inflates(path, declared, layout) for path in _chunk_files(root / array.path))


def _hdf5_inflates(dataset: h5py.Dataset, declared: int) -> bool:
    suspects: list = []
    if dataset.id.get_storage_size() * MAX_INFLATION > UNCHECKED_BYTES:
        dataset.id.chunk_iter(lambda chunk: suspects.append(chunk) if _may_inflate(chunk.size, declared) else None)
    contents, limit = (dataset.id.read_direct_chunk(chunk.chunk_offset) for chunk in suspects), _limit(declared)
    return any(not skipped and _deflated_exceeds(content, limit) for skipped, content in contents)


def _chunk_files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names if name not in METADATA)


def _file_inflates(path: Path, declared: int, layout: ChunkLayout) -> bool:
    """Return whether a chunk in a file inflates to more than it declares."""
    if layout.compressor is None:
        return False
    size = path.stat().st_size
    with open(path, "rb") as file:
        places = places_of_chunks(file, size, layout)
        return any(_chunk_inflates(file, *place, declared, layout.compressor) for place in places)


def _chunk_inflates(file: BinaryIO, start: int, size: int, declared: int, compressor: str) -> bool:
    """Return whether a compressed chunk inflates to more than it declares."""
    file.seek(start)
    head = file.read(min(size, HEAD_BYTES))
    if compressor == "deflate":
        return _may_inflate(size, declared) and _deflated_exceeds(head + file.read(size - len(head)), _limit(declared))
    if compressor == "blosc":
        stated = int.from_bytes(head[4:8], "little")
    elif head.startswith(ZSTD) and (found := _zstd_size(head)) is not None:
        stated = found
    else:
        return _zstd_exceeds(head + file.read(size - len(head)), _limit(declared))
    return stated > _limit(declared)


def _zstd_size(head: bytes) -> int | None:
    """Return the size that the header of a Zstandard frame states, if any (RFC 8878, section 3.1.1)."""
    if len(head) < HEAD_BYTES:
        return None
    flag, single, dictionary = head[4] >> 6, head[4] >> 5 & 1, head[4] & 3
    if not flag and not single:
        return None
    start = 5 + (not single) + (0, 1, 2, 4)[dictionary]
    size = int.from_bytes(head[start : start + _ZSTD_SIZE_BYTES[flag]], "little")
    return size + 256 if flag == 1 else size


def _zstd_exceeds(content: bytes, limit: int) -> bool:
    """Return whether Zstandard frames inflate to more bytes, without keeping them; damaged ones do not."""
    import pyarrow as pa

    found = 0
    try:
        with pa.input_stream(pa.py_buffer(content), compression="zstd") as stream:
            while found <= limit and (block := stream.read(STEP_BYTES)):
                found += len(block)
    except (OSError, pa.ArrowInvalid):  # reading the chunk reports this
        return False
    return found > limit


def _limit(declared: int) -> int:
    """Return how many bytes a chunk may inflate to. Texts can take more than their array declares."""
    return max(UNCHECKED_BYTES, declared)


def _may_inflate(stored: int, declared: int) -> bool:
    return stored * MAX_INFLATION > _limit(declared)


def _deflated_exceeds(content: bytes, limit: int) -> bool:
    """Return whether a stream of gzip or zlib inflates to more bytes, without keeping them; a damaged one does not."""
    inflater, found = zlib.decompressobj(_ANY_HEADER_BITS), 0
    try:
        while content and not inflater.eof and found <= limit:
            found += len(inflater.decompress(content, STEP_BYTES))
            content = inflater.unconsumed_tail
    except zlib.error:  # reading the chunk reports this
        return False
    return found > limit


__all__ = ["inflates_beyond"]

"""Find chunks that inflate to more than the header of their array declares: HDF5 and zarr would fill the memory.

HDF5 and the codecs of zarr inflate a chunk to its end before they compare its size. Depends on h5py.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import h5py

from cell2text.errors import UserError


MAX_INFLATION = 1_032  # of deflate, which gzip and zlib use
UNCHECKED_BYTES = 256 << 20  # that a chunk may inflate to without a closer look
STEP_BYTES = 1 << 20
HEAD_BYTES = 18
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
METADATA = {"zarr.json", ".zarray", ".zattrs"}
INDEX_CODECS = (["bytes"], ["bytes", "crc32c"])  # of the index of a shard
CHECKSUM_BYTES = 4
NO_CHUNK = 2**64 - 1  # offset and size of an empty chunk in the index of a shard
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
        If the array is stored in shards that cannot be checked.
    """
    if isinstance(array, h5py.Dataset):
        return array.compression == "gzip" and _hdf5_inflates(array, declared)
    root = getattr(array.store_path.store, "root", None)
    if not isinstance(root, Path):
        return False
    shards = _shards_of(array)
    return any(_file_inflates(path, declared, shards) for path in _chunk_files(root / array.path))


def _hdf5_inflates(dataset: h5py.Dataset, declared: int) -> bool:
    suspects: list = []
    if dataset.id.get_storage_size() * MAX_INFLATION > UNCHECKED_BYTES:
        dataset.id.chunk_iter(lambda chunk: suspects.append(chunk) if _may_inflate(chunk.size, declared) else None)
    contents = (dataset.id.read_direct_chunk(chunk.chunk_offset) for chunk in suspects)
    return any(not skipped and _deflated_exceeds(content, declared) for skipped, content in contents)


def _chunk_files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names if name not in METADATA)


def _shards_of(array) -> tuple[int, bool, int] | None:
    """Return number of chunks, whether the index is at the end, and its bytes, for an array in shards; else None."""
    if getattr(array, "shards", None) is None:
        return None
    codecs = [codec.to_dict() for codec in array.metadata.codecs]
    shards = codecs[-1].get("configuration", {})
    index = [codec["name"] for codec in shards.get("index_codecs", ())]
    nested = any(codec["name"] == "sharding_indexed" for codec in shards.get("codecs", ()))
    if codecs[-1]["name"] != "sharding_indexed" or nested or index not in INDEX_CODECS:
        raise UserError(
            f"{array.store_path}: shards within shards, compressed shards and compressed indices are not read. Store "
            "the array in chunks, or in shards as zarr creates them."
        )
    n_chunks = 1
    for shard, chunk in zip(array.shards, array.chunks):
        n_chunks *= -(-shard // chunk)
    at_end = str(shards.get("index_location", "end")).endswith("end")
    return n_chunks, at_end, 16 * n_chunks + CHECKSUM_BYTES * (len(index) - 1)


def _file_inflates(path: Path, declared: int, shards: tuple[int, bool, int] | None) -> bool:
    """Return whether a chunk in a file inflates to more than it declares."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if shards is None:
            return _chunk_inflates(file, 0, size, declared)
        n_chunks, at_end, index_bytes = shards
        if size < index_bytes:  # whoever reads the shard says so
            return False
        file.seek(size - index_bytes if at_end else 0)
        places = struct.unpack(f"<{2 * n_chunks}Q", file.read(16 * n_chunks))
        stored = {place for place in zip(places[::2], places[1::2]) if NO_CHUNK not in place and sum(place) <= size}
        return any(_chunk_inflates(file, *place, declared) for place in sorted(stored))


def _chunk_inflates(file: BinaryIO, start: int, size: int, declared: int) -> bool:
    """Return whether a chunk that gzip, zlib, Zstandard or Blosc compressed inflates to more than it declares."""
    file.seek(start)
    head = file.read(min(size, HEAD_BYTES))
    if head.startswith((GZIP, *ZLIB)):
        return _may_inflate(size, declared) and _deflated_exceeds(head + file.read(size - len(head)), declared)
    stated = _zstd_size(head) if head.startswith(ZSTD) else 0
    return stated > max(UNCHECKED_BYTES, declared)


def _zstd_size(head: bytes) -> int:
    """Return the size that the header of a Zstandard frame states, 0 if it states none (RFC 8878, section 3.1.1)."""
    if len(head) < HEAD_BYTES:
        return 0
    flag, single, dictionary = head[4] >> 6, head[4] >> 5 & 1, head[4] & 3
    if not flag and not single:
        return 0
    start = 5 + (not single) + (0, 1, 2, 4)[dictionary]
    size = int.from_bytes(head[start : start + _ZSTD_SIZE_BYTES[flag]], "little")
    return size + 256 if flag == 1 else size


def _may_inflate(stored: int, declared: int) -> bool:
    return stored * MAX_INFLATION > max(UNCHECKED_BYTES, declared)


def _deflated_exceeds(content: bytes, declared: int) -> bool:
    """Return whether a stream of gzip or zlib inflates to more bytes, without keeping them; a damaged one does not."""
    inflater, found = zlib.decompressobj(_ANY_HEADER_BITS), 0
    try:
        while content and not inflater.eof and found <= declared:
            found += len(inflater.decompress(content, STEP_BYTES))
            content = inflater.unconsumed_tail
    except zlib.error:  # whoever reads the chunk says so
        return False
    return found > declared


__all__ = ["inflates_beyond"]

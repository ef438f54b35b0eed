"""How the chunks of a zarr array are compressed, and where they lie in the files of its store.

Only codecs are read whose chunks :mod:`cell2text.sources.inflation` can check. Depends on NumPy only.
"""

from dataclasses import dataclass
from math import prod
from typing import BinaryIO

import numpy as np

from cell2text.errors import UserError


# Compressors by the name of their codec in both versions of the format.
COMPRESSORS = {"gzip": "deflate", "zlib": "deflate", "zstd": "zstd", "blosc": "blosc"}
# Codecs that keep the number of bytes, or change it by a small factor.
OTHER_CODECS = {
    "astype", "bitround", "bytes", "crc32c", "delta", "fixedscaleoffset", "packbits", "quantize", "shuffle",
    "transpose", "vlen-bytes", "vlen-utf8",
}  # fmt: skip
SHARDS = "sharding_indexed"
INDEX_CODECS = (["bytes"], ["bytes", "crc32c"])
CHECKSUM_BYTES = 4
NO_CHUNK = np.uint64(2**64 - 1)  # offset and size of a chunk that is not stored


@dataclass(frozen=True)
class ChunkLayout:
    """How the chunks of an array are stored.

    Parameters
    ----------
    compressor
        `"deflate"`, `"zstd"`, `"blosc"`, or None.
    chunks_per_shard
        Number of chunks in a file; None if every file is one chunk.
    index_at_end
        Whether a shard's index is at its end; otherwise it is at its beginning.
    index_bytes
        Bytes of the index, with its checksum.
    """

    compressor: str | None
    chunks_per_shard: int | None = None
    index_at_end: bool = True
    index_bytes: int = 0


def layout_of(array) -> ChunkLayout:
    """Return how the chunks of a zarr array are stored.

    Raises
    ------
    UserError
        If the array has a codec that is not read.
    """
    if array.metadata.zarr_format == 2:
        names = [codec.codec_id for codec in (*(array.metadata.filters or ()), array.metadata.compressor) if codec]
        return ChunkLayout(_compressor_among(names, array))
    codecs = [codec.to_dict() for codec in array.metadata.codecs]
    names = [str(codec["name"]) for codec in codecs]
    if SHARDS not in names:
        return ChunkLayout(_compressor_among(names, array))
    options = codecs[-1].get("configuration", {})
    index = options.get("index_codecs", [])
    byte_orders = {codec.get("configuration", {}).get("endian", "little") for codec in index}
    if names != [SHARDS] or [codec["name"] for codec in index] not in INDEX_CODECS or byte_orders - {"little", None}:
        raise _not_read(array, "shards with other codecs than zarr creates them with")
    compressor = _compressor_among([str(codec["name"]) for codec in options.get("codecs", ())], array)
    n_chunks = prod(-(-shard // chunk) for shard, chunk in zip(array.shards, array.chunks))
    at_end = str(options.get("index_location", "end")).endswith("end")
    return ChunkLayout(compressor, n_chunks, at_end, 16 * n_chunks + CHECKSUM_BYTES * (len(index) - 1))


def places_of_chunks(file: BinaryIO, size: int, layout: ChunkLayout) -> list[tuple[int, int]]:
    """Return where the chunks of a file begin, and how many bytes of the file they can take.

    Raises
    ------
    UserError
        If the file is a shard whose chunks overlap.
    """
    if layout.chunks_per_shard is None:
        return [(0, size)]
    if size < layout.index_bytes:  # reading the shard reports this
        return []
    file.seek(size - layout.index_bytes if layout.index_at_end else 0)
    index = np.frombuffer(file.read(16 * layout.chunks_per_shard), dtype="<u8").reshape(-1, 2)
    starts, sizes = index[(index != NO_CHUNK).any(axis=1)].T
    inside = starts < size
    starts, sizes = starts[inside].astype(np.int64), sizes[inside]
    sizes = np.minimum(sizes, (size - starts).astype(np.uint64)).astype(np.int64)
    order = np.argsort(starts, kind="stable")
    starts, sizes = starts[order], sizes[order]
    if (starts[1:] < (starts + sizes)[:-1]).any():
        raise UserError(f"{file.name} is damaged: its chunks overlap.")
    return list(zip(starts.tolist(), sizes.tolist()))


def _compressor_among(names: list[str], array) -> str | None:
    """Return the only compressor among codecs; raise `UserError` for codecs that are not read."""
    plain = [name.removeprefix("numcodecs.") for name in names]
    unknown = [name for name in plain if name not in COMPRESSORS and name not in OTHER_CODECS]
    if unknown:
        raise _not_read(array, f"the codec {unknown[0]}")
    found = [COMPRESSORS[name] for name in plain if name in COMPRESSORS]
    if len(found) > 1:
        raise _not_read(array, "several compressors")
    return found[0] if found else None


def _not_read(array, what: str) -> UserError:
    place = str(array.store_path).removeprefix("file://")
    return UserError(f"{place} is stored with {what}, which is not read. Store it with gzip, zstd or Blosc alone.")


__all__ = ["ChunkLayout", "layout_of", "places_of_chunks"]

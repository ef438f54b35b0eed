"""Stream counts in blocks of cells, and decompress row ranges of HDF5 files.

`stream_checked_blocks` reads from any open source. `CompressedRows` decompresses gzip chunks itself, which is several
times faster than HDF5's own filter pipeline. Depends on h5py and isal.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import scipy.sparse as sp
from isal import isal_zlib

from cell2text.sources.checks import check_counts


BLOCK_CELLS = 256
GZIP, SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE


def stream_checked_blocks(
    reader, rows: np.ndarray, *, allow_fractional: bool
) -> Iterator[tuple[np.ndarray, sp.csr_matrix]]:
    """Yield blocks of counts, reading the next block in a thread while the caller works on the current one.

    Parameters
    ----------
    reader
        Open source.
    rows
        Rows of the cells to read, ascending.
    allow_fractional
        Accept non-integer counts.

    Yields
    ------
    Rows of at most `BLOCK_CELLS` cells, and their counts as CSR, shape (n_rows, n_genes), with sorted indices.

    Raises
    ------
    BadFileError
        If a value is not a count, or the source is damaged.
    """
    parts = np.split(rows, range(BLOCK_CELLS, len(rows), BLOCK_CELLS))
    with ThreadPoolExecutor(max_workers=1) as ahead:
        pending = ahead.submit(reader.read_counts, parts[0])
        for i, part in enumerate(parts):
            block = pending.result()
            block.sort_indices()  # sums of scores then round alike, however a file orders its genes
            if i + 1 < len(parts):
                pending = ahead.submit(reader.read_counts, parts[i + 1])
            check_counts(reader, part, block, allow_fractional=allow_fractional)
            yield part, block


class CompressedRows:
    """Row ranges of a CSR matrix stored in an HDF5 group."""

    def __init__(self, group: h5py.Group):
        self.shape = tuple(int(size) for size in group.attrs["shape"])
        self._indptr = group["indptr"]
        self._vectors = {name: _ChunkedVector(group[name]) for name in ("data", "indices")}

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Read rows `start` to `stop`, shape (stop - start, n_columns).

        Raises
        ------
        ValueError
            If a column index is outside the matrix.
        """
        indptr = self._indptr[start : stop + 1].astype(np.int64)
        data, indices = (self._vectors[name].read(indptr[0], indptr[-1]) for name in ("data", "indices"))
        if len(data) and not 0 <= indices.min() <= indices.max() < self.shape[1]:
            raise ValueError(
                f"column indices {indices.min()} to {indices.max()} in a matrix of {self.shape[1]} columns"
            )
        matrix = sp.csr_matrix((len(indptr) - 1, self.shape[1]), dtype=data.dtype)
        index_type = np.int32 if len(data) < 2**31 else np.int64
        matrix.data, matrix.indices = data, indices.astype(index_type, copy=False)
        matrix.indptr = (indptr - indptr[0]).astype(index_type)
        return matrix


class _ChunkedVector:
    """Ranges of a one-dimensional HDF5 data set; caches the last chunk, in which the next range starts."""

    def __init__(self, dataset: h5py.Dataset):
        self._dataset = dataset
        plist = dataset.id.get_create_plist()
        self._filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        self._direct = dataset.chunks is not None and self._filters in ([GZIP], [SHUFFLE, GZIP])
        self._last = (-1, np.empty(0))

    def read(self, start: int, stop: int) -> np.ndarray:
        if not self._direct:
            return self._dataset[start:stop]
        size = self._dataset.chunks[0]
        values = np.empty(stop - start, dtype=self._dataset.dtype.newbyteorder("="))
        for number in range(start // size, -(-stop // size)):
            low, high = max(start, number * size), min(stop, (number + 1) * size)
            values[low - start : high - start] = self._chunk(number)[low - number * size : high - number * size]
        return values

    def _chunk(self, number: int) -> np.ndarray:
        if self._last[0] != number:
            self._last = (number, self._decompress(number))
        return self._last[1]

    def _decompress(self, number: int) -> np.ndarray:
        dtype, size = self._dataset.dtype, self._dataset.chunks[0]
        try:
            skipped_filters, content = self._dataset.id.read_direct_chunk((number * size,))
        except OSError:  # a chunk that was never written
            skipped_filters, content = -1, b""
        if skipped_filters:
            return self._dataset[number * size : (number + 1) * size]
        raw = isal_zlib.decompress(content, bufsize=size * dtype.itemsize)
        if SHUFFLE in self._filters:
            raw = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1).T.tobytes()
        return np.frombuffer(raw, dtype)

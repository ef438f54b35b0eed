"""Read ranges of one-dimensional HDF5 data sets, decompressing gzip chunks several times faster than HDF5's filters.

Depends on h5py and isal.
"""

import h5py
import numpy as np
from isal import isal_zlib

from cell2text.sources.amounts import check_array, check_chunks


GZIP, SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE


def vector_reader(array):
    """Return a stored array, or a reader of it that slices the same way and is faster.

    Parameters
    ----------
    array
        Data set of HDF5, or array of zarr.

    Raises
    ------
    UserError
        If a chunk would inflate to more than a ceiling; see :func:`cell2text.sources.amounts.check_array`.
    """
    if isinstance(array, h5py.Dataset) and array.chunks is not None and len(array.shape) == 1:
        properties = array.id.get_create_plist()
        filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
        if filters in ([GZIP], [SHUFFLE, GZIP]):
            check_chunks(array)
            return ChunkedVector(array, filters)
    check_array(array)
    return array


class ChunkedVector:
    """Ranges of a one-dimensional HDF5 data set; caches the last chunk, in which the next range starts.

    Parameters
    ----------
    dataset
        Data set with gzip chunks.
    filters
        Numbers of its HDF5 filters.
    """

    def __init__(self, dataset: h5py.Dataset, filters: list[int]):
        self._dataset, self._filters = dataset, filters
        self.shape, self.dtype = dataset.shape, dataset.dtype
        self._last = (-1, np.empty(0))

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        size = self._dataset.chunks[0]
        values = np.empty(max(0, stop - start), dtype=self.dtype.newbyteorder("="))
        for number in range(start // size, -(-stop // size)):
            low, high = max(start, number * size), min(stop, (number + 1) * size)
            values[low - start : high - start] = self._chunk(number)[low - number * size : high - number * size]
        return values

    def _chunk(self, number: int) -> np.ndarray:
        if self._last[0] != number:
            self._last = (number, self._decompress(number))
        return self._last[1]

    def _decompress(self, number: int) -> np.ndarray:
        """Return the values of a chunk; a chunk that inflates to another size than declared is damaged."""
        size = self._dataset.chunks[0]
        try:
            skipped_filters, content = self._dataset.id.read_direct_chunk((number * size,))
        except OSError:  # a chunk that was never written
            skipped_filters, content = -1, b""
        if skipped_filters:
            return self._dataset[number * size : (number + 1) * size]
        expected = size * self.dtype.itemsize
        inflater = isal_zlib.decompressobj()
        raw = inflater.decompress(content, expected + 1)
        if len(raw) != expected or not inflater.eof:
            raise ValueError(f"a chunk inflates to another size than its {expected:,} bytes")
        if SHUFFLE in self._filters:
            raw = np.frombuffer(raw, np.uint8).reshape(self.dtype.itemsize, -1).T.tobytes()
        return np.frombuffer(raw, self.dtype)

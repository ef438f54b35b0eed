"""Check that a matrix holds raw counts, and read its rows as CSR from any storage.

`row_reader` wraps a matrix of any kind, `examine` judges a sample of its values, and `check_counts` checks and rounds
each block that is read. Depends on NumPy and SciPy; `source_cell2text.py` chooses the matrix. Numba is optional: it
gives the same results faster.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy.sparse as sp


try:
    import numba
except ImportError:
    numba = None  # type: ignore[assignment]


FLAWS = {
    "nan": "NaN or infinite values",
    "scaled": "negative values",
    "fractional": "fractional values",
    "normalised": "normalised values",
    "log": "log-normalised values",
    "root": "square roots of counts",
}
_INVALID = ("nan", "scaled")  # no other property of such values is examined
ROUNDING_TOLERANCE = 1e-3  # a count may differ from an integer by this much, as after a division and multiplication
MAX_CHUNK_BYTES = 1 << 31  # a compressed chunk may inflate to this size
_NUMBA_MIN_CELLS = 256  # compiling costs more than it saves for fewer cells
_MAX_LOG_VALUE = 20.0  # log2 of a million; counts of a block of cells exceed it
_MAX_LOG_INTEGERS = 0.1  # share of integers in a cell of logarithms
_MIN_CELLS_OF_EVIDENCE = 20  # integer cells that show that a matrix holds counts although some cells are estimated
_MIN_MULTIPLES = 8  # values of a cell that are multiples of its smallest one; fewer may be so by chance
_MAX_ENTRIES_PER_VALUE = 16  # of a sparse matrix, whose duplicate entries are summed
_MIN_ESTIMATED_SHARE = 0.5  # share of non-integer values in a cell of estimated counts; fewer point to damage


@dataclass(frozen=True)
class Flaw:
    """A value that is not a raw count.

    Args:
        kind: Key of `FLAWS`.
        position: Position in the `data` of the block.
        detail: What the values look like, for messages; empty if the kind says it all.
    """

    kind: str
    position: int
    detail: str = ""


def row_sums(block: sp.csr_matrix) -> np.ndarray:
    """Return the sum of every row in float64, shape `(n_rows,)`."""
    return np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()


def find_flaw(block: sp.csr_matrix, *, allow_fractional: bool = False) -> Flaw | None:
    """Find the first value that is not a count.

    Values within `ROUNDING_TOLERANCE` of an integer are counts.

    Args:
        block (`scipy.sparse.csr_matrix`): Cells by genes.
        allow_fractional (`bool`, defaults to `False`):
            Accept non-integer counts. Logarithms are refused nevertheless.

    Returns:
        The flaw, or None if all values are counts.

    Examples:

    ```python
    >>> find_flaw(sp.csr_matrix([[1, 2.5]])).kind
    'fractional'
    >>> find_flaw(sp.csr_matrix([[1, 25.5]]), allow_fractional=True)

    ```
    """
    data = block.data
    if data.dtype.kind in "bu" or not len(data):
        return None
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        return Flaw("nan", int((~np.isfinite(data)).argmax()))
    if data.min() < 0:
        return Flaw("scaled", int((data < 0).argmax()))
    fractional = _is_fractional(data)
    if fractional is None:
        return None
    first = int(fractional.argmax())
    cells = block[np.flatnonzero(_share_per_row(block, fractional) > 0)].astype(np.float64)
    cells.eliminate_zeros()
    kind, detail = _transformation(cells)
    return None if allow_fractional and kind in ("fractional", "normalised") else Flaw(kind, first, detail)


def check_counts(
    block: sp.csr_matrix, *, allow_fractional: bool = False, allow_estimated: bool = False
) -> tuple[sp.csr_matrix, Flaw | None, int]:
    """Check a block of counts and bring it into canonical form.

    Args:
        block (`scipy.sparse.csr_matrix`): Cells by genes. It is not changed.
        allow_fractional (`bool`, defaults to `False`): Accept non-integer counts.
        allow_estimated (`bool`, defaults to `False`):
            Accept cells with mostly non-integer values, such as Smart-seq2 cells in a file of UMI counts.

    Returns:
        The block with sorted column indices, duplicate entries summed and rounding errors removed; the first flaw or
        None; and the number of cells with non-integer counts.
    """
    if _is_clean(block):
        return block, None, 0
    if not block.has_canonical_format:
        block = block.copy()
        block.sum_duplicates()
    flaw = find_flaw(block, allow_fractional=allow_fractional)
    fractional = None if flaw and flaw.kind in _INVALID else _is_fractional(block.data)
    if fractional is None:
        return _rounded(block), flaw, 0
    per_cell = _share_per_row(block, fractional)
    estimated = int((per_cell > 0).sum())
    damaged = ((per_cell > 0) & (per_cell < _MIN_ESTIMATED_SHARE)).any()
    if flaw and flaw.kind in ("fractional", "normalised") and allow_estimated and not damaged:
        flaw = None
    return block, flaw, estimated


def _is_clean(block: sp.csr_matrix) -> bool:
    """Return whether a large block holds sorted indices and non-negative integers alone; False if unknown."""
    if numba is None or block.shape[0] < _NUMBA_MIN_CELLS or block.data.dtype not in (np.float32, np.float64):
        return False
    clean = _compiled_scan()(
        block.indptr.astype(np.int64, copy=False), block.indices.astype(np.int32, copy=False), block.data
    )
    if clean:
        block.has_canonical_format = True  # spares a second pass over the indices
    return clean


def _scan(indptr, indices, data):
    """Return whether the indices of each row rise and all values are non-negative integers."""
    for row in range(len(indptr) - 1):
        previous = -1
        for position in range(indptr[row], indptr[row + 1]):
            column, value = indices[position], data[position]
            if column <= previous or not (0 <= value < 1e15) or value != np.floor(value):
                return False
            previous = column
    return True


@cache
def _compiled_scan():
    return numba.njit(nogil=True, cache=True)(_scan)


def holds_counts(sample: sp.csr_matrix) -> tuple[Flaw | None, bool]:
    """Judge a sample of cells.

    Returns:
        The flaw of the sample, None if it holds counts; and whether it shows that other cells of the matrix may hold
        estimated counts: most of at least `_MIN_CELLS_OF_EVIDENCE` cells hold integers.
    """
    flaw = find_flaw(sample)
    if flaw is not None and flaw.kind in _INVALID:
        return flaw, False
    fractional = _is_fractional(sample.data)
    shares = np.zeros(sample.shape[0]) if fractional is None else _share_per_row(sample, fractional)
    filled = np.diff(sample.indptr) > 0
    integer = int(((shares == 0) & filled).sum())
    mostly = integer >= _MIN_CELLS_OF_EVIDENCE and integer > filled.sum() / 2
    if flaw is None or not mostly:
        return flaw, mostly
    rows = sample[np.flatnonzero(shares > 0)]
    if find_flaw(rows, allow_fractional=True) is not None or (shares[shares > 0] < _MIN_ESTIMATED_SHARE).any():
        return flaw, mostly
    return None, mostly


def name_value(block: sp.csr_matrix, position: int, name_of) -> str:
    """Format a value of a block and the name of its cell, which `name_of` returns for a row."""
    row = int(np.searchsorted(block.indptr, position, side="right")) - 1
    return f"cell {str(name_of(row))!r}: {block.data[position]:.6g}"


def _is_fractional(data: np.ndarray) -> np.ndarray | None:
    """Return which values are not integers, None if all are."""
    if data.dtype.kind != "f":
        return None
    deviation = np.abs(data - np.rint(data))
    if not deviation.any():
        return None
    fractional = deviation > ROUNDING_TOLERANCE
    return fractional if fractional.any() else None


def _rounded(block: sp.csr_matrix) -> sp.csr_matrix:
    """Return the block without rounding errors. Values that round to zero are dropped."""
    rounded = np.rint(block.data) if block.data.dtype.kind == "f" else block.data
    if not (rounded != block.data).any():
        return block
    block = sp.csr_matrix((rounded, block.indices.copy(), block.indptr.copy()), shape=block.shape)
    block.eliminate_zeros()
    return block


def _share_per_row(block: sp.csr_matrix, flags: np.ndarray) -> np.ndarray:
    """Return the share of flagged values of each row, shape `(n_rows,)`; 0 for an empty row."""
    lengths = np.diff(block.indptr)
    sums = np.add.reduceat(np.append(flags, 0).astype(np.int64), block.indptr[:-1])
    return np.where(lengths > 0, sums, 0) / np.maximum(lengths, 1)


def _transformation(cells: sp.csr_matrix) -> tuple[str, str]:
    """Return the kind of the values of cells that are not counts, and what shows it."""
    sums = row_sums(cells)
    if len(sums) > 1 and np.ptp(sums) < 0.001 * sums.mean():
        return "normalised", f"every cell sums to {sums.mean():,.6g}"
    if _are_multiples(cells, lambda x: x):
        return "normalised", "counts scaled per cell"
    if _are_multiples(cells, np.square):
        return "root", ""
    largest = cells.data.max()
    if largest >= _MAX_LOG_VALUE:
        return "fractional", ""
    for name, inverse in (("log1p", np.expm1), ("log2(x + 1)", lambda x: np.exp2(x) - 1)):
        linear = cells.copy()
        linear.data = inverse(linear.data)
        sums = row_sums(linear)
        if len(sums) > 1 and np.ptp(sums) < 0.01 * sums.mean():
            return "log", f"{name} of counts scaled to {sums.mean():,.6g} per cell"
        if _are_multiples(cells, inverse):
            return "log", f"{name} of counts"
    integers = np.count_nonzero(cells.data == np.rint(cells.data)) / len(cells.data)
    return ("log", f"no value exceeds {largest:.3g}") if integers < _MAX_LOG_INTEGERS else ("fractional", "")


def _are_multiples(cells: sp.csr_matrix, inverse) -> bool:
    """Return whether `inverse` turns non-integer values of a cell into multiples of its smallest, as counts are."""
    cells = cells[: _MIN_CELLS_OF_EVIDENCE * 4]
    cells = cells[np.flatnonzero(np.diff(cells.indptr) >= _MIN_MULTIPLES)]
    if not cells.shape[0]:
        return False
    values = inverse(cells.data)
    smallest = np.minimum.reduceat(values, cells.indptr[:-1])
    ratios = values / np.repeat(smallest, np.diff(cells.indptr))
    larger = (ratios > 1.5) & (ratios < 100)  # of larger ratios, all are near an integer
    larger &= np.abs(cells.data - np.rint(cells.data)) > ROUNDING_TOLERANCE  # integers are multiples of anything
    n_larger = np.add.reduceat(larger.astype(np.int64), cells.indptr[:-1])
    n_off = np.add.reduceat((larger & (np.abs(ratios - np.rint(ratios)) > 0.02)).astype(np.int64), cells.indptr[:-1])
    return bool(((n_larger >= _MIN_MULTIPLES) & (n_off <= 0.05 * n_larger)).sum() > 0.8 * (n_larger > 0).sum())


class CsrRows:
    """Rows of a matrix in CSR form whose arrays may be stored anywhere.

    Args:
        data, indices, indptr: One-dimensional arrays that slicing reads: NumPy, HDF5 or zarr.
        shape (`tuple[int, int]`): Cells by genes.

    Raises:
        ValueError: If the arrays do not describe a sparse matrix. Nothing is read with a structure that is damaged.
    """

    by_column = False

    def __init__(self, data, indices, indptr, shape):
        self.shape = check_shape(shape)
        self._data, self._indices = data, indices
        self._indptr = check_structure(data, indices, indptr, self.shape[0])

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Read the rows `start` to `stop`, shape `(stop - start, n_columns)`."""
        indptr = self._indptr[start : stop + 1]
        low, high = int(indptr[0]), int(indptr[-1])
        if high - low > _MAX_ENTRIES_PER_VALUE * (len(indptr) - 1) * self.shape[1]:
            raise ValueError(f"rows {start:,} to {stop:,} have {high - low:,} entries in {self.shape[1]:,} columns")
        data, indices = np.asarray(self._data[low:high]), np.asarray(self._indices[low:high])
        return assemble(data, indices, indptr - low, (len(indptr) - 1, self.shape[1]))


class CscRows:
    """Rows of a matrix in CSC form, which is converted to CSR in memory when the first row is read."""

    by_column = True

    def __init__(self, data, indices, indptr, shape):
        self.shape = check_shape(shape)
        self._arrays = data, indices, check_structure(data, indices, indptr, self.shape[1])
        self._whole: sp.csr_matrix | None = None

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Return the rows `start` to `stop`."""
        if self._whole is None:
            data, indices, indptr = self._arrays
            columns = assemble(np.asarray(data[:]), np.asarray(indices[:]), indptr, self.shape[::-1])
            self._whole = sp.csr_matrix(columns.T.tocsr())
        return self._whole[start:stop]

    def sample(self, n: int) -> sp.csr_matrix:
        """Return some columns as if they were cells: enough to tell counts from other values, without a conversion."""
        data, indices, indptr = self._arrays
        columns = CsrRows(data, indices, indptr, self.shape[::-1])
        starts = np.linspace(0, max(0, self.shape[1] - n), 4).astype(int)
        return sp.csr_matrix(sp.vstack([columns.read(start, min(start + n // 4, self.shape[1])) for start in starts]))


class DenseRows:
    """Rows of a dense matrix: NumPy, HDF5, zarr, or a Dask array, whose rows are computed."""

    by_column = False

    def __init__(self, matrix):
        self.shape = check_shape(matrix.shape)
        self._matrix = matrix

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Read the rows `start` to `stop` as CSR."""
        rows = self._matrix[start:stop]
        rows = rows.compute() if hasattr(rows, "compute") else rows
        if sp.issparse(rows):
            rows = sp.csr_matrix(rows)
            return assemble(rows.data, rows.indices, rows.indptr, rows.shape)
        return sp.csr_matrix(numeric(np.asarray(rows)))


def row_reader(matrix):
    """Wrap a matrix so that `read(start, stop)` returns rows as CSR.

    Args:
        matrix: Anything that an AnnData may hold in `X`, in memory, on disk or in Dask.

    Raises:
        ValueError: If a sparse structure is damaged, or the values are not numbers.
    """
    if hasattr(matrix, "group") and hasattr(matrix, "format"):  # a sparse matrix of a backed AnnData
        group = matrix.group
        kind = CsrRows if matrix.format == "csr" else CscRows
        return kind(group["data"], group["indices"], group["indptr"], matrix.shape)
    if sp.issparse(matrix):
        if matrix.format not in ("csr", "csc"):
            matrix = matrix.tocsr()
        kind = CsrRows if matrix.format == "csr" else CscRows
        return kind(matrix.data, matrix.indices, matrix.indptr, matrix.shape)
    return DenseRows(matrix)


def check_shape(shape) -> tuple[int, int]:
    """Return a shape as two integers; raise a `ValueError` unless it is one."""
    sizes = tuple(int(size) for size in shape)
    if len(sizes) != 2 or min(sizes) < 0:
        raise ValueError(f"the matrix has shape {sizes}, expected cells by genes")
    return sizes


def check_structure(data, indices, indptr, n_rows: int) -> np.ndarray:
    """Check the arrays of a compressed sparse matrix, except for the values of `indices`.

    Returns:
        `indptr` in memory, int64, shape `(n_rows + 1,)`.

    Raises:
        ValueError: If an array is not one-dimensional or numeric, the lengths do not fit together, or `indptr` does not
            rise from 0 to the number of entries.
    """
    for name, array, kinds in (("data", data, "biuf"), ("indices", indices, "iu"), ("indptr", indptr, "iu")):
        if len(getattr(array, "shape", ())) != 1:
            raise ValueError(f"{name} of a sparse matrix is not one-dimensional")
        if array.dtype.kind not in kinds:
            raise ValueError(f"{name} of a sparse matrix has type {array.dtype}")
    if indptr.shape[0] != n_rows + 1:
        raise ValueError(f"indptr of a sparse matrix has {indptr.shape[0]:,} entries, expected {n_rows + 1:,}")
    pointers = np.asarray(indptr[:]).astype(np.int64)
    entries = data.shape[0]
    if indices.shape[0] != entries or pointers[0] != 0 or pointers[-1] != entries:
        raise ValueError(
            f"indptr of a sparse matrix runs from {pointers[0]:,} to {pointers[-1]:,}, but there are {entries:,} "
            f"values and {indices.shape[0]:,} indices"
        )
    if (pointers[1:] < pointers[:-1]).any():
        raise ValueError("indptr of a sparse matrix decreases")
    return pointers


def assemble(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]) -> sp.csr_matrix:
    """Return a CSR matrix of arrays with a checked `indptr`, after checking that every index is a column.

    Raises:
        ValueError: If an index is outside the matrix, or the lengths differ.
    """
    if len(data) != len(indices) or len(data) != int(indptr[-1]):
        raise ValueError(
            f"a sparse matrix has {len(data):,} values, {len(indices):,} indices and {indptr[-1]:,} entries"
        )
    if len(indices) and not 0 <= indices.min() <= indices.max() < shape[1]:
        raise ValueError(f"column indices {indices.min()} to {indices.max()} in a matrix of {shape[1]} columns")
    matrix = sp.csr_matrix(shape, dtype=numeric(data).dtype)
    index_type = np.int32 if max(len(data), *shape) < 2**31 else np.int64
    matrix.data = numeric(data)
    matrix.indices = indices.astype(index_type, copy=False)
    matrix.indptr = indptr.astype(index_type)
    return matrix


def numeric(values: np.ndarray) -> np.ndarray:
    """Return values in a type that sparse matrices and kernels can hold: native byte order, no half precision.

    Raises:
        ValueError: If the values are not real numbers.
    """
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind not in "biuf":
        raise ValueError(f"the values have type {values.dtype}, expected numbers")
    if kind == "b":
        return values.astype(np.uint8)
    if kind == "f" and size not in (4, 8):
        return values.astype(np.float32 if size == 2 else np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)

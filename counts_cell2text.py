"""Find the counts of an AnnData, read them in blocks of cells, and check that they are counts.

Depends on NumPy and SciPy alone, and works in memory or backed. `ranking_cell2text.py` handles gene names.
"""

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp


try:
    from .errors_cell2text import UserError, UserKeyError
except ImportError:
    from errors_cell2text import UserError, UserKeyError


BLOCK_CELLS = 2048
FLAWS = {
    "nan": "NaN or infinite values",
    "scaled": "negative values",
    "normalised": "fractional values",
    "log": "log-normalised values",
}
_MAX_LOG_VALUE = 30.0  # no log-normalised value is larger


def select_counts(adata, layer: str | None):
    """Return the matrix that holds the counts, the `var` that names its genes, and its name in messages.

    Args:
        adata (`AnnData`): Cells by genes.
        layer (`str`, *optional*): Layer of the counts, or `"raw"` for `adata.raw`; None for `X`.

    Raises:
        TypeError: If `adata` is not an AnnData.
        KeyError: If the layer does not exist.
        ValueError: If the matrix is None.
    """
    if not (hasattr(adata, "X") and hasattr(adata, "var") and hasattr(adata, "layers")):
        raise TypeError(f"Expected an AnnData, found {type(adata).__name__}: read a file with anndata.read_h5ad(PATH).")
    if layer is None:
        matrix, var, source = adata.X, adata.var, "X"
    elif layer in adata.layers:
        matrix, var, source = adata.layers[layer], adata.var, f"layers[{layer!r}]"
    elif layer == "raw" and adata.raw is not None:
        matrix, var, source = adata.raw.X, adata.raw.var, "raw.X"
    else:
        raw = "an adata.raw" if adata.raw is not None else "no adata.raw"
        raise UserKeyError(f"layer={layer!r}: adata.layers holds {sorted(adata.layers)}, and there is {raw}.")
    if matrix is None:
        raise UserError(
            f"adata.{source} is None: rank encoding needs counts. adata.layers holds {sorted(adata.layers)}."
        )
    return matrix, var, source


def count_blocks(matrix, block_cells: int = BLOCK_CELLS) -> Iterator[tuple[int, sp.csr_matrix]]:
    """Yield blocks of cells as CSR, each with the index of its first cell, from any matrix that an AnnData may hold."""
    if getattr(matrix, "format", None) == "csc":  # a column-wise matrix cannot be read row by row
        matrix = (matrix.to_memory() if hasattr(matrix, "to_memory") else matrix).tocsr()
    for start in range(0, matrix.shape[0], block_cells):
        block = matrix[start : start + block_cells]
        if hasattr(block, "compute"):
            block = block.compute()
        yield start, sp.csr_matrix(block)


def row_sums(block: sp.csr_matrix) -> np.ndarray:
    """Return the sum of every row in float64, shape `(n_rows,)`."""
    return np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()


def find_flaw(block: sp.csr_matrix, *, allow_fractional: bool = False) -> tuple[str, int] | None:
    """Find the first value that is not a count.

    Args:
        block (`scipy.sparse.csr_matrix`): Cells by genes.
        allow_fractional (`bool`, defaults to `False`):
            Accept non-integer counts. Log-normalised values are refused nevertheless: if `expm1` gives every cell the
            same total, the values are logarithms.

    Returns:
        A key of `FLAWS` and a position in `block.data`, or None if all values are counts.

    Examples:

    ```python
    >>> find_flaw(sp.csr_matrix([[1, 2.5]]))
    ('normalised', 1)
    >>> find_flaw(sp.csr_matrix([[1, 2.5]]), allow_fractional=True)

    ```
    """
    data = block.data
    for kind, bad in (("nan", ~np.isfinite(data)), ("scaled", data < 0)):
        if bad.any():
            return kind, int(bad.argmax())
    fractional = data != np.floor(data)
    if not fractional.any():
        return None
    if not allow_fractional:
        return "normalised", int(fractional.argmax())
    if data.max() < _MAX_LOG_VALUE:
        sums = row_sums(block.astype(np.float64).expm1())
        sums = sums[sums > 0]
        if len(sums) > 1 and np.ptp(sums) < 0.01 * sums.mean():
            return "log", int(fractional.argmax())
    return None


def name_value(block: sp.csr_matrix, position: int, name_of) -> str:
    """Format a value of a block and the name of its cell, which `name_of` returns for a row."""
    row = int(np.searchsorted(block.indptr, position, side="right")) - 1
    return f"cell {str(name_of(row))!r}: {block.data[position]:.6g}"


class CountCheck:
    """Raises a `UserError` for the first block that holds anything but counts, with the cell, the value and advice.

    Args:
        adata (`AnnData`): Cells by genes. Its other layers are searched for counts.
        source (`str`): Name of the checked matrix, as [`select_counts`] returns it.
        allow_fractional (`bool`): Accept non-integer counts.
    """

    def __init__(self, adata, source: str, allow_fractional: bool):
        self.adata, self.source, self.allow_fractional = adata, source, allow_fractional

    def __call__(self, block: sp.csr_matrix, start: int):
        flaw = find_flaw(block, allow_fractional=self.allow_fractional)
        if flaw:
            kind, position = flaw
            where = name_value(block, position, lambda row: self.adata.obs_names[start + row])
            advice = "rank encoding needs raw counts." if kind == "nan" else self._advice(kind)
            raise UserError(f"adata.{self.source} holds {FLAWS[kind]} ({where}): {advice}")

    def _advice(self, kind: str) -> str:
        for layer in [*self.adata.layers, *(["raw"] if self.adata.raw is not None else [])]:
            if self._holds_counts(layer):
                name = "raw.X" if layer == "raw" and "raw" not in self.adata.layers else f"layers[{layer!r}]"
                return f"rank encoding needs raw counts. Found integers in {name}: pass layer={layer!r}."
        if self.source != "X" and self._holds_counts(None):
            return "rank encoding needs raw counts. Found integers in X: omit layer."
        look = "log-normalised" if kind == "log" else kind
        advice = f"rank encoding needs raw counts, and these look {look}. No layer holds integers: read the raw counts"
        return advice + (", or pass allow_fractional=True for non-integer counts." if kind == "normalised" else ".")

    def _holds_counts(self, layer: str | None) -> bool:
        matrix = select_counts(self.adata, layer)[0] if layer is not None or self.adata.X is not None else None
        if matrix is None:
            return False
        _, block = next(count_blocks(matrix), (0, sp.csr_matrix((0, 0))))
        return block.nnz > 0 and bool((block.data >= 0).all() and (block.data == np.floor(block.data)).all())

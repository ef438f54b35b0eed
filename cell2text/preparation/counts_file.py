"""Write an h5ad file of raw counts block by block, so that memory stays flat. Depends on anndata and h5py."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2text.files import atomic_path


CHUNK_VALUES = 1 << 16


class CountsFile:
    """An h5ad file whose counts (CSR, int32) are appended in blocks of cells.

    Parameters
    ----------
    root
        Open HDF5 file, empty.
    n_genes
        Number of genes.
    """

    def __init__(self, root: h5py.File, n_genes: int):
        self._root, self._n_genes = root, n_genes
        self._n_values, self._indptr = 0, [np.zeros(1, dtype=np.int64)]
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        self._matrix = root.create_group("X")
        self._matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        for name in ("data", "indices"):
            self._matrix.create_dataset(
                name, shape=(0,), maxshape=(None,), dtype=np.int32, chunks=(CHUNK_VALUES,), compression="gzip",
                compression_opts=4, shuffle=True,
            )  # fmt: skip

    def append(self, counts: sp.csr_matrix) -> None:
        """Append cells, counts of shape (n_cells, n_genes)."""
        counts.sort_indices()
        for name in ("data", "indices"):
            stored = self._matrix[name]
            stored.resize((self._n_values + counts.nnz,))
            stored[self._n_values :] = getattr(counts, name)
        self._indptr.append(counts.indptr[1:].astype(np.int64) + self._n_values)
        self._n_values += counts.nnz

    def finish(self, obs: pd.DataFrame, var: pd.DataFrame, uns: dict) -> None:
        """Write the metadata of all cells and genes."""
        indptr = np.concatenate(self._indptr)
        self._matrix.create_dataset("indptr", data=indptr)
        self._matrix.attrs["shape"] = (len(indptr) - 1, self._n_genes)
        for name, element in (("obs", obs), ("var", var), ("uns", uns)):
            ad.io.write_elem(self._root, name, element)
        for name in ("layers", "obsm", "obsp", "varm", "varp"):
            ad.io.write_elem(self._root, name, {})


@contextmanager
def open_counts_file(path: str | os.PathLike, n_genes: int) -> Iterator[CountsFile]:
    """Yield a :class:`CountsFile`; the file appears under its name when the block ends without an error."""
    with atomic_path(path) as partial, h5py.File(partial, "w") as root:
        yield CountsFile(root, n_genes)

"""Open a local h5ad file or zarr store to read single elements of it. Depends on h5py; zarr is imported when needed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from cell2text.errors import UserError
from cell2text.paths import check_readable
from cell2text.sources.safety import check_hdf5, check_store
from errors_cell2text import first_line


ANNDATA_SUFFIXES = (".h5ad", ".zarr")


@contextmanager
def open_anndata(path: str | os.PathLike) -> Iterator[Any]:
    """Open an h5ad file or zarr store for reading.

    Parameters
    ----------
    path
        Local file or folder. Its suffix, in any case, sets the format.

    Yields
    ------
    The root group.

    Raises
    ------
    UserError
        If nothing is there, the suffix is another one, or the file is damaged or not an AnnData.

    Examples
    --------
    >>> open_anndata("cells.csv").__enter__()
    Traceback (most recent call last):
    errors_cell2text.UserError: cells.csv does not exist.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    check_readable(path)
    if path.suffix.lower() not in ANNDATA_SUFFIXES:
        raise UserError(f"{path}: expected an .h5ad file or a .zarr store that `cell2text describe` wrote.")
    is_store = path.suffix.lower() == ".zarr"
    if path.is_dir() != is_store:
        kinds = ("file", "folder") if is_store else ("folder", "file")
        raise UserError(f"{path} is a {kinds[0]}, expected a {kinds[1]}: {path.suffix} is the suffix of a {kinds[1]}.")
    try:
        if is_store:
            import zarr

            check_store(path, str(path))
            root = zarr.open_group(str(path), mode="r")
        else:
            root = h5py.File(path, "r")
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be opened: it is damaged or not an AnnData ({first_line(error)}).") from error
    try:
        if isinstance(root, h5py.File):
            check_hdf5(root, str(path))
        if "obs" not in root or "_index" not in root["obs"].attrs:
            raise UserError(f"{path} is not an AnnData: it lacks obs (it has {sorted(root)}).")
        yield root
    finally:
        if isinstance(root, h5py.File):
            root.close()

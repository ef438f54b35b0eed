"""Names of the columns of a stored data frame. Depends on the layout of h5ad files and zarr stores alone."""

from collections.abc import Iterator
from pathlib import PurePosixPath


def column_names(group) -> list[str]:
    """Return the names of the columns of a stored `obs` or `var`, in the order of the data frame, without its index.

    HDF5 reads a slash in a name as a path, so anndata stores the column `a/b` of an h5ad file as `b` in a group `a`.
    The name `a/b` opens it, as in `group["a/b"]`.

    Parameters
    ----------
    group
        The group of the data frame in an open h5ad file or zarr store.

    Examples
    --------
    >>> import h5py
    >>> file = h5py.File("obs.h5", "w", driver="core", backing_store=False)
    >>> file.attrs["_index"], file.attrs["column-order"] = "_index", ["leiden/0.5", "age"]
    >>> for name in ("_index", "age", "leiden/0.5", "added"):
    ...     file[name] = [1]
    >>> column_names(file)
    ['leiden/0.5', 'age', 'added']
    """
    order = [_text(name) for name in group.attrs.get("column-order", ())]
    listed = [name for name in order if name in group]
    known = {str(PurePosixPath(name)) for name in (*listed, _text(group.attrs.get("_index", "_index")))}
    return listed + [name for name in _stored_names(group) if name not in known]


def _stored_names(group) -> Iterator[str]:
    """Yield the paths of all elements; a group without an encoding is part of a name."""
    for name in group:
        if name == "__categories":  # of anndata 0.7
            continue
        element = group[name]
        if hasattr(element, "keys") and not {"encoding-type", "categories"} & set(element.attrs):
            yield from (f"{name}/{inner}" for inner in _stored_names(element))
        else:
            yield name


def _text(name) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)

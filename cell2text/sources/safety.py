"""Refuse files that lead out of themselves, and notice files that change while they are read.

An HDF5 file can link to another file, keep the bytes of a data set in another file, or assemble a data set from others;
a zarr store can contain symbolic links. Reading them would read, and adding results to a copy would write, files that
nobody named. Depends on h5py only.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from cell2text.paths import check_readable
from cell2text.sources.checks import BadFileError
from errors_cell2text import excess


MAX_OBJECTS = 1_000_000  # groups and data sets of an HDF5 file


@contextmanager
def open_hdf5(file, name: str, mode: str = "r") -> Iterator[h5py.File]:
    """Open an HDF5 file that holds all of its content.

    Parameters
    ----------
    file
        A path, or an open file.
    name
        Name for messages.
    mode
        `"r"` to read, `"r+"` to change the file.

    Raises
    ------
    BadFileError
        If the file leads to other files; see :func:`check_hdf5`.
    """
    with h5py.File(file, "r") as root:
        check_hdf5(root, name)
        if mode == "r":
            yield root
            return
    with h5py.File(file, mode) as root:
        yield root


def check_hdf5(root: h5py.File, name: str) -> None:
    """Raise unless an open HDF5 file holds all of its content itself.

    Parameters
    ----------
    root
        The open file. Links and headers are read, and no data.
    name
        Name for messages.

    Raises
    ------
    BadFileError
        If it has an external link, a data set with external storage, a virtual data set, or too many objects.
    """
    seen, waiting, n_objects = set(), [root["/"]], 0
    while waiting:
        group = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        n_objects += len(group)
        if reason := excess("OBJECTS", n_objects, MAX_OBJECTS):
            raise BadFileError(name, f"holds {n_objects:,} groups and data sets, {reason}.")
        for key in group:
            place, link = f"{group.name.rstrip('/')}/{key}", group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise _leads_elsewhere(name, place, f"is a link to {link.filename!r}")
            if not isinstance(link, h5py.HardLink):
                _check_resolves(group, key, name, place)
                continue  # a link within the file leads to an object that is checked where it is stored
            element = group[key]
            if isinstance(element, h5py.Group):
                waiting.append(element)
            elif isinstance(element, h5py.Dataset):
                _check_dataset(element, name, place)


def check_store(path: str | os.PathLike, name: str) -> None:
    """Raise if a local zarr store contains a symbolic link.

    Parameters
    ----------
    path
        Folder of the store. It may itself be a symbolic link.
    name
        Name for messages.

    Raises
    ------
    BadFileError
        If a file or folder inside is a symbolic link.
    """
    for folder, folders, files in os.walk(os.fspath(path)):
        for entry in (*folders, *files):
            check_readable(os.path.join(folder, entry))
            if os.path.islink(os.path.join(folder, entry)):
                place = os.path.relpath(os.path.join(folder, entry), path)
                raise _leads_elsewhere(name, place, "is a symbolic link")


def file_identity(url: str) -> dict:
    """Return what identifies a file or folder and its version, without reading it; ready for JSON.

    Parameters
    ----------
    url
        A path or address. A remote file is identified by its address alone.
    """
    path = Path(url.removeprefix("file://"))
    if not path.exists():
        return {"url": url}
    stat = path.stat()
    found = {"url": url, "bytes": stat.st_size, "changed": stat.st_mtime_ns, "inode": stat.st_ino}
    if path.is_dir():
        stats = [
            os.stat(os.path.join(folder, file), follow_symlinks=False)
            for folder, _, files in os.walk(path)
            for file in files
        ]
        found |= {
            "files": len(stats), "bytes": sum(one.st_size for one in stats),
            "changed": max((one.st_mtime_ns for one in stats), default=0),
        }  # fmt: skip
    return found


def check_unchanged(before: dict, name: str) -> None:
    """Raise if a file is no longer what it was.

    Parameters
    ----------
    before
        Its former :func:`file_identity`.
    name
        Name for messages.

    Raises
    ------
    BadFileError
        If it was removed, replaced or changed.
    """
    now = file_identity(before["url"])
    if now == before:
        return
    what = "removed" if "bytes" in before and "bytes" not in now else "changed"
    raise BadFileError(name, f"was {what} while it was read. Nothing was written; run the command again.")


def _check_resolves(group: h5py.Group, key: str, name: str, place: str) -> None:
    try:
        group[key]
    except (KeyError, RuntimeError, OSError) as error:
        raise BadFileError(name, f"{place} is a link to nothing, or to itself. The file is damaged.") from error


def _check_dataset(dataset: h5py.Dataset, name: str, place: str) -> None:
    if dataset.is_virtual:
        raise _leads_elsewhere(name, place, "is a virtual data set, assembled from other files")
    if dataset.external:
        raise _leads_elsewhere(name, place, f"keeps its content in {dataset.external[0][0]!r}")


def _leads_elsewhere(name: str, place: str, what: str) -> BadFileError:
    return BadFileError(
        name,
        f"{place} {what}. Only files that hold all of their content are read. Copy the content into one file, for "
        "example with anndata.read_h5ad(FILE).write_h5ad(NEW).",
    )

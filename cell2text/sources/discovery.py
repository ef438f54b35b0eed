"""Find h5ad files and zarr stores: paths, folders, globs and fsspec addresses. Depends on fsspec alone."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

import fsspec

from cell2text.errors import UserError


SUFFIXES = (".h5ad", ".zarr")


@dataclass(frozen=True)
class SourceLocation:
    """Where cells are stored.

    Parameters
    ----------
    name
        Short name, unique within a run.
    url
        Address that fsspec opens, or the address of a SOMA experiment.
    format
        `"h5ad"`, `"zarr"` or `"soma"`.
    """

    name: str
    url: str
    format: str

    def to_json(self) -> dict:
        """Return the fields as a dictionary of strings."""
        return asdict(self)


def find_sources(inputs: Sequence[str]) -> list[SourceLocation]:
    """Find the files and stores that the inputs name.

    Parameters
    ----------
    inputs
        `.h5ad` files, `.zarr` stores, folders (searched recursively), globs, or fsspec addresses of any of these.

    Returns
    -------
    Locations sorted by name. A name is the shortest end of the path that no other input shares, without its suffix.

    Raises
    ------
    UserError
        If an input does not exist, contains no `.h5ad` file or `.zarr` store, or is named twice.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("blood.h5ad", "lung.h5ad"):
    ...     _ = (folder / name).write_bytes(b"")
    >>> [source.name for source in find_sources([str(folder)])]
    ['blood', 'lung']
    """
    urls = [url for text in inputs for url in _find_urls(str(text))]
    duplicates = {url for url in urls if urls.count(url) > 1}
    if duplicates:
        raise UserError(f"The inputs name {sorted(duplicates)} more than once. Pass each file once.")
    names = _short_names(urls)
    locations = (SourceLocation(names[url], url, url.rsplit(".", 1)[1]) for url in urls)
    return sorted(locations, key=lambda location: location.name)


def _find_urls(text: str) -> list[str]:
    """Return the addresses of all files and stores that one input names."""
    fs, path = fsspec.core.url_to_fs(text)
    if any(character in path for character in "*?["):
        paths = [name for name in fs.glob(path) if name.endswith(SUFFIXES)]
    elif path.rstrip("/").endswith(SUFFIXES) and fs.exists(path):
        paths = [path.rstrip("/")]
    elif fs.isdir(path):
        paths = list(_walk(fs, path))
    elif fs.exists(path):
        raise UserError(f"{text} is neither an .h5ad file nor a .zarr store.")
    else:
        raise UserError(f"{text} does not exist.")
    if not paths:
        raise UserError(f"{text} contains no .h5ad file and no .zarr store.")
    return [fs.unstrip_protocol(name) for name in paths]


def _walk(fs, folder: str) -> Iterator[str]:
    """Yield files and stores under a folder, without searching inside stores."""
    for entry in sorted(fs.ls(folder, detail=True), key=lambda entry: entry["name"]):
        name = entry["name"].rstrip("/")
        if name.endswith(SUFFIXES):
            yield name
        elif entry["type"] == "directory":
            yield from _walk(fs, name)


def _short_names(urls: Sequence[str]) -> dict[str, str]:
    """Return the shortest end of each address that no other shares, without the suffix."""
    parts = {url: PurePosixPath(url.split("://")[-1].rsplit(".", 1)[0]).parts for url in urls}
    names: dict[str, str] = {}
    length = 1
    while len(names) < len(urls):
        ends = {url: "/".join(parts[url][-length:]) for url in urls if url not in names}
        unique = {url: end for url, end in ends.items() if list(ends.values()).count(end) == 1}
        if length > max(map(len, parts.values())):  # cells.h5ad beside cells.zarr
            unique = {url: f"{end}.{url.rsplit('.', 1)[1]}" for url, end in ends.items()}
        names |= unique
        length += 1
    return names

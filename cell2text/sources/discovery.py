"""Find files of counts: paths, folders, globs and fsspec addresses.

Names and the keys of HDF5 files decide what a file is; counts are not read. Depends on fsspec, and on h5py for files
whose suffix does not tell what they hold.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath

import fsspec

from cell2text.errors import UserError
from cell2text.paths import check_readable
from cell2text.sources.file_kinds import (
    ACCEPTED,
    FORMATS,
    HDF5_SUFFIXES,
    HEAD_BYTES,
    explain_content,
    explain_hdf5,
    explain_suffix,
    hdf5_format,
    matrix_prefix,
    mtx_companions,
    suffix_of,
)


ZARR_METADATA = {".zgroup", "zarr.json"}
_CELL_RANGER = re.compile(
    r"(?P<sample>.*?)(?P<kind>raw|filtered)_(?P<rest>feature_bc_matrix|gene_bc_matrices|peak_bc_matrix)"
    r"(_mex|_h5)?(?P<file>\.h5|\.hdf5)?"
)
_STARSOLO = re.compile(r"(?P<sample>)(?P<kind>raw|filtered)(?P<rest>)(?P<file>)")
_COMPANIONS = re.compile(r".*(features|genes|barcodes)\.tsv(\.gz)?", re.IGNORECASE)


@dataclass(frozen=True)
class SourceLocation:
    """Where cells are stored.

    Parameters
    ----------
    name
        Short name, unique within a run.
    url
        Address that fsspec opens, or the address of a SOMA experiment. For a folder of Cell Ranger or STARsolo, the
        address of its `matrix.mtx[.gz]`.
    format
        `"h5ad"`, `"zarr"`, `"soma"`, `"10x_h5"`, `"10x_mtx"`, `"loom"`, `"h5mu"` or `"text"`.
    note
        What a user should know about the choice of this file, as a sentence; empty otherwise.
    """

    name: str
    url: str
    format: str
    note: str = field(default="", compare=False)

    @property
    def stem(self) -> str:
        """Name of the file without its suffix; of a `matrix.mtx`, its prefix or else the name of its folder."""
        return _named_path(self.url).name

    @property
    def described_name(self) -> str:
        """Name of a described copy: `NAME.described.zarr` for a zarr store, `NAME.described.h5ad` otherwise."""
        return f"{self.stem}.described.{'zarr' if self.format == 'zarr' else 'h5ad'}"

    def to_json(self) -> dict:
        """Return the fields as a dictionary of strings."""
        return asdict(self)


@dataclass(frozen=True)
class _Found:
    """A file of counts: its path on a file system, its format and a note."""

    path: str
    format: str
    note: str = ""


def find_sources(inputs: Sequence[str]) -> list[SourceLocation]:
    """Find the files and stores that the inputs name.

    Parameters
    ----------
    inputs
        Files, zarr stores, folders, globs, or fsspec addresses of any of these. Folders are searched recursively for
        all formats except text matrices, since tables of metadata have the same suffixes; name those one by one. Of
        the matrices that one run of Cell Ranger or STARsolo writes, a search finds one: the filtered one, if possible.

    Returns
    -------
    Locations sorted by name. A name is the shortest end of the path that no other input shares, without its suffix.

    Raises
    ------
    UserError
        If an input does not exist, is not a file of counts, contains none, or is named twice.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("blood.h5ad", "lung.H5AD"):
    ...     _ = (folder / name).write_bytes(b"")
    >>> [source.name for source in find_sources([str(folder)])]
    ['blood', 'lung']
    """
    found = [item for text in inputs for item in _find(str(text))]
    duplicates = [url for url, number in Counter(item.path for item in found).items() if number > 1]
    if duplicates:
        raise UserError(f"The inputs name {sorted(duplicates)} more than once. Pass each file once.")
    names = _short_names([item.path for item in found])
    locations = (SourceLocation(names[item.path], item.path, item.format, item.note) for item in found)
    return sorted(locations, key=lambda location: location.name)


def find_source(text: str) -> SourceLocation:
    """Return the one file of counts that a path or address names.

    Raises
    ------
    UserError
        If the path holds no file of counts, or several.
    """
    found = find_sources([text])
    if len(found) != 1:
        raise UserError(f"{text} holds {len(found)} files of counts, expected one. Describe them one by one.")
    return found[0]


def _find(text: str) -> list[_Found]:
    """Return all files and stores that one input names, by address."""
    fs, path = fsspec.core.url_to_fs(text)
    path = path.rstrip("/") or path
    if any(character in path for character in "*?["):
        found = _choose(dict.fromkeys(_match(fs, path)))
    elif not fs.exists(path):
        raise UserError(f"{text} does not exist.")
    elif fs.isdir(path):
        found = _choose(dict.fromkeys(_search(fs, path)))
    else:
        found = [_identify(fs, path, text)]
    if not found:
        tables = " Text matrices must be named one by one." if _has_text(fs, path) else ""
        raise UserError(f"{text} contains no file of counts: {ACCEPTED}.{tables}")
    return [_Found(fs.unstrip_protocol(item.path), item.format, item.note or _raw_note(item.path)) for item in found]


def _match(fs, pattern: str) -> Iterator[_Found]:
    """Yield what a glob names. It names text matrices only if it ends in their suffix."""
    for name in sorted(fs.glob(pattern)):
        if fs.isdir(name):
            yield from _search(fs, name.rstrip("/"))
        elif _is_text(name) and suffix_of(pattern) == suffix_of(name):
            yield _Found(name, "text")
        elif format_ := _format_in_folder(fs, name, fs.ls(fs._parent(name), detail=False)):
            yield _Found(name, format_)


def _search(fs, folder: str) -> Iterator[_Found]:
    """Yield the files and stores in a folder, without searching inside stores."""
    entries = sorted(fs.ls(folder, detail=True), key=lambda entry: entry["name"])
    paths = [entry["name"].rstrip("/") for entry in entries]
    if suffix_of(folder) == ".zarr" or ZARR_METADATA & {PurePosixPath(path).name for path in paths}:
        yield _Found(folder, "zarr")
        return
    for entry, path in zip(entries, paths):
        if entry["type"] == "directory":
            yield from _search(fs, path)
        elif format_ := _format_in_folder(fs, path, paths):
            yield _Found(path, format_)


def _format_in_folder(fs, path: str, neighbours: Sequence[str]) -> str | None:
    """Return the format of a file met in a search, None for one to pass over."""
    name, suffix = PurePosixPath(path).name, suffix_of(path)
    if name.startswith("._") or _is_text(path) or suffix == ".zarr":
        return None
    if suffix:
        check_readable(path)
    if suffix in HDF5_SUFFIXES:
        return _read_hdf5(fs, path, hdf5_format)
    if FORMATS.get(suffix) == "10x_mtx":
        names = [PurePosixPath(neighbour).name for neighbour in neighbours]
        complete = matrix_prefix(name) is not None and all(mtx_companions(names, name))
        return "10x_mtx" if complete else None
    return FORMATS.get(suffix)


def _identify(fs, path: str, text: str) -> _Found:
    """Return the file of an input, or raise an error that states what the file is instead."""
    check_readable(path)
    name, suffix = PurePosixPath(path).name, suffix_of(path)
    if explanation := explain_suffix(name):
        raise UserError(f"{text} {explanation}")
    if _COMPANIONS.fullmatch(name):
        raise UserError(f"{text} names the genes or cells of a matrix. Pass its folder, or the matrix.mtx in it.")
    if suffix == ".zarr":
        raise UserError(f"{text} is a file, but a zarr store is a folder. Extract it first if it is an archive.")
    if suffix in FORMATS:
        return _Found(path, FORMATS[suffix])
    explanation = _explain_file(fs, path)
    format_ = None if explanation else _read_hdf5(fs, path, hdf5_format)
    if format_ is None:
        explanation = explanation or _read_hdf5(fs, path, explain_hdf5) or "is not a known file of counts."
        raise UserError(f"{text} {explanation} {ACCEPTED[0].upper()}{ACCEPTED[1:]}.")
    return _Found(path, format_)


def _explain_file(fs, path: str) -> str | None:
    with fs.open(path, "rb") as file:
        return explain_content(file.read(HEAD_BYTES))


def _read_hdf5(fs, path: str, read):
    """Apply a function to an open HDF5 file; return None if the file is not HDF5 or is damaged."""
    from cell2text.sources.checks import BadFileError
    from cell2text.sources.safety import open_hdf5

    try:
        with fs.open(path, "rb") as file, open_hdf5(file, path) as root:
            return read(root)
    except BadFileError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError):
        return None


def _is_text(path: str) -> bool:
    return FORMATS.get(suffix_of(path)) == "text"


def _has_text(fs, path: str) -> bool:
    return fs.isdir(path) and any(_is_text(name) for name in fs.ls(path, detail=False))


def _choose(found: dict[_Found, None]) -> list[_Found]:
    """Leave out files that hold the cells of another: raw beside filtered matrices, and `.gz` beside its content."""
    runs: dict[tuple, list[tuple[_Found, str, bool]]] = {}
    kept = []
    paths = {item.path for item in found}
    for item in found:
        if item.path.lower().endswith(".gz") and item.path[:-3] in paths:
            continue
        run = _run_of(item.path, paths)
        if run is None:
            kept.append(item)
        else:
            runs.setdefault(run[0], []).append((item, *run[1:]))
    return kept + [item for members in runs.values() for item in _choose_in_run(members)]


def _run_of(path: str, paths: set[str]) -> tuple[tuple, str, bool] | None:
    """Return a key of the Cell Ranger or STARsolo run that wrote a file, `"raw"` or `"filtered"`, and if it is HDF5."""
    parts = PurePosixPath(path).parts
    for index in range(len(parts) - 1, -1, -1):
        match = _CELL_RANGER.fullmatch(parts[index]) or (
            _STARSOLO.fullmatch(parts[index]) if index == len(parts) - 2 else None
        )
        if match:
            folder = parts[:index]
            if match["kind"] == "raw" and folder[-2:] == ("multi", "count"):
                samples = PurePosixPath(*folder[:-2], "per_sample_outs")
                runs = [_run_of(other, set()) for other in paths if PurePosixPath(other).is_relative_to(samples)]
                if keys := [run[0] for run in runs if run and run[1] == "filtered"]:
                    return min(keys), "raw", bool(match["file"])
            return (folder, match["sample"], match["rest"]), match["kind"], bool(match["file"])
    return None


def _choose_in_run(members: list[tuple[_Found, str, bool]]) -> list[_Found]:
    """Return the filtered matrix of a run if there is one, and its file rather than its folder."""
    kind = min(kind for _, kind, _ in members)  # "filtered" < "raw"
    as_file = any(is_file for _, other, is_file in members if other == kind)
    kept = [item for item, other, is_file in members if other == kind and is_file == as_file]
    left_out = sorted({_shown(item.path) for item, *_ in members if item not in kept})
    if not left_out:
        return kept
    note = f"The same cells are also in {', '.join(left_out)}, which is not read. {_raw_note(kept[0].path)}".strip()
    return [_Found(item.path, item.format, note) for item in kept]


def _shown(path: str) -> str:
    """Return the end of a path that names a matrix in messages."""
    part = next(part for part in reversed(PurePosixPath(path).parts) if _CELL_RANGER.fullmatch(part) or part == "raw")
    return part if suffix_of(part) else f"{part}/"


def _raw_note(path: str) -> str:
    run = _run_of(path, set())
    if run is None or run[1] == "filtered":
        return ""
    return "The raw matrix has a row for every barcode, and most barcodes are empty droplets: use the filtered matrix."


def _named_path(url: str) -> PurePosixPath:
    """Return the path that names a file in a run: without suffix, and for a `matrix.mtx` without that name."""
    path = PurePosixPath(url.split("://")[-1])
    prefix = matrix_prefix(path.name)
    if prefix is None:
        return path.with_name(path.name[: len(path.name) - len(suffix_of(path.name))] or path.name)
    return path.with_name(prefix.rstrip("._-")) if prefix.rstrip("._-") else path.parent


def _short_names(urls: Sequence[str]) -> dict[str, str]:
    """Return the shortest end of each path that no other shares, with a suffix only where nothing else differs."""
    paths = {url: _named_path(url) for url in urls}
    numbers = Counter(paths.values())
    parts = {
        url: path.with_name(path.name + suffix_of(url)).parts if numbers[path] > 1 else path.parts
        for url, path in paths.items()
    }
    names: dict[str, str] = {}
    length = 1
    while len(names) < len(urls):
        ends = {url: "/".join(parts[url][-length:]) for url in urls if url not in names}
        counts = Counter(ends.values())
        whole = length > max(map(len, parts.values()))
        names |= {url: (url if whole else end) for url, end in ends.items() if whole or counts[end] == 1}
        length += 1
    return names

"""Check the paths that a user names, before a library opens them: what is there, and what can be written.

Reading a named pipe, a socket or a device waits forever or never ends, and a library that follows one says nothing.
Depends on the standard library only.
"""

import os
import stat
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from cell2text.errors import DISK_FULL, UserError


# Bytes that temporary files and working folders add to the name of an output: ".NAME.1234567.partial".
RESERVED_NAME_BYTES = 24
USUAL_NAME_BYTES = 255  # longest name where the file system does not state it
_SPECIAL: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)  # fmt: skip


def check_input(path: str | os.PathLike) -> None:
    """Raise unless a local input exists and is a file or a folder.

    Commands call this before they import a library, so that a mistyped path fails at once. Globs and remote addresses
    (`s3://...`) are left to the reader.

    Parameters
    ----------
    path
        File, folder, glob or fsspec address.

    Raises
    ------
    UserError
        If nothing is there, or it is a named pipe, a socket or a device.
    """
    local = _local_path(os.fspath(path))
    if local is None:
        return
    if not local or not os.path.exists(local):
        raise UserError(f"{os.fspath(path) or 'The empty path'} does not exist.")
    check_readable(local)


def check_readable(path: str | os.PathLike) -> None:
    """Raise if a path leads to a named pipe, a socket or a device. Nothing happens if it does not exist.

    Raises
    ------
    UserError
        If reading it could wait forever or never end.

    Examples
    --------
    >>> check_readable(os.devnull)
    Traceback (most recent call last):
    errors_cell2text.UserError: /dev/null is a device. Expected the path of a file or folder.
    """
    kind = _special_kind(path)
    if kind is not None:
        raise UserError(f"{path} is {kind}. Expected the path of a file or folder.")


def check_folder(folder: str | os.PathLike, *, recursive: bool = True) -> None:
    """Raise if a folder contains a named pipe, a socket or a device.

    Parameters
    ----------
    folder
        Folder whose files a library will read. Nothing happens if it is not a folder.
    recursive
        Also check the folders inside.

    Raises
    ------
    UserError
        As :func:`check_readable` does.
    """
    for parent, folders, files in os.walk(os.fspath(folder)):
        for name in (*files, *folders):
            check_readable(os.path.join(parent, name))
        if not recursive:
            return


def check_arguments(values: Iterable[object]) -> None:
    """Raise if a value of an option, or an item of a list, is the path of a named pipe, a socket or a device.

    Parameters
    ----------
    values
        Values of any type; only texts are checked.

    Raises
    ------
    UserError
        As :func:`check_readable` does, and for bytes that are not UTF-8.
    """
    for value in values:
        if isinstance(value, (list, tuple)):
            check_arguments(value)
        elif isinstance(value, str):
            _check_encoding(value)
            if local := _local_path(value):
                check_readable(local)


def check_output(out: str | os.PathLike, *, folder: bool = False, parents: bool = False) -> None:
    """Raise unless an output can be written.

    Parameters
    ----------
    out
        File or folder that will be written.
    folder
        Whether the output is a folder.
    parents
        Whether folders above the output are created if necessary.

    Raises
    ------
    UserError
        If its folder does not exist or does not accept files, its name is too long, or something of another kind is
        there.
    """
    text, path = os.fspath(out), Path(out)
    if not text or (not folder and path.name in ("", "..")):
        raise UserError(f"out={text!r} is not the name of a {'folder' if folder else 'file'}.")
    if folder and path.is_dir():
        check_writable(path, out)
    else:
        _check_parent(path, _highest_missing(path) if parents else path)
    _check_name(path)
    kind = "a symbolic link to nothing" if path.is_symlink() and not os.path.exists(path) else _special_kind(path)
    if kind is not None:
        raise UserError(f"out={text!r} is {kind}, and outputs are files. Choose another path.")
    if folder and path.exists() and not path.is_dir():
        raise UserError(f"out={text!r} is a file. Choose a folder.")
    if not folder and path.is_dir():
        raise UserError(f"out={text!r} is a folder. Choose the name of a file.")


def check_writable(folder: str | os.PathLike, out: str | os.PathLike) -> None:
    """Raise unless a folder accepts files.

    Parameters
    ----------
    folder
        Folder that exists.
    out
        The output, for the message.

    Raises
    ------
    UserError
        If a file cannot be created in it.
    """
    try:
        with tempfile.TemporaryFile(dir=os.fspath(folder)):  # `os.access` is true for root on read-only file systems
            pass
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise UserError(
            f"out={os.fspath(out)!r}: the folder {folder} is not writable ({error.strerror}). Choose another path."
        ) from error


def _check_parent(out: Path, created: Path) -> None:
    """Raise unless the folder that holds `created`, the highest part of an output that is created, accepts files."""
    folder = created.parent
    if not folder.is_dir():
        what = (
            "is not a folder. Choose another path." if os.path.lexists(folder) else "does not exist. Create it first."
        )
        raise UserError(f"out={str(out)!r}: the folder {folder} {what}")
    check_writable(folder, out)


def _check_name(path: Path) -> None:
    """Raise if the name of an output leaves no room for the names of temporary files."""
    size = len(os.fsencode(path.name))
    try:
        longest = os.pathconf(_highest_missing(path).absolute().parent, "PC_NAME_MAX")
    except (OSError, ValueError, AttributeError):  # the function exists on Unix
        longest = USUAL_NAME_BYTES
    most = longest - RESERVED_NAME_BYTES
    if size > most:
        raise UserError(
            f"out={str(path)[:60]!r}...: the name has {size} bytes, expected at most {most}, since temporary files add "
            "to it. Choose a shorter name."
        )


def _highest_missing(path: Path) -> Path:
    """Return the highest part of a path that does not exist; the path itself if its folder exists."""
    while not os.path.lexists(path.parent):
        path = path.parent
    return path


def _check_encoding(text: str) -> None:
    """Raise if a text of the command line has bytes that are not UTF-8, which no output could name."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{text!a} is not valid UTF-8. Rename the file, or correct the value.") from error


def _local_path(text: str) -> str | None:
    """Return the path of a local file; None for globs and remote addresses."""
    local = text.removeprefix("file://")
    if "::" in text or "://" in local or any(character in text for character in "*?["):
        return None
    return os.path.expanduser(local)


def _special_kind(path: str | os.PathLike) -> str | None:
    """Return what a path leads to if it is neither a file nor a folder, as words; None otherwise."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # nothing is there, or the text cannot be a path
        return None
    return next((words for matches, words in _SPECIAL if matches(mode)), None)

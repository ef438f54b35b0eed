"""Write files so that an interrupted run leaves either the old file or the new one.

Depends on the standard library, and on filelock when a folder is locked.
"""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cell2text.errors import BusyError


LOCK_FILE, HOLDER_FILE = "lock", "holder.json"
LOCK_ATTEMPTS = 10  # another run may remove the folder between its creation and the lock


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block ends without an error.

    Parameters
    ----------
    path
        File to write. Its folder must exist.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "a.txt") as partial:
    ...     _ = partial.write_text("done")
    >>> sorted(path.name for path in folder.iterdir())
    ['a.txt']
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text to a file. A reader sees the old file or the new one, never a part.

    Parameters
    ----------
    path
        File to write. Its folder must exist.
    text
        The whole content.
    """
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; nothing happens if it does not exist."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


@contextmanager
def lock_folder(folder: Path, out: str | os.PathLike) -> Iterator[None]:
    """Create a folder and hold its lock during the block; remove the folder afterwards if nothing else is in it.

    Parameters
    ----------
    folder
        Folder of one output's unfinished files.
    out
        The output, for messages.

    Raises
    ------
    BusyError
        If another run holds the lock. The message names its process and machine.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "cells.csv.describing"
    >>> with lock_folder(folder, "cells.csv"):
    ...     sorted(path.name for path in folder.iterdir())
    ['holder.json', 'lock']
    >>> folder.exists()
    False
    """
    lock = _acquire(folder, out)
    try:
        holder = {"process": os.getpid(), "machine": socket.gethostname()}
        write_atomically(folder / HOLDER_FILE, json.dumps(holder) + "\n")
        yield
    finally:
        try:
            (folder / HOLDER_FILE).unlink(missing_ok=True)
            (folder / LOCK_FILE).unlink(missing_ok=True)  # while it is held, so that no other run holds a removed lock
            with suppress(OSError):  # it holds other files, or another run has just begun
                folder.rmdir()
        finally:
            lock.release()


def _acquire(folder: Path, out: str | os.PathLike):
    from filelock import FileLock, Timeout

    for attempt in range(LOCK_ATTEMPTS):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        try:
            lock.acquire(timeout=0)
            return lock
        except FileNotFoundError:
            if attempt == LOCK_ATTEMPTS - 1:
                raise
        except Timeout as error:
            raise BusyError(
                f"out='{out}' is in use by another run{_holder(folder)}. Wait until it ends, or choose another output."
            ) from error


def _holder(folder: Path) -> str:
    """Return which process holds a lock, as words in brackets; empty if it has not said so yet."""
    try:
        holder = json.loads((folder / HOLDER_FILE).read_text(encoding="utf-8"))
        return f" (process {int(holder['process'])} on {str(holder['machine'])[:100]})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""

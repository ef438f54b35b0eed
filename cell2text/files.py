"""Check paths, and write files so that an interrupted run leaves either the old file or the new one.

Depends on the standard library only.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cell2text.errors import UserError


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


def check_input(path: str | os.PathLike) -> None:
    """Raise unless a local input exists.

    Commands call this before they import a library, so that a mistyped path fails at once. Globs and remote addresses
    (`s3://...`) are left to the reader.

    Parameters
    ----------
    path
        File, folder, glob or fsspec address.

    Raises
    ------
    UserError
        If nothing is there.
    """
    text = os.fspath(path)
    if "::" in text or "://" in text.removeprefix("file://") or any(character in text for character in "*?["):
        return
    if not os.path.exists(os.path.expanduser(text.removeprefix("file://"))):
        raise UserError(f"{text} does not exist.")


def check_output_folder(out: str | os.PathLike) -> None:
    """Raise unless the folder of an output exists and is writable.

    Parameters
    ----------
    out
        File or folder that will be written.

    Raises
    ------
    UserError
        If the folder does not exist, or does not accept files.
    """
    folder = Path(out).resolve().parent
    if not folder.is_dir():
        raise UserError(f"out={str(out)!r}: the folder {Path(out).parent} does not exist. Create it first.")
    if not os.access(folder, os.W_OK):
        raise UserError(f"out={str(out)!r}: the folder {Path(out).parent} is not writable. Choose another path.")

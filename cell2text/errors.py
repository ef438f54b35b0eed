"""Errors of the package, and the boundary at which a command turns them into one line and an exit code.

A `UserError` is raised where the fault is known. Library code names parameters as Python callers write them;
`as_flags` rewrites them for the command line. Depends on the standard library only.
"""

import errno
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Mapping

from errors_cell2text import UserError, UserKeyError


# Numbers of faults of the file system that a user can correct: paths and permissions (exit code 2), full disks (1).
_WRONG_PATH = {
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EROFS,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.EXDEV,
}  # fmt: skip
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# How libraries state the number of a fault in a message: h5py, Rust (safetensors, tokenizers) and Python. The writer of
# PyTorch states none.
_STATED_NUMBER = re.compile(r"\berrno = (\d+)|\(os error (\d+)\)|\[errno (\d+)\]", re.IGNORECASE)
_TORCH_WRITER = re.compile(r"PytorchStreamWriter failed|inline_container\.cc.*unexpected pos|iostream error", re.DOTALL)
# Libraries that read what users pass; an error class of theirs means that they could not read it.
_READERS = {
    "anndata", "bz2", "datasets", "gzip", "h5py", "huggingface_hub", "jinja2", "json", "lzma", "numcodecs", "pyarrow",
    "safetensors_rust", "tiledb", "tokenizers", "yaml", "zarr", "zlib",
}  # fmt: skip
MAX_WORDS, MAX_MESSAGE = 300, 4_000  # characters of a library's message, and of a whole message
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_NEEDS_QUOTES = re.compile(r"^$|[\s;&|<>*?]")  # in a shell


class BusyError(UserError):
    """Another run holds the output."""


class RunStoppedError(Exception):
    """A run that cannot continue although its input is valid: memory, disk space or a diverging loss."""


def exit_code(error: BaseException) -> int | None:
    """Return the exit code for an error that needs no traceback, None for a fault of the package.

    Parameters
    ----------
    error
        What a command raised.

    Returns
    -------
    2 for wrong usage, paths, and input that a library cannot read; 1 for a run that memory, disk or network stopped;
    None for anything else, which is a fault of the package.

    Examples
    --------
    >>> exit_code(UserError("no cells"))
    2
    >>> exit_code(ZeroDivisionError()) is None
    True
    """
    if _write_fault(error) is not None:
        return 1
    if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno in _WRONG_PATH):
        return 2
    # Libraries raise an OSError without a number for what a server or the cache could not deliver.
    if isinstance(error, (RunStoppedError, OSError, MemoryError)):
        return 1
    if isinstance(error, (UnicodeError, RecursionError)) or type(error).__module__.partition(".")[0] in _READERS:
        return 2
    return None


def guard(
    program: str, action: Callable[[], object], *, flags: Mapping[str, str], verbose: bool = False, debug: bool = False
) -> int:
    """Run a command and return its exit code; print an error as one message on standard error.

    Parameters
    ----------
    program
        Name in front of the message.
    action
        The command, without arguments.
    flags
        Flag of each parameter of the command, such as `{"layer": "--layer"}`; see :func:`as_flags`.
    verbose
        Print the traceback as well.
    debug
        Raise faults of the package, for which :func:`exit_code` returns None, instead of printing them.

    Raises
    ------
    Exception
        A fault of the package, with `debug`.

    Examples
    --------
    >>> guard("cell2text", lambda: None, flags={})
    0
    """
    try:
        action()
    except Exception as error:
        code = exit_code(error)
        if code is None and debug:
            raise
        if verbose:
            traceback.print_exc()
        print(f"{program}: {_one_line(as_flags(message_of(error), flags))}", file=sys.stderr)
        return 1 if code is None else code
    return 0


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does: every `with` block removes its locks and temporary files."""

    def leave(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def message_of(error: BaseException) -> str:
    """Return what to print for an expected error.

    Examples
    --------
    >>> message_of(FileNotFoundError(2, "No such file or directory", "cells.h5ad"))
    'cells.h5ad: No such file or directory.'
    """
    code, fault = exit_code(error), _write_fault(error)
    if fault == errno.EFBIG:
        return (
            f"A file is larger than the file system or the limit of the process allows ({_words(error, fault)}). Raise "
            "the limit (ulimit -f) or choose another disk, and run the same command again to resume."
        )
    if fault is not None:
        return f"The disk is full ({_words(error, fault)}). Free some space and run the same command again to resume."
    if code is None:
        return (
            f"An error that should not happen: {_kind_and_words(error)}. Run the command again with --verbose, and "
            "report what it prints."
        )
    if isinstance(error, MemoryError):
        return f"The memory is full ({_kind_and_words(error)}). Pass fewer cells at once."
    if code == 2 and not isinstance(error, (UserError, OSError)):
        return f"The input cannot be read ({_kind_and_words(error)}). It is damaged, or not what its name says."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    return str(error)


def _one_line(text: str) -> str:
    """Return a message without line breaks and other control characters, which the names in a file may hold."""
    shown = _CONTROL_CHARACTERS.sub(" ", text)
    return shown if len(shown) <= MAX_MESSAGE else f"{shown[:MAX_MESSAGE]}..."


def _write_fault(error: BaseException | None) -> int | None:
    """Return the number of the fault that stopped a write, of an error or of what caused it; None for other errors."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # an error can be its own cause
        seen.add(id(error))
        stated = _STATED_NUMBER.search(str(error))
        number = getattr(error, "errno", None) or (stated and int(next(filter(None, stated.groups()))))
        if number in DISK_FULL or number == errno.EFBIG:
            return number
        if isinstance(error, RuntimeError) and _TORCH_WRITER.search(str(error)):
            return errno.ENOSPC
        hidden = None if isinstance(error, UserError) or error.__suppress_context__ else error.__context__
        error = error.__cause__ or hidden
    return None


def _words(error: BaseException, number: int) -> str:
    """Return the words of a fault of the operating system, with the file if it is known."""
    file = getattr(error, "filename2", None) or getattr(error, "filename", None)  # of a copy, the second is written
    return os.strerror(number) if file is None else f"{file}: {os.strerror(number)}"


def _kind_and_words(error: BaseException) -> str:
    """Return the class and the first line of an error, at most `MAX_WORDS` characters."""
    words = next(iter(str(error).splitlines()), "").strip()
    return f"{type(error).__name__}{': ' if words else ''}{words[:MAX_WORDS]}"


def flags_of(parameters, *, dashes: bool = True) -> dict[str, str]:
    """Return the flag of each parameter name.

    Parameters
    ----------
    parameters
        Names of Python parameters.
    dashes
        Spell flags with dashes (`--gene-key`, as `cell2text` does) or with underscores (`--gene_key`, as `train_sft.py`
        does).

    Examples
    --------
    >>> flags_of(["gene_key"])
    {'gene_key': '--gene-key'}
    """
    return {name: "--" + (name.replace("_", "-") if dashes else name) for name in parameters}


def as_flags(message: str, flags: Mapping[str, str]) -> str:
    """Rewrite `name=value` in a message as a flag and its value, for each parameter of a command.

    Parameters
    ----------
    message
        Message of a `UserError`, which names parameters as Python callers write them.
    flags
        Flag of each parameter, such as `{"gene_key": "--gene-key"}`. Other names stay as they are.

    Examples
    --------
    >>> as_flags("Found counts in layers['counts']: pass layer='counts'.", {"layer": "--layer"})
    "Found counts in layers['counts']: pass --layer counts."
    >>> as_flags("Pass allow_fractional=True to accept them.", {"allow_fractional": "--allow-fractional"})
    'Pass --allow-fractional to accept them.'
    """
    if not flags:
        return message
    names = "|".join(map(re.escape, sorted(flags, key=len, reverse=True)))

    def flag(match: re.Match) -> str:
        name, value = flags[match.group(1)], match.group(2) or "True"
        if value == "True":
            return name
        text = value[1:-1] if value[0] in "'\"" else value
        return f"{name} {shlex.quote(text) if _NEEDS_QUOTES.search(text) else text}"

    # A value is quoted, or ends before white space or punctuation; a dot, comma or colon inside it belongs to it.
    return re.sub(rf"(?<![\w.-])({names})=(\"[^\"]*\"|'[^']*'|[^\s;()\"']*[^\s,;:().\"'])?", flag, message)


__all__ = [
    "BusyError",
    "RunStoppedError",
    "UserError",
    "UserKeyError",
    "as_flags",
    "exit_code",
    "flags_of",
    "guard",
    "message_of",
]

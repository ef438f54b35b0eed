"""Errors of the package and the boundary at which a command turns them into one line and an exit code.

A `UserError` is raised where the fault is known. Library code names parameters as Python callers write them;
`as_flags` rewrites them for the command line.
"""

import errno
import re
from collections.abc import Iterable

from errors_cell2text import UserError, UserKeyError


class BusyError(UserError):
    """Another run holds the output."""


class RunStoppedError(Exception):
    """A run that cannot continue although its input is valid: memory, disk space or a diverging loss."""


def exit_code(error: BaseException) -> int | None:
    """Return the exit code for an expected error, None for a fault of the package.

    Examples
    --------
    >>> exit_code(UserError("no cells"))
    2
    >>> exit_code(ZeroDivisionError()) is None
    True
    """
    if isinstance(error, UserError):
        return 2
    if isinstance(error, RunStoppedError):
        return 1
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return 1
    return None


def as_flags(message: str, parameters: Iterable[str], *, dashes: bool = True) -> str:
    """Rewrite `name=value` in a message as the flag `--name value` for each of a command's parameters.

    Parameters
    ----------
    message
        Message of a `UserError`, which names parameters as Python callers write them.
    parameters
        Parameter names of the command that is running.
    dashes
        Whether flags are spelled with dashes (`--gene-key`) or underscores (`--gene_key`).

    Examples
    --------
    >>> as_flags("Found counts in layers['counts']: pass layer='counts'.", ["layer"])
    "Found counts in layers['counts']: pass --layer counts."
    >>> as_flags("Pass allow_fractional=True to accept them.", ["allow_fractional"])
    'Pass --allow-fractional to accept them.'
    """
    names = "|".join(map(re.escape, sorted(parameters, key=len, reverse=True)))
    if not names:
        return message

    def flag(match: re.Match) -> str:
        name, value = match.group(1), match.group(2) or ""
        name = name.replace("_", "-") if dashes else name
        return f"--{name}" if value == "True" else f"--{name} {value.strip(chr(34) + chr(39))}".rstrip()

    return re.sub(rf"\b({names})=(\"[^\"]*\"|'[^']*'|[^\s,;:()]*[^\s,;:().])?", flag, message)


__all__ = ["BusyError", "RunStoppedError", "UserError", "UserKeyError", "as_flags", "exit_code"]

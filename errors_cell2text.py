"""Errors that a user can correct, and ceilings on the size of input that somebody else made.

A small file can ask for any amount of memory or time. Each ceiling is far above what real data need, and its message
names the environment variable that raises it. Depends on the standard library only.
"""

import os


CEILING_PREFIX = "CELL2TEXT_MAX_"  # of the environment variables that raise a ceiling


class UserError(ValueError):
    """Raised for invalid input, files or options.

    The message states what was found, what was expected and what to do. It names parameters as a Python caller writes
    them (`layer="counts"`); the command line rewrites them as flags (`--layer counts`).
    """


class UserKeyError(UserError, KeyError):
    """Raised for the name of a layer, a column or a key that does not exist."""

    def __str__(self) -> str:
        return ValueError.__str__(self)  # KeyError would quote the message


class UserTypeError(UserError, TypeError):
    """Raised for an argument of another type than expected."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 200 characters, or its class name if it has no message."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def ceiling(name: str, default: int) -> int:
    """Return a ceiling on the size of input.

    Args:
        name (`str`): Name of the ceiling; the environment variable `CELL2TEXT_MAX_{name}` raises or lowers it.
        default (`int`): The ceiling if the variable is not set.

    Raises:
        UserError: If the variable is not a number.
    """
    text = os.environ.get(CEILING_PREFIX + name, "")
    try:
        return int(float(text)) if text else default
    except (ValueError, OverflowError) as error:
        raise UserError(f"{CEILING_PREFIX}{name}={text!r} in the environment: expected a number.") from error


def excess(name: str, found: int, default: int) -> str:
    """Return what a size exceeds and how to accept it, to follow what was found; empty within the ceiling.

    Args:
        name (`str`): Name of the ceiling; see [`ceiling`].
        found (`int`): The size.
        default (`int`): The ceiling if the environment does not set it.

    Examples:

    ```python
    >>> excess("NAMES", 3, 5)
    ''
    >>> excess("NAMES", 7000, 5000)
    'expected at most 5,000. To accept it, set the environment variable CELL2TEXT_MAX_NAMES=7000'

    ```
    """
    most = ceiling(name, default)
    if found <= most:
        return ""
    return f"expected at most {most:,}. To accept it, set the environment variable {CEILING_PREFIX}{name}={found}"


__all__ = ["UserError", "UserKeyError", "UserTypeError", "ceiling", "excess", "first_line"]

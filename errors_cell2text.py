"""Errors that a user can correct. Depends on nothing."""


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


__all__ = ["UserError", "UserKeyError", "UserTypeError", "first_line"]

"""Errors that a user can correct."""


class UserError(ValueError):
    """Invalid input, files or options.

    The message states what was found, what was expected and what to do. It names parameters as a Python caller writes
    them (`layer="counts"`); the command line rewrites them as flags (`--layer counts`).
    """


class UserKeyError(UserError, KeyError):
    """A name that does not exist: a layer, a column, a key."""

    def __str__(self) -> str:
        return ValueError.__str__(self)  # KeyError would quote the message


__all__ = ["UserError", "UserKeyError"]

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


__all__ = ["UserError", "UserKeyError", "UserTypeError"]

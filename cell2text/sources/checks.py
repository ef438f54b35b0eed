"""The error of a source that cannot be used."""

from cell2text.errors import UserError


class BadFileError(UserError):
    """A source that cannot be used.

    Parameters
    ----------
    source
        Name of the source.
    message
        What is wrong with it and what to do, without the name.
    """

    def __init__(self, source: str, message: str):
        super().__init__(source, message)
        self.source, self.message = source, message

    def __str__(self) -> str:
        return f"{self.source}: {self.message}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 200 characters, or its class name if it has no message."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]

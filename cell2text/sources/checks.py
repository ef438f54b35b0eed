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

"""Reject sources that cannot be used, naming the file, the cell and the value. Depends on `counts_cell2text`."""

import numpy as np
import scipy.sparse as sp

from cell2text.errors import UserError
from counts_cell2text import FLAWS, find_flaw, name_value


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


def check_counts(reader, rows: np.ndarray, block: sp.csr_matrix, *, allow_fractional: bool) -> None:
    """Check that a block holds counts.

    Parameters
    ----------
    reader
        Open source that the block was read from.
    rows
        Row of each cell of the block in the source.
    block
        Counts, CSR, shape (len(rows), n_genes).
    allow_fractional
        Accept non-integer counts, but not log-normalised values.

    Raises
    ------
    BadFileError
        If a value is not a count. The message names its cell.
    """
    flaw = find_flaw(block, allow_fractional=allow_fractional)
    if flaw:
        kind, position = flaw
        where = name_value(block, position, lambda row: reader.read_cell_names(rows[row : row + 1])[0])
        raise BadFileError(
            reader.source.name, f"{reader.counts_name} holds {FLAWS[kind]} ({where}), but raw counts are needed."
        )


def check_counts_with_advice(reader, rows: np.ndarray, *, allow_fractional: bool) -> None:
    """Check the counts of some cells; if they fail, name the layer or the option that would help.

    Raises
    ------
    BadFileError
        If a value is not a count.
    """
    block = reader.read_counts(rows)
    try:
        check_counts(reader, rows, block, allow_fractional=allow_fractional)
    except BadFileError as error:
        kind, _ = find_flaw(block, allow_fractional=allow_fractional) or ("", 0)
        layer = next((layer for layer in reader.other_layers() if reader.layer_holds_counts(layer, rows)), None)
        advice = f" Found integers in {layer!r}: pass layer={layer!r}." if layer else ""
        if not layer and kind == "normalised":
            advice = " If they are estimated counts, pass allow_fractional=True."
        raise BadFileError(reader.source.name, error.message + advice) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 200 characters, or its class name if it has no message."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]

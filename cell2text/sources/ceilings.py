"""Ceilings on names and memory, which every reader of files shares; see :func:`errors_cell2text.ceiling`.

Depends on psutil only.
"""

import psutil

from cell2text.errors import UserError
from errors_cell2text import excess


MAX_NAMES = 20_000_000  # texts in one array, such as the names of all cells
MEMORY_SHARE = 0.5  # of the free memory that content may take


def memory_ceiling() -> int:
    """Return how many bytes content may take in memory if the environment sets no ceiling `BYTES`."""
    return int(psutil.virtual_memory().available * MEMORY_SHARE)


def check_bytes(size: int, what: str) -> None:
    """Raise a `UserError` if content would take more than the ceiling `BYTES`, half of the free memory by default.

    Parameters
    ----------
    size
        Bytes in memory.
    what
        What takes them, for the message.
    """
    reason = excess("BYTES", size, memory_ceiling())
    if reason:
        raise UserError(f"{what} takes {size:,} bytes, {reason}.")


def check_names(number: int, what: str) -> None:
    """Raise a `UserError` if there are more texts than the ceiling `NAMES`.

    Parameters
    ----------
    number
        Number of texts.
    what
        What holds them, for the message.
    """
    reason = excess("NAMES", number, MAX_NAMES)
    if reason:
        raise UserError(f"{what} holds {number:,} names, {reason}.")

"""Read the lines of a text whose length nobody has checked, such as one that a small gzip file inflates to."""

from collections.abc import Iterator
from itertools import count
from typing import TextIO

from cell2text.errors import UserError
from cell2text.sources.ceilings import check_bytes, check_names
from errors_cell2text import ceiling, excess


MAX_LINE_CHARACTERS = 1 << 26
BYTES_PER_CHARACTER = 10  # of words in memory, where every line is kept
CHECKED_CHARACTERS = 1 << 24


def bounded_lines(text: TextIO, name: str, *, kept: bool = False) -> Iterator[str]:
    """Yield the lines of an open text.

    Parameters
    ----------
    text
        The open text.
    name
        Name of the file in messages.
    kept
        Whether the caller keeps the words of all lines, so that they must fit in memory.

    Raises
    ------
    UserError
        If there are more lines than the ceiling `NAMES`, if a line is longer than the ceiling `LINE_CHARACTERS`, or if
        the text does not fit in memory.

    Examples
    --------
    >>> import io
    >>> list(bounded_lines(io.StringIO("TP53 CD3E\\nCD79A\\n"), "lists.txt"))
    ['TP53 CD3E\\n', 'CD79A\\n']
    """
    longest, total, checked = ceiling("LINE_CHARACTERS", MAX_LINE_CHARACTERS), 0, 0
    for number in count(1):
        line = text.readline(longest + 1)
        if not line:
            return
        if reason := excess("LINE_CHARACTERS", len(line), MAX_LINE_CHARACTERS):
            raise UserError(f"{name}: line {number:,} has more than {longest:,} characters, {reason}.")
        check_names(number, name)
        total += len(line)
        if kept and total > checked + CHECKED_CHARACTERS:
            checked = total
            check_bytes(BYTES_PER_CHARACTER * total, name)
        yield line

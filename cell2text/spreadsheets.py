"""Write texts into csv files so that a spreadsheet does not run them.

A spreadsheet takes a cell that starts with `=`, `+`, `-` or `@` for a formula. Cell names and labels come from files of
others, so such texts get an apostrophe in front, which spreadsheets hide. Depends on the standard library only.
"""

from typing import Any


FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def harmless(value: Any) -> Any:
    """Return a text that no spreadsheet takes for a formula; other values unchanged.

    Examples
    --------
    >>> harmless('=HYPERLINK("http://example.org")'), harmless("T cell"), harmless(-1.5)
    ('\\'=HYPERLINK("http://example.org")', 'T cell', -1.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value

"""Log messages of the commands: what `--verbose` and `--quiet` show of the logger `cell2text`.

Library code logs to `logging.getLogger(__name__)` and configures nothing. Depends on the standard library only.
"""

import logging
import sys


LEVELS = {"quiet": logging.ERROR, "normal": logging.WARNING, "verbose": logging.DEBUG}


def show_messages(verbosity: str = "normal") -> None:
    """Print messages of the logger `cell2text` on standard error.

    Parameters
    ----------
    verbosity
        `"quiet"` prints errors only, `"normal"` warnings too, `"verbose"` everything.
    """
    logger = logging.getLogger("cell2text")
    logger.setLevel(LEVELS[verbosity])
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        handler = _StandardError()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)


class _StandardError(logging.StreamHandler):
    """Write to the standard error of the moment, which progress bars and tests replace."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self):
        return sys.stderr

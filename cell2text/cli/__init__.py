"""The command line: `describe`, `app`, `ask`, `score`, `search`, `donors`, `generate`, `prepare` and other commands.

Each command parses options and calls the matching Python function.
"""

from cell2text.cli import (  # noqa: F401  register their commands
    describing,
    donors,
    evaluating,
    exporting,
    generating,
    preparing,
    publishing,
    questioning,
    serving,
)
from cell2text.cli.app import app, run


__all__ = ["app", "run"]

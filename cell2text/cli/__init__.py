"""The command line: `cell2text describe`, `report`, `ask`, `score`, `search`, `prepare`, `evaluate`, `push` and others.

Each command parses options and calls the matching Python function.
"""

from cell2text.cli import describing, evaluating, preparing, publishing, questioning  # noqa: F401  register their commands
from cell2text.cli.app import app, run


__all__ = ["app", "run"]

"""The command line: `cell2text example`, `describe`, `report`, `prepare`, `vocab`, `simulate`, `evaluate`, `push`.

Each command parses options and calls the matching Python function.
"""

from cell2text.cli import describing, evaluating, preparing, publishing  # noqa: F401  register their commands
from cell2text.cli.app import app, run


__all__ = ["app", "run"]

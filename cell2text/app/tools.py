"""Functions of the app that other programs call, as MCP tools: find cells, describe a cell, and ask about cells.

They read the file of the command line and change nothing. Depends on `desk`, `details` and `questions`.
"""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np

from cell2text.app.desk import Desk
from cell2text.app.details import cell_details
from cell2text.app.experiment import Experiment
from cell2text.app.questions import answer
from cell2text.errors import UserError


MAX_NAMES = 1_000  # of cells in one call


def tools(desk: Desk) -> list[Callable]:
    """Return the tools of an app, functions with types and documentation that a model reads.

    Parameters
    ----------
    desk
        Opens the file of the command line.
    """

    def find_cells(cell_type: str, limit: int = 100) -> list[str]:
        """List the names of the cells whose text names a cell type.

        Args:
            cell_type: Cell type, such as "T cell"; empty for all cells.
            limit: Maximum number of names.
        """
        experiment = _experiment(desk)
        most = max(0, min(int(limit), MAX_NAMES))
        if not cell_type:
            return experiment.names[:most].tolist()
        return experiment.names[experiment.rows_by_type.get(cell_type, np.arange(0))[:most]].tolist()

    def describe_cell(cell: str) -> dict:
        """Return the text, type probabilities, evidence genes, pathways and fields of one cell.

        Args:
            cell: Name of the cell.
        """
        experiment = _experiment(desk)
        return asdict(cell_details(experiment, experiment.find(cell)))

    def ask_about_cells(question: str, cells: list[str]) -> str:
        """Answer a question about one cell or several, such as "Is this a T cell?" or "Which cell types are these?".

        Args:
            question: The question, in English.
            cells: Names of the cells.
        """
        experiment = _experiment(desk)
        if len(cells) > MAX_NAMES:
            raise UserError(f"cells: {len(cells):,} names, expected at most {MAX_NAMES:,}.")
        rows = np.array([experiment.row_of(name) for name in cells], dtype=np.int64)
        *_, last = answer(experiment, rows, question, seed=desk.options.seed)
        return "\n".join([*last.answer, *last.notes])

    return [find_cells, describe_cell, ask_about_cells]


def _experiment(desk: Desk) -> Experiment:
    """Return the experiment of the command line."""
    session = desk.start()
    if session is None:
        raise UserError("The app was started without a file.")
    return session.experiment

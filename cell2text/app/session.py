"""What one user of the app is looking at: the cell, the selection, both groups, and the conversation.

Knows nothing of a browser. Depends on `experiment`, `corrections` and `questions`.
"""

from dataclasses import dataclass, field

import numpy as np

from cell2text.app.corrections import Corrections
from cell2text.app.experiment import Experiment
from cell2text.app.questions import Exchange
from cell2text.errors import UserError


MAX_EXCHANGES = 50  # of a conversation
GROUPS = ("A", "B")


@dataclass
class Session:
    """The state of one user.

    Parameters
    ----------
    experiment
        The experiment.
    corrections
        Corrections of its cells.
    coloured_by
        What colours the map, a key of `experiment.colourings`.
    cell
        Row of the chosen cell, None if none is chosen.
    selection
        Rows of the selected cells, ascending.
    groups
        Rows of the cells of each group to compare.
    conversation
        Questions and answers, the oldest first.
    """

    experiment: Experiment
    corrections: Corrections = field(default_factory=Corrections)
    coloured_by: str = ""
    cell: int | None = None
    selection: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    conversation: list[Exchange] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.coloured_by:
            self.coloured_by = next(iter(self.experiment.colourings))

    def choose_cell(self, row: int) -> None:
        """Choose one cell."""
        self.cell = int(row)

    def step(self, places: int) -> int:
        """Choose the cell some places after the chosen one, in the order of the file, and return its row."""
        n = len(self.experiment.names)
        self.cell = 0 if self.cell is None else (self.cell + places) % n
        return self.cell

    def select_points(self, points) -> int:
        """Select cells on the map, and return their number."""
        self.selection = self.experiment.rows_of_points(points)
        return len(self.selection)

    def select_label(self, label: str) -> int:
        """Select all cells with a label of the column that colours the map, and return their number."""
        values = self.experiment.values(self.coloured_by)
        self.selection = np.flatnonzero(values.astype(str).to_numpy() == label)
        if not len(self.selection):
            raise UserError(f"No cell has the label {label!r}.")
        return len(self.selection)

    def set_group(self, name: str) -> int:
        """Make the selected cells one of the groups to compare, and return their number."""
        if name not in GROUPS:
            raise UserError(f"group={name!r}: expected one of {', '.join(GROUPS)}.")
        rows = self.rows_in("selection")
        self.groups[name] = rows
        return len(rows)

    def rows_in(self, scope: str) -> np.ndarray:
        """Return the rows of the chosen cell, `scope="cell"`, or of the selected cells, `scope="selection"`.

        Raises
        ------
        UserError
            If there are none.
        """
        if scope == "cell":
            if self.cell is None:
                raise UserError("No cell is chosen: click a cell on the map.")
            return np.array([self.cell])
        if not len(self.selection):
            raise UserError("No cells are selected: draw a lasso or a box on the map, or select the cells of a label.")
        return self.selection

    def rows_to_correct(self, scope: str) -> np.ndarray:
        """Return the rows of `rows_in`; raise a `UserError` if several cells of the file have the same name."""
        names = self.experiment.cells.index
        if not names.is_unique:
            repeated = names[names.duplicated()]
            raise UserError(
                f"Cell names are not unique ({len(repeated):,} repeated, such as {repeated[0]!r}), and a correction "
                "refers to a cell by name. Call adata.obs_names_make_unique(), describe the file again and open it."
            )
        return self.rows_in(scope)

    def rows_to_ask(self, scope: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the rows that a question is about: those of `rows_in`, or of both groups for `scope="groups"`."""
        if scope != "groups":
            return self.rows_in(scope), None
        if set(self.groups) != set(GROUPS):
            raise UserError("Groups A and B are not both set: set them in the Compare tab.")
        return self.groups[GROUPS[0]], self.groups[GROUPS[1]]

    def remember(self, exchange: Exchange) -> None:
        """Add an exchange to the conversation; the oldest are forgotten after `MAX_EXCHANGES`."""
        self.conversation.append(exchange)  # in place, for questions that are asked at the same time
        del self.conversation[:-MAX_EXCHANGES]

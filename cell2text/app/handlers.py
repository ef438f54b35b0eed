"""What happens when a user clicks: each handler changes the session and returns the panels that changed.

Panels are named, and their content is HTML or a plain value, so that handlers run without a browser. An error that the
user can correct becomes a message. Depends on the modules of this package, not on Gradio.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np

from cell2text.app import rendering
from cell2text.app.comparison import compare_groups
from cell2text.app.desk import Desk
from cell2text.app.details import CellDetails, cell_details
from cell2text.app.export import export
from cell2text.app.opening import OnProgress
from cell2text.app.questions import Exchange, answer
from cell2text.app.session import GROUPS, Session
from cell2text.errors import UserError


NO_FILE = "No file is open: open one in the File tab."
INTERRUPTED = "The answer was interrupted: ask again."
Panels = dict[str, object]


def guarded(handler: Callable) -> Callable:
    """Return a handler that reports a `UserError` in the panel `message`, and clears that panel otherwise."""

    @functools.wraps(handler)
    def run(self: "Handlers", session: Session | None, *values) -> Panels:
        try:
            if session is None:
                raise UserError(NO_FILE)
            return {"message": rendering.message_html(""), **handler(self, session, *values)}
        except UserError as error:
            return {"message": rendering.message_html(str(error), is_error=True)}

    return run


class Handlers:
    """Reactions to a user.

    Parameters
    ----------
    desk
        Opens files.
    """

    def __init__(self, desk: Desk):
        self.desk = desk

    def start(self, on_progress: OnProgress | None = None) -> Panels:
        """Open the file of the command line, and return all panels."""
        try:
            return self._all_panels(self.desk.start(on_progress))
        except UserError as error:
            return {**self._all_panels(None), "message": rendering.message_html(str(error), is_error=True)}

    def open_upload(self, session: Session | None, path: str | None, on_progress: OnProgress | None = None) -> Panels:
        """Open an uploaded file instead of the current one."""
        try:
            if not path:
                raise UserError("No file was uploaded.")
            opened = self.desk.open_upload(path, on_progress)
        except UserError as error:
            return {"message": rendering.message_html(str(error), is_error=True)}
        self.desk.close_session(session)
        return self._all_panels(opened)

    @guarded
    def colour(self, session: Session, coloured_by: str) -> Panels:
        """Colour the map."""
        colours = session.experiment.colours(coloured_by)
        session.coloured_by = coloured_by
        return {"map": {"colours": colours}}

    @guarded
    def pick(self, session: Session, point) -> Panels:
        """Choose the cell of a point on the map."""
        (row,) = session.experiment.rows_of_points([point])
        session.choose_cell(row)
        return {"cell": self._cell(session)}

    @guarded
    def find(self, session: Session, name: str) -> Panels:
        """Choose a cell by its name."""
        session.choose_cell(session.experiment.find(name or ""))
        return {"cell": self._cell(session), "map": self._chosen(session)}

    @guarded
    def step(self, session: Session, places: int) -> Panels:
        """Choose the next or the previous cell of the file."""
        session.step(places)
        return {"cell": self._cell(session), "map": self._chosen(session)}

    @guarded
    def choose(self, session: Session, points) -> Panels:
        """Select cells on the map."""
        n = session.select_points(points)
        return {"message": rendering.message_html(f"{n:,} cells selected." if n else "")}

    @guarded
    def choose_label(self, session: Session, label) -> Panels:
        """Select all cells of a label."""
        n = session.select_label(str(label))
        shown = session.experiment.points_of_rows(session.selection)
        return {
            "map": {"selected": shown, "n_selected": n},
            "message": rendering.message_html(f"{n:,} cells selected: {label}."),
        }

    def ask(self, session: Session | None, question: str, scope: str) -> Iterator[Panels]:
        """Answer a question about the chosen cell, the selected cells or both groups, piece by piece."""
        exchange: Exchange | None = None
        try:
            if session is None:
                raise UserError(NO_FILE)
            rows, second = session.rows_to_ask(scope)
            seed = self.desk.options.seed
            for part in answer(session.experiment, rows, question or "", second=second, seed=seed):
                if exchange is None:
                    session.remember(part)
                exchange = part
                yield {"conversation": rendering.conversation_html(session), "message": rendering.message_html("")}
        except UserError as error:
            shown: Panels = {"message": rendering.message_html(str(error), is_error=True)}
            if exchange is not None:
                exchange.stop(str(error))
                shown["conversation"] = rendering.conversation_html(session)
            yield shown
        finally:
            if exchange is not None and not exchange.done:  # the page was closed, or a fault
                exchange.stop(INTERRUPTED)

    @guarded
    def set_group(self, session: Session, name: str) -> Panels:
        """Make the selected cells a group to compare."""
        session.set_group(name)
        sizes = {one: len(rows) for one, rows in sorted(session.groups.items())}
        return {"comparison": rendering.comparison_html(None, sizes)}

    @guarded
    def compare(self, session: Session) -> Panels:
        """Compare both groups."""
        first, second = (session.groups.get(name, np.zeros(0, dtype=np.int64)) for name in GROUPS)
        found = compare_groups(session.experiment, first, second, names=GROUPS, seed=self.desk.options.seed)
        return {"comparison": rendering.comparison_html(found)}

    def look_up(self, label: str) -> Panels:
        """Show which term a label means."""
        return {"term": rendering.look_up_html(label or "")}

    @guarded
    def correct(self, session: Session, label: str, by: str, scope: str) -> Panels:
        """Change the label of the chosen cell or of the selected cells."""
        rows = session.rows_to_correct(scope)
        before = session.experiment.cells["cell_type"].astype(object).iloc[rows].tolist()
        term = session.corrections.add(session.experiment.names[rows].tolist(), before, label, by=by)
        text = f"{len(rows):,} {'cell' if len(rows) == 1 else 'cells'} corrected to {term.label}."
        return {**self._corrected(session), "message": rendering.message_html(text)}

    @guarded
    def withdraw(self, session: Session, by: str, scope: str) -> Panels:
        """Withdraw the corrections of the chosen cell or of the selected cells."""
        n = session.corrections.withdraw(session.experiment.names[session.rows_in(scope)].tolist(), by=by)
        return {**self._corrected(session), "message": rendering.message_html(f"{n:,} corrections withdrawn.")}

    @guarded
    def export(self, session: Session, suffix: str) -> Panels:
        """Write a copy of the file with its corrections."""
        out = export(session.experiment, session.corrections, self.desk.export_path(session, suffix))
        return {"download": str(out), "message": rendering.message_html(f"{out.name} is ready to download.")}

    def _all_panels(self, session: Session | None) -> Panels:
        experiment = session.experiment if session else None
        name = experiment.path.name if experiment else "Cell2Text"
        places = {} if session is None or experiment is None else {
            "map": id(experiment), "places": experiment.places(), "colours": experiment.colours(session.coloured_by)
        }  # fmt: skip
        return {
            "session": session,
            "head": rendering.head_html(experiment, name),
            "message": rendering.message_html("" if session or self.desk.source is None else NO_FILE),
            "map": places,
            "colourings": [(title, key) for key, title in experiment.colourings.items()] if experiment else [],
            "coloured_by": session.coloured_by if session else None,
            "cell": rendering.cell_html(None),
            "conversation": rendering.conversation_html(session),
            "comparison": rendering.comparison_html(None),
            "corrections": rendering.corrections_html(session.corrections if session else None),
            "facts": rendering.facts_html(experiment),
        }

    def _corrected(self, session: Session) -> Panels:
        shown = {"cell": self._cell(session)} if session.cell is not None else {}
        return {"corrections": rendering.corrections_html(session.corrections), **shown}

    def _cell(self, session: Session) -> str:
        details: CellDetails = cell_details(session.experiment, int(session.rows_in("cell")[0]))
        return rendering.cell_html(details, session.corrections.current.get(details.name))

    def _chosen(self, session: Session) -> dict:
        shown = session.experiment.points_of_rows(session.rows_in("cell"))
        return {"chosen": shown[0] if shown else -1}

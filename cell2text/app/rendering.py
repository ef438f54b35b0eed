"""Write the panels of the app as HTML, from the templates of this package.

Every text of a file or a user is escaped: for HTML by Jinja, and for the template language of Gradio's HTML component.
"""

from collections.abc import Sequence
from typing import Any

from cell2text.app.comparison import Comparison
from cell2text.app.corrections import Correction, Corrections, look_up, suggest
from cell2text.app.details import ROLES, CellDetails
from cell2text.app.experiment import Experiment
from cell2text.app.session import Session
from cell2text.describe.described_file import flat_parameters
from cell2text.errors import UserError
from cell2text.pages import render_page
from cell2text.questions.answer import AnswerValue


MAX_CORRECTIONS = 100  # rows of the table
FACTS = ("model", "revision", "options", "ontologies", "libraries", "groups")  # parameters that the page shows
# Gradio reads the value of an HTML component as a JavaScript template string and as a Handlebars template.
_TEMPLATE_CHARACTERS = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;", "\\": "&#92;"})


def _render(template: str, **context: Any) -> str:
    return render_page("cell2text.app", f"{template}.html", **context).translate(_TEMPLATE_CHARACTERS)


def head_html(experiment: Experiment | None, name: str) -> str:
    """Return the title of the page: the file, its cells, and what a user should know about it."""
    if experiment is None:
        return _render("head", name=name, n_cells=None, notes=[])
    return _render(
        "head", name=name, n_cells=len(experiment.names), map_name=experiment.map_name, notes=experiment.notes
    )


def cell_html(cell: CellDetails | None, correction: Correction | None = None) -> str:
    """Return the panel of one cell; a hint if no cell is chosen."""
    types = [_bar(bar.name, ROLES[bar.role], bar.role, bar.probability, 1.0) for bar in cell.types] if cell else []
    highest = max((one.score for one in cell.pathways), default=1.0) if cell else 1.0
    pathways = [
        _bar(one.name, "stated" if one.stated else "", "", one.score, highest)
        for one in (cell.pathways if cell else ())
    ]
    return _render("cell", cell=cell, correction=correction, types=types, pathways=pathways)


def _bar(name: str, note: str, kind: str, value: float, full: float) -> dict:
    """Return a bar of the templates; `full` is the value of a bar of full length."""
    return {"name": name, "role": note, "kind": kind, "value": value, "share": value / full}


def conversation_html(session: Session | None) -> str:
    """Return questions and answers, the latest first."""
    return _render("conversation", exchanges=session.conversation[::-1] if session else [], bars=_value_bars)


def _value_bars(values: Sequence[AnswerValue]) -> list[dict]:
    """Return the values of an answer as bars of the templates."""
    return [
        _bar(one.name, f"{one.n_cells:,} cells" if one.n_cells else "", "", one.probability or 0.0, 1.0)
        for one in values
    ]


def comparison_html(found: Comparison | None, groups: dict[str, int] | None = None) -> str:
    """Return a comparison; without one, the sizes of the groups that are set."""
    marker_groups = [] if found is None else list(zip(found.names, found.markers))
    return _render("comparison", found=found, marker_groups=marker_groups, groups=groups or {})


def corrections_html(corrections: Corrections | None) -> str:
    """Return the table of corrections, the latest first."""
    current = list(corrections.current.values())[::-1] if corrections else []
    path = corrections.path if corrections else None
    return _render("corrections", rows=current[:MAX_CORRECTIONS], n=len(current), path=path)


def look_up_html(label: str) -> str:
    """Return which ontology term a label means, and similar ones if it means none."""
    try:
        term = look_up(label) if label.strip() else None
    except UserError as error:
        return message_html(str(error), is_error=True)
    return _render("look_up", term=term, suggestions=suggest(label) if term and not term.term_id else [])


def facts_html(experiment: Experiment | None) -> str:
    """Return what is known of the file: its path, model and parameters."""
    if experiment is None:
        return _render("facts", facts=[])
    facts = [("described file", experiment.path), ("model of the app", experiment.counts.model_name)]
    params = flat_parameters(experiment.described.params)
    return _render("facts", facts=[*facts, *((name, text) for name, text in params.items() if name.startswith(FACTS))])


def message_html(text: str, *, is_error: bool = False) -> str:
    """Return a message, or an error, for the user."""
    return _render("message", text=text, is_error=is_error)

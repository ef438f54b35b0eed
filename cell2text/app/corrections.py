"""Labels corrected by hand: who changed which cell to what, and when.

A journal beside the described file keeps every correction, one JSON object per line. Every change is made under a file
lock, to the journal as it then is on disk, so that several apps can correct the same file. The described file itself is
never changed. Depends on the ontology for terms, and on filelock.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd

from cell2text.errors import UserError
from cell2text.files import write_atomically
from cell2text.ontology.common_names import resolve_label
from cell2text.ontology.terms import Term, label_index, label_of
from cell2text.paths import check_readable


MAX_LABEL, MAX_NAME, MAX_CELLS = 200, 100, 100_000
N_SUGGESTIONS = 5
LOCK_SECONDS = 10.0  # longest wait for another app that writes the journal
CURATED, FROM, BY, AT = "curated_cell_type", "corrected_from", "corrected_by", "corrected_at"


@dataclass(frozen=True)
class Correction:
    """One change of a label by hand.

    Parameters
    ----------
    cell_id
        Name of the cell.
    label
        The new cell type; None if an earlier correction is withdrawn.
    term_id
        Its Cell Ontology term; None for a label that the ontology lacks.
    before
        The predicted cell type; None if the text names none.
    by
        Who changed it.
    at
        When, in UTC: ISO 8601 with seconds.
    """

    cell_id: str
    label: str | None
    term_id: str | None
    before: str | None
    by: str
    at: str


class Corrections:
    """The corrections of one experiment.

    Parameters
    ----------
    path
        Journal, one JSON object per line. It is read if it exists, and before every change, which is written at once.
        A hidden lock file lies beside it. None to keep corrections in memory.

    Attributes
    ----------
    journal
        Every correction, the oldest first; those of other apps from the next change on.

    Raises
    ------
    UserError
        If the journal cannot be read.

    Examples
    --------
    >>> corrections = Corrections()
    >>> corrections.add(["AAAC"], [None], "B lymphocyte", by="Ada")
    Term(label='B cell', term_id='CL:0000236', route='synonym')
    >>> corrections.current["AAAC"].label
    'B cell'
    """

    def __init__(self, path: Path | None = None):
        self.path, self._lock = path, Lock()
        self.journal: list[Correction] = _read_journal(path) if path is not None and path.exists() else []

    @property
    def current(self) -> dict[str, Correction]:
        """The correction of each cell that has one, by cell name."""
        return _current(self.journal)

    def add(self, cell_ids: Sequence[str], before: Sequence[str | None], label: str, *, by: str) -> Term:
        """Change the label of cells.

        Parameters
        ----------
        cell_ids
            Names of the cells.
        before
            Their predicted cell types.
        label
            Name or id of a Cell Ontology term, or another name.
        by
            Who changes it.

        Returns
        -------
        The term of the label.

        Raises
        ------
        UserError
            If there are no cells, the label or the name is empty or too long, or the journal cannot be written.
        """
        term = look_up(label)
        added = _new_corrections(cell_ids, before, str(term.label), term.term_id, by)
        self._change(lambda current: added)
        return term

    def withdraw(self, cell_ids: Sequence[str], *, by: str) -> int:
        """Return cells to their predicted labels; the journal keeps the corrections. Return how many had one."""

        def withdrawn(current: dict[str, Correction]) -> list[Correction]:
            found = [cell for cell in cell_ids if cell in current]
            return _new_corrections(found, [current[cell].before for cell in found], None, None, by) if found else []

        return len(self._change(withdrawn))

    def columns(self, cells: pd.DataFrame) -> pd.DataFrame:
        """Return the columns for `obs`: the curated cell type of every cell, and what was corrected by whom and when.

        Parameters
        ----------
        cells
            Descriptions, indexed by cell name, with the columns `cell_type` and `cell_type_ontology_term_id`.

        Returns
        -------
        Columns `curated_cell_type`, its `_ontology_term_id`, `corrected_from`, `corrected_by` and `corrected_at`, texts
        that are missing where nothing was corrected; a cell without a correction keeps its predicted type.
        """
        current = self.current
        found = [current.get(str(name)) for name in cells.index]
        predicted = [cells[name].astype(object).tolist() for name in ("cell_type", "cell_type_ontology_term_id")]
        changed = {
            CURATED: [one.label if one else old for one, old in zip(found, predicted[0])],
            f"{CURATED}_ontology_term_id": [one.term_id if one else old for one, old in zip(found, predicted[1])],
            FROM: [one.before if one else None for one in found],
            BY: [one.by if one else None for one in found],
            AT: [one.at if one else None for one in found],
        }
        frame = pd.DataFrame(changed, index=cells.index, dtype=object)
        return frame.where(frame.notna(), None)

    def journal_text(self) -> str:
        """Return the journal, one JSON object per line."""
        return _as_lines(self.journal)

    def _change(self, change: Callable[[dict[str, Correction]], list[Correction]]) -> list[Correction]:
        """Add to the journal what a function returns for the current corrections, and return it."""
        with self._lock, _held(self.path):
            journal = self.journal if self.path is None or not self.path.exists() else _read_journal(self.path)
            added = change(_current(journal))
            journal = [*journal, *added]
            if self.path is not None and added:
                write_atomically(self.path, _as_lines(journal))
            self.journal = journal
        return added


@contextmanager
def _held(path: Path | None) -> Iterator[None]:
    """Hold the lock of a journal; raise a `UserError` if it cannot be locked or written. None needs no lock."""
    from filelock import FileLock

    if path is None:
        yield
        return
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS):
            yield
    except OSError as error:  # also a lock that another app does not release
        raise UserError(
            f"{path}: the corrections cannot be saved ({error}). Nothing was changed. Check that the folder is "
            "writable and the disk has space, and try again; or export a copy of the file and correct that."
        ) from error


def _new_corrections(
    cell_ids: Sequence[str], before: Sequence, label: str | None, term_id: str | None, by: str
) -> list[Correction]:
    """Return a correction of each cell, made now."""
    if not len(cell_ids):
        raise UserError("No cell is selected: click a cell, or select cells on the map.")
    if len(cell_ids) > MAX_CELLS:
        raise UserError(f"{len(cell_ids):,} cells are selected: expected at most {MAX_CELLS:,}.")
    person = _clean(by, "Your name", MAX_NAME)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return [
        Correction(str(cell), label, term_id, old if isinstance(old, str) else None, person, at)
        for cell, old in zip(cell_ids, before)
    ]


def _current(journal: Sequence[Correction]) -> dict[str, Correction]:
    """Return the last correction of each cell, without withdrawn ones."""
    last = {one.cell_id: one for one in journal}
    return {cell: one for cell, one in last.items() if one.label is not None}


def _as_lines(journal: Sequence[Correction]) -> str:
    return "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in journal)


def look_up(label: str) -> Term:
    """Return the Cell Ontology term of a label or an id; a label that the ontology lacks is returned without a term.

    Raises
    ------
    UserError
        If the label is empty or too long, or an id that is not a cell type.

    Examples
    --------
    >>> look_up("cl:0000084").label, look_up("my new type").term_id
    ('T cell', None)
    """
    text = _clean(label, "The label", MAX_LABEL)
    if text.upper().startswith("CL:"):
        term = resolve_label("cell_type", None, text.upper())
        if term.term_id is None:
            raise UserError(f"{text}: the Cell Ontology has no such term.")
        return term
    term = resolve_label("cell_type", text)
    if term.label is None:
        raise UserError(f"The label {text!r} means that the type is unknown: expected a cell type.")
    return term


def suggest(label: str) -> list[tuple[str, str]]:
    """Return labels and ids of Cell Ontology terms that resemble a text, the closest first, `N_SUGGESTIONS` at most.

    Examples
    --------
    >>> suggest("plasmacytoid dendritic")[0]
    ('plasmacytoid dendritic cell', 'CL:0000784')
    """
    text = " ".join(label.casefold().split())[:MAX_LABEL]
    if not text:
        return []
    labels = _cell_types()
    words = text.split()
    holding = sorted((one for one in labels if all(word in one for word in words)), key=lambda one: (len(one), one))
    close = get_close_matches(text, labels, N_SUGGESTIONS, 0.6) if len(holding) < N_SUGGESTIONS else []
    found = dict.fromkeys([*holding[:N_SUGGESTIONS], *close])
    return [(label_of(labels[one]), labels[one]) for one in list(found)[:N_SUGGESTIONS]]


@cache
def _cell_types() -> dict[str, str]:
    """Return the id of each Cell Ontology label, in lower case."""
    labels, _, _ = label_index("cell_type")
    return {label: next(iter(terms)) for label, terms in labels.items() if len(terms) == 1}


def _clean(text: str, what: str, longest: int) -> str:
    """Return a text of one line; raise a `UserError` if it is empty or too long."""
    cleaned = " ".join("".join(one if one.isprintable() else " " for one in str(text or "")).split())
    if not cleaned:
        raise UserError(f"{what} is empty.")
    if len(cleaned) > longest:
        raise UserError(f"{what} has {len(cleaned)} characters: expected at most {longest}.")
    return cleaned


def _read_journal(path: Path) -> list[Correction]:
    names = set(Correction.__dataclass_fields__)
    check_readable(path)
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not all(isinstance(row, dict) and set(row) == names for row in rows):
            raise ValueError("a line lacks fields of a correction")
        return [Correction(**row) for row in rows]
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a journal of corrections ({error}). Move it to another folder.") from error


def corrected_rows(corrections: Corrections, names: np.ndarray) -> np.ndarray:
    """Return whether each cell, by its name, has a correction, shape (n_cells,)."""
    current = corrections.current
    return np.array([str(name) in current for name in names], dtype=bool)

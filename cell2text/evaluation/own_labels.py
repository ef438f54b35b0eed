"""Labels that users have of their own cells: which column holds those of a field, and which ontology terms they are."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cell2text.errors import UserError
from cell2text.evaluation.described_cells import CellTable, name_columns
from cell2text.language.fields import FIELDS
from cell2text.ontology.common_names import resolve_label
from cell2text.ontology.life_stages import LIFE_STAGES, life_stage
from cell2text.ontology.terms import clean_label, resolve


TERM_ID = re.compile(r"([A-Za-z]+)[:_](\d{4,})")
# Columns of the CELLxGENE schema whose name is not that of their field.
FIELD_OF_COLUMN = {
    **{name: name for name in FIELDS},
    **{f"{name}_ontology_term_id": name for name in FIELDS},
    "development_stage": "life_stage",
    "development_stage_ontology_term_id": "life_stage",
}


@dataclass(frozen=True)
class FieldLabels:
    """The labels of one field.

    Parameters
    ----------
    field
        One of `FIELDS`.
    column
        How messages name the column.
    labels
        Label of each cell: that of the ontology term, otherwise the one of the column; None if it is unknown.
    term_ids
        Ontology term of each cell; None if its label is unknown or was not found in the ontology.
    mapped
        Whether the label of each cell was found in the ontology, bool, shape (n_cells,).
    counts
        Number of cells with each label of the column, unknown ones left out.
    unmapped
        Number of cells with each label that was not found in the ontology, the most frequent first.
    common_names
        Label of the ontology for each label that is a common name of it, such as "CD14+ Mono".
    """

    field: str
    column: str
    labels: list[str | None]
    term_ids: list[str | None]
    mapped: np.ndarray
    counts: dict[str, int]
    unmapped: dict[str, int]
    common_names: dict[str, str]


def truth_columns(truth: str | Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Return the column with the labels of each field.

    Parameters
    ----------
    truth
        `COLUMN` or `FIELD=COLUMN`, one or several, or a dictionary from fields to columns. A column without a field
        holds cell types, unless its name is that of another field (`tissue`, `sex_ontology_term_id`).

    Raises
    ------
    UserError
        If a field is named twice or is unknown.

    Examples
    --------
    >>> truth_columns("CellType"), truth_columns(["tissue=organ", "cell_type"])
    ({'cell_type': 'CellType'}, {'tissue': 'organ', 'cell_type': 'cell_type'})
    """
    if isinstance(truth, Mapping):
        pairs = list(truth.items())
    else:
        pairs = [_field_and_column(text) for text in ([truth] if isinstance(truth, str) else truth)]
    for name, _ in pairs:
        if name not in FIELDS:
            raise UserError(f"truth names the field {name!r}. Expected one of {', '.join(FIELDS)}.")
    twice = [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]
    if twice:
        columns = [column for name, column in pairs if name == twice[0]]
        raise UserError(
            f"truth names several columns for {twice[0]}: {', '.join(columns)}. Name one per field, such as "
            "truth='tissue=organ' for tissues."
        )
    return dict(pairs)


def _field_and_column(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if equals and name in FIELDS and column:
        return name, column
    return FIELD_OF_COLUMN.get(text, "cell_type"), text


def read_labels(table: CellTable, field: str, column: str) -> FieldLabels:
    """Read a column of labels or ontology ids, and find the term of each.

    Raises
    ------
    UserError
        If the column does not exist, holds numbers, or holds no label at all.
    """
    if column not in table.columns:
        raise UserError(
            f"truth={column!r}: {table.name} has no such column. Its columns: {name_columns(table.columns)}."
        )
    values = [clean_label(value) for value in table.column(column)]
    counts = Counter(value for value in values if value is not None)
    where = table.where(column)
    if not counts:
        raise UserError(
            f"truth={column!r}: {where} of {table.name} has no label: all {len(values):,} cells are empty or unknown."
        )
    _check_names(table, column, list(counts))
    terms = {label: _find_term(field, label) for label in counts}
    unmapped = {label: n for label, n in counts.most_common() if not terms[label][2]}
    found = [(None, None, False) if value is None else terms[value] for value in values]
    labels, term_ids, mapped = map(list, zip(*found))
    common = {label: terms[label][0] for label in counts if field == "cell_type" and _is_common_name(label)}
    return FieldLabels(field, where, labels, term_ids, np.array(mapped, dtype=bool), dict(counts), unmapped, common)


def _check_names(table: CellTable, column: str, labels: list[str]) -> None:
    """Raise if the labels are numbers: clusters have no name to compare with."""
    if pd.to_numeric(pd.Series(labels), errors="coerce").isna().any():
        return
    raise UserError(
        f"truth={column!r}: {table.where(column)} holds numbers ({', '.join(sorted(labels)[:5])}), which are cluster "
        "numbers and not labels. Expected names or ontology terms of cell types, such as 'B cell' or 'CL:0000236'. The "
        f"other columns: {name_columns([name for name in table.columns if name != column])}."
    )


def _is_common_name(label: str) -> bool:
    return resolve_label("cell_type", label).route == "common_name"


def _find_term(field: str, label: str) -> tuple[str, str | None, bool]:
    """Return label, term id and whether it was found, for a label or an id such as `CL:0000236` or `CL_0000236`."""
    match = TERM_ID.fullmatch(label)
    term_id = f"{match[1]}:{match[2]}" if match else None
    if field == "life_stage":
        term = resolve("development_stage", None if term_id else label, term_id)
        stage = label if label in LIFE_STAGES else life_stage(term.term_id)
        return stage or label, None, stage is not None
    term = resolve_label(field, None if term_id else label, term_id)
    return term.label or label, term.term_id, term.term_id is not None

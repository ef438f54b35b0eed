"""Prediction rows: read them from jsonl files, check them, and join them with reference rows."""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from datasets import Dataset
from pandas import isna
from pandas.api.types import is_scalar

from cell2text.errors import UserError
from cell2text.evaluation.calibration import CONFIDENCE_MEASURES
from cell2text.language.fields import FIELDS, TERM_FIELDS
from cell2text.ontology.life_stages import life_stage
from cell2text.ontology.terms import TERM_SEPARATOR, clean_label, is_term, resolve
from cell2text.sources.lines import bounded_lines
from errors_cell2text import excess


logger = logging.getLogger(__name__)

MAX_TEXT_CHARACTERS = 10_000  # of a prediction or reference; the time of ROUGE-L grows with the square of it
LIST_KEYS = ("pathways", "pathways_active")


def read_rows(path: str | os.PathLike) -> list[dict]:
    """Read the rows of a jsonl file.

    Raises
    ------
    UserError
        If the file does not exist, is not UTF-8 or has no rows, or if a line is not a JSON object.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file. Expected a jsonl file with one prediction per line.")
    rows = []
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(bounded_lines(file, str(path)), start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}, line {number}, is not JSON ({error.msg}): {line[:60]!r}.") from error
                if not isinstance(row, dict):
                    raise UserError(f"{path}, line {number}, is a {type(row).__name__}. Expected a JSON object.")
                rows.append(row)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}: {error.reason}). Save it with UTF-8 encoding."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    if not rows:
        raise UserError(f"{path} has no rows.")
    return rows


def check_rows(rows: Iterable[Mapping], references: Iterable[Mapping] | None = None) -> tuple[list[dict], dict]:
    """Check prediction rows, join them with references, and fill in every key that the evaluation reads.

    Parameters
    ----------
    rows
        Predictions with `cell_id` and `prediction`, and with `reference` and the labels unless `references` has them.
    references
        Rows with `cell_id`, `reference` and the labels of exactly the same cells. They override labels in `rows`.

    Returns
    -------
    The rows, and notes on them: `rows` (their number), `missing` (rows without a value, by key) and
    `unknown_ontology_ids` (rows by id that is not a term of its field's ontology).

    Raises
    ------
    UserError
        If a row has no cell id or no prediction, a cell id occurs twice, the cells differ from those of the
        references, or no row has anything to score against.
    """
    joined = list(map(dict, rows))
    _check_keys(joined, ("cell_id", "prediction"), "prediction")
    _check_duplicates(joined, "predictions")
    if references is not None:
        joined = _join_references(joined, list(map(dict, references)))
    unknown_ids: Counter = Counter()
    cleaned = [_clean_row(row, unknown_ids) for row in joined]
    missing = Counter(key for row in cleaned for key in ("reference", *FIELDS, *LIST_KEYS) if not row[key])
    notes: dict[str, Any] = {
        "rows": len(cleaned),
        "missing": dict(sorted(missing.items())),
        "unknown_ontology_ids": dict(sorted(unknown_ids.items())),
    }
    for term, n in notes["unknown_ontology_ids"].items():
        logger.warning(f"{term} is not a term of its field's ontology. Its {n:,} rows are compared by label.")
    if not any(row[key] is not None for row in cleaned for key in (*FIELDS, "reference")):
        raise UserError(f"No row has a reference text or a label. Expected at least one of {('reference', *FIELDS)}.")
    return cleaned, notes


def prediction_values(row: Mapping) -> dict:
    """Return what a row holds of its prediction: the text and its confidence measures, None where missing."""
    return {key: row.get(key) for key in ("prediction", *CONFIDENCE_MEASURES)}


def label_rows(rows: Iterable[Mapping]) -> list[dict]:
    """Return the labels of cells in the form of :func:`check_rows`, with an empty prediction."""
    if isinstance(rows, Dataset):  # skip the ranked genes, which are slow to read
        keys = {"cell_id", *FIELDS, *LIST_KEYS, "donor_id", "dataset_id", "development_stage_ontology_term_id"}
        keys |= {f"{field}_ontology_term_id" for field in TERM_FIELDS}
        rows = rows.select_columns([name for name in rows.column_names if name in keys])
    return [_clean_row({**row, "prediction": None}, Counter()) for row in rows]


def _join_references(rows: list[dict], references: list[dict]) -> list[dict]:
    _check_keys(references, ("cell_id", "reference"), "reference")
    _check_duplicates(references, "references")
    by_id = {str(row["cell_id"]): row for row in references}
    ids = {str(row["cell_id"]) for row in rows}
    if ids != by_id.keys():
        missing, additional = by_id.keys() - ids, ids - by_id.keys()
        raise UserError(
            f"The predictions cover other cells than the references: {len(missing):,} of {len(by_id):,} cells have no "
            f"prediction{_first(missing)}, {len(additional):,} predictions have no reference{_first(additional)}."
        )
    return [{**row, **by_id[str(row["cell_id"])], **prediction_values(row)} for row in rows]


def _clean_row(row: dict, unknown_ids: Counter) -> dict:
    """Return a row with every key that the evaluation reads, None where missing; count and drop unknown term ids."""
    cell = f"Cell {str(row['cell_id'])!r}"
    cleaned: dict[str, Any] = {"cell_id": str(row["cell_id"])}
    cleaned["prediction"] = _clean_text(row["prediction"] or "", f"{cell}: prediction")
    cleaned["reference"] = _clean_text(row.get("reference"), f"{cell}: reference")
    if row.get("life_stage") is None:
        row["life_stage"] = life_stage(clean_label(row.get("development_stage_ontology_term_id")))
    cleaned |= {key: clean_label(row.get(key)) for key in (*FIELDS, "donor_id", "dataset_id")}
    for field in TERM_FIELDS:
        term = clean_label(row.get(f"{field}_ontology_term_id"))
        if term and not all(is_term(field, part) for part in term.split(TERM_SEPARATOR)):
            unknown_ids[term] += 1
            term = None
        cleaned[f"{field}_ontology_term_id"] = term
        if term and not cleaned[field]:
            cleaned[field] = resolve(field, None, term).label
    for key in LIST_KEYS:
        if not isinstance(row.get(key), (list, tuple, type(None))):
            raise UserError(f"{cell}: {key} is {row[key]!r}. Expected a list of names.")
        cleaned[key] = None if row.get(key) is None else tuple(map(str, row[key]))
    if not cleaned["pathways"] and not cleaned["pathways_active"]:  # cells without pathway scores have empty lists
        cleaned["pathways"] = cleaned["pathways_active"] = None
    if cleaned["donor_id"] and cleaned["dataset_id"]:
        cleaned["donor_id"] = f"{cleaned['dataset_id']}: {cleaned['donor_id']}"  # names like "donor1" are common
    cleaned |= {key: _clean_probability(row.get(key), f"{cell}: {key}") for key in CONFIDENCE_MEASURES}
    return cleaned


def _clean_text(value: Any, name: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise UserError(f"{name} is a {type(value).__name__}. Expected text.")
    if reason := excess("TEXT_CHARACTERS", len(value), MAX_TEXT_CHARACTERS):
        raise UserError(f"{name} has {len(value):,} characters, {reason}.")
    return value.encode("utf-8", "replace").decode("utf-8")  # JSON permits lone surrogates, UTF-8 does not


def _clean_probability(value: Any, name: str) -> float | None:
    if value is None or (is_scalar(value) and isna(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise UserError(f"{name} is {value!r}. Expected a number from 0 to 1, or null if it is missing.")
    return float(value)


def _check_keys(rows: list[dict], keys: tuple[str, ...], kind: str) -> None:
    for number, row in enumerate(rows, start=1):
        missing = [key for key in keys if key not in row or (key == "cell_id" and row[key] is None)]
        if missing:
            raise UserError(f"Row {number} of the {kind}s has no {' and no '.join(missing)}. Its keys: {sorted(row)}.")


def _check_duplicates(rows: list[dict], name: str) -> None:
    repeated = [cell for cell, n in Counter(str(row["cell_id"]) for row in rows).items() if n > 1]
    if repeated:
        raise UserError(f"{len(repeated):,} cell ids occur more than once in the {name}{_first(repeated)}.")


def _first(ids: Iterable[str]) -> str:
    ids = sorted(ids)
    return f" (first: {ids[0]!r})" if ids else ""

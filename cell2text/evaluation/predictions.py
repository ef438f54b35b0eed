"""Prediction rows: what was said about which cell, and what is true of it. Read, checked, joined with references."""

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
from cell2text.evaluation.calibration import SURENESS
from cell2text.language.fields import FIELDS, TERM_FIELDS
from cell2text.ontology.life_stages import life_stage
from cell2text.ontology.terms import TERM_SEPARATOR, clean_label, is_term, resolve


logger = logging.getLogger(__name__)

TEXTS = ("prediction", "reference")
LISTS = ("pathways", "pathways_active")


def read_rows(path: str | os.PathLike) -> list[dict]:
    """Rows of a jsonl file.

    Raises
    ------
    ValueError
        If there is no such file, it is no UTF-8, or a line is no JSON object; the line is named.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} is no file: expected a jsonl file, one prediction row a line.")
    rows = []
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}, line {number}, is no JSON ({error.msg}): {line[:60]!r}.") from error
                if not isinstance(row, dict):
                    raise UserError(f"{path}, line {number}, is a {type(row).__name__}: expected a JSON object.")
                rows.append(row)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}: {error.reason}): save it again with UTF-8 encoding."
        ) from error
    if not rows:
        raise UserError(f"{path} holds no row.")
    return rows


def checked_rows(rows: Iterable[Mapping], references: Iterable[Mapping] | None = None) -> tuple[list[dict], dict]:
    """Rows that can be evaluated, and what was found wanting in them.

    Parameters
    ----------
    rows
        Of each cell `cell_id`, `prediction`, and unless `references` has it `reference` and the true fields.
    references
        Rows that say what is true, of exactly the same cells; they win over what `rows` say themselves.

    Raises
    ------
    ValueError
        If a row has no cell id or prediction, an id stands twice, or the cells are not those of the references.
    """
    found = list(map(dict, rows))
    require(found, ("cell_id", "prediction"), "prediction")
    refuse_duplicates(found, "predictions")
    if references is not None:
        truths = list(map(dict, references))
        require(truths, ("cell_id", "reference"), "reference")
        refuse_duplicates(truths, "references")
        by_id = {str(row["cell_id"]): row for row in truths}
        ids = {str(row["cell_id"]) for row in found}
        if ids != by_id.keys():
            missing, further = by_id.keys() - ids, ids - by_id.keys()
            raise UserError(
                f"The predictions are of other cells than the references: {len(missing):,} of {len(by_id):,} have no "
                f"prediction{example(missing)}, {len(further):,} predictions have no reference{example(further)}."
            )
        found = [{**row, **by_id[str(row["cell_id"])], **said_in(row)} for row in found]
    unknown_ids: Counter = Counter()
    clean = [clean_row(row, unknown_ids) for row in found]
    absent = Counter(name for row in clean for name in ("reference", *FIELDS, *LISTS) if not row[name])
    notes: dict[str, Any] = {
        "rows": len(clean),
        "missing": dict(sorted(absent.items())),
        "unknown_ontology_ids": dict(sorted(unknown_ids.items())),
    }
    for term, n in notes["unknown_ontology_ids"].items():
        logger.warning(f"{term} is no term of its field's ontology: {n:,} rows are compared by label.")
    if not any(row[name] is not None for row in clean for name in (*FIELDS, "reference")):
        raise UserError(f"No row has a reference text or a true field: expected any of {('reference', *FIELDS)}.")
    return clean, notes


def said_in(row: Mapping) -> dict:
    """What a row has of its prediction, and not of the truth."""
    return {name: row.get(name) for name in ("prediction", *SURENESS)}


def truth_rows(rows: Iterable[Mapping]) -> list[dict]:
    """What is true of cells, as :func:`checked_rows` gives it, without a prediction."""
    if isinstance(rows, Dataset):  # leave the ranked genes where they are
        names = {"cell_id", *FIELDS, *LISTS, "donor_id", "dataset_id", "development_stage_ontology_term_id"}
        names |= {f"{name}_ontology_term_id" for name in TERM_FIELDS}
        rows = rows.select_columns([name for name in rows.column_names if name in names])
    return [clean_row({**row, "prediction": None}, Counter()) for row in rows]


def clean_row(row: dict, unknown_ids: Counter) -> dict:
    """A row with every key that evaluation reads, None where unknown; ids that are no terms are counted and dropped."""
    if row.get("life_stage") is None:
        row["life_stage"] = life_stage(clean_label(row.get("development_stage_ontology_term_id")))
    clean = {"cell_id": str(row["cell_id"]), "prediction": row["prediction"] or "", "reference": row.get("reference")}
    clean |= {name: clean_label(row.get(name)) for name in (*FIELDS, "donor_id", "dataset_id")}
    for name in TERM_FIELDS:
        term = clean_label(row.get(f"{name}_ontology_term_id"))
        if term and not all(is_term(name, part) for part in term.split(TERM_SEPARATOR)):
            unknown_ids[term] += 1
            term = None
        clean[f"{name}_ontology_term_id"] = term
        if term and not clean[name]:
            clean[name] = resolve(name, None, term).label
    for name in LISTS:
        if not isinstance(row.get(name), (list, tuple, type(None))):
            raise UserError(f"Cell {clean['cell_id']!r}: {name} is {row[name]!r}, expected a list of names.")
        clean[name] = None if row.get(name) is None else tuple(map(str, row[name]))
    if not clean["pathways"] and not clean["pathways_active"]:  # none were scored: an empty list is no finding
        clean["pathways"] = clean["pathways_active"] = None
    if clean["donor_id"] and clean["dataset_id"]:
        clean["donor_id"] = f"{clean['dataset_id']}: {clean['donor_id']}"  # names like "donor1" are common
    for name in SURENESS:
        clean[name] = probability(row.get(name), f"Cell {clean['cell_id']!r}: {name}")
    for name in TEXTS:
        value = clean[name]
        if value is not None and not isinstance(value, str):
            raise UserError(f"Cell {clean['cell_id']!r}: {name} is a {type(value).__name__}, expected text.")
        if value is not None:  # half of a surrogate pair is valid JSON, and no text
            clean[name] = value.encode("utf-8", "replace").decode("utf-8")
    return clean


def probability(value: Any, what: str) -> float | None:
    """A number from 0 to 1; None for a missing one."""
    if value is None or (is_scalar(value) and isna(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise UserError(f"{what} is {value!r}, expected a number from 0 to 1, or null where it is not known.")
    return float(value)


def require(rows: list[dict], names: tuple[str, ...], what: str) -> None:
    for number, row in enumerate(rows, start=1):
        missing = [name for name in names if name not in row or (name == "cell_id" and row[name] is None)]
        if missing:
            raise UserError(f"Row {number} of the {what}s has no {' and no '.join(missing)}; it has {sorted(row)}.")


def refuse_duplicates(rows: list[dict], what: str) -> None:
    repeated = [cell for cell, n in Counter(str(row["cell_id"]) for row in rows).items() if n > 1]
    if repeated:
        raise UserError(f"{len(repeated):,} cell ids stand more than once in the {what}{example(repeated)}.")


def example(ids: Iterable[str]) -> str:
    ids = sorted(ids)
    return f" (first: {ids[0]!r})" if ids else ""

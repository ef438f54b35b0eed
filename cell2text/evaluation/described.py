"""Score the predictions of a described experiment against labels that its owner has: `cell2text evaluate --truth`.

    described file, labels -> terms of the labels -> cells with both -> metrics, controls, report

Predictions are the columns that `describe` wrote, so that the figures are about what users see in `obs`.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from math import isnan

import anndata as ad
import numpy as np
import pandas as pd

from cell2text.errors import UserError
from cell2text.evaluation.bootstrap import Resampler, interval
from cell2text.evaluation.classification import MAX_CONFUSIONS, FieldPairs
from cell2text.evaluation.described_cells import (
    TEXT,
    CellTable,
    DescribedCells,
    name_columns,
    read_cell_table,
    read_described_cells,
)
from cell2text.evaluation.evaluate import add_controls, evaluate_systems, rows_by_value
from cell2text.evaluation.own_labels import FieldLabels, read_labels, truth_columns
from cell2text.evaluation.systems import Evaluation, System, field_pairs
from cell2text.language.fields import FIELDS, TERM_FIELDS, Claim


DONOR_COLUMNS = ("donor_id", "dataset_id")  # of the CELLxGENE schema; cells of one donor are resampled together


def evaluate_described(
    source: str | os.PathLike | ad.AnnData, out: str | os.PathLike | None = None, *,
    truth: str | Sequence[str] | Mapping[str, str], references: str | os.PathLike | ad.AnnData | None = None,
    key: str = "cell2text", by: str | Sequence[str] = (), n_resamples: int = 1000, seed: int = 0,
    evidence: Mapping | None = None,
) -> dict:  # fmt: skip
    """Score a described experiment against your own labels.

    Accuracy covers the cells that have both a label and a prediction. Cells without a label and cells without a
    prediction (too few counts, no type assigned, or not described) are counted, and left out. The part `named_types` of
    the metrics also covers the cells that have a reason instead of a description, as cells without a named type.

    Parameters
    ----------
    source
        What `cell2text describe` wrote (h5ad, zarr, jsonl, parquet or csv), or an AnnData that
        `cell2text.tl.describe` has changed.
    out
        Folder for `metrics.json`, `report.md` and `report.html`. If omitted, no file is written.
    truth
        Column with the labels: names such as `"B cell"`, or ontology terms such as `"CL:0000236"`. `COLUMN` holds cell
        types, unless its name is that of another field; `FIELD=COLUMN` names the field (`cell_type`, `tissue`,
        `disease`, `sex` or `life_stage`). Several are a list, or a dictionary from fields to columns.
    references
        File or AnnData with that column, if `source` lacks it: h5ad, zarr, csv, tsv, parquet or jsonl. Cells are
        matched by name, or by position if all names are equal.
    key
        Name under which the cells of an AnnData were described.
    by
        Columns, such as `"sample"`. All metrics are also computed for each of their values.
    n_resamples
        Number of bootstrap replicates. They resample donors if there is a column `donor_id`, otherwise cells.
    seed
        Random seed of the bootstrap, the shuffled control and the map.

    Returns
    -------
    The content of `metrics.json`, see :func:`cell2text.evaluation.evaluate_predictions`. `input` has the entry `truth`
    with, for each field:

    - `column`, `labels`, `mapped_labels`: name of the column, its number of labels, and of those that are terms of the
      field's ontology. The others are compared by name.
    - `unmapped`: labels that are not terms, each with its number of `cells`, and the most frequent `prediction` for `n`
      of them.
    - `common_names`: the term's label for each label that is a common name of it ("CD14+ Mono").
    - `cells`, `without_label`, `without_prediction`, `scored`: all cells, those left out, and those scored.
    - `mapped`: `n`, `accuracy` and `lenient_accuracy` with `intervals`, mean `type_probability`, and `confusions` of
      the scored cells whose label is a term; None if there are none.

    Raises
    ------
    UserError
        If `source` holds no descriptions, a column does not exist, its values are numbers, or no label can be compared
        with a prediction.

    Examples
    --------
    >>> obs = pd.DataFrame({"mine": ["B cells", "T cells"], "cell2text_cell_type": "B cell"}, index=["1", "2"])
    >>> metrics = evaluate_described(ad.AnnData(obs=obs), truth="mine", n_resamples=10)
    >>> metrics["cell_type"]["accuracy"]
    0.5
    """
    columns = truth_columns(truth)
    cells = read_described_cells(source, key)
    table = cells.table if references is None else read_cell_table(references).aligned(cells.table.cell_ids)
    labels = {field: read_labels(table, field, column) for field, column in columns.items()}
    labelled = np.any([[label is not None for label in one.labels] for one in labels.values()], axis=0)
    scored = np.flatnonzero(labelled & cells.has_prediction)
    if not len(scored):
        raise UserError(
            f"{cells.table.name}: no cell has both a prediction and a label ({int(cells.has_prediction.sum()):,} of "
            f"{len(labelled):,} cells have a prediction, {int(labelled.sum()):,} have a label)."
        )
    tables = [cells.table, *([] if references is None else [table])]
    seen = np.flatnonzero(labelled & (cells.has_prediction | cells.has_result))
    rows = _rows(cells, tables, labels, seen)
    systems = {"cell2text": _system(cells.predictions, labels, seen)}
    pairs = field_pairs(systems["cell2text"], rows)
    for one in labels.values():
        _check_comparable(one, pairs.get(one.field))
    add_controls(systems, rows, seed)
    resampler = Resampler([row["donor_id"] for row in rows], n_resamples=n_resamples, seed=seed)
    keys = [by] if isinstance(by, str) else by
    return evaluate_systems(
        Evaluation(rows, systems), out, parts={name: _part(tables, name, seen) for name in keys},
        notes={
            "rows": len(scored), "missing": {}, "unknown_ontology_ids": {},
            "truth": {
                name: _note(cells, one, pairs.get(name), rows, seen, resampler) for name, one in labels.items()
            },
        },
        embeddings=None if out is None else _embeddings(cells, key, seen), n_resamples=n_resamples, seed=seed,
        evidence=evidence,
    )  # fmt: skip


def _rows(
    cells: DescribedCells, tables: Sequence[CellTable], labels: Mapping[str, FieldLabels], seen: np.ndarray
) -> list[dict]:
    """Return the rows of the evaluation, with the keys that `predictions.check_rows` gives, and `declined`."""
    donors = {name: one.column(name) for name in DONOR_COLUMNS for one in tables if name in one.columns}
    donors = {name: [None if value is None else str(value) for value in column] for name, column in donors.items()}
    names = cells.predictions["cell_type"]
    texts = cells.predictions.get(TEXT, names)
    shown, declined = texts.where(texts.notna(), names).tolist(), ~cells.has_prediction
    empty = dict.fromkeys((*FIELDS, *(f"{name}_ontology_term_id" for name in TERM_FIELDS)))
    empty |= dict.fromkeys(("reference", "pathways", "pathways_active", *DONOR_COLUMNS))
    stated = cells.predictions["type_probability"].tolist()
    rows = []
    for i in seen.tolist():
        row = {**empty, "cell_id": cells.table.cell_ids[i], "prediction": shown[i] or "", "declined": bool(declined[i])}
        for name, one in labels.items():
            row[name] = one.labels[i]
            if name in TERM_FIELDS:
                row[f"{name}_ontology_term_id"] = one.term_ids[i]
        row |= {name: values[i] for name, values in donors.items()}
        if row["donor_id"] and row["dataset_id"]:
            row["donor_id"] = f"{row['dataset_id']}: {row['donor_id']}"
        row["type_probability"] = None if isnan(stated[i]) else stated[i]
        rows.append(row)
    return rows


def _system(predictions: pd.DataFrame, fields: Sequence[str] | Mapping, seen: np.ndarray) -> System:
    """Return the predictions of the described columns."""
    claims: dict[str, list[Claim | None]] = {}
    for name in fields:
        names = predictions[name].iloc[seen]
        ids = predictions[f"{name}_ontology_term_id"].iloc[seen] if name in TERM_FIELDS else [None] * len(seen)
        claims[name] = [None if label is None else Claim(str(label), term_id) for label, term_id in zip(names, ids)]
    stated = predictions["type_probability"].iloc[seen]
    return System(claims, type_probabilities=[None if isnan(value) else value for value in stated])


def _check_comparable(labels: FieldLabels, pairs: FieldPairs | None) -> None:
    """Raise if no label is a term, and none is what a prediction says: every cell would count as wrong."""
    if labels.mapped.any() or (pairs is not None and pairs.correct().any()):
        return
    shown = ", ".join(f"{label!r} ({n:,} cells)" for label, n in list(labels.unmapped.items())[:5])
    raise UserError(
        f"None of the {len(labels.counts):,} labels in {labels.column} is a {labels.field.replace('_', ' ')} of the "
        f"ontology: {shown}. Expected names such as 'B cell' or terms such as 'CL:0000236'; rename them, or name a "
        "column that holds such labels."
    )


def _note(
    cells: DescribedCells, labels: FieldLabels, pairs: FieldPairs | None, rows: Sequence[Mapping], seen: np.ndarray,
    resampler: Resampler,
) -> dict:  # fmt: skip
    """Return what is known of the labels of one field; see :func:`evaluate_described`."""
    labelled = np.array([label is not None for label in labels.labels])
    unmapped: dict[str, dict] = {
        label: {"cells": n, "prediction": None, "n": 0} for label, n in labels.unmapped.items()
    }
    note = {
        "column": labels.column,
        "labels": len(labels.counts),
        "mapped_labels": len(labels.counts) - len(labels.unmapped),
        "unmapped": unmapped,
        "common_names": labels.common_names,
        "cells": len(labelled),
        "without_label": int((~labelled).sum()),
        "without_prediction": int((labelled & ~cells.has_prediction).sum()),
        "scored": int((labelled & cells.has_prediction).sum()),
        "mapped": None,
    }
    if pairs is None:
        return note
    mapped = labels.mapped[seen[pairs.rows]]
    found = Counter(zip(np.array(pairs.truth_names)[~mapped], np.array(pairs.predicted_names)[~mapped]))
    for (label, predicted), n in sorted(found.items(), key=lambda item: (item[1], item[0])):
        unmapped[str(label)].update(prediction=str(predicted), n=n)  # the most frequent is the last
    if mapped.any():
        note["mapped"] = _mapped_scores(pairs, mapped, rows, resampler)
    return note


def _mapped_scores(pairs: FieldPairs, mapped: np.ndarray, rows: Sequence[Mapping], resampler: Resampler) -> dict:
    """Score the cells whose label is an ontology term."""
    values = {
        "accuracy": pairs.correct()[mapped].astype(float),
        "lenient_accuracy": pairs.lenient()[mapped].astype(float),
    }
    means = resampler.all_means(values, pairs.rows[mapped])
    stated = [rows[i]["type_probability"] for i in pairs.rows[mapped]]
    stated = [value for value in stated if value is not None]
    names = zip(np.array(pairs.truth_names)[mapped], np.array(pairs.predicted_names)[mapped])
    wrong = Counter((str(label), str(predicted)) for label, predicted in names if label != predicted)
    return {
        "n": int(mapped.sum()),
        **{name: float(mean[0]) for name, mean in means.items()},
        "intervals": {name: interval(mean) for name, mean in means.items()},
        "type_probability": float(np.mean(stated)) if stated else None,
        "confusions": [
            {"label": label, "prediction": predicted, "n": n}
            for (label, predicted), n in sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:MAX_CONFUSIONS]
        ],
    }


def _part(tables: Sequence[CellTable], name: str, seen: np.ndarray) -> dict[str, list[int]]:
    """Return the row numbers of each value of a column of the described file or of the references."""
    for table in tables:
        if name in table.columns:
            return rows_by_value([{name: value} for value in table.column(name).iloc[seen]], name)
    raise UserError(
        f"by={name!r}: there is no such column. "
        + " ".join(f"{table.name} has {name_columns(table.columns)}." for table in tables)
    )


def _embeddings(cells: DescribedCells, key: str, seen: np.ndarray) -> np.ndarray | None:
    """Return the embeddings of the seen cells, None if the file has none."""
    embeddings = cells.table.embeddings(f"X_{key}")
    return None if embeddings is None else embeddings[seen]

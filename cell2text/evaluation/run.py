"""Evaluate a file of predictions or a described experiment: read files, train baselines, score, write the report."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cell2text.errors import UserError
from cell2text.evaluation.baseline_data import load_baseline_data, read_embeddings
from cell2text.evaluation.baselines import METHODS
from cell2text.evaluation.described import evaluate_described
from cell2text.evaluation.described_cells import DESCRIBED_SUFFIXES, name_columns, read_cell_table
from cell2text.evaluation.evaluate import evaluate_predictions
from cell2text.evaluation.predictions import read_rows


def evaluate_file(
    predictions: str | os.PathLike, out: str | os.PathLike, *,
    truth: str | Sequence[str] | Mapping[str, str] = (), key: str = "cell2text", references: str | None = None,
    against: str | None = None, baselines: str | None = None, methods: Sequence[str] | None = None,
    counts: Sequence[str] = (), layer: str | None = None, embeddings: str | None = None, by: Sequence[str] = (),
    bertscore_model: str | None = "auto", resamples: int = 1000, seed: int = 0,
    evidence: Mapping | None = None,
) -> dict:  # fmt: skip
    """Score predictions, or a described experiment, and write `metrics.json`, `report.md` and `report.html`.

    Parameters
    ----------
    predictions
        jsonl file, one object per cell: `cell_id`, `prediction`, and the reference text and labels. With `truth`, what
        `cell2text describe` wrote: h5ad, zarr, jsonl, parquet or csv.
    out
        Output folder.
    truth
        Columns with the labels of a described experiment, see
        :func:`cell2text.evaluation.described.evaluate_described`. Not used for predictions.
    key
        Name under which the cells of a described h5ad file or zarr store were described.
    references
        jsonl file of reference texts and labels, if the predictions lack them. With `truth`, a file of any format with
        that column.
    against
        jsonl file of another system's predictions for the same cells.
    baselines
        Prepared data set, a folder or Hub id, to train baselines on; no baselines if omitted.
    methods
        Baselines to train; all if omitted.
    counts
        Files of counts that the data set was prepared from; baselines train on its ranked genes if omitted.
    layer
        Layer of those files that holds the counts, or `"raw"`; X if omitted.
    embeddings
        npz file with the arrays `cell_id` and `embedding`, for the map and the linear baseline.
    by
        Keys of the rows to also score separately by, such as `"dataset_id"`.
    bertscore_model
        Folder or Hub id; `"auto"` uses all-MiniLM-L6-v2 if it is installed, None skips BERTScore.
    resamples
        Number of bootstrap replicates.
    seed
        Random seed for bootstrap, controls and baselines.
    evidence
        Metrics of :func:`cell2text.describe.faithfulness.evidence_metrics` to add to the report; None adds none.

    Returns
    -------
    The content of `metrics.json`.

    Raises
    ------
    UserError
        If a file cannot be read, or the files do not fit together.
    """
    if truth:
        _check_unused(
            against=against, baselines=baselines, methods=methods, counts=counts, layer=layer, embeddings=embeddings
        )
        return evaluate_described(
            predictions, out, truth=truth, references=references, key=key, by=by, n_resamples=resamples, seed=seed,
            evidence=evidence,
        )  # fmt: skip
    _check_is_predictions(Path(predictions))
    rows = read_rows(predictions)
    ids = [str(row.get("cell_id")) for row in rows]
    embedded = read_embeddings(embeddings) if embeddings else None
    of_cells = None if embedded is None else embedded.of(ids)
    training = None
    if baselines:
        training = load_baseline_data(
            baselines, ids, counts=counts, layer=layer, embeddings=embedded, methods=methods or METHODS
        )
    return evaluate_predictions(
        rows, out, references=references, against=against, training=training, embeddings=of_cells, by=by,
        bertscore_model=bertscore_model, n_resamples=resamples, seed=seed, evidence=evidence,
    )  # fmt: skip


def _check_unused(**options) -> None:
    """Raise for options that only predictions files have."""
    given = [name for name, value in options.items() if value]
    if given:
        raise UserError(
            f"{given[0]}={options[given[0]]!r} is for predictions files, and cannot be used with truth=, which "
            "evaluates a described experiment."
        )


def _check_is_predictions(path: Path) -> None:
    """Raise if the file is one that `describe` writes, which needs `truth`."""
    suffix = path.suffix.lower()
    if suffix not in DESCRIBED_SUFFIXES or not path.exists():
        return
    if suffix != ".jsonl":
        columns = [name for name in read_cell_table(path).columns if not name.startswith("cell2text")]
        raise UserError(
            f"{path} needs labels to compare with: pass truth=COLUMN. Its columns: {name_columns(columns)}. (Without "
            "truth=, expected a jsonl file of predictions.)"
        )
    first = next(iter(read_rows(path)))
    if "prediction" not in first and {"cell_type", "type_probability"} <= first.keys():
        raise UserError(
            f"{path} is a table that `cell2text describe` wrote. It needs labels to compare with: pass truth=COLUMN, "
            "and references=FILE with that column and the cells' names."
        )

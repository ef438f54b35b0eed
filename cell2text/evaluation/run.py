"""Evaluate a file of predictions: read files, train baselines, score and write the report."""

import os
from collections.abc import Sequence

from cell2text.evaluation.baseline_data import load_baseline_data, read_embeddings
from cell2text.evaluation.baselines import METHODS
from cell2text.evaluation.evaluate import evaluate_predictions
from cell2text.evaluation.predictions import read_rows


def evaluate_file(
    predictions: str | os.PathLike, out: str | os.PathLike, *, references: str | None = None,
    against: str | None = None, baselines: str | None = None, methods: Sequence[str] | None = None,
    counts: Sequence[str] = (), layer: str | None = None, embeddings: str | None = None, by: Sequence[str] = (),
    bertscore_model: str | None = "auto", resamples: int = 1000, seed: int = 0,
) -> dict:  # fmt: skip
    """Score a jsonl file of predictions and write `metrics.json`, `report.md` and `report.html`.

    Parameters
    ----------
    predictions
        jsonl file, one object per cell: `cell_id`, `prediction`, and the reference text and labels.
    out
        Output folder.
    references
        jsonl file of reference texts and labels, if the predictions lack them.
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

    Returns
    -------
    The content of `metrics.json`.

    Raises
    ------
    UserError
        If a file cannot be read, or the files do not fit together.
    """
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
        bertscore_model=bertscore_model, n_resamples=resamples, seed=seed,
    )  # fmt: skip

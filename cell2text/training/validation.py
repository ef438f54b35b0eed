"""Generated text on validation cells while a run goes on: what the best checkpoint is chosen by."""

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


# Of each field the figures that a checkpoint may be chosen by, under the names that they are logged with.
FIGURES = {
    "cell_type": {"accuracy": "cell_type_accuracy", "pagerank_similarity": "cell_type_pagerank"},
    "tissue": {"accuracy": "tissue_accuracy"},
    "disease": {"accuracy": "disease_accuracy"},
}
METRICS = tuple(name for figures in FIGURES.values() for name in figures.values())


def check_validation(args: Cell2TextArguments, training_args: SFTConfig, rows: TrainingRows) -> None:
    """Refuse a choice between checkpoints that could not be made, or would be made on the cells of the final test.

    Raises
    ------
    ValueError
        With what is missing.
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
            "The best checkpoint is chosen on validation cells, and there are none: pass --validation_share, or "
            "prepare the data with a validation split. The held-out cells are never chosen by."
        )
    if training_args.eval_strategy == "no":
        raise UserError("Checkpoints are compared at evaluations: pass --eval_strategy epoch or steps.")
    if args.early_stopping_patience is not None and not training_args.load_best_model_at_end:
        raise UserError("early_stopping_patience needs --load_best_model_at_end true, or the last model would be kept.")
    if chooses and metric not in ("loss", *METRICS):
        raise UserError(f"metric_for_best_model={metric}: expected one of loss, {', '.join(METRICS)}.")
    if chooses and metric in METRICS and not args.describe_validation:
        raise UserError(f"metric_for_best_model={metric} is read from texts: pass --describe_validation, such as 500.")


def check_metric(rows: Dataset, metric: str | None) -> None:
    """Refuse a metric of a field that no described cell has a label of."""
    labelled = [dict(row) for row in rows.select_columns(list(METADATA_COLUMNS))]
    known = text_metrics(labelled, [""] * len(labelled))
    wanted = (metric or "loss").removeprefix("eval_")
    if wanted in METRICS and wanted not in known:
        raise UserError(
            f"metric_for_best_model={wanted}: none of the {len(rows):,} validation cells that are described has that "
            f"label. Expected one of {', '.join(('loss', *known))}."
        )


def sample_validation_cells(rows: Dataset, n_cells: int, seed: int) -> Dataset:
    """The validation cells that are described at every evaluation: the same ones each time, drawn by the seed."""
    if n_cells >= len(rows):
        return rows
    return rows.select(np.sort(np.random.default_rng(seed).choice(len(rows), n_cells, replace=False)))


def text_metrics(rows: Sequence[Mapping], texts: Sequence[str]) -> dict[str, float]:
    """Figures of generated texts against the rows' labels; those of a field that no row knows are absent."""
    system = system_from_texts(texts, [])
    alone = Resampler([None] * len(rows), n_resamples=0)
    found: dict[str, float] = {}
    for name, pairs in field_pairs(system, rows).items():
        figures = pairs.metrics(alone) if name in FIGURES else {}
        found |= {label: float(figures[figure][0]) for figure, label in FIGURES.get(name, {}).items()}
    return found


class GenerationEvaluator:
    """Describes chosen validation cells and scores the texts.

    Parameters
    ----------
    rows
        See :func:`sample_validation_cells`.
    describe
        From ranked cells to one text each.
    rank, ranks
        This process and how many there are: each describes its share, padded so that all take as many steps, which
        sharded models need.
    gather
        From this process's list to that of all.
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
        """The same on every process."""
        texts = dict(self.gather(list(zip(self.mine, self.describe(self.cells)))))
        return text_metrics(self.rows, [texts[i] for i in range(len(self.rows))])

"""One table before the first step: what the run is about to do, and whether it can."""

import math
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cell2text.training.memory import GIB, static_bytes
from cell2text.training.sources import TrainingRows
from cell2text.training.trainer import PARTS, Cell2TextTrainer, part_of
from processing_cell2text import Cell2TextProcessor


@dataclass
class Check:
    """One line of the table; `problem` says what is wrong and what to do, None where all is well."""

    name: str
    finding: str
    problem: str | None = None


def preflight(trainer: Cell2TextTrainer, rows: TrainingRows, processor: Cell2TextProcessor) -> None:
    """Print the table on the main process.

    Raises
    ------
    ValueError
        If a check fails; after the table, with all problems.
    """
    checks = [
        check_rows(rows),
        check_genes(rows, processor),
        check_tokens(trainer),
        check_parameters(trainer),
        check_memory(trainer),
        check_steps(trainer),
        check_disk(trainer),
    ]
    if trainer.accelerator.is_main_process:
        table = Table(title="Before the first step", title_justify="left")
        for column in ("", "found"):
            table.add_column(column)
        table.add_column("problem" if any(check.problem for check in checks) else "")
        for check in checks:
            table.add_row(check.name, check.finding, check.problem or "ok")
        Console(width=120).print(table, highlight=False, markup=False)
    problems = [check.problem for check in checks if check.problem]
    if problems:
        raise ValueError(" ".join(problems))


def check_rows(rows: TrainingRows) -> Check:
    validation = "none" if rows.validation is None else f"{len(rows.validation):,}"
    kinds = len({name for name in rows.train["cell_type"] if name}) if "cell_type" in rows.train.column_names else 0
    return Check(
        "rows",
        f"{len(rows.train):,} to train on, of {kinds:,} cell types; {len(rows.held_out):,} held out; validation "
        f"{validation}",
        None if len(rows.train) else "There is no row to train on.",
    )


def check_genes(rows: TrainingRows, processor: Cell2TextProcessor) -> Check:
    lengths = np.array([len(cell) for cells in rows.train["cells"] for cell in cells])
    longest = int(lengths.max(initial=0))
    too_long = int((lengths > processor.max_genes).sum())
    problem = (
        f"{too_long:,} cells hold more than max_genes={processor.max_genes} tokens: prepare the data with --max-genes "
        f"{processor.max_genes}."
        if too_long
        else None
    )
    return Check(
        "genes",
        f"{len(processor.gene_vocabulary):,} gene tokens, the model's own; a cell has {int(np.median(lengths))} in the "
        f"median, {longest:,} at most, of {processor.max_genes:,}",
        problem,
    )


def check_tokens(trainer: Cell2TextTrainer) -> Check:
    lengths = np.array([len(ids) for ids in trainer.train_dataset["input_ids"]])
    longest, limit = int(lengths.max()), trainer.args.max_length
    config: Any = trainer.accelerator.unwrap_model(trainer.model).config
    positions = getattr(config.text_config, "max_position_embeddings", None)
    problem = (
        f"The longest row has {longest:,} tokens, the language model {positions:,} positions: lower num_cell_tokens."
        if positions is not None and longest > positions
        else None
    )
    limits = "without max_length" if limit is None else f"max_length {limit:,}"
    return Check(
        "text", f"a row has {int(np.median(lengths))} tokens in the median, {longest:,} at most; {limits}", problem
    )


def check_parameters(trainer: Cell2TextTrainer) -> Check:
    trained: Counter = Counter()
    total: Counter = Counter()
    for name, parameter in trainer.model.named_parameters():
        total[part_of(name)] += parameter.numel()
        trained[part_of(name)] += parameter.numel() * parameter.requires_grad
    parts = [f"{part} {trained[part]:,} of {total[part]:,}" for part in (*PARTS, "other") if total[part]]
    nothing = "Nothing trains: every part is frozen." if not sum(trained.values()) else None
    return Check("trainable", f"{sum(trained.values()):,} parameters: {', '.join(parts)}", nothing)


def check_memory(trainer: Cell2TextTrainer) -> Check:
    weights, training = static_bytes(trainer.model)
    return Check(
        "memory",
        f"weights {weights / GIB:.2f} GiB, gradients and Adam's states {training / GIB:.2f} GiB, and the activations",
    )


def planned_steps(trainer: Cell2TextTrainer) -> int:
    args = trainer.args
    if args.max_steps > 0:
        return args.max_steps
    return math.ceil(math.ceil(len(trainer.train_dataset) / trainer.rows_a_step) * args.num_train_epochs)


def check_steps(trainer: Cell2TextTrainer) -> Check:
    args, steps = trainer.args, planned_steps(trainer)
    passes = steps * trainer.rows_a_step / max(1, len(trainer.train_dataset))
    return Check(
        "steps",
        f"{steps:,} of {trainer.rows_a_step:,} rows ({args.train_batch_size} x {args.gradient_accumulation_steps} on "
        f"{args.world_size} rank{'s' if args.world_size > 1 else ''}), {passes:.1f} passes over the rows",
    )


def kept_checkpoints(trainer: Cell2TextTrainer) -> int:
    """Checkpoints that lie on the disk at once: those that are kept, and the one being written."""
    args, steps = trainer.args, planned_steps(trainer)
    if args.save_strategy == "no":
        return 0
    if args.save_strategy == "epoch":
        saved = math.ceil(args.num_train_epochs)
    else:
        every = args.save_steps if args.save_steps >= 1 else max(1, math.ceil(args.save_steps * steps))
        saved = math.ceil(steps / every)
    limit = math.inf if args.save_total_limit is None else args.save_total_limit + args.load_best_model_at_end
    return int(min(saved, limit)) + 1


def check_disk(trainer: Cell2TextTrainer) -> Check:
    weights, training = static_bytes(trainer.model)
    kept, adapter = kept_checkpoints(trainer), hasattr(trainer.model, "peft_config")
    checkpoint = training if adapter else weights + training * 2 // 3  # no gradients; an adapter's own weights alone
    needed = kept * checkpoint + (2 if adapter else 1) * weights
    folder = Path(str(trainer.args.output_dir))
    free = shutil.disk_usage(folder if folder.exists() else folder.resolve().parents[0]).free
    problem = None
    if needed > free:
        problem = (
            f"{needed / GIB:.1f} GiB are needed in {folder}, {free / GIB:.1f} are free: keep fewer checkpoints "
            "(--save_total_limit 1), save less often, or choose another --output_dir."
        )
    return Check(
        "disk", f"{needed / GIB:.2f} GiB needed, {kept} checkpoints among them; {free / GIB:.1f} GiB free", problem
    )

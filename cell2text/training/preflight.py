"""Check a run before its first step, and print what it will do: tokens, trained parameters, memory, disk."""

import math
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from accelerate.utils import broadcast_object_list
from rich.console import Console
from rich.table import Table
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from cell2text.errors import UserError
from cell2text.training.checkpoints import step_of
from cell2text.training.learning_rates import MODEL_PARTS, part_of
from cell2text.training.memory import GIB, UNTRAINED_COPY, static_bytes
from cell2text.training.row_columns import arrow_column
from cell2text.training.rows import TrainingRows
from cell2text.training.saving import is_sharded
from cell2text.training.trainer import Cell2TextTrainer
from processing_cell2text import Cell2TextProcessor


CHECKED_PROMPTS = 64


@dataclass
class Check:
    """A line of the table. `problem` says what is wrong and what to do; None if the check passes."""

    name: str
    finding: str
    problem: str | None = None


def preflight(
    trainer: Cell2TextTrainer, rows: TrainingRows, processor: Cell2TextProcessor, resume: str | None = None
) -> None:
    """Print the table on the main process, whose result all processes share.

    Parameters
    ----------
    resume
        Checkpoint that the run resumes; None if it starts from the beginning.

    Raises
    ------
    UserError
        If a check fails. The message lists all problems.
    """
    checks = [
        _check_rows(rows),
        _check_genes(rows, processor),
        _check_tokens(trainer),
        check_completions(trainer, processor),
        _check_parameters(trainer),
        _check_memory(trainer),
        _check_steps(trainer),
        _check_disk(trainer, resume),
    ]
    if trainer.accelerator.is_main_process:
        table = Table(title="Checks before the first step", title_justify="left")
        for column in ("", "found"):
            table.add_column(column)
        table.add_column("problem" if any(check.problem for check in checks) else "")
        for check in checks:
            table.add_row(check.name, check.finding, check.problem or "ok")
        Console(width=120).print(table, highlight=False, markup=False)
    problems = broadcast_object_list([[check.problem for check in checks if check.problem]])[0]
    if problems:
        raise UserError(" ".join(problems))


def _check_rows(rows: TrainingRows) -> Check:
    validation = "none" if rows.validation is None else f"{len(rows.validation):,}"
    named = rows.train["cell_type"] if "cell_type" in rows.train.column_names else []
    kinds = len({name for name in named if name})
    return Check(
        "rows",
        f"{len(rows.train):,} training rows of {kinds:,} cell types; {len(rows.held_out):,} held-out rows; validation: "
        f"{validation}",
    )


def _check_genes(rows: TrainingRows, processor: Cell2TextProcessor) -> Check:
    lengths = pc.list_value_length(pc.list_flatten(arrow_column(rows.train, "cells"))).to_numpy()
    longest = int(lengths.max(initial=0))
    too_long = int((lengths > processor.max_genes).sum())
    problem = (
        f"{too_long:,} cells have more than max_genes={processor.max_genes} tokens: prepare the data with that maximum "
        f"(cell2text prepare --max-genes {processor.max_genes})."
        if too_long
        else None
    )
    return Check(
        "genes",
        f"{len(processor.gene_vocabulary):,} gene tokens in the vocabulary; median {int(np.median(lengths))} per cell, "
        f"longest {longest:,}, maximum {processor.max_genes:,}",
        problem,
    )


def _check_tokens(trainer: Cell2TextTrainer) -> Check:
    lengths = pc.list_value_length(arrow_column(trainer.train_dataset, "input_ids")).to_numpy()
    longest, limit = int(lengths.max()), trainer.args.max_length
    config: Any = trainer.accelerator.unwrap_model(trainer.model).config
    positions = getattr(config.text_config, "max_position_embeddings", None)
    problem = (
        f"The longest row has {longest:,} tokens, but the language model has {positions:,} positions: lower "
        "num_cell_tokens."
        if positions is not None and longest > positions
        else None
    )
    maximum = "no max_length" if limit is None else f"max_length {limit:,}"
    return Check("text", f"median {int(np.median(lengths))} tokens per row, longest {longest:,}, {maximum}", problem)


def check_completions(trainer: Cell2TextTrainer, processor: Cell2TextProcessor) -> Check:
    """Check that completions begin in training where generation begins, which fails if a prompt ends inside a token.

    A chat template that renders a prompt differently before a completion is counted, but is not a problem.
    """
    tokenizer = processor.tokenizer
    rows = trainer.train_dataset.select(range(min(CHECKED_PROMPTS, len(trainer.train_dataset))))
    options = {"tokenize": True, "add_generation_prompt": True, "return_dict": True}
    prompts = [processor.apply_chat_template(prompt, **options)["input_ids"] for prompt in rows["prompt"]]
    prompts = [ids[0] if ids and isinstance(ids[0], list) else ids for ids in prompts]
    others = [(ids, row) for ids, row in zip(prompts, rows["input_ids"]) if row[: len(ids)] != ids[: len(row)]]
    merged = [pair for pair in others if tokenizer.decode(pair[1]).startswith(tokenizer.decode(pair[0]))]
    problem = None
    if merged:
        prompt, row = (tokenizer.convert_ids_to_tokens(ids) for ids in merged[0])
        n = next(i for i, pair in enumerate(zip(prompt, row)) if pair[0] != pair[1])
        problem = (
            f"{len(merged):,} of {len(rows):,} completions would follow another context in training than in "
            f"generation: a prompt ends with the token {prompt[n]!r}, which is {row[n]!r} in training. The chat "
            "template's generation prompt must end where a token ends, such as with a line break instead of a space."
        )
    finding = f"{len(rows) - len(others):,} of the first {len(rows):,} begin where generation begins"
    return Check("completions", finding, problem)


def _check_parameters(trainer: Cell2TextTrainer) -> Check:
    trained: Counter = Counter()
    total: Counter = Counter()
    for name, parameter in trainer.model.named_parameters():
        if UNTRAINED_COPY in name:
            continue
        total[part_of(name)] += parameter.numel()
        trained[part_of(name)] += parameter.numel() * parameter.requires_grad
    parts = [f"{part} {trained[part]:,} of {total[part]:,}" for part in (*MODEL_PARTS, "other") if total[part]]
    n_trained, problem = sum(trained.values()), None
    if not n_trained:
        problem = "Nothing trains: every part is frozen. Check stage and the learning rates."
    return Check("trained", f"{n_trained:,} parameters: {', '.join(parts)}", problem)


def _check_memory(trainer: Cell2TextTrainer) -> Check:
    weights, gradients, states = static_bytes(trainer.model, trainer.args.optim)
    training = gradients + states
    ranks = trainer.args.world_size if is_sharded(trainer) else 1
    each = " per rank" if ranks > 1 else ""
    return Check(
        "memory",
        f"weights {weights / ranks / GIB:.2f} GiB{each}, gradients and optimizer {training / ranks / GIB:.2f} "
        f"GiB{each}, plus activations",
    )


def _check_steps(trainer: Cell2TextTrainer) -> Check:
    args, steps = trainer.args, trainer.planned_steps
    passes = steps / trainer.steps_per_epoch
    return Check(
        "steps",
        f"{steps:,} steps of {trainer.rows_per_step:,} rows ({args.train_batch_size} x "
        f"{args.gradient_accumulation_steps} on {args.world_size} rank{'s' if args.world_size > 1 else ''}), "
        f"{passes:.1f} epochs",
    )


def kept_checkpoints(trainer: Cell2TextTrainer, begun: int = 0) -> int:
    """Return the largest number of checkpoints on the disk at a time, the one being written included.

    Parameters
    ----------
    begun
        Steps that a resumed run has done.
    """
    args, steps = trainer.args, trainer.planned_steps
    if args.save_strategy == "no":
        return 0
    strategy = args.eval_strategy if args.save_strategy == "best" else args.save_strategy
    every = args.eval_steps if args.save_strategy == "best" else args.save_steps
    if strategy == "epoch":
        every = trainer.steps_per_epoch
    elif every is None or every < 1:
        every = max(1, math.ceil((every or 1) * steps))
    saved = math.ceil(max(0, steps - begun) / every)
    limit = args.save_total_limit if args.save_total_limit and args.save_total_limit > 0 else saved
    if limit == 1 and args.load_best_model_at_end:
        limit = 2  # the last, and the best
    return min(saved, limit) + 1 if saved else 0


def _check_disk(trainer: Cell2TextTrainer, resume: str | None) -> Check:
    weights, trained, states = static_bytes(trainer.model, trainer.args.optim)
    n_checkpoints = kept_checkpoints(trainer, step_of(Path(resume)) if resume else 0)
    adapter = hasattr(trainer.model, "peft_config")
    checkpoint = states + (trained if adapter else weights)  # the checkpoint of an adapter holds its weights alone
    folder = Path(str(trainer.args.output_dir))
    there = sum(path.stat().st_size for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/**/*") if path.is_file())
    reused = there if trainer.args.save_total_limit else 0  # the oldest make room
    needed = max(0, n_checkpoints * checkpoint - reused) + (2 if adapter else 1) * weights
    free = shutil.disk_usage(folder if folder.exists() else folder.resolve().parents[0]).free
    problem = None
    if needed > free:
        problem = (
            f"The run needs {needed / GIB:.1f} GiB in {folder}, but {free / GIB:.1f} are free: keep fewer checkpoints "
            "(save_total_limit=1), save less often, or pass another output_dir."
        )
    finding = f"{needed / GIB:.2f} GiB needed, for {n_checkpoints} checkpoints and the model; {free / GIB:.1f} GiB free"
    return Check("disk", finding, problem)

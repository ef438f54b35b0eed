"""Find and validate resumable checkpoints.

The Trainer writes the files of a checkpoint one after another. `complete.json` is written last and atomically, once
every rank has written its files. A folder without it is incomplete and is skipped.
"""

import json
import logging
import math
from pathlib import Path

import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from cell2text.errors import UserError
from cell2text.files import write_atomically
from cell2text.training.saving import is_sharded, on_full_disk


logger = logging.getLogger(__name__)

COMPLETE_FILE = "complete.json"


def mark_complete(folder: Path, *, rows_per_step: int, ranks: int, sharded: bool) -> None:
    """Write `complete.json`: a checkpoint's files are all there, and what a run that resumes it must agree with."""
    record = {
        "rows_a_step": rows_per_step, "ranks": ranks, "sharded": sharded, "cpu_threads": torch.get_num_threads(),
    }  # fmt: skip
    write_atomically(folder / COMPLETE_FILE, json.dumps(record) + "\n")


def checkpoint_record(folder: str | Path) -> dict:
    """Return what :func:`mark_complete` recorded about a checkpoint."""
    return json.loads(Path(folder, COMPLETE_FILE).read_text(encoding="utf-8"))


def find_checkpoint(requested: str | bool | None, output_dir: str) -> str | None:
    """Return the checkpoint to resume, None to start from the beginning.

    Parameters
    ----------
    requested
        Folder of a checkpoint. `true` selects the last complete one in `output_dir`, and starts from the beginning if
        there is none: the same command then works before and after an interruption. None or `false` resumes nothing.

    Raises
    ------
    UserError
        If the requested checkpoint is incomplete; or nothing is requested but `output_dir` holds a complete checkpoint,
        which could be mistaken for the new run's.
    """
    found = sorted(Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=step_of, reverse=True)
    if requested is None or str(requested).lower() == "false":
        complete = [folder.name for folder in found if (folder / COMPLETE_FILE).is_file()]
        if complete:
            raise UserError(
                f"{output_dir} holds {complete[0]} of an earlier run: pass resume_from_checkpoint=true to resume it, "
                "pass another output_dir, or delete it."
            )
        return None
    if str(requested).lower() != "true":
        if not Path(str(requested), COMPLETE_FILE).is_file():
            raise UserError(
                f"{requested} holds no {COMPLETE_FILE}: it is not a checkpoint, or an incomplete one. Pass another "
                "folder, or resume_from_checkpoint=true for the last complete checkpoint."
            )
        return str(requested)
    for folder in found:
        if (folder / COMPLETE_FILE).is_file():
            return str(folder)
        logger.warning(f"{folder} is incomplete: skipped.")
    logger.warning(f"{output_dir} holds no complete checkpoint: the run starts from the beginning.")
    return None


def step_of(folder: Path) -> int:
    """Return the step in the name of a checkpoint's folder, -1 if there is none."""
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def check_resume(folder: str, *, rows_per_step: int, sharded: bool) -> None:
    """Check that a run can resume a checkpoint: other steps would repeat some rows and skip others.

    Raises
    ------
    UserError
        If the number of rows per step differs (the number of ranks may), or only one of the two runs shards the model.
    """
    record = checkpoint_record(folder)
    if record["rows_a_step"] != rows_per_step:
        raise UserError(
            f"{folder} was trained with {record['rows_a_step']} rows per step on {record['ranks']} ranks, but this run "
            f"has {rows_per_step}: change per_device_train_batch_size or gradient_accumulation_steps so that their "
            "product with the number of ranks is the same."
        )
    if record["sharded"] != sharded:
        before, now = ("a sharded", "an unsharded") if record["sharded"] else ("an unsharded", "a sharded")
        raise UserError(
            f"{folder} is {before} checkpoint, but this run needs {now} one: launch it with the same "
            "accelerate options."
        )


class CompleteCheckpoints:
    """Mixin for a Trainer: mark checkpoints as complete, and delete older ones only then."""

    @property
    def rows_per_step(self) -> int:
        args = self.args  # type: ignore[attr-defined]
        return args.train_batch_size * args.gradient_accumulation_steps * args.world_size

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.train_dataset) / self.rows_per_step)  # type: ignore[attr-defined]

    @property
    def planned_steps(self) -> int:
        args = self.args  # type: ignore[attr-defined]
        return args.max_steps if args.max_steps > 0 else math.ceil(self.steps_per_epoch * args.num_train_epochs)

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """Train as the Trainer does, but do nothing if the resumed checkpoint is the end of its run.

        The Trainer alone would take one step too many, and forget the patience that early stopping has used up.

        Raises
        ------
        UserError
            See :func:`check_resume`.
        """
        args = self.args  # type: ignore[attr-defined]
        planned = args.max_steps, args.num_train_epochs
        if resume_from_checkpoint is not None:
            check_resume(resume_from_checkpoint, rows_per_step=self.rows_per_step, sharded=is_sharded(self))
            args.restore_callback_states_from_checkpoint = True
            if steps := self._steps_if_finished(resume_from_checkpoint):
                args.max_steps, args.num_train_epochs = -1, steps // self.steps_per_epoch
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)  # type: ignore[misc]
        finally:
            args.max_steps, args.num_train_epochs = planned

    def _steps_if_finished(self, folder: str) -> int | None:
        """Return the step of a checkpoint that ended its run, at the last step or by early stopping; otherwise None."""
        state = json.loads(Path(folder, TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        stopping = state.get("stateful_callbacks", {}).get("EarlyStoppingCallback")
        waited = stopping and stopping["attributes"]["early_stopping_patience_counter"]
        stopped = stopping and waited >= stopping["args"]["early_stopping_patience"]
        return state["global_step"] if stopped or state["global_step"] >= self.planned_steps else None

    def _save_checkpoint(self, model, trial):
        folder = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        if self.args.should_save:
            (folder / COMPLETE_FILE).unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        try:
            with on_full_disk(folder):
                super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            ranks = self.args.world_size
            mark_complete(folder, rows_per_step=self.rows_per_step, ranks=ranks, sharded=is_sharded(self))
            rotate_checkpoints(self.args.output_dir, limit, self.state.best_model_checkpoint, use_mtime=True)

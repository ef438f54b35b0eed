"""Checkpoints that can be gone on from: which of them are whole, and whether this run may go on from one.

The Trainer writes a checkpoint's files one after another. `complete.json`, written last and atomically, says that all
ranks have written theirs; a folder without it is what a killed process left behind, and is passed over.
"""

import json
import math
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import logging

from cell2text.errors import UserError
from cell2text.files import write_atomically
from cell2text.training.saving import is_sharded, on_full_disk


logger = logging.get_logger(__name__)

COMPLETE = "complete.json"


def mark_complete(folder: Path, *, rows_a_step: int, ranks: int, sharded: bool) -> None:
    """Say that a checkpoint is whole, and what a run that goes on from it has to agree with."""
    content = {"rows_a_step": rows_a_step, "ranks": ranks, "sharded": sharded}
    write_atomically(folder / COMPLETE, json.dumps(content) + "\n")


def find_checkpoint(wanted: str | bool | None, output_dir: str) -> str | None:
    """The checkpoint to go on from: the one that is named, or with `true` the last whole one in the output folder.

    With `true` and no whole checkpoint the run starts at its beginning, and says so: the same command then serves
    before and after a kill.

    Raises
    ------
    ValueError
        If the checkpoint that is named is not whole; or a run is to begin where another one left checkpoints, which
        could be taken for its own.
    """
    found = sorted(Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=step_of, reverse=True)
    if wanted is None or str(wanted).lower() == "false":
        whole = [folder.name for folder in found if (folder / COMPLETE).is_file()]
        if whole:
            raise UserError(
                f"{output_dir} holds {whole[0]} of an earlier run: pass --resume_from_checkpoint true to go on with "
                "it, another --output_dir, or delete it."
            )
        return None
    if str(wanted).lower() != "true":
        if not Path(str(wanted), COMPLETE).is_file():
            raise UserError(
                f"{wanted} holds no {COMPLETE}: no checkpoint, or one that was not finished. Name another, or pass "
                "--resume_from_checkpoint true for the last whole one."
            )
        return str(wanted)
    for folder in found:
        if (folder / COMPLETE).is_file():
            return str(folder)
        logger.warning(f"{folder} was not finished: passed over.")
    logger.warning(f"{output_dir} holds no whole checkpoint: the run starts at its beginning.")
    return None


def step_of(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def check_resume(folder: str, *, rows_a_step: int, sharded: bool) -> None:
    """Refuse to go on with other steps, which would see some rows twice and others never.

    Raises
    ------
    ValueError
        If the rows of a step differ (ranks may), or one run shards the model and the other does not.
    """
    kept = json.loads(Path(folder, COMPLETE).read_text(encoding="utf-8"))
    if kept["rows_a_step"] != rows_a_step:
        raise UserError(
            f"{folder} was trained with {kept['rows_a_step']} rows a step on {kept['ranks']} ranks, this run has "
            f"{rows_a_step}: change per_device_train_batch_size or gradient_accumulation_steps so that their product "
            "with the number of ranks is the same."
        )
    if kept["sharded"] != sharded:
        before, now = (("a sharded", "one that is not"), ("an unsharded", "a sharded one"))[not kept["sharded"]]
        raise UserError(f"{folder} is {before} checkpoint, this run needs {now}: launch as it was launched before.")


class WholeCheckpoints:
    """For a Trainer: checkpoints are marked when every rank has written its part, and older ones deleted only then."""

    @property
    def rows_a_step(self) -> int:
        args = self.args  # type: ignore[attr-defined]
        return args.train_batch_size * args.gradient_accumulation_steps * args.world_size

    @property
    def steps_an_epoch(self) -> int:
        return math.ceil(len(self.train_dataset) / self.rows_a_step)  # type: ignore[attr-defined]

    @property
    def planned_steps(self) -> int:
        args = self.args  # type: ignore[attr-defined]
        return args.max_steps if args.max_steps > 0 else math.ceil(self.steps_an_epoch * args.num_train_epochs)

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """The Trainer's, which on going on from a checkpoint trains nothing more where the run had ended with it.

        The Trainer alone would take one step more than there are, and forget how long early stopping has waited.

        Raises
        ------
        ValueError
            See :func:`check_resume`.
        """
        args = self.args  # type: ignore[attr-defined]
        planned = args.max_steps, args.num_train_epochs
        if resume_from_checkpoint is not None:
            check_resume(resume_from_checkpoint, rows_a_step=self.rows_a_step, sharded=is_sharded(self))
            args.restore_callback_states_from_checkpoint = True
            if steps := self.steps_of_finished(resume_from_checkpoint):
                args.max_steps, args.num_train_epochs = -1, steps // self.steps_an_epoch
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)  # type: ignore[misc]
        finally:
            args.max_steps, args.num_train_epochs = planned

    def steps_of_finished(self, folder: str) -> int | None:
        """Steps of a checkpoint that a run ended with, at its last step or by early stopping; None of any other."""
        state = json.loads(Path(folder, TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        stopping = state.get("stateful_callbacks", {}).get("EarlyStoppingCallback")
        waited = stopping and stopping["attributes"]["early_stopping_patience_counter"]
        stopped = stopping and waited >= stopping["args"]["early_stopping_patience"]
        return state["global_step"] if stopped or state["global_step"] >= self.planned_steps else None

    def _save_checkpoint(self, model, trial):
        folder = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        kept, self.args.save_total_limit = self.args.save_total_limit, None
        if self.args.should_save:
            (folder / COMPLETE).unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        try:
            with on_full_disk(folder):
                super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = kept
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark_complete(folder, rows_a_step=self.rows_a_step, ranks=self.args.world_size, sharded=is_sharded(self))
            rotate_checkpoints(self.args.output_dir, kept, self.state.best_model_checkpoint, use_mtime=True)

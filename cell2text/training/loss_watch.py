"""Stop a run whose loss is NaN or spikes, before the optimizer step, and record the cells of that batch."""

import json
import math
from collections import deque
from pathlib import Path
from statistics import median

from cell2text.errors import RunStoppedError
from cell2text.files import write_atomically


WINDOW_STEPS = 50  # losses whose median a spike is measured from
BAD_BATCH_FILE = "bad_batch.json"


class BadLossError(RunStoppedError):
    """A loss that is not finite, or far above the losses before it."""


class LossWatch:
    """Check every training loss before the backward pass.

    Parameters
    ----------
    folder
        Folder to write `bad_batch.json` to.
    max_jump
        Nats above the median of the last 50 losses that stop the run; None for no limit.
    """

    def __init__(self, folder: Path, max_jump: float | None):
        self.folder, self.max_jump = folder, max_jump
        self.losses: deque[float] = deque(maxlen=WINDOW_STEPS)

    def check(self, loss: float, cell_ids: list[str], step: int, rank: int = 0) -> None:
        """Check a loss, and remember it.

        Raises
        ------
        BadLossError
            If the loss is NaN, infinite or a spike. The weights are those of the last good step.
        """
        if math.isfinite(loss) and not self._is_spike(loss):
            self.losses.append(loss)
            return
        before = median(self.losses) if self.losses else None
        name = BAD_BATCH_FILE if rank == 0 else f"rank{rank}_{BAD_BATCH_FILE}"
        content = {"step": step, "loss": str(loss), "median_before": before, "cell_ids": cell_ids}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / name, json.dumps(content, indent=1) + "\n")
        since = "" if before is None else f", after a median of {before:.4g} over {len(self.losses)} steps"
        raise BadLossError(
            f"The loss of step {step} is {loss:.4g}{since}. Its {len(cell_ids)} cells are listed in "
            f"{self.folder / name}. Inspect their rows, lower learning_rate or max_grad_norm, or raise max_loss_jump; "
            "then pass resume_from_checkpoint=true."
        )

    def _is_spike(self, loss: float) -> bool:
        full = len(self.losses) == WINDOW_STEPS
        return self.max_jump is not None and full and loss > median(self.losses) + self.max_jump

"""Stop a run whose loss is no number or jumps, before it spoils the weights, and write down which cells did it."""

import json
import math
from collections import deque
from pathlib import Path
from statistics import median

from cell2text.errors import RunStoppedError
from cell2text.files import write_atomically


REMEMBERED = 50  # steps whose median a jump is measured from
BAD_BATCH = "bad_batch.json"


class BadLossError(RunStoppedError):
    """A loss that is not finite, or far above those before it."""


class LossWatch:
    """Looks at every training loss before the backward pass.

    Parameters
    ----------
    folder
        Where `bad_batch.json` is written.
    max_jump
        Nats above the median of the last 50 losses that stop the run; None for no limit.
    """

    def __init__(self, folder: Path, max_jump: float | None):
        self.folder, self.max_jump = folder, max_jump
        self.losses: deque[float] = deque(maxlen=REMEMBERED)

    def look(self, loss: float, cell_ids: list[str], step: int, rank: int = 0) -> None:
        """Remember a loss.

        Raises
        ------
        BadLossError
            If it is NaN, infinite, or a jump. The weights are those of the last good step.
        """
        if math.isfinite(loss) and not self.is_jump(loss):
            self.losses.append(loss)
            return
        before = median(self.losses) if self.losses else None
        name = BAD_BATCH if rank == 0 else f"rank{rank}_{BAD_BATCH}"
        content = {"step": step, "loss": str(loss), "median_before": before, "cell_ids": cell_ids}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / name, json.dumps(content, indent=1) + "\n")
        raise BadLossError(
            f"The loss of step {step} is {loss:.4g}"
            + ("" if before is None else f", after a median of {before:.4g} over {len(self.losses)} steps")
            + f". Its {len(cell_ids)} cells are in {self.folder / name}. Look at their rows, lower the learning "
            "rate or max_grad_norm, or raise --max_loss_jump; then go on with --resume_from_checkpoint true."
        )

    def is_jump(self, loss: float) -> bool:
        full = len(self.losses) == REMEMBERED
        return self.max_jump is not None and full and loss > median(self.losses) + self.max_jump

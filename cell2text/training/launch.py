"""What the training scripts share around their work: threads, and errors as one line with an exit code."""

import os
import sys
import time
from collections.abc import Callable

import torch

from cell2text.errors import RunStoppedError, UserError, exit_code
from cell2text.training.memory import is_out_of_memory


SETTLING = 0.5  # seconds


def use_threads(n_threads: int | None) -> None:
    """Set PyTorch's threads on CPU: 0 for all cores, shared by the ranks of this machine; None leaves them alone."""
    if n_threads is not None:
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(n_threads or max(1, (os.cpu_count() or 1) // ranks))


def destroy_process_group(trainer) -> None:
    """Wait for the other ranks and leave their process group; what follows is the main rank's, and may take long.

    Threads of gloo let go of the last exchange's tensors, for which they need Python's lock. A rank that returns at
    once frees its model, and with the lock in hand waits for these threads, which never end: they get a moment first.
    """
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.num_processes > 1:
        time.sleep(SETTLING)
    trainer.end()


def run(script: str, main: Callable[[], None]) -> int:
    """Call `main`, and return the exit code, as in the rest of Cell2Text.

    0 done; 2 wrong input, told in one line; 1 a loss, memory or disk that stopped the run, told likewise. Any other
    error is a fault of ours, and is raised.
    """
    try:
        main()
    except (UserError, RunStoppedError) as error:
        print(f"{script}: {error}", file=sys.stderr)
        return exit_code(error) or 1
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"{script}: {error}", file=sys.stderr)
        return 1
    return 0

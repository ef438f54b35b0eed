"""What the training scripts share around their work: threads, and errors as one line with an exit code."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import fields

import torch

from cell2text.errors import RunStoppedError, flags_of, guard
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


def run(script: str, main: Callable[[], None], options: Iterable[type] = ()) -> int:
    """Call the `main` of a training script and return its exit code.

    An expected error becomes one message on standard error. Any other error is a fault of the package and is raised.

    Parameters
    ----------
    script
        Name in front of the message.
    main
        The script's work, without arguments.
    options
        Dataclasses of the script's options, whose names become flags in messages.

    Returns
    -------
    0 if the run ended; 2 for wrong input; 1 if memory, disk or a diverging loss stopped the run.
    """

    def action() -> None:
        try:
            main()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise RunStoppedError(str(error)) from error

    names = (option.name for kind in options for option in fields(kind))
    return guard(script, action, flags=flags_of(names, dashes=False))

"""Fix the number of CPU threads of a run, and record it in its checkpoints.

Sums that are split over threads round differently for another number of threads. A run therefore sets one number for
PyTorch and the linear algebra below NumPy, and a run that resumes on a CPU takes the recorded one.
"""

import logging
import os

import torch
from threadpoolctl import threadpool_limits

from cell2text.training.checkpoints import checkpoint_record


logger = logging.getLogger(__name__)


def set_cpu_threads(requested: int | None, checkpoint: str | None = None) -> int:
    """Set the number of CPU threads of this process, and return it.

    Parameters
    ----------
    requested
        Number of threads; 0 for all cores, shared by the ranks of this machine; None for PyTorch's own choice, which
        follows `OMP_NUM_THREADS`.
    checkpoint
        Checkpoint to resume on a CPU. Its recorded number replaces `requested` if the number of ranks is the same,
        since the resumed run could not repeat the interrupted one otherwise.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    cores = os.cpu_count() or 1
    n_threads = torch.get_num_threads() if requested is None else requested or max(1, cores // ranks)
    if checkpoint is not None:
        record = checkpoint_record(checkpoint)
        recorded = record.get("cpu_threads")  # absent from checkpoints of earlier versions
        if recorded and record["ranks"] == int(os.environ.get("WORLD_SIZE", 1)) and recorded != n_threads:
            logger.warning(
                "CPU threads: %d, as recorded in %s; without the checkpoint this run would use %d.",
                recorded, checkpoint, n_threads,
            )  # fmt: skip
            n_threads = recorded
    torch.set_num_threads(n_threads)
    threadpool_limits(limits=n_threads)
    return n_threads

"""Worker processes of this machine: how they start, what they are given, and how they end."""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread

from cell2text.errors import RunStoppedError, exit_on_sigterm


MAX_PENDING_CALLS = 64
TERMINATED = 128 + signal.SIGTERM


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory() -> int | None:
    """Return the peak memory of this process or of an ended child, the larger one, in MiB; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak // (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes


class ForkedWorkers(ProcessPoolExecutor):
    """Processes that share the memory of this one, such as the weights of a loaded model.

    Where processes cannot be forked safely, as on Windows and macOS, the arguments are sent to each of them instead.

    Parameters
    ----------
    workers
        Number of processes.
    prepare
        Called in each process before its first call.
    *arguments
        Arguments of `prepare`.
    """

    def __init__(self, workers: int, prepare: Callable, *arguments: object):
        context = get_context("fork" if sys.platform == "linux" else "spawn")
        super().__init__(workers, mp_context=context, initializer=_start_worker, initargs=(workers, prepare, arguments))

    def submit(self, function: Callable, /, *arguments: object) -> Future:  # type: ignore[override]
        return super().submit(_call_or_exit, function, *arguments)

    def stop(self) -> None:
        """End the processes; they leave the `with` blocks of their calls first."""
        for process in list((self._processes or {}).values()):
            process.terminate()


def run_calls(executor: Executor, calls: Iterable[Sequence], advance: Callable[[int], object], hint: str) -> None:
    """Run calls, a bounded number at a time.

    On the first error, calls that have not started are cancelled, and running calls are awaited. If this process is
    interrupted, forked workers stop as well.

    Parameters
    ----------
    calls
        A function and its arguments each.
    advance
        Called with the result of each call.
    hint
        What to change before the command is run again, if a process is killed.

    Raises
    ------
    RunStoppedError
        If a process is killed.
    """
    pending: set[Future] = set()
    queue = iter(calls)
    try:
        while True:
            while len(pending) < MAX_PENDING_CALLS and (call := next(queue, None)) is not None:
                pending.add(executor.submit(*call))
            if not pending:
                return
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                advance(future.result())
    except BrokenProcessPool as error:
        raise RunStoppedError(
            f"A worker process was killed, most likely because memory ran out. Run the same command again to resume, "
            f"{hint}."
        ) from error
    except (KeyboardInterrupt, SystemExit):
        if isinstance(executor, ForkedWorkers):
            executor.stop()
            pending = set()
        raise
    finally:
        for future in pending:
            future.cancel()
        wait(pending)  # a call that is still running must not write after the plan changes


def exit_with_parent() -> None:
    """End this worker process when its parent is killed, so that it does not write while the next run does."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()


def _call_or_exit(function: Callable, *arguments: object) -> object:
    """Call a function in a worker, and end the worker after SIGTERM: the executor would give it further calls."""
    try:
        return function(*arguments)
    except SystemExit:
        os._exit(TERMINATED)


def _start_worker(workers: int, prepare: Callable, arguments: tuple) -> None:
    """Prepare a worker: one thread, its share of the memory, and an end that removes temporary files."""
    import torch

    torch.set_num_threads(1)
    os.environ["LOCAL_WORLD_SIZE"] = str(workers * int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent as well, which ends its workers
    exit_on_sigterm()
    exit_with_parent()
    prepare(*arguments)

"""Jobs of a plan run here, in processes of this machine, or on a Dask cluster: the same calls, the same files."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

from tqdm import tqdm

from cell2text.errors import UserError
from cell2text.preparation.jobs import close_sources
from cell2text.preparation.plan import load_plan


MOST_PENDING = 64  # jobs handed over at a time
JobRunner = Callable[[Callable, Path, str, str], None]


@contextmanager
def job_runner(workers: int, dask_scheduler: str | None, progress: bool) -> Iterator[JobRunner]:
    """A function that runs a kind of job for the whole plan: here, in processes, or on a Dask cluster."""
    if workers < 1:
        raise UserError(f"workers={workers}: expected at least 1.")
    executor: Executor | None = None
    client = None
    if dask_scheduler is not None:
        from distributed import Client

        client = Client(dask_scheduler)
        executor = client.get_executor(pure=False)
    elif workers > 1:
        context = get_context("forkserver")
        context.set_forkserver_preload(["cell2text.preparation.jobs"])
        executor = ProcessPoolExecutor(workers, mp_context=context, initializer=die_with_parent)

    def run(job: Callable, folder: Path, identity: str, unit: str) -> None:
        jobs = load_plan(str(folder), identity).jobs
        address = str(folder.resolve())
        with tqdm(total=sum(job["cells"] for job in jobs), unit=f" {unit}", disable=not progress) as bar:
            if executor is None:
                for number in range(len(jobs)):
                    bar.update(job(address, identity, number))
                return
            run_in(executor, [(job, address, identity, number) for number in range(len(jobs))], bar)

    try:
        yield run
    finally:
        close_sources()
        if client is not None:
            client.close()
        elif executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)


def run_in(executor: Executor, calls: list[tuple], bar) -> None:
    """Run calls, a bounded number of them waiting at a time; the first fault ends the run after those under way."""
    pending: set[Future] = set()
    queue = iter(calls)
    try:
        while True:
            while len(pending) < MOST_PENDING and (call := next(queue, None)) is not None:
                pending.add(executor.submit(*call))
            if not pending:
                return
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                bar.update(future.result())
    except BrokenProcessPool as error:
        raise OSError(
            "A worker was killed, most likely for want of memory. Start again to go on, with fewer --workers or a "
            "smaller cells_per_shard."
        ) from error
    finally:
        for future in pending:
            future.cancel()
        wait(pending)  # none may write on when the plan changes


def die_with_parent() -> None:
    """End this worker when the run that started it is killed, so that none goes on writing beside the next run."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()

"""Run the jobs of a plan in this process, in worker processes, or on a Dask cluster, with the same results.

Dask (extra `dask`) is imported when a scheduler is given.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from cell2text.errors import UserError
from cell2text.preparation.jobs import close_sources
from cell2text.preparation.plan import load_plan
from cell2text.processes import exit_with_parent, run_calls


DASK_TIMEOUT_SECONDS = 10
DASK_WORKERS_SECONDS = 60  # a queue of a cluster may start workers after the scheduler
SMALLER = "with a smaller workers= or cells_per_shard="
JobRunner = Callable[[Callable, Path, str, str], None]


@contextmanager
def job_runner(workers: int, dask_scheduler: str | None, progress: bool) -> Iterator[JobRunner]:
    """Yield a function that runs one kind of job for every job of a plan.

    Parameters
    ----------
    workers
        Number of worker processes; 1 runs the jobs in this process.
    dask_scheduler
        Address of a Dask scheduler, which replaces `workers`.
    progress
        Show a progress bar.

    Raises
    ------
    UserError
        If `workers` is not positive, or Dask is not installed.
    RunStoppedError
        If a worker process is killed.
    """
    if workers < 1:
        raise UserError(f"workers={workers}: expected at least 1.")
    executor: Executor | None = None
    client = None
    if dask_scheduler is not None:
        client = _connect_to_dask(dask_scheduler)
        executor = client.get_executor(pure=False)
    elif workers > 1:
        context = get_context("forkserver")
        context.set_forkserver_preload(["cell2text.preparation.jobs"])
        executor = ProcessPoolExecutor(workers, mp_context=context, initializer=exit_with_parent)

    def run(job: Callable, folder: Path, identity: str, unit: str) -> None:
        jobs = load_plan(str(folder), identity).jobs
        address = str(folder.resolve())
        with tqdm(total=sum(job["cells"] for job in jobs), unit=f" {unit}", disable=not progress) as bar:
            if executor is None:
                for number in range(len(jobs)):
                    bar.update(job(address, identity, number))
                return
            run_calls(executor, [(job, address, identity, number) for number in range(len(jobs))], bar.update, SMALLER)

    try:
        yield run
    finally:
        close_sources()
        if client is not None:
            client.close()
        elif executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)


def _connect_to_dask(scheduler: str):
    """Return a client of a scheduler that answers and has workers."""
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError(f'dask_scheduler={scheduler!r} needs Dask: pip install "cell2text[dask]".') from error
    try:
        with ThreadPoolExecutor(max_workers=1) as thread:  # the caller may be a notebook, which has a loop
            thread.submit(asyncio.run, _greet(scheduler)).result()
        client = Client(scheduler, timeout=DASK_TIMEOUT_SECONDS)
    except Exception as error:  # Dask raises many classes for an address that it cannot use
        raise UserError(
            f"dask_scheduler={scheduler!r} does not answer within {DASK_TIMEOUT_SECONDS} seconds "
            f"({type(error).__name__}). Expected the address of a running scheduler, such as tcp://HOST:8786."
        ) from error
    try:
        client.wait_for_workers(1, timeout=DASK_WORKERS_SECONDS)
    except TimeoutError as error:
        client.close()
        raise UserError(
            f"dask_scheduler={scheduler!r} has no worker after {DASK_WORKERS_SECONDS} seconds. Start one first: dask "
            f"worker {scheduler}."
        ) from error
    return client


async def _greet(scheduler: str) -> None:
    """Connect to a scheduler once; a client would wait forever for a server that accepts and says nothing."""
    from distributed.comm import connect
    from distributed.security import Security

    if not scheduler.startswith("inproc://"):
        arguments = Security().get_connection_args("client")
        comm = await asyncio.wait_for(connect(scheduler, **arguments), DASK_TIMEOUT_SECONDS)
        comm.abort()

"""`cell2text prepare`: counts to a data set that `datasets` loads and a training run reads.

    sources -> metadata, labels -> sample -> splits -> jobs -> shards -> card, report

Everything a run decides is in its plan, on disk, before the first job starts; everything a job does depends on the plan
alone. A run that was killed goes on where it stopped, and ends with the same files.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from cell2text.data.card import write_card
from cell2text.data.config import PrepareConfig
from cell2text.data.jobs import PLAN, VOCABULARY, WORK, load_plan, median_job, open_reader, shard_job, write_text
from cell2text.data.pathways import GeneSets, download_hallmark, read_gmt
from cell2text.data.plan import make_plan, run_identity, survey_sources
from cell2text.data.report import collect_report, write_html
from cell2text.data.sources import BadFileError
from cell2text.data.vocabulary import MedianAccumulator, symbols_of, vocabulary_of
from vocabulary_cell2text import ALIASES_FILE, VOCABULARY_FILE, GeneVocabulary


logger = logging.getLogger(__name__)

REPORT = "report.json"
OWN_FILES = {WORK, "data", VOCABULARY, REPORT, "report.html", "README.md", VOCABULARY_FILE, ALIASES_FILE}
FITTED_MAX_GENES = 2048


class BusyFolderError(ValueError):
    """Another run works in the output folder."""


def prepare(
    inputs: Iterable[str | os.PathLike] = (),
    out: str | os.PathLike = "prepared",
    *,
    config: PrepareConfig | None = None,
    workers: int = 1,
    dask_scheduler: str | None = None,
    progress: bool = True,
    **options,
) -> dict:
    """Prepare a data set from counts.

    Parameters
    ----------
    inputs
        h5ad files, zarr stores, folders, globs or fsspec addresses.
    out
        Output folder: new, empty, or one in which the same run was interrupted.
    config
        All options at once; `inputs` and `options` win over it.
    workers
        Processes on this machine; 1 works in this process. The output does not depend on it.
    dask_scheduler
        Address of a Dask scheduler whose workers see `out` and the inputs; `workers` then counts nothing.
    progress
        Show a progress bar.
    **options
        Any field of :class:`PrepareConfig`.

    Returns
    -------
    The content of `report.json`. Load the data with `datasets.load_dataset(out)`.

    Raises
    ------
    BadFileError
        If a file cannot be used.
    ValueError
        If an option is wrong, or `out` holds anything else.
    BusyFolderError
        If another run works in `out`.
    OSError
        If the disk is full; start again to go on.
    """
    paths = [os.fspath(path) for path in inputs]
    if config is None:
        config = PrepareConfig(inputs=paths, **options)
    else:
        config = replace(config, **options, inputs=paths or config.inputs)
    folder = Path(out)
    with locked(folder), job_runner(workers, dask_scheduler, progress) as run_jobs:
        skipped = recorded_skips(folder) if config.skip_bad_files else {}
        while True:
            try:
                return prepare_in(folder, config, skipped, run_jobs)
            except BadFileError as error:  # found by a job, deep in a file
                if not config.skip_bad_files or error.source in skipped:
                    raise
                logger.warning(f"Left out from now on: {error}")
                skipped[error.source] = error.message
                (folder / PLAN).unlink()  # without a plan the next round starts from nothing


def prepare_in(folder: Path, config: PrepareConfig, skipped: dict[str, str], run_jobs: "JobRunner") -> dict:
    vocabulary = GeneVocabulary.from_pretrained(config.gene_vocab) if config.gene_vocab else None
    gene_sets = load_gene_sets(config.gene_sets)
    surveys = survey_sources(config, vocabulary, gene_sets, skipped=skipped)
    identity, provenance = run_identity(config, surveys, vocabulary, gene_sets, skipped)
    finished = folder / REPORT
    if finished.exists():
        report = json.loads(finished.read_text(encoding="utf-8"))
        refuse_other_run(report["provenance"], provenance, folder)
        logger.warning(f"{folder} is finished already: nothing to do.")
        clear_work(folder)
        return report
    if (folder / PLAN).exists():
        refuse_other_run(read_plan(folder)["provenance"], provenance, folder)
    else:
        clear(folder)
        make_plan(config, folder, surveys, gene_sets, identity=identity, provenance=provenance)
    for survey in surveys:
        logger.info(f"{survey.source.name}: {survey.report['cells']:,} cells, {survey.report['genes']:,} genes.")
    del surveys
    if not (folder / VOCABULARY).exists():
        vocabulary = vocabulary or fit_in(folder, identity, run_jobs)
        vocabulary.save_pretrained(folder / WORK / VOCABULARY)
        os.replace(folder / WORK / VOCABULARY, folder / VOCABULARY)
    run_jobs(shard_job, folder, identity, "cells")
    return finish(folder, identity)


def read_plan(folder: Path) -> dict:
    return json.loads((folder / PLAN).read_text(encoding="utf-8"))


def finish(folder: Path, identity: str) -> dict:
    """Report, pictures and card from what the jobs left; the report comes last, and says that the run is whole."""
    plan = load_plan(str(folder), identity)
    written = read_plan(folder)
    report = collect_report(plan, written["report"], written["provenance"])
    write_html(report, folder / "report.html")
    write_card(report, folder)
    for leftover in (*folder.glob(".*.partial"), *(folder / "data").glob(".*.partial")):
        leftover.unlink()
    write_text(folder / REPORT, json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    clear_work(folder)
    return report


def recorded_skips(folder: Path) -> dict[str, str]:
    """Files that this run, before it was interrupted, had found to be bad."""
    if (folder / REPORT).exists():
        return json.loads((folder / REPORT).read_text(encoding="utf-8"))["skipped"]
    return read_plan(folder)["provenance"]["skipped"] if (folder / PLAN).exists() else {}


def fit_in(folder: Path, identity: str, run_jobs: "JobRunner") -> GeneVocabulary:
    """Fit a vocabulary to the training cells of a plan."""
    plan = load_plan(str(folder), identity)
    run_jobs(median_job, folder, identity, "cells counted")
    accumulator = MedianAccumulator()
    for number in range(len(plan.jobs)):
        with np.load(folder / WORK / "medians" / f"{number:05d}.npz", allow_pickle=False) as counted:
            other = MedianAccumulator()
            other.keys, other.counts = counted["keys"], counted["counts"]
            accumulator.merge(other)
    symbols: dict[str, str] = {}
    for source in plan.sources.values():
        with open_reader(source, plan.config) as reader:
            symbols |= symbols_of(reader.var())
    max_genes = plan.config.max_genes or FITTED_MAX_GENES
    return vocabulary_of(accumulator, symbols, max_genes=max_genes, min_cells=plan.config.min_cells)


def fit_vocabulary_of_files(
    inputs: Iterable[str | os.PathLike], out: str | os.PathLike, *, workers: int = 1, progress: bool = True, **options
) -> GeneVocabulary:
    """Fit gene medians to all cells of files, with the jobs of `prepare`, and save the vocabulary in `out`.

    Raises
    ------
    BadFileError
        If a file cannot be used.
    ValueError
        If `out` is not empty.
    """
    folder = Path(out)
    everything = {"split": "random", "shares": {"train": 1.0}, "require": []}
    config = PrepareConfig(inputs=[os.fspath(path) for path in inputs], **{**options, **everything})
    with locked(folder), job_runner(workers, None, progress) as run_jobs:
        skipped: dict[str, str] = {}
        surveys = survey_sources(config, None, None, skipped=skipped)
        identity, provenance = run_identity(config, surveys, None, None, skipped)
        if (folder / PLAN).exists():
            refuse_other_run(read_plan(folder)["provenance"], provenance, folder)
        else:
            make_plan(config, folder, surveys, None, identity=identity, provenance=provenance)
        vocabulary = fit_in(folder, identity, run_jobs)
        vocabulary.save_pretrained(folder)
        clear_work(folder)
    return vocabulary


def load_gene_sets(path: str | None) -> GeneSets | None:
    if path is None:
        return None
    return download_hallmark() if path == "hallmark" else read_gmt(path)


def refuse_other_run(found: dict, wanted: dict, folder: Path) -> None:
    """Raise if a folder belongs to a run with other inputs or options, and say which differ."""
    differing = set()
    for part, value in wanted.items():
        if not isinstance(value, dict) or not isinstance(found.get(part), dict):
            differing |= {part} if found.get(part) != value else set()
        else:
            names = {**found[part], **value}
            differing |= {f"{part}: {name}" for name in names if found[part].get(name) != value.get(name)}
    if differing:
        raise ValueError(
            f"{folder} belongs to a run that differs in {', '.join(sorted(differing))}. Take another --out, or delete "
            "that one."
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder: no second run in it, and none in a folder with anything else.

    Raises
    ------
    BusyFolderError
        If another run works in it.
    ValueError
        If it is a file, or holds anything that is not ours.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file: expected a folder.")
    names = {path.name for path in folder.iterdir() if path.suffix != ".partial"} if folder.exists() else set()
    foreign = sorted(names - OWN_FILES)
    if foreign:
        raise ValueError(f"--out {folder} holds other files ({', '.join(foreign[:3])}): take a new folder.")
    (folder / WORK).mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / WORK / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyFolderError(f"Another run works in {folder}: wait for it, or take another --out.") from error
    try:
        yield
    finally:
        lock.release()
        if not any(path.name != "lock" for path in (folder / WORK).iterdir()):
            shutil.rmtree(folder / WORK)


def clear_work(folder: Path) -> None:
    """Remove the plan and what jobs left beside their shards; the lock stays while it is held."""
    for path in (folder / WORK).iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def clear(folder: Path) -> None:
    """Remove all that a run without a plan has left, so that no shard of an older plan stays."""
    clear_work(folder)
    for name in ("data", VOCABULARY):
        shutil.rmtree(folder / name, ignore_errors=True)


JobRunner = Callable[[Callable, Path, str, str], None]


@contextmanager
def job_runner(workers: int, dask_scheduler: str | None, progress: bool) -> Iterator[JobRunner]:
    """A function that runs a kind of job for the whole plan: here, in processes, or on a Dask cluster."""
    if workers < 1:
        raise ValueError(f"workers={workers}: expected at least 1.")
    executor: Executor | None = None
    client = None
    if dask_scheduler is not None:
        from distributed import Client

        client = Client(dask_scheduler)
        executor = client.get_executor(pure=False)
    elif workers > 1:
        context = get_context("forkserver")
        context.set_forkserver_preload(["cell2text.data.jobs"])
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


MOST_PENDING = 64


def die_with_parent() -> None:
    """End this worker when the run that started it is killed, so that none goes on writing beside the next run."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()

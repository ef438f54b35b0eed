"""`cell2text prepare`: counts to a data set that `datasets` loads and a training run reads.

    sources -> metadata, labels -> sample -> splits -> jobs -> shards -> card, report

Everything a run decides is in its plan, on disk, before the first job starts; everything a job does depends on the plan
alone. A run that was killed goes on where it stopped, and ends with the same files.
"""

import gc
import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from cell2text.errors import UserError
from cell2text.files import write_atomically
from cell2text.ontology.terms import clear_ontology_caches
from cell2text.preparation.aucell import GeneSets, download_hallmark, read_gmt
from cell2text.preparation.config import PrepareConfig
from cell2text.preparation.dataset_card import write_card
from cell2text.preparation.executor import JobRunner, job_runner
from cell2text.preparation.jobs import VOCABULARY, median_job, shard_job
from cell2text.preparation.medians import MedianAccumulator, symbols_of, vocabulary_of
from cell2text.preparation.output_folder import (
    REPORT,
    clear,
    clear_work,
    locked,
    read_plan,
    recorded_skips,
    refuse_other_run,
)
from cell2text.preparation.plan import PLAN, WORK, load_plan, make_plan, run_identity
from cell2text.preparation.report import collect_report, write_html
from cell2text.preparation.survey import survey_sources
from cell2text.sources.files import BadFileError
from cell2text.sources.reading import open_reader
from vocabulary_cell2text import GeneVocabulary


logger = logging.getLogger(__name__)

FITTED_MAX_GENES = 2048


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
    with locked(folder), uncollected_libraries(), job_runner(workers, dask_scheduler, progress) as run_jobs:
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


@contextmanager
def uncollected_libraries() -> Iterator[None]:
    """Spare the garbage collector the half million objects of the imported libraries, a third of a second each time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def prepare_in(folder: Path, config: PrepareConfig, skipped: dict[str, str], run_jobs: JobRunner) -> dict:
    vocabulary = load_vocabulary(config.gene_vocab)
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
    clear_ontology_caches()
    if not (folder / VOCABULARY).exists():
        vocabulary = vocabulary or fit_in(folder, identity, run_jobs)
        vocabulary.save_pretrained(folder / WORK / VOCABULARY)
        os.replace(folder / WORK / VOCABULARY, folder / VOCABULARY)
    run_jobs(shard_job, folder, identity, "cells")
    return finish(folder, identity)


def finish(folder: Path, identity: str) -> dict:
    """Report, pictures and card from what the jobs left; the report comes last, and says that the run is whole."""
    plan = load_plan(str(folder), identity)
    written = read_plan(folder)
    report = collect_report(plan, written["report"], written["provenance"])
    write_html(report, folder / "report.html")
    write_card(report, folder)
    for leftover in (*folder.glob(".*.partial"), *(folder / "data").glob(".*.partial")):
        leftover.unlink()
    write_atomically(folder / REPORT, json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    clear_work(folder)
    return report


def fit_in(folder: Path, identity: str, run_jobs: JobRunner) -> GeneVocabulary:
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
        If `out` holds anything but an interrupted run of this kind.
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
            clear_work(folder)
            make_plan(config, folder, surveys, None, identity=identity, provenance=provenance)
        vocabulary = fit_in(folder, identity, run_jobs)
        vocabulary.save_pretrained(folder)
        clear_work(folder)
    return vocabulary


def load_vocabulary(path: str | None) -> GeneVocabulary | None:
    if path is not None and path.startswith((".", "/", "~")) and not os.path.isdir(path):
        raise UserError(f"--gene-vocab {path} does not exist: expected a folder or a Hub id.")
    return None if path is None else GeneVocabulary.from_pretrained(path)


def load_gene_sets(path: str | None) -> GeneSets | None:
    if path is None:
        return None
    return download_hallmark() if path == "hallmark" else read_gmt(path)

"""Run `cell2text prepare` and `cell2text vocab`: from counts to a data set for training.

    sources -> metadata, labels -> sample -> splits -> jobs -> shards -> card, report

All decisions of a run are in its plan, on disk, before the first job starts, and jobs depend on the plan alone. So a
killed run resumes and ends with the same files as an undisturbed one.
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
from cell2text.preparation.config import PrepareConfig
from cell2text.preparation.dataset_card import write_card
from cell2text.preparation.executor import JobRunner, job_runner
from cell2text.preparation.jobs import count_gene_values, write_shards
from cell2text.preparation.medians import GeneColumns, MedianAccumulator, build_vocabulary
from cell2text.preparation.output_folder import (
    PAGE_FILE,
    REPORT_FILE,
    VOCABULARY_FOLDER,
    WORK_FOLDER,
    check_same_run,
    job_medians_path,
    lock_output_folder,
    plan_path,
    read_plan,
    read_report,
    read_skipped_sources,
    remove_partial_files,
    remove_unplanned_output,
    remove_work_files,
)
from cell2text.preparation.own_columns import describe_leakage
from cell2text.preparation.plan import collect_provenance, load_plan, write_plan
from cell2text.preparation.report import collect_report, describe_uncovered, write_html
from cell2text.preparation.survey import Survey, open_planned, survey_sources
from cell2text.provenance import content_hash
from cell2text.signatures.gene_sets import GeneSets, load_gene_sets
from cell2text.sources.checks import BadFileError
from vocabulary_cell2text import GeneVocabulary


logger = logging.getLogger(__name__)

FITTED_MAX_GENES = 2048  # of a fitted vocabulary, unless max_genes is given


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
    """Prepare a data set for training from raw counts.

    Parameters
    ----------
    inputs
        h5ad files, zarr stores, folders, globs or fsspec addresses.
    out
        Output folder: new, empty, or that of an interrupted run with the same inputs and options, which resumes.
    config
        All options at once. `inputs` and `options` take precedence.
    workers
        Number of processes on this machine. The output does not depend on it.
    dask_scheduler
        Address of a Dask scheduler whose workers can read the inputs and write `out`. Replaces `workers`.
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
        If a file cannot be used, unless `skip_bad_files=True`.
    BusyError
        If another run uses `out`.
    UserError
        If an option is invalid, or `out` contains other files.
    RunStoppedError
        If a worker process is killed; call again to resume.
    OSError
        If the disk is full; free space and call again to resume.

    Examples
    --------
    >>> import tempfile
    >>> from cell2text import example_cells
    >>> folder = Path(tempfile.mkdtemp())
    >>> example_cells()[:60].write_h5ad(folder / "cells.h5ad")
    >>> report = prepare(
    ...     [folder / "cells.h5ad"], folder / "prepared", split="random", allow_fractional=True, progress=False
    ... )
    >>> report["rows"]
    60
    """
    paths = [os.fspath(path) for path in inputs]
    if config is None:
        config = PrepareConfig(inputs=paths, **options)
    else:
        config = replace(config, **options, inputs=paths or config.inputs)
    folder = Path(out)
    with lock_output_folder(folder), _imports_frozen(), job_runner(workers, dask_scheduler, progress) as run_jobs:
        skipped = read_skipped_sources(folder) if config.skip_bad_files else {}
        while True:
            try:
                return _prepare_in_folder(folder, config, skipped, run_jobs)
            except BadFileError as error:  # raised by a job, for content that the survey does not read
                if not config.skip_bad_files or error.source in skipped:
                    raise
                logger.warning(f"Skipping {error}")
                skipped[error.source] = error.message
                plan_path(folder).unlink(
                    missing_ok=True
                )  # without a plan, the next round removes the output of this one


@contextmanager
def _imports_frozen() -> Iterator[None]:
    """Exclude the half million objects of imported libraries from garbage collection, which saves 0.3 s per pass."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _prepare_in_folder(folder: Path, config: PrepareConfig, skipped: dict[str, str], run_jobs: JobRunner) -> dict:
    vocabulary = _load_vocabulary(config.gene_vocab)
    gene_sets = load_gene_sets(config.gene_sets)
    surveys = survey_sources(config, vocabulary, gene_sets, skipped=skipped)
    provenance = collect_provenance(config, surveys, vocabulary, gene_sets, skipped)
    report = read_report(folder)
    if report is not None:
        check_same_run(report["provenance"], provenance, folder)
        logger.warning(f"{folder} is already finished: nothing to do.")
        remove_work_files(folder)
        return report
    if not plan_path(folder).exists():
        remove_unplanned_output(folder)
    identity = _resume_or_plan(folder, config, surveys, gene_sets, vocabulary, provenance)
    for survey in surveys:
        logger.info(f"{survey.source.name}: {survey.report['cells']:,} cells, {survey.report['genes']:,} genes.")
    del surveys
    clear_ontology_caches()
    if not (folder / VOCABULARY_FOLDER).exists():
        vocabulary = vocabulary or _fit_vocabulary(folder, identity, run_jobs)
        vocabulary.save_pretrained(folder / WORK_FOLDER / VOCABULARY_FOLDER)
        os.replace(folder / WORK_FOLDER / VOCABULARY_FOLDER, folder / VOCABULARY_FOLDER)
    run_jobs(write_shards, folder, identity, "cells")
    return _finish(folder, identity)


def _resume_or_plan(
    folder: Path,
    config: PrepareConfig,
    surveys: list[Survey],
    gene_sets: GeneSets | None,
    vocabulary: GeneVocabulary | None,
    provenance: dict,
) -> str:
    """Check the plan of an interrupted run, or write a new one; return the identity of the run."""
    identity = content_hash(provenance)
    if plan_path(folder).exists():
        check_same_run(read_plan(folder)["provenance"], provenance, folder)
    else:
        write_plan(config, folder, surveys, gene_sets, vocabulary=vocabulary, identity=identity, provenance=provenance)
    return identity


def _finish(folder: Path, identity: str) -> dict:
    """Write page, card and, last, `report.json`, which marks the run as finished."""
    plan = load_plan(str(folder), identity)
    written = read_plan(folder)
    report = collect_report(plan, written["report"], written["provenance"])
    write_html(report, folder / PAGE_FILE)
    write_card(report, folder)
    remove_partial_files(folder)
    write_atomically(folder / REPORT_FILE, json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    remove_work_files(folder)
    for warning in filter(None, (describe_uncovered(report), describe_leakage(report))):
        logger.warning(warning)
    return report


def _fit_vocabulary(folder: Path, identity: str, run_jobs: JobRunner) -> GeneVocabulary:
    """Fit a vocabulary to the training cells of a plan."""
    plan = load_plan(str(folder), identity)
    config = plan.config
    run_jobs(count_gene_values, folder, identity, "cells counted")
    accumulator = MedianAccumulator()
    for number in range(len(plan.jobs)):
        with np.load(job_medians_path(folder, number), allow_pickle=False) as counted:
            other = MedianAccumulator()
            other.keys, other.counts = counted["keys"], counted["counts"]
            accumulator.merge(other)
    symbols: dict[str, str] = {}
    for source in plan.sources.values():
        with open_planned(source, config) as reader:
            symbols |= GeneColumns(reader, gene_key=config.gene_key, species=config.species).symbols
    max_genes = config.max_genes or FITTED_MAX_GENES
    return build_vocabulary(accumulator, symbols, max_genes=max_genes, min_cells=config.min_cells)


def fit_vocabulary_from_files(
    inputs: Iterable[str | os.PathLike], out: str | os.PathLike, *, workers: int = 1, progress: bool = True, **options
) -> GeneVocabulary:
    """Fit a gene vocabulary to all cells of files, and save it.

    Parameters
    ----------
    inputs
        h5ad files, zarr stores, folders, globs or fsspec addresses.
    out
        Output folder: new, empty, or that of an interrupted run with the same inputs and options, which resumes.
    workers
        Number of processes on this machine. The vocabulary does not depend on it.
    progress
        Show a progress bar.
    **options
        `layer`, `gene_key`, `species`, `max_genes`, `min_cells` and `allow_fractional` of :class:`PrepareConfig`.

    Returns
    -------
    The vocabulary.

    Raises
    ------
    BadFileError
        If a file cannot be used.
    UserError
        If an option is invalid, or `out` contains other files.
    """
    folder = Path(out)
    all_cells = {"split": "random", "shares": {"train": 1.0}, "require": [], "labelled": False}
    config = PrepareConfig(inputs=[os.fspath(path) for path in inputs], **{**options, **all_cells})
    with lock_output_folder(folder), job_runner(workers, None, progress) as run_jobs:
        skipped: dict[str, str] = {}
        surveys = survey_sources(config, None, None, skipped=skipped)
        provenance = collect_provenance(config, surveys, None, None, skipped)
        if not plan_path(folder).exists():
            remove_work_files(folder)
        identity = _resume_or_plan(folder, config, surveys, None, None, provenance)
        vocabulary = _fit_vocabulary(folder, identity, run_jobs)
        vocabulary.save_pretrained(folder)
        remove_work_files(folder)
    return vocabulary


def _load_vocabulary(path: str | None) -> GeneVocabulary | None:
    if path is not None and path.startswith((".", "/", "~")) and not os.path.isdir(path):
        raise UserError(f"gene_vocab={path!r} does not exist. Expected a folder or a Hub id.")
    return None if path is None else GeneVocabulary.from_pretrained(path)

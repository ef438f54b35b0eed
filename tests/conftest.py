"""Fixtures and hooks. pytest loads this file in every process, also in the one that only hands out tests: it imports
nothing heavy itself."""

import gc
import logging
import os
import sys
from fnmatch import fnmatch
from pathlib import Path


os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read by the Hub's client when it is imported
os.environ.setdefault("NUMBA_OPT", "1")  # numba takes longer to optimise UMAP than UMAP takes for the cells of a test

import pytest

from .transformers_exceptions import FAILURES, SKIPS


gc.disable()  # until the tests are imported, whose modules stay


SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared_path(name: str) -> Path:
    """A file of the reference data that is not part of the project; skips where there is none."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"shared/{name} is not there")
    return path


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Compute on one thread: test processes share the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _ontologies_stay():
    """Keep the ontologies in memory, which every preparation frees and the next one would load again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cell2text.preparation.run.clear_ontology_caches", lambda: None)
        yield


@pytest.fixture(autouse=True)
def _package_logger():
    """Start every test with an unconfigured logger: a command that another test or fixture ran has set its level."""
    logger = logging.getLogger("cell2text")
    logger.setLevel(logging.NOTSET)
    logger.handlers.clear()


@pytest.fixture(scope="session")
def small_h5ad(tmp_path_factory):
    """Forty real cells of four types."""
    from cell2text.example import example_cells

    adata = example_cells()
    kept = adata.obs["cell_type"].isin(["retinal rod cell", "type B pancreatic cell", "monocyte", "fibroblast"])
    adata = adata[kept]
    adata = adata[adata.obs.groupby("cell_type", observed=True).head(10).index].copy()
    path = tmp_path_factory.mktemp("cells") / "small.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def small_rows(small_h5ad, tmp_path_factory):
    """The forty cells as the data set that a training run prepares."""
    from .training_runs import prepare_rows

    return prepare_rows(small_h5ad, tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="session")
def studies(tmp_path_factory):
    """A folder with three files of counts, a gene vocabulary and gene sets."""
    from .preparation_runs import write_studies

    return write_studies(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="session")
def prepared(studies, tmp_path_factory):
    """The prepared data set of the three files; tests only read it."""
    from .preparation_runs import prepare_studies

    folder = tmp_path_factory.mktemp("prepared") / "prepared"
    prepare_studies(studies, folder)
    return folder


@pytest.fixture(scope="session")
def forked():
    """Starts runs of training and describing in processes of their own, which share one start."""
    from .forked_runs import ForkedRuns

    runs = ForkedRuns()
    yield runs
    runs.close()


@pytest.fixture(scope="session")
def without_package(tmp_path_factory):
    """Runs code in processes of their own from which no module of the project can be imported."""
    from .forked_runs import RunsWithoutPackage

    runs = RunsWithoutPackage(tmp_path_factory.mktemp("without_package"))
    yield runs
    runs.close()


@pytest.fixture
def tiny_adata():
    from .tiny import make_adata

    return make_adata()


@pytest.fixture
def tiny_processor():
    from .tiny import make_processor

    return make_processor()


@pytest.fixture
def tiny_model(tiny_processor):
    from .tiny import make_model

    return make_model(processor=tiny_processor)


# Files with the longest tests run first, mostly in one process: a long test at the end would leave the other one idle.
# Files that share a server of `forked_runs` or functions compiled by numba stand together, so that one process has them.
LONGEST_FILES = (
    "test_training.py",
    "test_checkpoints.py",
    "test_describe.py",
    "test_publish.py",
    "test_remote_code.py",
    "test_guides_publish.py",
    "test_modeling.py",
    "test_preparation_resuming.py",
    "test_preparation_determinism.py",
    "test_report.py",
    "test_guides_describe.py",
)
PLACES = {name: place for place, name in enumerate(LONGEST_FILES)}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: PLACES.get(item.path.name, len(PLACES)))


def pytest_collection_finish():
    """Exempt the millions of objects of imported modules from garbage collection, which accelerate often forces."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Hold transformers' own tests to the committed list: nothing else may fail or skip."""
    report = yield
    if item.path.name != "test_transformers_mixins.py":
        return report
    listed = {
        kind: any(fnmatch(item.name, pattern) for patterns in table.values() for pattern in patterns)
        for kind, table in (("skip", SKIPS), ("fail", FAILURES))
    }
    if report.skipped and not listed["skip"]:
        report.outcome, report.longrepr = (
            "failed",
            f"{item.name} skipped, and transformers_exceptions.SKIPS does not list it",
        )
    elif report.failed and listed["fail"] and report.when == "call":
        report.outcome, report.wasxfail = "skipped", "listed in transformers_exceptions.FAILURES"
    elif report.passed and listed["fail"] and report.when == "call":
        report.outcome, report.longrepr = (
            "failed",
            f"{item.name} passes: take it out of transformers_exceptions.FAILURES",
        )
    return report


def run_cli(*arguments: object) -> int:
    """Exit code of the command line."""
    from cell2text import cli

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cell2text", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.run()
    return stopped.value.code or 0

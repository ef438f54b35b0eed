"""The output folder of a run: names of its files, its lock, and what an interrupted run left in it.

    data/SPLIT-NUMBER.parquet    shards
    vocabulary/                  gene vocabulary
    report.json, report.html     report; `report.json` is written last and marks a finished run
    README.md                    dataset card
    .prepare/                    plan, lock and job reports of an unfinished run

Depends on `files` for the lock.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cell2text.errors import UserError
from cell2text.files import HOLDER_FILE, LOCK_FILE, lock_folder
from cell2text.preparation.names import SPLITS
from vocabulary_cell2text import ALIASES_FILE, VOCABULARY_FILE


WORK_FOLDER = ".prepare"
PLAN_FILE = "plan.json"
DATA_FOLDER = "data"
VOCABULARY_FOLDER = "vocabulary"
REPORT_FILE, PAGE_FILE, CARD_FILE = "report.json", "report.html", "README.md"
OUTPUT_FILES = {
    WORK_FOLDER, DATA_FOLDER, VOCABULARY_FOLDER, REPORT_FILE, PAGE_FILE, CARD_FILE, VOCABULARY_FILE, ALIASES_FILE,
}  # fmt: skip
PARTIAL_SUFFIX = ".partial"  # of temporary files beside the file that is written


def plan_path(folder: Path) -> Path:
    """Return the path of the plan."""
    return folder / WORK_FOLDER / PLAN_FILE


def job_cells_path(folder: Path, number: int) -> Path:
    """Return the path of the cells of a job."""
    return folder / WORK_FOLDER / "plan" / f"{number:05d}.parquet"


def job_report_path(folder: Path, number: int) -> Path:
    """Return the path of the report that a finished job leaves."""
    return folder / WORK_FOLDER / "jobs" / f"{number:05d}.json"


def job_medians_path(folder: Path, number: int) -> Path:
    """Return the path of the gene counts that a job leaves for the vocabulary."""
    return folder / WORK_FOLDER / "medians" / f"{number:05d}.npz"


def shard_path(folder: Path, split: str, number: int) -> Path:
    """Return the path of the shard that a job writes for a split."""
    return folder / DATA_FOLDER / f"{split}-{number:05d}.parquet"


@contextmanager
def lock_output_folder(folder: Path) -> Iterator[None]:
    """Create a folder and hold its lock during the block.

    Parameters
    ----------
    folder
        New or empty folder, or the folder of an interrupted or finished run.

    Raises
    ------
    BusyError
        If another run holds the lock.
    UserError
        If the path is a file, or the folder contains files that `prepare` did not write.
    """
    _check_no_foreign_files(folder)
    existed = folder.exists()
    try:
        with lock_folder(folder / WORK_FOLDER, folder):
            yield
    finally:
        if not existed:
            with suppress(OSError):  # it holds what the run has written
                folder.rmdir()


def _check_no_foreign_files(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"out='{folder}' is a file. Choose a folder.")
    names = {path.name for path in folder.iterdir() if path.suffix != PARTIAL_SUFFIX}
    # Anyone may have a folder `data` and a README.md: only a plan or a report shows that a run wrote them.
    foreign = sorted(names - OUTPUT_FILES) if names & {WORK_FOLDER, REPORT_FILE} else sorted(names)
    if foreign:
        raise UserError(
            f"out='{folder}' contains other files ({', '.join(foreign[:3])}). Choose a new or empty folder."
        )


def read_plan(folder: Path) -> dict:
    """Read the plan of an unfinished run."""
    return json.loads(plan_path(folder).read_text(encoding="utf-8"))


def read_report(folder: Path) -> dict | None:
    """Read the report of a finished run; return None if the run is not finished."""
    path = folder / REPORT_FILE
    if not path.exists():
        return None
    report = json.loads(path.read_text(encoding="utf-8"))
    report["splits"] = {split: report["splits"][split] for split in SPLITS}  # the file sorts its keys
    return report


def check_same_run(found: dict, expected: dict, folder: Path) -> None:
    """Check that a folder belongs to a run with the same inputs, options and versions.

    Parameters
    ----------
    found
        Provenance that the folder records.
    expected
        Provenance of the current run.
    folder
        The folder, for the message.

    Raises
    ------
    UserError
        If any entry differs. The message lists the entries.
    """
    differing = set()
    for part, value in expected.items():
        if not isinstance(value, dict) or not isinstance(found.get(part), dict):
            differing |= {part} if found.get(part) != value else set()
        else:
            names = {**found[part], **value}
            differing |= {f"{part}: {name}" for name in names if found[part].get(name) != value.get(name)}
    if differing:
        raise UserError(
            f"out='{folder}' belongs to a run that differs in {', '.join(sorted(differing))}. Choose another folder, "
            "or delete this one."
        )


def read_skipped_sources(folder: Path) -> dict[str, str]:
    """Return the sources that this run skipped before it was interrupted, with the reason for each."""
    report = read_report(folder)
    if report is not None:
        return report["skipped"]
    return read_plan(folder)["provenance"]["skipped"] if plan_path(folder).exists() else {}


def remove_work_files(folder: Path) -> None:
    """Remove job files, then the plan; keep the lock, which is still held."""
    for path in sorted((folder / WORK_FOLDER).iterdir(), key=lambda path: path.name == PLAN_FILE):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (LOCK_FILE, HOLDER_FILE):
            path.unlink()


def remove_unplanned_output(folder: Path) -> None:
    """Remove everything that a run without a plan left, so that no shard of an older plan remains."""
    remove_work_files(folder)
    for name in (DATA_FOLDER, VOCABULARY_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)


def remove_partial_files(folder: Path) -> None:
    """Remove temporary files of killed jobs beside the output and its shards."""
    pattern = f".*{PARTIAL_SUFFIX}"
    for path in (*folder.glob(pattern), *(folder / DATA_FOLDER).glob(pattern)):
        path.unlink()

"""The output folder of a run: held by one run at a time, never anyone else's, tidied up at the end."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cell2text.errors import BusyError, UserError
from cell2text.preparation.jobs import VOCABULARY
from cell2text.preparation.plan import PLAN, WORK
from vocabulary_cell2text import ALIASES_FILE, VOCABULARY_FILE


REPORT = "report.json"
OWN_FILES = {WORK, "data", VOCABULARY, REPORT, "report.html", "README.md", VOCABULARY_FILE, ALIASES_FILE}


class BusyFolderError(BusyError):
    """Another run works in the output folder."""


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
        raise UserError(f"--out {folder} is a file: expected a folder.")
    names = {path.name for path in folder.iterdir() if path.suffix != ".partial"} if folder.exists() else set()
    foreign = sorted(names - OWN_FILES) if names & {WORK, REPORT} else sorted(names)
    if foreign:
        raise UserError(f"--out {folder} holds other files ({', '.join(foreign[:3])}): take a new folder.")
    (folder / WORK).mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / WORK / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyFolderError(f"Another run works in {folder}: wait for it, or take another --out.") from error
    try:
        yield
    finally:
        if not any(path.name != "lock" for path in (folder / WORK).iterdir()):
            shutil.rmtree(folder / WORK)
        lock.release()


def read_plan(folder: Path) -> dict:
    return json.loads((folder / PLAN).read_text(encoding="utf-8"))


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
        raise UserError(
            f"{folder} belongs to a run that differs in {', '.join(sorted(differing))}. Take another --out, or delete "
            "that one."
        )


def recorded_skips(folder: Path) -> dict[str, str]:
    """Files that this run, before it was interrupted, had found to be bad."""
    if (folder / REPORT).exists():
        return json.loads((folder / REPORT).read_text(encoding="utf-8"))["skipped"]
    return read_plan(folder)["provenance"]["skipped"] if (folder / PLAN).exists() else {}


def clear_work(folder: Path) -> None:
    """Remove what jobs left beside their shards, and the plan last; the lock stays while it is held."""
    for path in sorted((folder / WORK).iterdir(), key=lambda path: path.name == Path(PLAN).name):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def clear(folder: Path) -> None:
    """Remove all that a run without a plan has left, so that no shard of an older plan stays."""
    clear_work(folder)
    for name in ("data", VOCABULARY):
        shutil.rmtree(folder / name, ignore_errors=True)

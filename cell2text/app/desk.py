"""Open files for the users of one app: the file of the command line once for all, uploads for each user.

Knows nothing of a browser. Depends on `opening` and on `session`.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread

from cell2text.app.corrections import Corrections
from cell2text.app.experiment import Experiment
from cell2text.app.opening import OnProgress, open_experiment
from cell2text.app.options import AppOptions
from cell2text.app.session import Session
from cell2text.describe.options import DescribeOptions
from cell2text.errors import UserError


EXPORT_SUFFIXES = (".h5ad", ".csv", ".json")
UPLOAD_SUFFIXES = (".h5ad", ".h5", ".loom", ".h5mu", ".csv", ".tsv", ".txt", ".gz")
POLL_SECONDS = 0.3
MAX_NAME = 100  # characters of an uploaded file's name that are kept


class ClosedError(Exception):
    """The app was closed while a file was being opened."""


class Desk:
    """Opens experiments and starts sessions.

    Parameters
    ----------
    source
        File that every user sees first; None to start with an upload.
    options
        Options of the app.

    Attributes
    ----------
    folder
        Temporary folder of uploads, descriptions of uploads, and exports. It is removed by `close`.
    """

    def __init__(self, source: str | os.PathLike | None, options: AppOptions):
        self.source, self.options = None if source is None else str(source), options
        self.folder = Path(tempfile.mkdtemp(prefix="cell2text-app-"))
        self._shared: Experiment | None = None
        self._corrections: Corrections | None = None
        self._lock, self._stage = Lock(), ("Opening the file", 0, 0)
        self._closing = False

    def start(self, on_progress: OnProgress | None = None) -> Session | None:
        """Return a new session about the file of the command line; None without one.

        The file is opened at the first call, and described if it is not described yet; calls meanwhile wait, and report
        how far it is.

        Raises
        ------
        UserError
            If the file cannot be opened.
        """
        if self.source is None:
            return None
        report = on_progress or (lambda stage, done, total: None)
        while not self._lock.acquire(timeout=POLL_SECONDS):
            report(*self._stage)
        try:
            if self._shared is None:
                self._shared = self._open(self.source, None, lambda *stage: self._report(report, *stage))
            if self.options.shared:
                return Session(self._shared)
            if self._corrections is None:
                self._corrections = Corrections(journal_path(self._shared.path))
            return Session(self._shared, self._corrections)
        finally:
            self._lock.release()

    def open_ahead(self) -> None:
        """Open the file of the command line in the background, before the first page asks for it."""
        # Not a daemon thread: the interpreter would freeze it at exit, perhaps while it holds the lock of HDF5, and
        # then wait for that lock forever.
        Thread(target=self._open_ahead).start()

    def _open_ahead(self) -> None:
        with suppress(UserError, ClosedError):  # the page opens the file again, and shows the error
            self.start()

    def _report(self, report: OnProgress, *stage) -> None:
        if self._closing:
            raise ClosedError
        self._stage = stage
        report(*stage)

    def open_upload(self, path: str | os.PathLike, on_progress: OnProgress | None = None) -> Session:
        """Return a session about an uploaded file, which is copied into a folder of its own.

        Raises
        ------
        UserError
            If its name has an unknown suffix, it is too large, or it cannot be opened.
        """
        path = Path(path)
        name = safe_name(path.name)
        size = path.stat().st_size
        if size > self.options.max_upload * 1_000_000:
            raise UserError(f"{name} has {size / 1e6:,.0f} MB: expected at most {self.options.max_upload:,} MB.")
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        copy = folder / name
        shutil.copyfile(path, copy)
        try:
            experiment = self._open(str(copy), folder, on_progress)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Session(experiment)

    def export_path(self, session: Session, suffix: str) -> Path:
        """Return a new path for an export, in a folder of its own within `folder`."""
        stem = session.experiment.path.stem.removesuffix(".described")
        return Path(tempfile.mkdtemp(dir=self.folder)) / safe_name(f"{stem}.curated{suffix}", EXPORT_SUFFIXES)

    def close_session(self, session: Session | None) -> None:
        """Close the file of a session, unless others use it."""
        if session is not None and session.experiment is not self._shared:
            session.experiment.close()
            shutil.rmtree(session.experiment.path.parent, ignore_errors=True)

    def close(self) -> None:
        """Close the file of the command line, and remove all temporary files; opening it ends at its next step."""
        self._closing = True
        if self._shared is not None:
            self._shared.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _open(self, source: str, folder: Path | None, on_progress: OnProgress | None) -> Experiment:
        options = self.options
        return open_experiment(
            source, key=options.key, model=options.model, folder=folder,
            options=DescribeOptions(species=options.species, seed=options.seed), max_cells=options.max_cells,
            seed=options.seed, on_progress=on_progress,
        )  # fmt: skip


def journal_path(described: Path) -> Path:
    """Return the path of the journal of corrections beside a described file.

    Examples
    --------
    >>> journal_path(Path("cells.described.h5ad")).name
    'cells.described.corrections.jsonl'
    """
    return described.with_name(f"{described.stem}.corrections.jsonl")


def safe_name(name: str, suffixes: tuple[str, ...] = UPLOAD_SUFFIXES) -> str:
    """Return the last part of a path as a name without special characters; raise a `UserError` for unknown suffixes.

    Examples
    --------
    >>> safe_name("../../my cells;.h5ad")
    'my_cells_.h5ad'
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    kept = "".join(one if one.isascii() and (one.isalnum() or one in "._-") else "_" for one in last).lstrip(".")
    if not kept.lower().endswith(suffixes):
        raise UserError(f"{last[:MAX_NAME]!r}: expected a file that ends in one of {', '.join(suffixes)}.")
    return kept[-MAX_NAME:].lstrip(".")

"""Run a step of the recipe once: results are reused while their settings stay the same."""

import shutil
from collections.abc import Callable
from pathlib import Path

from cell2text.files import write_atomically


def build_once(path: Path, settings: str, build: Callable[[], object]) -> None:
    """Build a file or a folder from scratch, unless it was completed with the same settings.

    The settings are recorded beside it.
    """
    done = path.with_suffix(".recipe")
    if done.exists() and done.read_text() == settings:
        return
    done.unlink(missing_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    build()
    write_atomically(done, settings)

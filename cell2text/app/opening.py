"""Open a file for the app: described files as they are, others after describing them.

Depends on `describe.run`, which describes, and on `experiment`. The input file is never changed.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cell2text.app.experiment import MAX_POINTS, Experiment, read_experiment
from cell2text.describe.cell_files import open_cells
from cell2text.describe.described_file import read_described
from cell2text.describe.options import DescribeOptions
from cell2text.describe.run import describe_file
from cell2text.errors import UserError
from cell2text.sources.anndata_files import ANNDATA_SUFFIXES
from cell2text.sources.discovery import SourceLocation, find_source


CELLS_PER_STEP = 256  # of the progress bar
OnProgress = Callable[[str, int, int], object]  # stage, steps done, steps in all (0 if unknown)


def is_described(path: str | os.PathLike, key: str = "cell2text") -> bool:
    """Return whether a file holds descriptions under `key`.

    Examples
    --------
    >>> is_described("cells.csv")
    False
    """
    path = Path(path)
    if path.suffix.lower() not in ANNDATA_SUFFIXES:
        return False
    try:
        read_described(path, key)
    except UserError:
        return False
    return True


def check_openable(source: str | os.PathLike, *, key: str = "cell2text", options: DescribeOptions) -> None:
    """Raise unless a file holds descriptions, or counts that can be described.

    Raises
    ------
    UserError
        If it holds neither.
    """
    if not is_described(source, key):
        _check_key(source, key)
        with open_cells(find_source(str(source)), options) as opened:
            if not opened.n_cells:
                raise UserError(f"{source} holds no cells.")


def open_experiment(
    source: str | os.PathLike, *, key: str = "cell2text", model: str | None = None, folder: Path | None = None,
    options: DescribeOptions | None = None, max_cells: int = MAX_POINTS, seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Experiment:  # fmt: skip
    """Open a file; describe it first if it is not described.

    Parameters
    ----------
    source
        A described file, or a file of counts that `cell2text describe` reads.
    key
        Name under which the cells were described.
    model
        Folder or Hub id of the model that describes and answers questions. Defaults to the packaged model.
    folder
        Folder for the description of an undescribed file. Defaults to the folder of the file.
    options
        How an undescribed file is read and described.
    max_cells
        Maximum number of cells on the map; larger experiments are sampled.
    seed
        Random seed for sampling the cells on the map, and for UMAP.
    on_progress
        Called with the name of a stage, the steps done, and the number of steps, 0 if it is unknown.

    Raises
    ------
    UserError
        If the file can neither be read as a description nor be described, or its description would replace that of
        other cells.

    Examples
    --------
    >>> import cell2text, tempfile
    >>> path = f"{tempfile.mkdtemp()}/cells.h5ad"
    >>> cell2text.example_cells(unseen=True)[:2].copy().write_h5ad(path)
    >>> open_experiment(path).path.name
    'cells.described.h5ad'
    """
    report = on_progress or (lambda stage, done, total: None)
    notes: list[str] = []
    path = Path(source)
    if not is_described(path, key):
        _check_key(source, key)
        path, notes = _description_of(str(source), folder, model, options or DescribeOptions(), report)
    experiment = read_experiment(
        path, key=key, model=model, max_cells=max_cells, seed=seed, on_stage=lambda stage: report(stage, 0, 0)
    )
    experiment.notes[:0] = notes
    return experiment


def _description_of(
    source: str, folder: Path | None, model: str | None, options: DescribeOptions, report: OnProgress
) -> tuple[Path, list[str]]:
    """Return the path of a file's description, which is written unless it is there, and what a user should know."""
    report("Reading counts", 0, 0)
    found = find_source(source)
    out = (folder or _folder_of(found)) / found.described_name
    if out.exists():
        _check_describes(out, found, options)
        return out, [f"{Path(source).name} was described before: showing {out}."]
    if not os.access(out.parent, os.W_OK):
        raise UserError(
            f"The folder {out.parent} is not writable. Describe the file first: cell2text describe {source}."
        )
    describe_file(
        source, out, model=model, options=options, progress=False, shard_rows=CELLS_PER_STEP,
        on_progress=lambda done, total: report("Describing cells", done, total),
    )  # fmt: skip
    temporary = "a temporary folder. The folder is removed when the app ends: export the file"
    where = str(out) if folder is None else temporary
    return out, [f"{Path(source).name} had no descriptions. The app wrote them to {where}."]


def _folder_of(location: SourceLocation) -> Path:
    """Return the folder of a local file, the current folder for a remote one."""
    url = location.url.removeprefix("file://")
    return Path.cwd() if "://" in url else Path(url).resolve().parent


def _check_describes(out: Path, found: SourceLocation, options: DescribeOptions) -> None:
    """Raise unless a file holds descriptions of the cells of another."""
    described = read_described(out)
    with open_cells(found, options) as opened:
        names = opened.source.read_cell_names(np.arange(opened.n_cells)) if hasattr(opened, "source") else ()
    if list(map(str, names)) != list(map(str, described.cells.index)):
        raise UserError(f"{out} exists and describes other cells. Move it to another folder, or open it instead.")


def _check_key(source: str | os.PathLike, key: str) -> None:
    if key != "cell2text":
        raise UserError(f"{source} holds no described cells under key={key!r}.")

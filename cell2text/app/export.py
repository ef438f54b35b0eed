"""Write a copy of a described experiment with its corrections, as h5ad or csv. The described file is never changed.

Depends on `corrections` for the columns, and on anndata.
"""

import os
import shutil
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from cell2text.app.corrections import Corrections
from cell2text.app.experiment import Experiment
from cell2text.errors import UserError
from cell2text.files import atomic_path, check_output_folder
from cell2text.sources.stored_columns import column_names


FORMATS = (".h5ad", ".csv")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would execute such a cell


def export(experiment: Experiment, corrections: Corrections, out: str | os.PathLike) -> Path:
    """Write a copy of an experiment with the corrected labels.

    Parameters
    ----------
    experiment
        The experiment.
    corrections
        Corrections of its cells.
    out
        A path that ends in `.h5ad`, for a copy of the described file with the columns of
        :meth:`~cell2text.app.corrections.Corrections.columns` in `obs` and the journal in `uns`; or in `.csv`, for one
        row per cell.

    Returns
    -------
    The path `out`. It is written completely or not at all.

    Raises
    ------
    UserError
        If `out` is the described file, has another suffix, or its folder is not writable.

    Examples
    --------
    >>> import cell2text, tempfile
    >>> from cell2text.app.experiment import read_experiment
    >>> folder = tempfile.mkdtemp()
    >>> adata = cell2text.example_cells(unseen=True)[:2].copy()
    >>> cell2text.tl.describe(adata)
    >>> adata.write_h5ad(f"{folder}/cells.h5ad")
    >>> experiment, corrections = read_experiment(f"{folder}/cells.h5ad"), Corrections()
    >>> _ = corrections.add([adata.obs_names[0]], [None], "B cell", by="Ada")
    >>> table = pd.read_csv(export(experiment, corrections, f"{folder}/cells.csv"))
    >>> table["cell2text_curated_cell_type"][0]
    'B cell'
    """
    out = Path(out)
    if out.suffix not in FORMATS:
        raise UserError(f"out={str(out)!r}: expected one of the suffixes {', '.join(FORMATS)}.")
    if out.resolve() == experiment.path.resolve():
        raise UserError(f"out={str(out)!r} is the described file, which is never changed. Choose another path.")
    check_output_folder(out)
    columns = corrections.columns(experiment.cells).add_prefix(f"{experiment.key}_")
    with atomic_path(out) as partial:
        if out.suffix == ".csv":
            _write_csv(experiment, columns, partial)
        else:
            _write_h5ad(experiment, corrections, columns, partial)
    return out


def _write_csv(experiment: Experiment, columns: pd.DataFrame, out: Path) -> None:
    named = {name: experiment.key if name == "text" else f"{experiment.key}_{name}" for name in experiment.cells}
    table = pd.concat([experiment.cells.rename(columns=named), columns], axis=1)
    table.index.name = "cell_id"
    texts = table.reset_index().apply(lambda column: column if column.dtype.kind in "if" else column.map(_harmless))
    texts.to_csv(out, index=False)


def _harmless(value):
    """Return a text that no spreadsheet takes for a formula; other values unchanged."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def _write_h5ad(experiment: Experiment, corrections: Corrections, columns: pd.DataFrame, out: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata warns about future defaults
        if experiment.path.suffix.lower() == ".h5ad":
            shutil.copyfile(experiment.path, out)
        else:
            ad.io.read_zarr(experiment.path).write_h5ad(out)
        with h5py.File(out, "r+") as root:
            obs, order = root["obs"], column_names(root["obs"])
            for name, values in columns.items():
                if name in obs:
                    del obs[name]
                ad.io.write_elem(obs, str(name), pd.Categorical(values))
            added = [str(name) for name in columns if name not in order]
            obs.attrs["column-order"] = np.array([*order, *added], dtype=object)
            if "uns" not in root:
                ad.io.write_elem(root, "uns", {})
            ad.io.write_elem(root["uns"], f"{experiment.key}_corrections", corrections.journal_text())

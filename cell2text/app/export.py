"""Write a copy of a described experiment with its corrections, as h5ad, csv or CAS JSON.

The described file is never changed. Depends on `corrections` for the columns, on `exchange` for CAS, and on anndata.
"""

import json
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from cell2text.app.corrections import BY, CURATED, Corrections
from cell2text.app.experiment import Experiment
from cell2text.errors import UserError
from cell2text.exchange.cas import cell_annotations
from cell2text.files import atomic_path
from cell2text.language.described import CANDIDATES
from cell2text.paths import check_output
from cell2text.sources.safety import check_store, open_hdf5
from cell2text.sources.stored_columns import column_names
from cell2text.spreadsheets import harmless


FORMATS = (".h5ad", ".csv", ".json")


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
        row per cell; or in `.json`, for the Cell Annotation Schema (CAS) with the corrected labels.

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
    check_output(out)
    columns = corrections.columns(experiment.cells).add_prefix(f"{experiment.key}_")
    with atomic_path(out) as partial:
        if out.suffix == ".csv":
            _write_csv(experiment, columns, partial)
        elif out.suffix == ".json":
            _write_cas(experiment, corrections, partial)
        else:
            _write_h5ad(experiment, corrections, columns, partial)
    return out


def _write_csv(experiment: Experiment, columns: pd.DataFrame, out: Path) -> None:
    named = {name: experiment.key if name == "text" else f"{experiment.key}_{name}" for name in experiment.cells}
    table = pd.concat([experiment.cells.rename(columns=named), columns], axis=1)
    table.index.name = "cell_id"
    texts = table.reset_index().apply(lambda column: column if column.dtype.kind in "if" else column.map(harmless))
    texts.to_csv(out, index=False)


def _write_cas(experiment: Experiment, corrections: Corrections, out: Path) -> None:
    """Write annotations whose corrected labels have no confidence, and name who corrected them."""
    cells, curated = experiment.cells.copy(), corrections.columns(experiment.cells)
    for name in ("cell_type", "cell_type_ontology_term_id"):
        cells[name] = curated[name.replace("cell_type", CURATED)].to_numpy()
    changed = curated[BY].notna().to_numpy()
    for name in ("type_probability", CANDIDATES):
        if name in cells:
            cells[name] = cells[name].astype(object).where(~changed, None)
    if "type_probability" in cells:
        cells["type_probability"] = cells["type_probability"].astype(float)
    annotations = cell_annotations(replace(experiment.described, cells=cells))
    if changed.any():
        people = ", ".join(sorted(set(curated[BY][changed])))
        annotations["description"] += f" Labels of {int(changed.sum()):,} cells were corrected by hand by {people}."
    out.write_text(json.dumps(annotations, ensure_ascii=False, allow_nan=False, indent=1) + "\n", encoding="utf-8")


def _write_h5ad(experiment: Experiment, corrections: Corrections, columns: pd.DataFrame, out: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata warns about future defaults
        if experiment.path.suffix.lower() == ".h5ad":
            shutil.copyfile(experiment.path, out)
        else:
            check_store(experiment.path, experiment.path.name)
            ad.io.read_zarr(experiment.path).write_h5ad(out)
        with open_hdf5(out, experiment.path.name, "r+") as root:
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

"""Predict a property of the donors of an AnnData or of a file, and store what was found.

Depends on `questions.run`, which opens both, and on the other modules of this folder.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from cell2text.describe.gene_lists import GeneListReader
from cell2text.describe.inputs import CellReader
from cell2text.describe.options import DescribeOptions
from cell2text.describe.provenance import provenance
from cell2text.describe.writers import TABLES, groups_for_uns, write_groups
from cell2text.donors.cross_validation import DonorPrediction, predict_donors
from cell2text.donors.features import CellFeatures, read_features
from cell2text.donors.options import DonorOptions
from cell2text.donors.samples import Samples, check_classes, check_columns, columns_of, find_samples
from cell2text.errors import UserError
from cell2text.files import atomic_path
from cell2text.questions.reading import cell_names
from cell2text.questions.run import open_reader
from cell2text.sources.containers import load_anndata
from cell2text.sources.discovery import find_source


logger = logging.getLogger(__name__)

ATTENTION, CONTRIBUTION = "attention", "contribution"
CELL = "cell"
BESIDE = ("concepts", "cells")  # tables beside that of the samples
FEW_DONORS = 10


def donors(
    source: AnnData | str | os.PathLike, model=None, *, options: DonorOptions | None = None,
    reading: DescribeOptions | None = None, device: str | None = None,
) -> tuple[DonorPrediction, pd.DataFrame, dict[str, str]]:  # fmt: skip
    """Predict a property of the donors of an AnnData or of a file; see :func:`cell2text.tl.donors`.

    Parameters
    ----------
    source
        AnnData, path or address.
    model
        As for :func:`cell2text.tl.donors`.
    options
        What is predicted, and how. Defaults to `DonorOptions()`.
    reading
        How counts and genes are found. Defaults to `DescribeOptions()`.
    device
        Torch device for a model that is loaded here. Defaults to a GPU if there is one, otherwise to the CPU.

    Returns
    -------
    The prediction; a table with one row per cell and the columns `attention` and `contribution`; and what they depend
    on.

    Examples
    --------
    >>> import cell2text
    >>> adata = cell2text.example_cells()
    >>> adata = adata[adata.obs["tissue"].isin(["pancreas", "kidney"])][::4]
    >>> prediction, _, _ = donors(adata, options=DonorOptions(target="tissue"))
    >>> prediction.metrics["auroc"]
    1.0
    """
    options = options or DonorOptions()
    reading = replace(reading or DescribeOptions(), pathways="model")  # their AUCell scores are read instead
    with open_reader(source, model, reading, device) as (reader, loaded, processor, name):
        if isinstance(reader, GeneListReader):
            raise UserError("Ranked gene lists have no columns with donors. Pass a file of counts.")
        samples = find_samples(_read_obs(reader, options), options)
        rows = choose_cells(samples, options.cells_per_sample, options.seed)
        found = read_features(reader, loaded, processor, rows)
        names = cell_names(reader).astype(str)
        params = provenance(loaded, processor, [], reading, name)
    features = _of_all_cells(found, rows, len(samples.codes))
    samples = with_cells(samples, features.usable, rows, options)
    prediction = predict_donors(features, samples, options)
    if prediction.metrics["donors"] < FEW_DONORS:
        logger.warning(f"{prediction.metrics['donors']} donors: the AUROC is uncertain, see its interval.")
    cells = pd.DataFrame({ATTENTION: prediction.attention, CONTRIBUTION: prediction.contribution}, index=names)
    kept = {key: value for key, value in params.items() if key not in ("prompt", "generation")}
    return prediction, cells, kept | {"donors": json.dumps(asdict(options), sort_keys=True)}


def choose_cells(samples: Samples, cells_per_sample: int | None, seed: int) -> np.ndarray:
    """Return the rows of the cells to use, ascending: at most `cells_per_sample` per sample, sampled at random.

    Examples
    --------
    >>> names = np.array(["a", "b"])
    >>> samples = Samples(names, names, names, names == "b", "b", np.array([0, 0, 0, 1]))
    >>> choose_cells(samples, 1, seed=0).tolist()
    [2, 3]
    """
    n_cells = len(samples.codes)
    if cells_per_sample is None:
        return np.arange(n_cells)
    order = np.random.default_rng(seed).permutation(n_cells)
    ranks = pd.Series(samples.codes[order]).groupby(samples.codes[order]).cumcount().to_numpy()
    return np.sort(order[ranks < cells_per_sample])


def with_cells(samples: Samples, usable: np.ndarray, rows: np.ndarray, options: DonorOptions) -> Samples:
    """Return the samples that have a cell with features, and report those and the cells that are left out.

    Parameters
    ----------
    samples
        All samples.
    usable
        Cells with features, boolean, shape (n_cells,).
    rows
        Cells that were chosen.
    options
        Names of the columns.

    Raises
    ------
    UserError
        If a class has too few donors left.
    """
    if without := len(rows) - int(usable.sum()):
        logger.warning(f"{without:,} of {len(rows):,} cells cannot be described and are not used.")
    kept = np.bincount(samples.codes[usable], minlength=len(samples)) > 0
    if kept.all():
        return samples
    logger.warning(f"{int((~kept).sum())} of {len(samples)} samples have no cell that can be described; left out.")
    codes = np.where(kept[samples.codes], (np.cumsum(kept) - 1)[samples.codes], 0)  # unused cells have no features
    found = Samples(
        samples.names[kept], samples.donors[kept], samples.values[kept], samples.labels[kept], samples.positive, codes
    )
    check_classes(found, options)
    return found


def add_donors(
    adata: AnnData, prediction: DonorPrediction, cells: pd.DataFrame, params: Mapping[str, str], key: str
) -> None:
    """Add the result of :func:`donors` to an AnnData, in place."""
    for column in (ATTENTION, CONTRIBUTION):
        adata.obs[f"{key}_{column}"] = cells[column].to_numpy()
    adata.uns[key] = {
        "samples": groups_for_uns(prediction.samples), "concepts": groups_for_uns(prediction.concepts),
        "metrics": dict(prediction.metrics), "params": dict(params),
    }  # fmt: skip


def output_paths(out: str | os.PathLike) -> list[Path]:
    """Return the paths that :func:`write_donors` writes, `out` first."""
    path = Path(out)
    if path.suffix not in TABLES:
        return [path]
    return [path, *(path.with_suffix(f".{table}{path.suffix}") for table in BESIDE), path.with_suffix(".metrics.json")]


def write_donors(
    source: str | os.PathLike, out: str | os.PathLike, prediction: DonorPrediction, cells: pd.DataFrame,
    params: Mapping[str, str], key: str = "cell2text_donors",
) -> list[Path]:  # fmt: skip
    """Write a prediction as tables, or into a copy of the file as :func:`cell2text.tl.donors` does.

    Parameters
    ----------
    source
        The file that was read.
    out
        Output; the suffix sets the format. `.csv`, `.parquet` or `.jsonl` writes a table of samples, and tables of
        concepts and cells and the metrics beside it; `.h5ad` a copy of the file, which is read into memory.
    prediction, cells, params
        Result of :func:`donors`.
    key
        As `key_added` of :func:`cell2text.tl.donors`.

    Returns
    -------
    The paths written.
    """
    path, *beside = output_paths(out)
    if not beside:
        adata = load_anndata(find_source(str(source)))
        add_donors(adata, prediction, cells, params, key)
        with atomic_path(path) as partial:
            adata.write_h5ad(partial)
        return [path]
    *tables, metrics = (path, *beside)
    for place, table in zip(tables, (prediction.samples, prediction.concepts, cells.rename_axis(CELL).reset_index())):
        write_groups(table, place)
    with atomic_path(metrics) as partial:
        partial.write_text(json.dumps({"metrics": prediction.metrics, "params": dict(params)}, indent=1) + "\n")
    return [*tables, metrics]


def summary_text(metrics: Mapping, target: str) -> str:
    """Return the result of a prediction in one line.

    Examples
    --------
    >>> summary_text({"positive": "flu", "auroc": 0.75, "auroc_interval": [0.4, 0.9], "donors": 8, "samples": 8,
    ...     "folds": 8, "balanced_accuracy": 0.7, "brier": 0.2}, "disease")
    'disease flu: AUROC 0.75 (0.40 to 0.90), balanced accuracy 0.70, Brier score 0.20; 8 samples of 8 donors, 8 folds.'
    """
    low, high = metrics["auroc_interval"]
    return (
        f"{target} {metrics['positive']}: AUROC {metrics['auroc']:.2f} ({low:.2f} to {high:.2f}), balanced accuracy "
        f"{metrics['balanced_accuracy']:.2f}, Brier score {metrics['brier']:.2f}; {metrics['samples']} samples of "
        f"{metrics['donors']} donors, {metrics['folds']} folds."
    )


def _read_obs(reader: CellReader, options: DonorOptions) -> pd.DataFrame:
    """Return the columns that the options name."""
    check_columns(reader.source.obs_columns(), options)
    return reader.source.read_obs(columns_of(options))


def _of_all_cells(found: CellFeatures, rows: np.ndarray, n_cells: int) -> CellFeatures:
    """Return features with a row for every cell, NaN for cells that were not read."""
    values = np.full((n_cells, found.values.shape[1]), np.nan, dtype=np.float32)
    values[rows] = found.values
    return replace(found, values=values)

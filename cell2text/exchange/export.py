"""Write a described experiment in a format of other tools. Depends on `cas` and `cellxgene` for the content."""

import json
import logging
import os
import shutil
import warnings
from pathlib import Path

import anndata as ad
import numpy as np

from cell2text.describe.described_file import Described, read_described
from cell2text.errors import UserError
from cell2text.exchange.cas import cell_annotations
from cell2text.exchange.cellxgene import CELL_TYPE, REQUIRED, RESERVED, SEX, UNKNOWN, cellxgene_columns
from cell2text.files import atomic_path, write_atomically
from cell2text.paths import check_output
from cell2text.sources.safety import open_hdf5
from cell2text.sources.stored_columns import column_names


logger = logging.getLogger(__name__)

SUFFIXES = {"cas": ".json", "cellxgene": ".h5ad"}
FORMATS = tuple(SUFFIXES)
AUTHOR_PREFIX = "author_"


def export(
    source: str | os.PathLike, out: str | os.PathLike, *, format: str = "cas", key: str = "cell2text",
    overwrite: bool = False, replace: bool = False, min_probability: float = 0.0, **details: str | None,
) -> Path:  # fmt: skip
    """Export the annotations of a described experiment.

    Parameters
    ----------
    source
        h5ad file or zarr store that `cell2text describe` or `cell2text.tl.describe` wrote.
    out
        The file to write: `.json` for `cas`, `.h5ad` for `cellxgene`.
    format
        `"cas"` for the Cell Annotation Schema; `"cellxgene"` for a copy of the file with the columns of `obs` that
        CELLxGENE accepts.
    key
        Name under which the cells were described.
    overwrite
        Replace `out`.
    replace
        Of `cellxgene`: replace columns `cell_type_ontology_term_id` and `sex_ontology_term_id` of the file. By default,
        your own `cell_type_ontology_term_id` is an error, and your own `sex_ontology_term_id` is kept.
    min_probability
        Of `cellxgene`: least type probability of a cell that is not `unknown`.
    **details
        Of `cas`: `title`, `author`, `version`, `url` and `algorithm_url`; see
        :func:`cell2text.exchange.cas.cell_annotations`.

    Returns
    -------
    The path `out`, written completely or not at all.

    Raises
    ------
    UserError
        If the file holds no descriptions, the format is unknown or does not fit the suffix of `out`, `out` exists, or
        columns of your own would be replaced.

    Examples
    --------
    >>> import tempfile
    >>> import cell2text
    >>> folder = tempfile.mkdtemp()
    >>> adata = cell2text.example_cells()[:2].copy()
    >>> cell2text.tl.describe(adata, allow_fractional=True)
    >>> adata.write_h5ad(f"{folder}/described.h5ad")
    >>> export(f"{folder}/described.h5ad", f"{folder}/annotations.json", title="Two cells").name
    'annotations.json'
    """
    out = Path(out)
    _check_arguments(Path(source), out, format, overwrite=overwrite)
    described = read_described(source, key)
    if format == "cas":
        chosen = {name: value for name, value in details.items() if value is not None}
        annotations = cell_annotations(described, **chosen)  # type: ignore[arg-type]
        write_atomically(out, json.dumps(annotations, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    else:
        _write_cellxgene(described, out, replace=replace, min_probability=min_probability)
    return out


def _check_arguments(source: Path, out: Path, format: str, *, overwrite: bool) -> None:
    """Raise a `UserError` for an argument that cannot work, before anything is read."""
    if format not in SUFFIXES:
        raise UserError(f"format={format!r}: expected one of {', '.join(FORMATS)}.")
    if out.suffix != SUFFIXES[format]:
        raise UserError(f"out={str(out)!r}: expected a path that ends in {SUFFIXES[format]} for format={format!r}.")
    if format == "cellxgene" and source.suffix.lower() != ".h5ad":
        raise UserError(f"{source}: CELLxGENE takes .h5ad files only. Describe the cells into an .h5ad file first.")
    if out.resolve() == source.resolve():
        raise UserError(f"out={str(out)!r} is the input, which is never changed. Choose another path.")
    if out.exists() and not overwrite:
        raise UserError(f"out={str(out)!r} exists. Pass overwrite=True to replace it, or choose another path.")
    check_output(out)


def _write_cellxgene(described: Described, out: Path, *, replace: bool, min_probability: float) -> None:
    """Copy the file, add the columns, and rename columns whose names CELLxGENE reserves."""
    columns = cellxgene_columns(described.cells, min_probability=min_probability)
    own = [name for name in (CELL_TYPE, SEX) if name in described.other_columns]
    if CELL_TYPE in own and not replace:
        raise UserError(
            f"{described.path}: obs has a column {CELL_TYPE!r} of your own. Pass replace=True to replace it by the "
            "predicted types."
        )
    columns = columns if replace else columns.drop(columns=own)
    renamed = {
        name: _free_name(AUTHOR_PREFIX + name, described) for name in described.other_columns if name in RESERVED
    }
    with atomic_path(out) as partial:
        shutil.copyfile(described.path, partial)
        with open_hdf5(partial, str(described.path), "r+") as root, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata warns about future defaults
            order = column_names(root["obs"])
            for name, new in renamed.items():
                root["obs"].move(name, new)
            order = [renamed.get(name, name) for name in order if name not in columns]
            for name in columns:
                if name in root["obs"]:
                    del root["obs"][name]
                ad.io.write_elem(root["obs"], name, columns[name].array)
            root["obs"].attrs["column-order"] = np.array([*order, *columns], dtype=object)
    _report(described, columns, renamed)


def _free_name(name: str, described: Described) -> str:
    """Return a column name that the file does not have yet."""
    while name in described.other_columns:
        name = AUTHOR_PREFIX + name
    return name


def _report(described: Described, columns, renamed: dict[str, str]) -> None:
    """Log what was renamed, what is unknown, and what CELLxGENE still requires."""
    if renamed:
        pairs = ", ".join(f"{name} to {new}" for name, new in renamed.items())
        logger.warning(f"CELLxGENE reserves names of columns of obs; renamed {pairs}.")
    unknown = int((columns[CELL_TYPE] == UNKNOWN).sum())
    logger.info(f"{unknown:,} of {len(columns):,} cells have the cell type 'unknown'.")
    missing = [name for name in REQUIRED if name not in described.other_columns]
    if missing:
        logger.warning(f"CELLxGENE also requires these columns of obs, which a description cannot give: {missing}.")

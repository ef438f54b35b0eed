"""Example cells that ship with the package. `example_cells.md` beside them names their sources and licences.

Depends on anndata, where cells are read.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cell2text.errors import UserError
from cell2text.files import atomic_path
from cell2text.paths import check_output


if TYPE_CHECKING:
    from anndata import AnnData


# Donors whose cells the packaged model was tested on, and not trained on: see recipes/mini/sources.yaml.
UNSEEN_DONORS = ("human3", "RCC2", "Teen Tx", "TxK2", "TxK3", "PapRCC", "MGH36")
# Its counts are RSEM's expected counts, which are not integers.
_FRACTIONAL_STUDY = "oligodendroglioma"


def example_cells_path() -> Path:
    """Return the path of the h5ad file with the example cells."""
    return Path(__file__).with_name("example_cells.h5ad")


def example_cells(*, unseen: bool = False) -> "AnnData":
    """Return 1,409 human cells of 43 types from five studies, with raw counts and CELLxGENE columns.

    Counts of the study `oligodendroglioma` are not integers. Pass `allow_fractional=True` to describe those cells.

    Parameters
    ----------
    unseen
        Return only the 200 cells with integer counts from donors that the packaged model was not trained on: 19 cell
        types of pancreas and kidney.

    Examples
    --------
    >>> import cell2text
    >>> cell2text.example_cells(unseen=True).n_obs
    200
    """
    import anndata as ad

    cells = ad.read_h5ad(example_cells_path())
    if unseen:
        selected = cells.obs["donor_id"].isin(UNSEEN_DONORS) & (cells.obs["dataset_id"] != _FRACTIONAL_STUDY)
        cells = cells[selected.to_numpy()].copy()
    return cells


def write_example(out: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write the 200 example cells of unseen donors to an h5ad file.

    Parameters
    ----------
    out
        The file to write; its name ends in `.h5ad`.
    overwrite
        Replace a file that exists. Otherwise it is an error.

    Returns
    -------
    The path of the file.

    Raises
    ------
    UserError
        If the name has another ending, the file exists, or its folder does not exist or is not writable.
    """
    path = Path(out)
    if path.suffix != ".h5ad":
        raise UserError(f"out={str(out)!r}: expected a name that ends in .h5ad.")
    if path.is_dir():
        raise UserError(f"out={str(out)!r} is a folder. Expected the name of a file.")
    if path.exists() and not overwrite:
        raise UserError(f"out={str(out)!r} exists. Pass overwrite=True, or choose another path.")
    check_output(path)
    with atomic_path(path) as partial:
        example_cells(unseen=True).write_h5ad(partial, compression="gzip")
    return path

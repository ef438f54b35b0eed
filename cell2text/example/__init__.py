"""The cells that ship with the package; `example_cells.md` beside them tells where they come from."""

import os
from pathlib import Path

import anndata as ad

from cell2text.errors import UserError
from cell2text.files import check_output_folder


# Donors of its studies that the package's own model was tested on and not trained on: recipes/mini/sources.yaml.
UNSEEN_DONORS = ("human3", "RCC2", "Teen Tx", "TxK2", "TxK3", "PapRCC", "MGH36")


def example_cells_path() -> Path:
    return Path(__file__).with_name("example_cells.h5ad")


def example_cells(*, unseen: bool = False) -> ad.AnnData:
    """1,409 human cells of 43 types from five studies, as raw counts with CELLxGENE columns.

    The cells of the `oligodendroglioma` study hold expected counts, which are no integers: rank them with
    `allow_fractional=True`.

    Parameters
    ----------
    unseen
        Only the 200 cells with integer counts whose donors the package's own model was not trained on: of the pancreas
        and the kidney, of 19 types.
    """
    cells = ad.read_h5ad(example_cells_path())
    if unseen:
        kept = cells.obs["donor_id"].isin(UNSEEN_DONORS) & (cells.obs["dataset_id"] != "oligodendroglioma")
        cells = cells[kept.to_numpy()].copy()
    return cells


def write_example(out: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write the unseen example cells to an h5ad file.

    Raises
    ------
    ValueError
        If the file is there already and `overwrite` is false, has another ending, or its folder does not exist or takes
        no files.
    """
    path = Path(out)
    if path.suffix != ".h5ad":
        raise UserError(f"--out {out}: expected a name that ends in .h5ad.")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UserError(f"--out {out} exists already: pass --overwrite for a file, or choose another path.")
    check_output_folder(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        example_cells(unseen=True).write_h5ad(partial, compression="gzip")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path

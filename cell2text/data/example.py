"""The cells that ship with the package; `example_cells.md` beside them tells where they come from."""

from pathlib import Path

import anndata as ad


def example_cells_path() -> Path:
    return Path(__file__).with_name("example_cells.h5ad")


def example_cells() -> ad.AnnData:
    """1,409 human cells of 43 types from five studies, as raw counts with CELLxGENE columns.

    The cells of the `oligodendroglioma` study hold expected counts, which are no integers: rank them with
    `allow_fractional=True`.
    """
    return ad.read_h5ad(example_cells_path())

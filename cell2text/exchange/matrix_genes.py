"""Names that a file's matrix uses for genes: its index of `var`, looked up by symbol or by that name.

Depends on `sources` for reading single columns.
"""

import os
from collections.abc import Callable, Sequence

import numpy as np

from cell2text.sources.anndata_files import open_anndata
from cell2text.sources.containers import index_name, read_column, read_texts
from cell2text.sources.stored_columns import column_names


SYMBOL_COLUMNS = ("feature_name", "gene_symbol", "gene_symbols", "gene_name", "gene_names", "symbol")


def matrix_genes(path: str | os.PathLike) -> Callable[[Sequence[str]], list[str]]:
    """Return a function that maps genes to the names in the index of `var`, without those that the matrix lacks.

    Parameters
    ----------
    path
        h5ad file or zarr store, which is opened when the first gene is looked up.
    """
    known: dict[str, str] = {}

    def look_up(genes: Sequence[str]) -> list[str]:
        wanted = [gene for gene in genes if gene]
        if wanted and not known:
            known.update(_names(path))
        return list(dict.fromkeys(known[gene] for gene in wanted if gene in known))

    return look_up


def _names(path: str | os.PathLike) -> dict[str, str]:
    with open_anndata(path) as root:
        var = root["var"]
        index = [str(name) for name in read_texts(var[index_name(var)])]
        columns = [name for name in column_names(var) if name.lower() in SYMBOL_COLUMNS]
        symbols = [np.asarray(read_column(var, name), dtype=object) for name in columns]
    found: dict[str, str] = {}
    for column in symbols:
        for symbol, name in zip(column, index):
            found.setdefault(str(symbol), name)
    return found | {name: name for name in index}

"""Marker genes that set each group apart from the other cells, by scanpy's `rank_genes_groups`.

Depends on scanpy if it is installed; without it, groups have no marker genes.
"""

import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2text.describe.groups import Groups
from cell2text.evidence.counts import gene_symbol


if TYPE_CHECKING:
    from cell2text.describe.inputs import CellReader


MARKERS_PER_GROUP = 5
CELLS_PER_GROUP, MAX_CELLS, MIN_CELLS = 200, 20_000, 3
COUNTS_PER_CELL = 1e4  # after normalisation
MIN_LOG_FOLD_CHANGE, MAX_P_VALUE, MIN_EXPRESSING = 1.0, 0.05, 0.25
WITHOUT_SCANPY = "Marker genes of groups are left out: scanpy is not installed. Install it with: pip install scanpy"


def has_scanpy() -> bool:
    """Return whether scanpy is installed."""
    return find_spec("scanpy") is not None


def group_markers(cells: "CellReader", groups: Groups, *, seed: int = 0) -> list[list[str]] | None:
    """Return the genes that a sample of each group expresses more than the sampled cells of all other groups.

    Counts are scaled to 10,000 per cell and log-transformed. A marker has a log2 fold change of at least 1, an adjusted
    p value below 0.05 in scanpy's `t-test_overestim_var`, and is expressed by at least a quarter of the group.

    Parameters
    ----------
    cells
        Reader of the cells. It reads at most `CELLS_PER_GROUP` cells per group and about `MAX_CELLS` in all.
    groups
        Groups of all cells.
    seed
        Random seed for sampling the cells of a group.

    Returns
    -------
    Up to `MARKERS_PER_GROUP` gene symbols per group, the highest score first; Ensembl ids for genes without a symbol.
    Groups of fewer than `MIN_CELLS` cells have none. None without scanpy.

    Examples
    --------
    >>> import cell2text
    >>> from cell2text.describe.inputs import CellReader
    >>> from cell2text.describe.options import DescribeOptions
    >>> from source_cell2text import AnnDataContainer, CellSource
    >>> adata = cell2text.example_cells()
    >>> adata = adata[adata.obs["cell_type"].isin(["B cell", "pancreatic A cell"])]
    >>> source = CellSource(AnnDataContainer(adata), allow_fractional=True)
    >>> cells = CellReader(source, cell2text.load()[1], DescribeOptions(groupby="cell_type"))
    >>> dict(zip(cells.groups.names, group_markers(cells, cells.groups)))["pancreatic A cell"][0]
    'TTR'
    """
    if not has_scanpy():
        return None
    rows = sample_rows(groups, seed)
    codes = groups.codes[rows]
    compared = [code for code in np.unique(codes) if (codes == code).sum() >= MIN_CELLS]
    markers: list[list[str]] = [[] for _ in groups.names]
    if len(np.unique(codes)) < 2 or not compared:
        return markers
    table = _rank(read_counts(cells, rows), codes, compared)
    for code in compared:
        of_group = table[table["group"] == str(code)]
        markers[code] = of_group["names"].head(MARKERS_PER_GROUP).tolist()
    return markers


def sample_rows(groups: Groups, seed: int) -> np.ndarray:
    """Return the rows of at most `CELLS_PER_GROUP` cells of each group, fewer with many groups, ascending."""
    per_group = max(MIN_CELLS, min(CELLS_PER_GROUP, MAX_CELLS // len(groups.names)))
    random = np.random.default_rng(seed)
    order = random.permutation(len(groups.codes))
    order = order[groups.codes[order] >= 0]
    place = pd.Series(groups.codes[order]).groupby(groups.codes[order]).cumcount().to_numpy()
    return np.sort(order[place < per_group])


def read_counts(cells: "CellReader", rows: np.ndarray) -> ad.AnnData:
    """Return the counts of some cells on the model's genes, one column per gene symbol."""
    vocabulary, tokens = cells.processor.gene_vocabulary, cells.ranker.column_tokens
    known = np.flatnonzero(tokens >= 0)
    names = [gene_symbol(vocabulary, int(token)) for token in tokens[known]]
    first = ~pd.Index(names).duplicated()
    blocks = [cells.ranker.collapse(block)[:, known[first]] for _, block in cells.source.blocks(rows)]
    counts = sp.csr_matrix(sp.vstack(blocks), dtype=np.float32)
    return ad.AnnData(counts, var=pd.DataFrame(index=pd.Index(names)[first].astype(str)))


def _rank(adata: ad.AnnData, codes: np.ndarray, compared: list) -> pd.DataFrame:
    """Return the markers of the compared groups, the highest score of each first."""
    import scanpy as sc

    adata.obs["group"] = pd.Categorical(codes.astype(str))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cells without counts, and future defaults of scanpy and pandas
        sc.pp.normalize_total(adata, target_sum=COUNTS_PER_CELL)
        sc.pp.log1p(adata)
        sc.tl.rank_genes_groups(
            adata, "group", groups=[str(code) for code in compared], method="t-test_overestim_var", pts=True
        )
        tables = [sc.get.rank_genes_groups_df(adata, str(code)).assign(group=str(code)) for code in compared]
    table = pd.concat(tables, ignore_index=True)
    return table[
        (table["logfoldchanges"] >= MIN_LOG_FOLD_CHANGE)
        & (table["pvals_adj"] < MAX_P_VALUE)
        & (table["pct_nz_group"] >= MIN_EXPRESSING)
    ]

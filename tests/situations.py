"""Thirty situations of users' files, made from the example cells: `make(name, folder)` writes one of them.

`benchmarks/situations.py` runs every face on all of them; `test_cases.py` states what is right for each.
"""

import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2text.example import example_cells
from cell2text.sources.gene_tables import mouse_to_human

from .cell_files import compress_file, write_10x_h5, write_10x_mtx, write_h5mu, write_loom, write_text, write_zarr


N_CELLS, N_GENES = 24, 3000
LABELS = ["cell_type", "cell_type_ontology_term_id", "tissue", "disease", "sex", "donor_id", "dataset_id"]
RENAMED = {"RACK1": "GNB2L1", "SEPTIN9": "SEPT9", "GBA1": "GBA", "H2AZ1": "H2AFZ", "GAPDH": "GAPD", "CFAP69": "C7orf63"}
SITUATIONS: dict[str, Callable[[ad.AnnData, Path], Path]] = {}


def situation(name: str):
    def register(make):
        SITUATIONS[name] = make
        return make

    return register


def make(name: str, folder: Path) -> Path:
    """Write a situation into a folder, and return the path of the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SITUATIONS[name](cells().copy(), folder)


@cache
def cells() -> ad.AnnData:
    """Return cells of one study with their most expressed genes: Ensembl ids in the index, symbols in a column."""
    adata = example_cells()[:N_CELLS].copy()
    order = np.argsort(-np.asarray(adata.X.sum(axis=0)).ravel(), kind="stable")[:N_GENES]
    adata = adata[:, np.sort(order)].copy()
    adata.obs = adata.obs[[name for name in LABELS if name in adata.obs]].copy()
    adata.obs_names = [f"cell_{i}" for i in range(N_CELLS)]
    adata.var = pd.DataFrame({"symbol": adata.var["feature_name"].astype(str)}, index=adata.var_names)
    return ad.AnnData(sp.csr_matrix(adata.X), obs=adata.obs, var=adata.var)


def save(adata, folder, name="cells.h5ad") -> Path:
    adata.write_h5ad(folder / name)
    return folder / name


def renamed(adata, names, **columns) -> ad.AnnData:
    adata.var = pd.DataFrame(columns, index=pd.Index(list(names), dtype=object))
    return adata


def log(matrix):
    return sp.csr_matrix(matrix.multiply(1e4 / matrix.sum(axis=1))).log1p()


@situation("counts in X, Ensembl ids")
def _(adata, folder):
    return save(adata, folder)


@situation("logarithms in X, counts in `layers`")
def _(adata, folder):
    adata.layers["counts"] = adata.X.copy()
    adata.X = log(adata.X)
    return save(adata, folder)


@situation("scaled values in X, counts in `raw`")
def _(adata, folder):
    adata.raw = adata.copy()
    adata = adata[:, :1000].copy()
    values = log(adata.X).toarray()
    adata.X = (values - values.mean(axis=0)) / (values.std(axis=0) + 1)
    return save(adata, folder)


@situation("two layers of different counts")
def _(adata, folder):
    adata.layers["counts"], adata.layers["ambient_removed"] = adata.X.copy(), (adata.X * 0.9).rint()
    adata.X = log(adata.X)
    return save(adata, folder)


@situation("logarithms only")
def _(adata, folder):
    adata.X = log(adata.X)
    return save(adata, folder)


@situation("TPM only")
def _(adata, folder):
    lengths = np.random.default_rng(0).uniform(0.5, 5, size=adata.n_vars)
    rates = sp.csr_matrix(adata.X.multiply(1 / lengths))
    adata.X = sp.csr_matrix(rates.multiply(1e6 / rates.sum(axis=1)))
    return save(adata, folder)


@situation("expected counts of RSEM")
def _(adata, folder):
    adata.X.data = adata.X.data + np.random.default_rng(0).uniform(0, 0.9, size=adata.X.nnz).astype(np.float32)
    return save(adata, folder)


@situation("counts with rounding errors")
def _(adata, folder):
    adata.X = adata.X.astype(np.float64)
    adata.X.data *= 1 + 1e-9
    return save(adata, folder)


@situation("float16")
def _(adata, folder):
    adata.X = adata.X.toarray().astype(np.float16)
    return save(adata, folder)


@situation("indices repeated in a row")
def _(adata, folder):
    path = save(adata, folder)
    with h5py.File(path, "a") as file:
        group = file["X"]
        for name, values in (("data", adata.X.data / 2), ("indices", adata.X.indices)):
            del group[name]
            group[name] = np.repeat(values, 2)
        group["indptr"][:] = adata.X.indptr * 2
    return path


@situation("a damaged `indptr`")
def _(adata, folder):
    path = save(adata, folder)
    with h5py.File(path, "a") as file:
        file["X"]["indptr"][3] = 10**9
    return path


@situation("symbols, and a column `gene_ids`")
def _(adata, folder):
    return save(renamed(adata, adata.var["symbol"], gene_ids=list(adata.var_names)), folder)


@situation("names like `GRCh38_CD3E`")
def _(adata, folder):
    return save(renamed(adata, "GRCh38_" + adata.var["symbol"]), folder)


@situation("names like `ENSG00000198851_CD3E`")
def _(adata, folder):
    return save(renamed(adata, [f"{a}_{b}" for a, b in zip(adata.var_names, adata.var["symbol"])]), folder)


@situation("names of R, such as `HLA.DRA`")
def _(adata, folder):
    return save(renamed(adata, adata.var["symbol"].str.replace("-", ".")), folder)


@situation("previous symbols, such as `GNB2L1`")
def _(adata, folder):
    return save(renamed(adata, adata.var["symbol"].replace(RENAMED)), folder)


@situation("antibodies among the genes")
def _(adata, folder):
    var = pd.DataFrame({"feature_types": "Gene Expression"}, index=adata.var["symbol"].to_numpy())
    antibodies = pd.DataFrame({"feature_types": "Antibody Capture"}, index=["CD4", "CD14", "CD19"])
    counts = sp.csr_matrix(sp.hstack([adata.X, np.full((N_CELLS, 3), 500, np.float32)]))
    return save(ad.AnnData(counts, obs=adata.obs, var=pd.concat([var, antibodies])), folder)


@situation("human and mouse genes, human cells")
def _(adata, folder):
    mouse = ad.AnnData(sp.csr_matrix(np.ones((N_CELLS, 300), np.float32)), obs=adata.obs[[]], var=_mouse_ids(300))
    both = ad.concat([ad.AnnData(adata.X, obs=adata.obs, var=adata.var[[]]), mouse], axis=1, merge="first")
    return save(both, folder)


@situation("mouse genes")
def _(adata, folder):
    return save(_mouse(adata, str.capitalize), folder)


@situation("mouse symbols in capitals, and a column of ENSMUSG")
def _(adata, folder):
    mouse = {human: name for name, human in mouse_to_human().items() if name.startswith("ENSMUSG")}
    unpaired = _mouse_ids(adata.n_vars).index
    ids = [mouse.get(name, other) for name, other in zip(adata.var_names, unpaired)]
    adata = _mouse(adata, str.upper)
    adata.var["gene_ids"] = ids
    return save(adata, folder)


@situation("genes in rows")
def _(adata, folder):
    return save(adata.T.copy(), folder)


@situation("written by pandas 3: nullable strings")
def _(adata, folder):
    for table in (adata.obs, adata.var):
        table.index = pd.Index(table.index.astype("string"))
    with ad.settings.override(allow_write_nullable_strings=True):
        return save(adata, folder)


@situation("written by anndata before 0.7")
def _(adata, folder):
    path = folder / "cells.h5ad"
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", adata.shape
        group["data"], group["indices"], group["indptr"] = adata.X.data, adata.X.indices, adata.X.indptr
        obs = [(name.encode(), label.encode()) for name, label in zip(adata.obs_names, adata.obs["cell_type"])]
        file["obs"] = np.array(obs, dtype=[("index", "S80"), ("cell_type", "S80")])
        file["var"] = np.array([(name.encode(),) for name in adata.var_names], dtype=[("index", "S20")])
    return path


@situation("`CELLS.H5AD.gz`")
def _(adata, folder):
    path = save(adata, folder, "plain.h5ad")
    compress_file(path, folder / "CELLS.H5AD.gz")
    path.unlink()
    return folder / "CELLS.H5AD.gz"


@situation("zarr, version 3")
def _(adata, folder):
    write_zarr(adata, folder / "cells.zarr", 3)
    return folder / "cells.zarr"


@situation("Cell Ranger, `.h5`")
def _(adata, folder):
    write_10x_h5(_as_10x(adata), folder / "filtered_feature_bc_matrix.h5")
    return folder / "filtered_feature_bc_matrix.h5"


@situation("Cell Ranger, folder of `matrix.mtx.gz`")
def _(adata, folder):
    write_10x_mtx(_as_10x(adata), folder / "filtered_feature_bc_matrix")
    return folder / "filtered_feature_bc_matrix"


@situation("loom")
def _(adata, folder):
    write_loom(_as_10x(adata), folder / "cells.loom")
    return folder / "cells.loom"


@situation("h5mu")
def _(adata, folder):
    write_h5mu(_as_10x(adata), folder / "cells.h5mu")
    return folder / "cells.h5mu"


@situation("csv, genes in rows")
def _(adata, folder):
    write_text(renamed(adata, adata.var["symbol"]), folder / "counts.csv", cells_in_rows=False)
    return folder / "counts.csv"


def _as_10x(adata):
    symbols, ids = list(adata.var["symbol"]), list(adata.var_names)
    return renamed(adata, symbols, gene_ids=ids, feature_types=["Gene Expression"] * len(ids))


def _mouse(adata, spell):
    return renamed(adata, [spell(symbol) for symbol in adata.var["symbol"]])


def _mouse_ids(n):
    return pd.DataFrame(index=[f"ENSMUSG{1000 + i:011d}" for i in range(n)])


def read_in_memory(path: Path) -> ad.AnnData:
    """Read a situation with the reader that a user would take, for `tl`."""
    import scanpy as sc

    suffix = "".join(path.suffixes).lower()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if suffix == ".h5ad.gz":
            import gzip

            plain = path.with_name("read.h5ad")
            plain.write_bytes(gzip.decompress(path.read_bytes()))
            adata = ad.read_h5ad(plain)
            os.unlink(plain)
            return adata
        if suffix == ".zarr":
            return ad.read_zarr(path)
        if suffix == ".h5":
            return sc.read_10x_h5(path)
        if path.is_dir():
            return sc.read_10x_mtx(path)
        if suffix == ".loom":
            return ad.io.read_loom(path)
        if suffix == ".h5mu":
            import mudata

            return mudata.read_h5mu(path).mod["rna"]
        return ad.io.read_csv(path).T if suffix == ".csv" else ad.read_h5ad(path)

"""Write an AnnData of counts as every kind of file that Cell2Text reads, with the library of that format if it has one.

Names of genes are the index of `var`; the columns `gene_ids` and `feature_types` are written where a format has a place
for them.
"""

import gzip
import shutil
import warnings

import anndata as ad
import h5py
import numpy as np
import scipy.io
import scipy.sparse as sp


def write_zarr(adata, path, version):
    with ad.settings.override(zarr_write_format=version), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_zarr(path)


def write_10x_h5(adata, path):
    """Write the layout of Cell Ranger 3 and later."""
    stored = sp.csr_matrix(adata.X)
    ids, kinds = var_columns(adata)
    with h5py.File(path, "w") as root:
        group = root.create_group("matrix")
        group["barcodes"] = np.array(adata.obs_names, dtype="S")
        group["data"], group["indices"], group["indptr"] = stored.data, stored.indices, stored.indptr
        group["shape"] = np.array(adata.shape[::-1], dtype=np.int32)
        names = {"id": ids, "name": adata.var_names, "feature_type": kinds, "genome": ["GRCh38"] * adata.n_vars}
        for name, values in names.items():
            group[f"features/{name}"] = np.array(values, dtype="S")


def write_10x_mtx(adata, folder, *, compress=True):
    """Write `matrix.mtx`, `features.tsv` and `barcodes.tsv`, as Cell Ranger does: genes x cells."""
    folder.mkdir()
    ids, kinds = var_columns(adata)
    scipy.io.mmwrite(folder / "matrix.mtx", sp.coo_matrix(adata.X.T))
    lines = ["\t".join(row) for row in zip(ids, adata.var_names, kinds)]
    (folder / "features.tsv").write_text("\n".join(lines) + "\n")
    (folder / "barcodes.tsv").write_text("\n".join(adata.obs_names) + "\n")
    for path in list(folder.iterdir()) if compress else []:
        compress_file(path, path.with_name(f"{path.name}.gz"))
        path.unlink()


def write_loom(adata, path):
    import loompy

    ids, kinds = var_columns(adata)
    genes = {"Gene": adata.var_names.to_numpy(), "Accession": np.array(ids), "feature_types": np.array(kinds)}
    cells = {"CellID": adata.obs_names.to_numpy()} | {name: adata.obs[name].to_numpy() for name in adata.obs}
    layers = {"": dense(adata.X).T} | {name: dense(layer).T for name, layer in adata.layers.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loompy.create(str(path), layers, genes, cells)


def write_h5mu(adata, path):
    """Write genes and antibodies as the modalities `rna` and `prot`."""
    import mudata

    antibodies = np.array(var_columns(adata)[1]) == "Antibody Capture"
    parts = {"rna": adata[:, ~antibodies].copy()}
    if antibodies.any():
        parts["prot"] = ad.AnnData(adata.X[:, antibodies], obs=adata.obs[[]], var=adata.var[antibodies])
        parts["prot"].var_names = [f"prot:{name}" for name in parts["prot"].var_names]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mudata.MuData(parts).write(path)


def write_text(adata, path, *, cells_in_rows, separator=","):
    table = adata.to_df()
    (table if cells_in_rows else table.T).to_csv(path, sep=separator)


def compress_file(path, out):
    with open(path, "rb") as source, gzip.open(out, "wb", compresslevel=1) as target:
        shutil.copyfileobj(source, target)


def var_columns(adata):
    """Return the ids and the types of the features; names are ids where `var` has no others."""
    ids = list(adata.var.get("gene_ids", adata.var_names))
    return ids, list(adata.var.get("feature_types", ["Gene Expression"] * adata.n_vars))


def dense(matrix):
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)

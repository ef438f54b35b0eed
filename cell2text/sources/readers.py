"""Read 10x, loom, h5mu and text matrices into an AnnData.

Formats are read with h5py, `scipy.io.mmread`, anndata and pandas, which Cell2Text needs anyway; every reader keeps all
features, their ids and types. Whatever a damaged file contains, the error is a `BadFileError` of one line, and sizes
that a file declares are compared with its length before memory is allocated.
"""

import csv
import gzip
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape

import anndata as ad
import fsspec
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2text.sources.amounts import check_element, read_element
from cell2text.sources.checks import BadFileError
from cell2text.sources.discovery import SourceLocation
from cell2text.sources.file_kinds import HDF5_SIGNATURE, HEAD_BYTES, explain_content, is_10x_group
from cell2text.sources.gene_names import share_of_genes
from cell2text.sources.market_matrix import read_10x_mtx, smallest_exact
from cell2text.sources.safety import open_hdf5
from cell2text.sources.text_matrix import read_text_matrix
from counts_cell2text import assemble, check_structure
from errors_cell2text import first_line


BLOCK_BYTES = 64 << 20
MAX_COMPRESSION = 1100  # deflate reaches 1,032
RNA_MODALITIES = ("rna", "gex", "gene expression")
_CELL_NAMES = ("CellID", "cell_id", "obs_names", "cell_names", "cell_name", "barcode", "barcodes", "_index")
_GENE_NAMES = ("Gene", "gene", "var_names", "gene_names", "gene_name", "gene_symbol", "symbol", "_index")
_GENE_IDS = ("Accession", "accession", "gene_ids", "gene_id", "ensembl_id", "EnsemblID")
_DAMAGED = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    RuntimeError,
    TypeError,
    IndexError,
    AttributeError,
    OverflowError,
    zlib.error,
    csv.Error,
)


@dataclass(frozen=True)
class LoadedCells:
    """Cells read from a file.

    Parameters
    ----------
    adata
        Cells x features, sparse where the file is; every feature of the file is kept.
    note
        What the reader decided, as sentences for the user; empty if there was nothing to decide.
    """

    adata: ad.AnnData
    note: str = ""


def read_anndata(location: SourceLocation) -> LoadedCells:
    """Read a file of counts that is neither h5ad nor zarr.

    Parameters
    ----------
    location
        Location from `find_sources`, of format `"10x_h5"`, `"10x_mtx"`, `"loom"`, `"h5mu"` or `"text"`.

    Returns
    -------
    The cells, and a note about what the reader decided. `var` has the columns `gene_ids`, `feature_types` and `genome`
    as far as the file has them; `obs_names` are the barcodes.

    Raises
    ------
    BadFileError
        If the file is damaged, is something else than its name says, or leaves open what its genes or cells are.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from cell2text.sources.discovery import find_sources
    >>> path = Path(tempfile.mkdtemp()) / "counts.csv"
    >>> _ = path.write_text("gene,c1,c2,c3\\nTP53,0,2,1\\nCD3E,5,0,0\\n")
    >>> loaded = read_anndata(find_sources([str(path)])[0])
    >>> loaded.adata.shape, list(loaded.adata.var_names)
    ((3, 2), ['TP53', 'CD3E'])
    """
    with _one_line_errors(location), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique")
        if location.format == "10x_mtx":
            loaded = LoadedCells(*read_10x_mtx(location))
        elif location.format == "text":
            loaded = LoadedCells(*read_text_matrix(location))
        else:
            loaded = _read_hdf5(location)
        _check_cells(location, loaded.adata)
    return loaded


@contextmanager
def _one_line_errors(location: SourceLocation):
    try:
        yield
    except BadFileError:
        raise
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadFileError(
            location.name, f"is truncated or damaged ({first_line(error)}). Copy or download it again."
        ) from error
    except MemoryError as error:
        raise BadFileError(
            location.name, "does not fit in memory. Convert it to h5ad on a larger machine: h5ad is read in blocks."
        ) from error
    except _DAMAGED as error:
        raise BadFileError(
            location.name, f"cannot be read as {location.format}: it is damaged or incomplete ({first_line(error)})."
        ) from error


def _check_cells(location: SourceLocation, adata: ad.AnnData) -> None:
    """Raise if there are no cells or features, or if two cells have the same name."""
    if not all(adata.shape):
        raise BadFileError(location.name, f"holds {adata.n_obs:,} cells and {adata.n_vars:,} features.")
    repeated = adata.obs_names[adata.obs_names.duplicated()]
    if len(repeated):
        raise BadFileError(
            location.name,
            f"{len(repeated):,} of {adata.n_obs:,} cell names are repeated, the first is {repeated[0]!r}. Give each "
            "cell its own name, for example by a suffix per sample.",
        )


def _read_hdf5(location: SourceLocation) -> LoadedCells:
    with fsspec.open(location.url, "rb") as file:
        head = file.read(HEAD_BYTES)
        explanation = None if head.startswith(HDF5_SIGNATURE) else explain_content(head)
        if explanation:
            raise BadFileError(location.name, explanation)
        file.seek(0)
        with open_hdf5(file, location.name) as root:
            if location.format == "10x_h5":
                return _read_10x_h5(location, root)
            return _read_loom(location, root) if location.format == "loom" else _read_h5mu(location, root)


# --- HDF5 of Cell Ranger ---------------------------------------------------------------------------------------------


def _read_10x_h5(location: SourceLocation, root: h5py.File) -> LoadedCells:
    """Read `/matrix` of Cell Ranger 3 and later, or the group of each genome of version 2."""
    if "matrix" in root:
        return LoadedCells(_read_10x_group(location, root["matrix"]))
    groups = {name: root[name] for name in sorted(root) if is_10x_group(root[name])}
    if not groups:
        raise BadFileError(location.name, f"has no matrix of Cell Ranger: it has {sorted(root)}.")
    parts = [_read_10x_group(location, group, genome) for genome, group in groups.items()]
    if len(parts) == 1:
        return LoadedCells(parts[0])
    adata = _join_genomes(parts)
    genomes = ", ".join(f"{name} ({part.n_obs:,} cells)" for name, part in zip(groups, parts))
    return LoadedCells(adata, f"The file has a matrix per genome: {genomes}. Cells of the same barcode are joined.")


def _read_10x_group(location: SourceLocation, group: h5py.Group, genome: str = "") -> ad.AnnData:
    n_features, n_cells = (int(size) for size in _read(location, group["shape"]))
    barcodes = _texts(_read(location, group["barcodes"]))
    if "features" in group:
        datasets = {name: item for name, item in group["features"].items() if isinstance(item, h5py.Dataset)}
        columns = {name: _read(location, item) for name, item in datasets.items() if item.shape == (n_features,)}
    else:
        columns = {"id": _read(location, group["genes"])}
        if "gene_names" in group:
            columns["name"] = _read(location, group["gene_names"])
    if "id" not in columns or len(columns["id"]) == 0:
        raise BadFileError(location.name, f"declares {n_features:,} features and names none.")
    var = _feature_table({name: _texts(values) for name, values in columns.items()})
    if genome:
        var["genome"] = genome
    if (len(barcodes), len(var)) != (n_cells, n_features):
        raise BadFileError(
            location.name,
            f"declares {n_cells:,} cells and {n_features:,} features, but names {len(barcodes):,} and {len(var):,}.",
        )
    data, indices, indptr = (_read(location, group[key]) for key in ("data", "indices", "indptr"))
    counts = _compressed(location, data, indices, indptr, (n_cells, n_features))
    return ad.AnnData(counts, obs=pd.DataFrame(index=pd.Index(barcodes, dtype=object)), var=var)


def _feature_table(columns: dict[str, np.ndarray]) -> pd.DataFrame:
    """Return `var` with the column names of scanpy, from those of Cell Ranger; symbols are the index."""
    renamed = {"id": "gene_ids", "feature_type": "feature_types"}
    var = pd.DataFrame({renamed.get(name, name): values for name, values in columns.items() if name != "name"})
    if "gene_id" in var:  # matrices of probes: `id` names the probe
        var = var.rename(columns={"gene_ids": "probe_ids", "gene_id": "gene_ids"})
    var.index = pd.Index(columns.get("gene_name", columns.get("name", columns.get("id"))), dtype=object)
    return var


def _compressed(location: SourceLocation, data, indices, indptr, shape: tuple[int, int]) -> sp.csr_matrix:
    """Return a CSR matrix of arrays, after checking them, since native code trusts them."""
    try:
        pointers = check_structure(data, indices, indptr, shape[0])
        return assemble(smallest_exact(data), indices, pointers, shape)
    except ValueError as error:
        raise BadFileError(location.name, f"is damaged: {error}.") from error


def _join_genomes(parts: list[ad.AnnData]) -> ad.AnnData:
    """Return the union of cells with the features of all genomes; a cell has no counts where its barcode is missing."""
    cells = parts[0].obs_names.append([part.obs_names for part in parts[1:]]).unique()
    placed = []
    for part in parts:
        counts = part.X.tocoo()
        rows = cells.get_indexer(part.obs_names)[counts.row]
        placed.append(sp.csr_matrix((counts.data, (rows, counts.col)), shape=(len(cells), part.n_vars)))
    var = pd.concat([part.var for part in parts])
    return ad.AnnData(sp.hstack(placed, format="csr"), obs=pd.DataFrame(index=cells), var=var)


# --- loom ------------------------------------------------------------------------------------------------------------


def _read_loom(location: SourceLocation, root: h5py.File) -> LoadedCells:
    """Read `/matrix` (genes x cells), layers of the same shape, and the attributes of rows and columns."""
    missing = [key for key in ("matrix", "row_attrs", "col_attrs") if key not in root]
    if missing:
        raise BadFileError(location.name, f"is not a loom file: it lacks {missing} and has {sorted(root)}.")
    n_genes, n_cells = root["matrix"].shape
    obs, obsm = _loom_attributes(location, root["col_attrs"], n_cells)
    var, varm = _loom_attributes(location, root["row_attrs"], n_genes)
    for column in _GENE_IDS:
        if column in var and "gene_ids" not in var:
            var = var.rename(columns={column: "gene_ids"})
    obs = _index_by(location, obs, _CELL_NAMES, "cell")
    var = _index_by(location, var, (*_GENE_NAMES, "gene_ids"), "gene")
    adata = ad.AnnData(_read_dense(location, root["matrix"]), obs=obs, var=var)
    layers = root.get("layers", {})
    for name in layers:
        if layers[name].shape == (n_genes, n_cells):
            adata.layers[name] = _read_dense(location, layers[name])
    for store, tables in ((adata.obsm, obsm), (adata.varm, varm)):
        for name, values in tables.items():
            store[name] = values
    return LoadedCells(adata)


def _loom_attributes(location: SourceLocation, group: h5py.Group, length: int) -> tuple[pd.DataFrame, dict]:
    """Return the attributes with one value per row, and those with several."""
    columns, wide = {}, {}
    for name, dataset in group.items():
        if not isinstance(dataset, h5py.Dataset) or not dataset.shape or dataset.shape[0] != length:
            continue
        values = _read(location, dataset)
        if values.dtype.names:  # regulons and clusterings of SCENIC
            wide[name] = np.column_stack([values[field] for field in values.dtype.names])
        elif values.ndim == 1:
            columns[name] = _texts(values)
        else:
            wide[name] = values
    return pd.DataFrame(columns, index=pd.RangeIndex(length).astype(str)), wide


def _index_by(location: SourceLocation, table: pd.DataFrame, names: tuple[str, ...], what: str) -> pd.DataFrame:
    """Return a table indexed by the first of these columns that it has."""
    lower = {column.lower(): column for column in reversed(table.columns)}
    column = next((lower[name.lower()] for name in names if name.lower() in lower), None)
    if column is None and what == "gene":
        raise BadFileError(
            location.name, f"has no row attribute with gene names: it has {list(table.columns)}, expected Gene."
        )
    if column is None:
        return table
    index = pd.Index(table[column].astype(str), dtype=object, name=None)
    return table.set_axis(index).drop(columns=[] if column == "gene_ids" else column)


def _read_dense(location: SourceLocation, dataset: h5py.Dataset) -> sp.csr_matrix:
    """Read a genes x cells dataset in blocks of genes, and return it as cells x genes, CSR."""
    _check_size(location, dataset)
    n_genes, n_cells = dataset.shape
    step = max(1, BLOCK_BYTES // max(1, n_cells * dataset.dtype.itemsize))
    if dataset.chunks and step > dataset.chunks[0]:
        step -= step % dataset.chunks[0]
    blocks = [sp.csc_matrix(dataset[start : start + step]) for start in range(0, n_genes, step)]
    counts = sp.csr_matrix(sp.vstack(blocks, format="csr").T) if blocks else sp.csr_matrix((n_cells, n_genes))
    counts.data = smallest_exact(counts.data)
    return counts


# --- h5mu ------------------------------------------------------------------------------------------------------------


def _read_h5mu(location: SourceLocation, root: h5py.File) -> LoadedCells:
    """Read the RNA modality, with the columns of `obs` that all modalities share."""
    if "mod" not in root:
        raise BadFileError(location.name, f"is not a MuData file: it lacks mod and has {sorted(root)}.")
    name = _rna_modality(location, root["mod"])
    modality = root["mod"][name]
    modality.visititems(lambda _, item: _check_size(location, item))
    adata = read_element(modality)
    others = sorted(set(root["mod"]) - {name})
    if "obs" in root:
        _add_shared_columns(adata, read_element(root["obs"]), [name, *others])
    note = f"The modality {name!r} is read; {', '.join(others)} {'is' if len(others) == 1 else 'are'} not."
    return LoadedCells(adata, note if others else "")


def _rna_modality(location: SourceLocation, modalities: h5py.Group) -> str:
    """Return the modality with gene expression: by its name, or else by the names of its features."""
    names = list(modalities)
    found = [name for name in names if name.lower() in RNA_MODALITIES] or (names if len(names) == 1 else [])
    if not found:
        shares = {name: share_of_genes(read_element(modalities[name]["var"]).index) for name in names}
        found = [name for name, share in shares.items() if share > 0.5]
    if len(found) != 1:
        raise BadFileError(
            location.name,
            f"has the modalities {names}, and {found or 'none'} could be gene expression. Save the one you want: "
            'mudata.read("x.h5mu").mod["NAME"].write_h5ad("x.h5ad").',
        )
    return found[0]


def _add_shared_columns(adata: ad.AnnData, shared: pd.DataFrame, modalities: list[str]) -> None:
    """Add the columns of the file's own `obs` that are not copies of a modality's, such as cell types and donors."""
    prefixes = tuple(f"{name}:" for name in modalities)
    columns = [name for name in shared if not name.startswith(prefixes) and name not in adata.obs]
    if shared.index.is_unique and adata.obs_names.isin(shared.index).all():
        for name in columns:
            adata.obs[name] = shared[name].reindex(adata.obs_names)


# --- HDF5 ------------------------------------------------------------------------------------------------------------


def _check_size(location: SourceLocation, dataset) -> None:
    """Raise if a dataset declares more than its stored bytes can hold."""
    if not isinstance(dataset, h5py.Dataset):
        return
    declared, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if declared > BLOCK_BYTES and declared > MAX_COMPRESSION * stored:
        raise BadFileError(
            location.name,
            f"is damaged: {dataset.name} declares {declared:,} bytes and stores {stored:,}.",
        )
    if len(dataset.shape) == 1:  # matrices are read in blocks
        check_element(dataset)


def _read(location: SourceLocation, dataset: h5py.Dataset) -> np.ndarray:
    _check_size(location, dataset)
    return dataset[:]


def _texts(values: np.ndarray) -> np.ndarray:
    """Return text as `str`, without the entities of old loom files; other values as they are."""
    if values.dtype.kind not in "SO":
        return values
    texts = (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values)
    return np.array([unescape(text) if "&" in text else text for text in texts], dtype=object)

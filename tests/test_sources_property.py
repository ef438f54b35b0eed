"""The same cells give the same counts and tokens from every container, naming of genes and place of the matrix."""

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from cell2text.describe.inputs import CellReader
from cell2text.describe.options import DescribeOptions
from cell2text.models import MINI
from cell2text.preparation.config import PrepareConfig
from cell2text.preparation.jobs import PlannedSource
from cell2text.sources.containers import open_source
from cell2text.sources.discovery import find_source
from ranking_cell2text import MappedGenes
from source_cell2text import AnnDataContainer, CellSource
from vocabulary_cell2text import GeneVocabulary

from .cell_files import (
    compress_file,
    dense,
    write_10x_h5,
    write_10x_mtx,
    write_h5mu,
    write_loom,
    write_text,
    write_zarr,
)


# Current symbols, with a former one or an alias for the genes that have been renamed.
SYMBOLS = {
    "HLA-DRA": "HLA-DRA1", "HLA-A": None, "HLA-DPB1": None, "MT-CO1": "MTCO1", "MT-ND1": "MTND1", "ERVK3-1": None,
    "RACK1": "GNB2L1", "SEPTIN9": "SEPT9", "GBA1": "GBA", "CFAP69": "C7orf63", "FIRRM": "C1orf112", "H2AZ1": "H2AFZ",
    "CD4": "T4", "CD14": None, "CD19": None, "CD3E": None, "MS4A1": "CD20", "NKG7": None, "LYZ": None, "TP53": None,
    "GNLY": "LAG2", "KRT5": None, "EPCAM": None, "COL1A1": None, "CD8A": "CD8", "PTPRC": "CD45", "ACTB": None,
    "GAPDH": "GAPD", "MALAT1": None, "FCER1A": None, "PPBP": "CXCL7", "CST3": None, "IL7R": "CD127", "CCR7": None,
    "S100A8": None, "S100A4": None, "INS": None, "GCG": None, "ALB": None, "APOE": None,
}  # fmt: skip
ANTIBODIES = ["CD4", "CD14", "CD19"]  # named like genes
N_CELLS, N_IN_X = 12, 30  # X holds the first 30 genes where `raw` holds all

NAMINGS = {
    "Ensembl ids": lambda ids, symbols: (ids, None),
    "versioned ids": lambda ids, symbols: ([f"{name}.{1 + i % 20}" for i, name in enumerate(ids)], None),
    "symbols": lambda ids, symbols: (symbols, None),
    "symbols and gene_ids": lambda ids, symbols: (symbols, ids),
    "genome prefix": lambda ids, symbols: ([f"GRCh38_{name}" for name in ids], None),
    "genome prefix of symbols": lambda ids, symbols: ([f"GRCh38_{name}" for name in symbols], None),
    "id_symbol": lambda ids, symbols: ([f"{a}_{b}" for a, b in zip(ids, symbols)], None),
    "symbol_id": lambda ids, symbols: ([f"{b}_{a}" for a, b in zip(ids, symbols)], None),
    "names of R": lambda ids, symbols: ([name.replace("-", ".") for name in symbols], None),
    "previous symbols": lambda ids, symbols: ([SYMBOLS[name] or name for name in symbols], None),
}
H5AD = ("h5ad gzip", "h5ad uncompressed", "h5ad lzf", "H5AD", "h5ad.gz")
STREAMED = (*H5AD, "zarr 2", "zarr 3")
LOADED = ("10x h5", "10x mtx", "10x mtx.gz", "loom", "h5mu", "csv genes x cells", "tsv.gz cells x genes")
IN_MEMORY = ("memory csr", "memory csc", "memory dense", "float16", "int64", "float64", "backed", "dask", "lazy")
CONTAINERS = (*STREAMED, *LOADED, *IN_MEMORY)
PLACES = ("X", "layer beside log X", "raw beside scaled X", "raw with more genes")
ONLY_X = ("10x h5", "10x mtx", "10x mtx.gz", "csv genes x cells", "tsv.gz cells x genes")
NO_RAW = (*ONLY_X, "loom", "lazy")
NO_NOISE = ("float16", "int64")


@dataclass(frozen=True)
class Situation:
    container: str
    naming: str
    place: str
    noise: bool
    antibodies: bool


def places_of(container):
    if container in ONLY_X:
        return PLACES[:1]
    return PLACES[:2] if container in NO_RAW else PLACES


@st.composite
def situations(draw):
    container = draw(st.sampled_from(CONTAINERS))
    return Situation(
        container,
        naming=draw(st.sampled_from(sorted(NAMINGS))),
        place=draw(st.sampled_from(places_of(container))),
        noise=container not in NO_NOISE and draw(st.booleans()),
        antibodies=draw(st.booleans()),
    )


@pytest.fixture(scope="module")
def vocabulary():
    return GeneVocabulary.from_pretrained(MINI)


@pytest.fixture(scope="module")
def base(vocabulary):
    """Twelve cells of forty genes, with Ensembl ids as the index and symbols in a column."""
    ids = [vocabulary.tokens[token] for token in vocabulary.map_genes(list(SYMBOLS))[0]]
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.4, 8.0, size=len(ids)), size=(N_CELLS, len(ids)))
    counts[:, 0] += 300
    obs = pd.DataFrame({"cell_type": "B cell"}, index=[f"cell_{i}" for i in range(N_CELLS)])
    return ad.AnnData(
        sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame({"symbol": list(SYMBOLS)}, index=ids)
    )


@pytest.fixture(scope="module")
def expected(base, vocabulary):
    """Counts by token and ranked tokens of each cell, from the plainest AnnData."""
    processor = SimpleNamespace(gene_vocabulary=vocabulary, max_genes=vocabulary.max_genes)
    cells = CellReader(CellSource(AnnDataContainer(base)), processor, DescribeOptions()).read(0, N_CELLS).cells
    return base.X.toarray(), vocabulary.map_genes(base.var_names)[0], cells


def make_adata(base, situation):
    """Return the AnnData of a situation, before it is stored."""
    ids, symbols = list(base.var_names), list(base.var["symbol"])
    index, gene_ids = NAMINGS[situation.naming](ids, symbols)
    var = pd.DataFrame({} if gene_ids is None else {"gene_ids": gene_ids}, index=index)
    counts = base.X.astype(np.float64 if situation.noise else np.float32)
    if situation.noise:
        counts.data *= 1 + 1e-9
    if situation.antibodies:
        counts = sp.csr_matrix(sp.hstack([counts, np.full((N_CELLS, len(ANTIBODIES)), 500)]), dtype=counts.dtype)
        of_text = situation.container in ("csv genes x cells", "tsv.gz cells x genes")  # without types of features
        names = [f"{name}_TotalSeqB" if of_text else name for name in ANTIBODIES]
        extra = pd.DataFrame({} if gene_ids is None else {"gene_ids": names}, index=names)
        var = pd.concat([var, extra])
        var["feature_types"] = ["Gene Expression"] * len(ids) + ["Antibody Capture"] * len(ANTIBODIES)
    return place_counts(counts, base.obs.copy(), var, situation.place)


def place_counts(counts, obs, var, place):
    """Put counts where an analysis would leave them."""
    whole = ad.AnnData(counts, obs=obs, var=var)
    if place == "X":
        return whole
    if place == "layer beside log X":
        whole.layers["counts"] = counts.copy()
        whole.X = (counts / counts.sum(axis=1) * 1e4).tocsr().log1p()
        return whole
    adata = whole[:, :N_IN_X].copy()
    adata.raw = whole
    if place == "raw beside scaled X":
        values = np.log1p(adata.X.toarray())
        adata.X = (values - values.mean(axis=0)) / (values.std(axis=0) + 1)
    return adata


def write(adata, container, folder) -> Path:
    """Write a situation to a file, and return its path."""
    suffixes = {"10x h5": ".h5", "loom": ".loom", "h5mu": ".h5mu", "csv genes x cells": ".csv", "H5AD": ".H5AD"}
    path = folder / f"cells{suffixes.get(container, '.h5ad')}"
    if container in H5AD:
        named = {"h5ad gzip": "gzip", "h5ad lzf": "lzf"}
        adata.write_h5ad(path, compression=named.get(container))
        if container == "h5ad.gz":
            compress_file(path, path := folder / "cells.h5ad.gz")
    elif container.startswith("zarr"):
        write_zarr(adata, path := folder / "cells.zarr", int(container[-1]))
    elif container == "10x h5":
        write_10x_h5(adata, path)
    elif container.startswith("10x mtx"):
        write_10x_mtx(adata, path := folder / "cells", compress=container.endswith(".gz"))
    elif container == "loom":
        write_loom(adata, path)
    elif container == "h5mu":
        write_h5mu(adata, path)
    elif container == "csv genes x cells":
        write_text(adata, path, cells_in_rows=False)
    else:
        write_text(adata, path := folder / "cells.tsv.gz", cells_in_rows=True, separator="\t")
    return path


def in_memory(adata, container, folder):
    """Return an AnnData whose matrices are held as the container says."""
    if container in ("backed", "lazy"):
        adata.write_h5ad(folder / "cells.h5ad")
        if container == "backed":
            return ad.read_h5ad(folder / "cells.h5ad", backed="r")
        return ad.experimental.read_lazy(folder / "cells.h5ad")
    convert = {
        "memory csc": sp.csc_matrix,
        "memory dense": dense,
        "float16": lambda matrix: dense(matrix).astype(np.float16),
        "int64": _as_integers,
        "float64": lambda matrix: matrix.astype(np.float64),
        "dask": _as_dask,
    }.get(container, lambda matrix: matrix)
    if adata.raw is not None:
        adata.raw = ad.AnnData(convert(adata.raw.X), obs=adata.obs[[]], var=adata.raw.var)
    adata.X = convert(adata.X)
    for name in list(adata.layers):
        adata.layers[name] = convert(adata.layers[name])
    return adata


def _as_integers(matrix):
    data = matrix.data if sp.issparse(matrix) else matrix
    return matrix.astype(np.int64) if np.array_equal(np.rint(data), data) else matrix


def _as_dask(matrix):
    import dask.array

    return dask.array.from_array(matrix, chunks=(5, matrix.shape[1]), asarray=not sp.issparse(matrix))


def read_everywhere(situation, adata, folder, vocabulary):
    """Yield an open source, and the ranked cells, of each face that reads this container."""
    options = DescribeOptions()
    processor = SimpleNamespace(gene_vocabulary=vocabulary, max_genes=vocabulary.max_genes)
    if situation.container in IN_MEMORY:
        source = CellSource(AnnDataContainer(in_memory(adata, situation.container, folder)))  # as `tl` opens it
        yield source, CellReader(source, processor, options).read(0, N_CELLS).cells
        if situation.container == "backed":
            source.container.adata.file.close()
        return
    location = find_source(str(write(adata, situation.container, folder)))
    with open_source(location) as source:
        yield source, CellReader(source, processor, options).read(0, N_CELLS).cells
    config = PrepareConfig(inputs=["cells"], max_genes=vocabulary.max_genes)
    plan = SimpleNamespace(config=config, sources={"cells": location}, gene_sets=None)
    planned = PlannedSource(plan, "cells", vocabulary)
    job = planned.read_cells(pa.table({"row": np.arange(N_CELLS)}))
    with planned.reader as source:
        yield source, np.split(job.tokens, np.cumsum(job.lengths)[:-1])


def counts_by_token(source, vocabulary):
    """Return dense counts per token of the vocabulary."""
    genes = MappedGenes.of_source(source, vocabulary)
    counts = sp.csc_matrix(source.read_counts(np.arange(N_CELLS)))
    mapped = np.flatnonzero(genes.token_ids >= 0)
    return counts[:, mapped].toarray(), genes.token_ids[mapped]


def check(situation, base, expected, vocabulary, folder):
    counts, tokens, cells = expected
    faces = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for source, ranked in read_everywhere(situation, make_adata(base, situation), folder, vocabulary):
            read, of_columns = counts_by_token(source, vocabulary)
            order, expected_order = np.argsort(of_columns), np.argsort(tokens)
            np.testing.assert_array_equal(of_columns[order], tokens[expected_order])
            np.testing.assert_array_equal(read[:, order], counts[:, expected_order])
            assert [list(cell) for cell in ranked] == [list(cell) for cell in cells]
            assert list(source.read_cell_names(np.arange(N_CELLS))) == list(base.obs_names)
            faces += 1
    assert faces == (1 if situation.container in IN_MEMORY else 2)


def test_cells_do_not_depend_on_container_naming_and_place(base, expected, vocabulary, tmp_path):
    drawn = set()

    @seed(0)
    @settings(max_examples=230, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(situations())
    def every_situation(situation):
        if situation.container == "lazy":
            pytest.importorskip("xarray")
        folder = tmp_path / "now"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        check(situation, base, expected, vocabulary, folder)
        drawn.add(situation)

    every_situation()
    assert len(drawn) >= 200
    assert {situation.container for situation in drawn} == set(CONTAINERS)
    assert {situation.naming for situation in drawn} == set(NAMINGS)
    assert {situation.place for situation in drawn} == set(PLACES)

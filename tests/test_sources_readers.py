"""Reading 10x, loom, h5mu and text matrices: files of their own libraries, variants, and damaged ones.

Files of Cell Ranger 1.2 and 3.0 come from the source distribution of scanpy (`SCANPY_SOURCE`, see `.ci/run`); loom and
h5mu are written by loompy and mudata. `write_10x` writes the layouts of other versions of Cell Ranger.
"""

import gzip
import os
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

from cell2text.sources.checks import BadFileError
from cell2text.sources.discovery import find_sources
from cell2text.sources.readers import read_anndata


GENES = ["CD3E", "TP53", "MS4A1", "HLA-A", "NKG7", "LYZ"]
IDS = [f"ENSG{number:011d}" for number in range(1, 7)]
CELLS = [f"{cell}-1" for cell in ("AAAC", "AAAG", "AACC", "AACG")]
COUNTS = np.array([[0, 3, 0, 1, 0, 0], [2, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 257]])
SCANPY = Path(os.environ.get("SCANPY_SOURCE", "")) / "tests" / "_data"
needs_scanpy_source = pytest.mark.skipif("SCANPY_SOURCE" not in os.environ, reason="SCANPY_SOURCE is not set")


def read(path):
    (source,) = find_sources([str(path)])
    return read_anndata(source)


def assert_counts(adata, genes=GENES, cells=CELLS):
    assert list(adata.var_names) == list(genes) and list(adata.obs_names) == list(cells)
    assert sp.issparse(adata.X) and adata.X.format == "csr"
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)


def refuse(path, message):
    with pytest.raises(BadFileError, match=message) as error:
        read(path)
    assert "\n" not in str(error.value)


# --- 10x HDF5


def write_10x(path, group="matrix", *, features=True, **changes):
    """Write the layout of Cell Ranger 3 to 9 (`features`), or the group of a genome as in version 2."""
    stored = sp.csr_matrix(COUNTS)
    arrays = {
        "barcodes": np.array(CELLS, dtype="S"),
        "data": stored.data.astype(np.int32),
        "indices": stored.indices.astype(np.int64),
        "indptr": stored.indptr.astype(np.int64),
        "shape": np.array([6, 4], dtype=np.int32),
    }
    names = {"id": IDS, "name": GENES, "feature_type": ["Gene Expression"] * 5 + ["Antibody Capture"]}
    names |= {"genome": ["GRCh38"] * 5 + [""], "sequence": [""] * 5 + ["ACGT"], "pattern": [""] * 5 + ["5P(BC)"]}
    if features:
        arrays |= {f"features/{name}": np.array(values, dtype="S") for name, values in names.items()}
        arrays["features/_all_tag_keys"] = np.array(["genome", "pattern", "sequence"], dtype="S")
    else:
        arrays |= {"genes": np.array(IDS, dtype="S"), "gene_names": np.array(GENES, dtype="S")}
    with h5py.File(path, "a") as root:
        for name, values in (arrays | changes).items():
            root[f"{group}/{name}"] = values
    return path


@needs_scanpy_source
@pytest.mark.parametrize(
    "name",
    [
        "10x_data/1.2.0/filtered_gene_bc_matrices_h5.h5",
        "10x_data/3.0.0/filtered_feature_bc_matrix.h5",
        "visium_data/1.0.0/filtered_feature_bc_matrix.h5",
        "visium_data/2.1.0/raw_probe_bc_matrix.h5",
    ],
)
def test_10x_h5_files_read_as_in_scanpy(name):
    scanpy = pytest.importorskip("scanpy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = scanpy.read_10x_h5(SCANPY / name, gex_only=False)
    adata = read(SCANPY / name).adata
    assert (adata.X != expected.X).nnz == 0 and list(adata.obs_names) == list(expected.obs_names)
    for column in {"gene_ids", "feature_types", "genome"} & set(expected.var) - {"probe_ids"}:
        if "probe_region" not in expected.var or column != "gene_ids":  # scanpy has the ids of probes there
            assert list(adata.var[column]) == list(expected.var[column])
    if "probe_region" not in expected.var:
        assert list(adata.var_names) == list(expected.var_names)


@needs_scanpy_source
def test_10x_h5_with_several_genomes_joins_cells_by_barcode():
    path = SCANPY / "10x_data" / "1.2.0" / "multiple_genomes.h5"
    loaded = read(path)
    scanpy = pytest.importorskip("scanpy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = {genome: scanpy.read_10x_h5(path, genome=genome) for genome in ("hg19_chr21", "another_genome")}
    assert "hg19_chr21 (12 cells)" in loaded.note
    for genome, part in parts.items():
        mine = loaded.adata[part.obs_names, (loaded.adata.var["genome"] == genome).to_numpy()]
        assert (mine.X != part.X).nnz == 0


@needs_scanpy_source
@pytest.mark.parametrize("name", ["1.2.0/filtered_gene_bc_matrices/hg19_chr21", "3.0.0/filtered_feature_bc_matrix"])
def test_10x_mtx_folders_read_as_in_scanpy(name):
    scanpy = pytest.importorskip("scanpy")
    folder = SCANPY / "10x_data" / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = scanpy.read_10x_mtx(folder, gex_only=False, make_unique=False)
    adata = read(folder).adata
    assert (adata.X != expected.X).nnz == 0
    assert list(adata.obs_names) == list(expected.obs_names) and list(adata.var_names) == list(expected.var_names)
    assert list(adata.var["gene_ids"]) == list(expected.var["gene_ids"])


def test_10x_h5_keeps_all_features_and_their_columns(tmp_path):
    adata = read(write_10x(tmp_path / "a.h5")).adata
    assert_counts(adata)
    assert list(adata.var["gene_ids"]) == IDS
    assert list(adata.var["feature_types"])[4:] == ["Gene Expression", "Antibody Capture"]
    assert list(adata.var["genome"])[4:] == ["GRCh38", ""] and adata.var["sequence"].iloc[5] == "ACGT"


def test_10x_h5_of_version_2_reads_one_genome_or_several(tmp_path):
    adata = read(write_10x(tmp_path / "a.h5", "GRCh38", features=False)).adata
    assert_counts(adata)
    assert set(adata.var["genome"]) == {"GRCh38"} and list(adata.var["gene_ids"]) == IDS
    write_10x(tmp_path / "b.h5", "GRCh38", features=False)
    write_10x(tmp_path / "b.h5", "mm10", features=False, barcodes=np.array(["AAAC-1", "X-1", "Y-1", "Z-1"], dtype="S"))
    loaded = read(tmp_path / "b.h5")
    assert loaded.adata.shape == (7, 12) and loaded.adata.X.sum() == 2 * COUNTS.sum()
    assert "GRCh38 (4 cells), mm10 (4 cells)" in loaded.note


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indices": np.full(10, 6)}, "column indices 6 to 6 in a matrix of 6 columns"),
        ({"indices": np.full(10, -1)}, "column indices -1 to -1 in a matrix of 6 columns"),
        ({"indptr": np.array([0, 5, 2, 4, 10])}, "indptr of a sparse matrix decreases"),
        ({"indptr": np.array([0, 2, 4, 4, 99])}, "runs from 0 to 99, but there are 10 values"),
        ({"data": np.ones((10, 1))}, "data of a sparse matrix is not one-dimensional"),
        ({"data": np.array(["a"] * 10, dtype="S")}, "data of a sparse matrix has type"),
        ({"shape": np.array([6, 9])}, "declares 9 cells and 6 features, but names 4 and 6"),
        ({"shape": np.array([-6, 4])}, "declares -6 features and names none"),
        ({"barcodes": np.array(["A-1", "A-1", "B-1", "C-1"], dtype="S")}, "1 of 4 cell names are repeated.*'A-1'"),
    ],
)
def test_damaged_10x_h5_is_explained(tmp_path, changes, message):
    refuse(write_10x(tmp_path / "a.h5", **changes), message)


def test_sizes_that_a_file_cannot_hold_are_not_allocated(tmp_path):
    write_10x(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as root:
        del root["matrix/data"]
        root["matrix"].create_dataset("data", shape=(10**12,), dtype="i4", chunks=(10**6,))
    refuse(tmp_path / "a.h5", "declares 4,000,000,000,000 bytes and stores 0")
    with h5py.File(tmp_path / "b.loom", "w") as root:
        root.create_dataset("matrix", shape=(10**6, 10**6), dtype="f4", chunks=(64, 64))
        root.create_group("row_attrs")["Gene"] = np.zeros(10**6, dtype="S1")
        root.create_group("col_attrs")
    refuse(tmp_path / "b.loom", "declares 4,000,000,000,000 bytes and stores 0")


# --- matrix.mtx


def write_mtx(folder, prefix="", *, compress=True, genes="features.tsv", transpose=False, matrix=None, barcodes=CELLS):
    folder.mkdir(exist_ok=True)
    scipy.io.mmwrite(folder / "tmp.mtx", sp.coo_matrix(COUNTS if transpose else COUNTS.T))
    content = (folder / "tmp.mtx").read_bytes() if matrix is None else matrix
    (folder / "tmp.mtx").unlink()
    columns = [IDS, GENES] if genes.startswith("genes") else [IDS, GENES, ["Gene Expression"] * 6]
    texts = {"matrix.mtx": content, genes: "".join("\t".join(row) + "\n" for row in zip(*columns)).encode()}
    texts["barcodes.tsv"] = "".join(f"{name}\n" for name in barcodes).encode()
    for name, text in texts.items():
        path = folder / f"{prefix}{name}{'.gz' if compress else ''}"
        path.write_bytes(gzip.compress(text) if compress else text)
    return folder


@pytest.mark.parametrize("prefix", ["", "GSM1_sample1_"])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("genes", ["genes.tsv", "features.tsv"])
def test_mtx_folders_of_all_versions_are_read(tmp_path, prefix, compress, genes):
    folder = write_mtx(tmp_path / "s", prefix, compress=compress, genes=genes)
    adata = read(folder).adata
    assert_counts(adata)
    assert list(adata.var["gene_ids"]) == IDS
    assert ("feature_types" in adata.var) == (genes == "features.tsv")


def test_mtx_of_cells_by_genes_is_read_and_noted(tmp_path):
    loaded = read(write_mtx(tmp_path / "s", transpose=True))
    assert_counts(loaded.adata)
    assert "cells x genes" in loaded.note
    folder = tmp_path / "kallisto"
    write_mtx(folder, "cells_x_genes.", compress=False, transpose=True)
    (folder / "cells_x_genes.matrix.mtx").rename(folder / "cells_x_genes.mtx")
    (folder / "cells_x_genes.features.tsv").rename(folder / "cells_x_genes.genes.txt")
    (folder / "cells_x_genes.barcodes.tsv").rename(folder / "cells_x_genes.barcodes.txt")
    assert_counts(read(folder / "cells_x_genes.mtx").adata)


HEADER = b"%%MatrixMarket matrix coordinate integer general\n"


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (HEADER + b"6 4 1000000000000\n1 1 1\n", "declares 1,000,000,000,000 entries"),
        (HEADER + b"1000000000000 4 1\n1 1 1\n", "the matrix is 1,000,000,000,000 x 4, but features.tsv.gz names 6"),
        (HEADER + b"-6 4 1\n1 1 1\n", "declares the sizes '-6 4 1'"),
        (HEADER + b"6 5 1\n1 1 1\n", "names 6 genes and barcodes.tsv.gz 4 cells"),
        (HEADER + b"6 4 1\n7 1 1\n", "damaged or incomplete"),
        (HEADER + b"6 4 1\n0 1 1\n", "damaged or incomplete"),
        (HEADER + b"6 4 1\n1 1 many\n", "damaged or incomplete"),
        (HEADER + b"6 4 2\n1 1 1\n          \n", "damaged or incomplete"),
        (HEADER, "declares the sizes ''"),
        (b"%%MatrixMarket matrix coordinate pattern general\n6 4 1\n1 1\n", "starts with '%%matrixmarket"),
        (b"%%MatrixMarket matrix array integer general\n6 4\n1\n", "starts with '%%matrixmarket"),
        (b"%%MatrixMarket matrix coordinate integer symmetric\n6 4 1\n1 1 1\n", "is declared 'symmetric'"),
        (b"<html>404</html>", "is a web page"),
        (b"", "is empty"),
    ],
)
def test_damaged_mtx_is_explained(tmp_path, matrix, message):
    refuse(write_mtx(tmp_path / "s", matrix=matrix) / "matrix.mtx.gz", message)


def test_incomplete_mtx_folders_are_explained(tmp_path):
    folder = write_mtx(tmp_path / "s")
    path = folder / "matrix.mtx.gz"
    path.write_bytes(path.read_bytes()[:-20])
    refuse(folder, "is truncated or damaged")
    write_mtx(folder, barcodes=["A-1", "A-1", "B-1", "C-1"])
    refuse(folder, "cell names are repeated")
    (folder / "barcodes.tsv.gz").unlink()
    refuse(path, "has no barcodes.tsv beside matrix.mtx.gz")
    (folder / "features.tsv.gz").unlink()
    refuse(path, "has no features.tsv or genes.tsv and no barcodes.tsv")


# --- loom


def write_loom(path, layers=None, genes="Gene", **attributes):
    loompy = pytest.importorskip("loompy")
    rows = {genes: np.array(GENES), "Accession": np.array(IDS), "Chromosome": np.array(["1"] * 6)}
    columns = {"CellID": np.array(CELLS), "cell_type": np.array(["T"] * 4), "n": np.arange(4)} | attributes
    matrices = {"": COUNTS.T} | {name: values.T for name, values in (layers or {}).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loompy.create(str(path), matrices, rows, columns)
    return path


@pytest.mark.parametrize("genes", ["Gene", "var_names", "gene_name"])
def test_loom_of_loompy_is_read(tmp_path, genes):
    path = write_loom(tmp_path / "a.loom", {"spliced": COUNTS, "unspliced": COUNTS * 2}, genes, UMAP=np.ones((4, 2)))
    adata = read(path).adata
    assert_counts(adata)
    assert list(adata.var["gene_ids"]) == IDS and list(adata.obs["cell_type"]) == ["T"] * 4
    assert list(adata.obs["n"]) == [0, 1, 2, 3] and adata.obsm["UMAP"].shape == (4, 2)
    np.testing.assert_array_equal(adata.layers["unspliced"].toarray(), COUNTS * 2)


def test_loom_reads_as_in_anndata(tmp_path):
    path = write_loom(tmp_path / "a.loom", {"spliced": COUNTS})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = ad.io.read_loom(path)
    adata = read(path).adata
    assert (adata.X != expected.X).nnz == 0 and (adata.layers["spliced"] != expected.layers["spliced"]).nnz == 0
    assert list(adata.obs_names) == list(expected.obs_names) and list(adata.var_names) == list(expected.var_names)


def test_damaged_loom_is_explained(tmp_path):
    path = write_loom(tmp_path / "a.loom")
    with h5py.File(path, "a") as root:
        del root["row_attrs"]
    refuse(path, "is not a loom file: it lacks")
    path = write_loom(tmp_path / "b.loom", genes="other")
    with h5py.File(path, "a") as root:
        del root["row_attrs/Accession"]
    refuse(path, "no row attribute with gene names: it has .*'other'")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refuse(path, "damaged or incomplete")
    path.write_text("<!DOCTYPE html>")
    refuse(path, "is a web page")
    path.write_bytes(b"")
    refuse(path, "is empty")


# --- h5mu


def modality(genes=GENES, cells=CELLS):
    return ad.AnnData(
        sp.csr_matrix(COUNTS[: len(cells), : len(genes)].astype(np.float32)),
        obs=pd.DataFrame({"own": range(len(cells))}, index=cells),
        var=pd.DataFrame({"gene_ids": IDS[: len(genes)]}, index=genes),
    )


def write_h5mu(path, **modalities):
    mudata = pytest.importorskip("mudata")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata = mudata.MuData(modalities)
        mdata.obs["cell_type"] = pd.Categorical(["T cell"] * mdata.n_obs)
        mdata.write(path)
    return path


@pytest.mark.parametrize("name", ["rna", "GEX", "cells"])
def test_h5mu_of_mudata_is_its_rna(tmp_path, name):
    antibodies = modality(["CD3-TotalSeqB", "CD19-TotalSeqB", "IgG1-control"], CELLS[:3])
    loaded = read(write_h5mu(tmp_path / "a.h5mu", **{name: modality(), "prot": antibodies}))
    assert_counts(loaded.adata)
    assert list(loaded.adata.obs["own"]) == [0, 1, 2, 3] and list(loaded.adata.var["gene_ids"]) == IDS
    assert set(loaded.adata.obs["cell_type"]) == {"T cell"}
    assert loaded.note == f"The modality {name!r} is read; prot is not."


def test_h5mu_with_no_rna_or_two_lists_its_modalities(tmp_path):
    path = write_h5mu(tmp_path / "a.h5mu", one=modality(), two=modality([f"{gene}" for gene in GENES[:5]]))
    refuse(path, r"has the modalities \['one', 'two'\], and \['one', 'two'\] could be gene expression.*write_h5ad")
    peaks = [f"chr1:{start}-{start + 100}" for start in range(6)]
    path = write_h5mu(tmp_path / "b.h5mu", atac=modality(peaks), prot=modality([f"ab{n}" for n in range(6)]))
    refuse(path, r"has the modalities \['atac', 'prot'\], and none could be gene expression")
    with h5py.File(tmp_path / "c.h5mu", "w") as root:
        root.create_group("obs")
    refuse(tmp_path / "c.h5mu", "is not a MuData file")


# --- text


def frame(transpose=False):
    table = pd.DataFrame(COUNTS, index=CELLS, columns=GENES)
    return table.T if transpose else table


@pytest.mark.parametrize("genes_in_rows", [False, True])
@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
@pytest.mark.parametrize("compress", [False, True])
def test_text_matrices_are_read_in_either_orientation(tmp_path, genes_in_rows, separator, compress):
    path = tmp_path / ("a.txt.gz" if compress else "a.csv")
    frame(genes_in_rows).to_csv(path, sep=separator, index_label="name")
    loaded = read(path)
    assert_counts(loaded.adata)
    expected = "rows are genes (6)" if genes_in_rows else "rows are cells (4)"
    assert expected in loaded.note


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("name,", "", 1),  # write.table of R
        lambda text: text.replace("name,", '"",', 1),
        lambda text: "\n".join(",".join(f'"{part}"' for part in line.split(",")) for line in text.splitlines()),
        lambda text: text.replace("257", "257.0"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: "# a comment\n" + text,
    ],
)
def test_variants_of_csv_are_read(tmp_path, change):
    path = tmp_path / "a.csv"
    path.write_text(change(frame(True).to_csv(index_label="name")), newline="", encoding="utf-8")
    assert_counts(read(path).adata)


def test_csv_of_ensembl_ids_and_mouse_symbols_is_oriented(tmp_path):
    for name, genes in (("ids", IDS), ("mouse", [gene.capitalize() for gene in GENES])):
        table = frame().set_axis(genes, axis=1)
        table.to_csv(tmp_path / f"{name}.csv")
        assert_counts(read(tmp_path / f"{name}.csv").adata, genes)


def test_names_with_separators_and_repeated_genes_are_kept(tmp_path):
    table = frame(True).set_axis(["T cell, 1", 'a "b"', "c", "d"], axis=1).set_axis([*GENES[:5], "CD3E"])
    table.to_csv(tmp_path / "a.csv")
    adata = read(tmp_path / "a.csv").adata
    assert list(adata.obs_names) == ["T cell, 1", 'a "b"', "c", "d"] and list(adata.var_names)[-1] == "CD3E"
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    table.T.to_csv(tmp_path / "b.csv")
    adata = read(tmp_path / "b.csv").adata
    assert list(adata.obs_names) == ["T cell, 1", 'a "b"', "c", "d"]


def test_wide_text_is_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("cell2text.sources.text_matrix.BLOCK_VALUES", 7)
    frame(True).to_csv(tmp_path / "a.csv")
    assert_counts(read(tmp_path / "a.csv").adata)


def test_lines_longer_than_the_limit_of_csv_are_read(tmp_path):
    cells = [f"cell {number}" for number in range(70_000)]
    pd.DataFrame(1, index=GENES, columns=cells).to_csv(tmp_path / "a.csv")
    assert read(tmp_path / "a.csv").adata.shape == (70_000, 6)


TEXT = frame().to_csv(index_label="name")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (frame().assign(cell_type="T cell").to_csv(), "holds text among the counts .'T cell' in column 'cell_type'"),
        (frame(True).assign(chrom="chr1").to_csv(), "'chr1' in column 'chrom', row 'CD3E'"),
        (frame().assign(nCount_RNA=5).to_csv(), "has nCount_RNA among the genes and cells: metadata"),
        (frame().assign(total_counts=5, leiden=2).to_csv(), "has total_counts, leiden among"),
        ((frame() + 0.5).to_csv(sep=";", decimal=","), "has decimal commas .'0,5' in column 'CD3E'"),
        ((frame() + 0.5).to_csv(decimal=","), "has decimal commas"),
        (TEXT.replace(",257", ",NA"), "has missing values .'NA' in column 'LYZ', row 'AACG-1'"),
        (TEXT.replace(",257", ","), "has missing values"),
        (TEXT.replace(",257", ""), "has 5 values in row 'AACG-1' after 6"),
        (TEXT.replace(",257", ",257,1"), "has 7 values in row 'AACG-1' after 6"),
        (frame(True).to_csv(header=False), "has no header: its first line starts with 'CD3E'"),
        (frame().set_axis(list("uvwxyz"), axis=1).to_csv(), r"neither its rows \(AAAC-1.*\) nor its columns \(u, v, w"),
        (frame(True).set_axis(["CD8A", "CD4", "CD19", "IL7R"], axis=1).to_csv(), "both its rows"),
        (frame(True).set_axis(["a", "a", "b", "c"], axis=1).to_csv(), "cell names are repeated"),
        ("a,b\n", "has no lines of values"),
        ("some notes\nabout this folder are here\n", "is not a matrix"),
        ("", "is empty"),
        ("<html><body>404</body></html>", "is a web page"),
        ("PK\x03\x04 [Content_Types].xml", "is an Excel workbook"),
        ("CD3E,\0\0\n", "binary data"),
    ],
)
def test_text_that_is_not_a_matrix_of_counts_is_explained(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    refuse(tmp_path / "a.csv", message)


def test_text_in_other_encodings_is_explained(tmp_path):
    (tmp_path / "a.csv").write_text(TEXT, encoding="utf-16")
    refuse(tmp_path / "a.csv", "is text in UTF-16")
    (tmp_path / "b.csv").write_text(TEXT.replace("AAAC", "Zürich"), encoding="latin-1")
    assert read(tmp_path / "b.csv").adata.n_obs == 4
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(TEXT.encode())[:-12])
    refuse(tmp_path / "c.csv.gz", "truncated or damaged")

"""Finding files, stores, folders and globs."""

import gzip

import anndata as ad
import h5py
import numpy as np
import pytest

from cell2text.sources.discovery import find_sources


OUTS = {
    "raw_feature_bc_matrix.h5": "10x",
    "filtered_feature_bc_matrix.h5": "10x",
    "raw_feature_bc_matrix": "mtx",
    "filtered_feature_bc_matrix": "mtx",
    "molecule_info.h5": "molecules",
    "metrics_summary.csv": "text",
    "analysis": "folder",
}


def write_hdf5(path, keys):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as root:
        for key in keys:
            root.create_group(key)


def write_10x(path):
    write_hdf5(path, [f"matrix/{key}" for key in ("barcodes", "data", "indices", "indptr", "features", "shape")])


def write_mtx(folder, prefix="", suffix=".gz"):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("matrix.mtx", "features.tsv", "barcodes.tsv"):
        (folder / f"{prefix}{name}{suffix}").write_bytes(b"")


def write_outs(folder, names):
    for name in names:
        kind = OUTS[name.removeprefix("sample_")]
        if kind == "10x":
            write_10x(folder / name)
        elif kind == "mtx":
            write_mtx(folder / name)
        elif kind == "molecules":
            write_hdf5(folder / name, ["barcode_idx", "features"])
        elif kind == "folder":
            (folder / name).mkdir(parents=True)
        else:
            (folder / name).write_text("a,b\n1,2\n")


def found(path):
    return {source.name: source.format for source in find_sources([str(path)])}


def test_sources_are_found_and_named(tmp_path):
    for name in ("a/cells.h5ad", "b/cells.h5ad", "b/deep/other.h5ad"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b" / "store.zarr" / "inside.h5ad").mkdir(parents=True)
    (tmp_path / "b" / "notes.md").write_text("words")
    assert [source.name for source in find_sources([str(tmp_path)])] == ["a/cells", "b/cells", "other", "store"]
    assert [source.name for source in find_sources([f"{tmp_path}/*/cells.h5ad"])] == ["a/cells", "b/cells"]
    with pytest.raises(ValueError, match="does not exist"):
        find_sources([str(tmp_path / "c")])
    with pytest.raises(ValueError, match=r"notes.md is not a known file of counts. Accepted are .h5ad, .zarr, 10x .h5"):
        find_sources([str(tmp_path / "b" / "notes.md")])
    with pytest.raises(ValueError, match="contains no file of counts: accepted are .h5ad"):
        find_sources([str(tmp_path / "c*")])
    with pytest.raises(ValueError, match="more than once"):
        find_sources([str(tmp_path / "a"), str(tmp_path / "a" / "cells.h5ad")])


def test_a_folder_search_finds_every_container_but_text(tmp_path):
    for name in ("A.H5AD", "b.h5ad.gz", "c.loom", "d.h5mu", "e.csv", "f.tsv.gz", "notes.txt", "g.rds", "._A.H5AD"):
        (tmp_path / name).write_bytes(b"")
    write_10x(tmp_path / "h.h5")
    write_hdf5(tmp_path / "i.h5", ["obs", "var", "X"])
    write_hdf5(tmp_path / "j.hdf5", ["weights"])
    write_mtx(tmp_path / "k")
    write_mtx(tmp_path / "geo", "GSM1_s1_")
    write_mtx(tmp_path / "geo", "GSM2_s2_")
    (tmp_path / "incomplete").mkdir()
    (tmp_path / "incomplete" / "matrix.mtx").write_text("")
    (tmp_path / "x.h5ad").mkdir()
    assert found(tmp_path) == {
        "A": "h5ad",
        "b": "h5ad",
        "c": "loom",
        "d": "h5mu",
        "h": "10x_h5",
        "i": "h5ad",
        "k": "10x_mtx",
        "GSM1_s1": "10x_mtx",
        "GSM2_s2": "10x_mtx",
    }
    assert found(tmp_path / "e.csv") == {"e": "text"}
    assert found(tmp_path / "f.tsv.gz") == {"f": "text"}
    assert found(f"{tmp_path}/*.csv") == {"e": "text"}


def test_files_of_one_stem_have_different_names(tmp_path):
    for name in ("a.h5ad", "a.loom", "sub/a.h5ad", "sub/a.h5ad.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = list(found(tmp_path))
    assert len(set(names)) == len(names) == 3  # sub/a.h5ad.gz is the same file
    assert all(len(name) < 12 for name in names)


def test_a_run_of_cell_ranger_is_its_filtered_matrix(tmp_path):
    write_outs(tmp_path / "s1" / "outs", OUTS)
    (source,) = find_sources([str(tmp_path / "s1" / "outs")])
    assert source.url.endswith("filtered_feature_bc_matrix.h5") and source.format == "10x_h5"
    assert source.described_name == "filtered_feature_bc_matrix.described.h5ad"
    assert "raw_feature_bc_matrix.h5, raw_feature_bc_matrix/" in source.note and "is not read" in source.note
    write_outs(tmp_path / "s2" / "outs", ["raw_feature_bc_matrix", "filtered_feature_bc_matrix"])
    assert found(tmp_path) == {
        "s1/outs/filtered_feature_bc_matrix": "10x_h5",
        "s2/outs/filtered_feature_bc_matrix": "10x_mtx",
    }
    write_outs(tmp_path / "s3" / "outs", ["raw_feature_bc_matrix.h5"])
    (source,) = find_sources([str(tmp_path / "s3")])
    assert "empty droplets" in source.note


def test_a_run_of_cell_ranger_multi_or_starsolo_is_its_filtered_matrix(tmp_path):
    write_outs(tmp_path / "multi_run" / "outs" / "multi" / "count", ["raw_feature_bc_matrix.h5"])
    for sample in ("A", "B"):
        folder = tmp_path / "multi_run" / "outs" / "per_sample_outs" / sample / "count"
        write_outs(folder, ["sample_filtered_feature_bc_matrix.h5", "sample_filtered_feature_bc_matrix"])
    urls = [source.url for source in find_sources([str(tmp_path / "multi_run")])]
    assert len(urls) == 2 and all(url.endswith("sample_filtered_feature_bc_matrix.h5") for url in urls)
    for kind in ("raw", "filtered"):
        write_mtx(tmp_path / "Solo.out" / "Gene" / kind, suffix="")
    assert found(tmp_path / "Solo.out") == {"filtered": "10x_mtx"}


def test_an_mtx_folder_and_its_matrix_are_the_same_source(tmp_path):
    write_mtx(tmp_path / "filtered_gene_bc_matrices" / "hg19", suffix="")
    folder = tmp_path / "filtered_gene_bc_matrices"
    (by_folder,), (by_file,) = find_sources([str(folder)]), find_sources([str(folder / "hg19" / "matrix.mtx")])
    assert by_folder == by_file and by_folder.name == by_folder.stem == "hg19"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("atlas.rds", b"", "is an R object.*anndataR::write_h5ad"),
        ("atlas.h5seurat", b"", "SeuratDisk::Convert"),
        ("atlas.pkl", b"", "pickle, which can run code"),
        ("atlas.parquet", b"", "Parquet table.*write_h5ad"),
        ("atlas.xlsx", b"", "Excel workbook"),
        ("atlas.zip", b"", "is an archive. Extract it"),
        ("reads.fastq.gz", b"", "sequencing reads"),
        ("features.tsv.gz", b"", "Pass its folder"),
        ("web.h5", b"<!DOCTYPE html><html></html>", "is a web page"),
        ("empty.h5", b"", "is empty"),
        ("store.zarr", b"PK\x03\x04", "a zarr store is a folder"),
        ("unknown", b"\x80\x04abc", "pickle"),
        ("unknown.data", gzip.compress(b"X\n\x00\x00\x00\x03", mtime=0), "R object"),
        ("pointer", b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    ],
)
def test_a_named_file_that_is_not_read_is_explained(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        find_sources([str(tmp_path / name)])
    assert "\n" not in str(error.value)


def test_an_unknown_hdf5_file_is_named_by_its_keys(tmp_path):
    write_hdf5(tmp_path / "model.h5", ["weights", "bias"])
    write_hdf5(tmp_path / "molecule_info.h5", ["barcode_idx", "features"])
    with pytest.raises(ValueError, match="HDF5 file with bias, weights: it is not a 10x matrix"):
        find_sources([str(tmp_path / "model.h5")])
    with pytest.raises(ValueError, match="Pass filtered_feature_bc_matrix.h5"):
        find_sources([str(tmp_path / "molecule_info.h5")])


def test_a_folder_with_text_matrices_alone_says_to_name_them(tmp_path):
    (tmp_path / "counts.csv").write_text("")
    with pytest.raises(ValueError, match="Text matrices must be named one by one"):
        find_sources([str(tmp_path)])


def test_remote_addresses_are_found(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    ad.AnnData(np.ones((2, 2), dtype=np.float32)).write_h5ad(tmp_path / "a.h5ad")
    memory.pipe("/studies/a.h5ad", (tmp_path / "a.h5ad").read_bytes())
    memory.pipe("/studies/odd.h5", (tmp_path / "a.h5ad").read_bytes())
    write_mtx(tmp_path / "b")
    for path in (tmp_path / "b").iterdir():
        memory.pipe(f"/studies/b/{path.name}", path.read_bytes())
    try:
        assert found("memory://studies") == {"a": "h5ad", "odd": "h5ad", "b": "10x_mtx"}
    finally:
        memory.rm("/studies", recursive=True)

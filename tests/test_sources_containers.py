"""Reading h5ad files and zarr stores."""

import warnings

import anndata as ad
import numpy as np
import pytest

from cell2text.sources.containers import open_source
from cell2text.sources.discovery import find_sources

from .preparation_runs import load_rows, make_file, prepare_studies
from .tiny import make_adata


@pytest.mark.parametrize("kind", ["zarr2", "zarr3", "csc", "dense", "raw", "layer", "float64", "memory"])
def test_rows_do_not_depend_on_how_counts_are_stored(kind, studies, prepared, tmp_path):
    options, inputs = {}, []
    for name in ("one", "two", "three"):
        adata = ad.read_h5ad(studies / "cells" / f"{name}.h5ad")
        path = tmp_path / f"{name}.{'zarr' if kind.startswith('zarr') else 'h5ad'}"
        if kind == "csc":
            adata.X = adata.X.tocsc()
        elif kind == "dense":
            adata.X = adata.X.toarray()
        elif kind == "float64":
            adata.X = adata.X.astype(np.float64)
        elif kind == "raw":
            adata.raw = adata
            adata.X = adata.X.log1p()
            options["layer"] = "raw"
        elif kind == "layer":
            adata.layers["counts"] = adata.X.copy()
            adata.X = adata.X.log1p()
            options["layer"] = "counts"
        if kind.startswith("zarr"):
            with ad.settings.override(zarr_write_format=int(kind[-1])), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                adata.write_zarr(path)
        else:
            adata.write_h5ad(path)
        inputs.append(path)
    if kind == "memory":  # through fsspec, from where no path leads
        import fsspec

        for path in inputs:
            with fsspec.open(f"memory://cells/{path.name}", "wb") as file:
                file.write(path.read_bytes())
        inputs = ["memory://cells/*.h5ad"]
    prepare_studies(studies, tmp_path / "out", inputs=inputs, **options)
    expected, found = load_rows(prepared, tmp_path), load_rows(tmp_path / "out", tmp_path)
    for split in expected:
        assert found[split].to_dict() == expected[split].to_dict()


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_counts_and_names_equal_those_anndata_reads(compression, tmp_path):
    adata = make_adata(300)
    adata.write_h5ad(tmp_path / "a.h5ad", compression=compression)
    (source,) = find_sources([str(tmp_path / "a.h5ad")])
    with open_source(source) as reader:
        for rows in (np.arange(300), np.array([0, 1, 5, 120, 121, 299]), np.array([17])):
            assert (reader.read_counts(rows) != adata.X[rows]).nnz == 0
            assert list(reader.read_cell_names(rows)) == list(adata.obs_names[rows])


def test_files_of_anndata_0_7_keep_their_labels(studies, prepared, tmp_path):
    import h5py

    for name in ("one", "two", "three"):
        path = tmp_path / f"{name}.h5ad"
        path.write_bytes((studies / "cells" / path.name).read_bytes())
        with h5py.File(path, "a") as file:
            for column in list(file["obs"]):
                element = file["obs"][column]
                if isinstance(element, h5py.Group):
                    codes, categories = element["codes"][:], element["categories"][:]
                    del file["obs"][column]
                    file["obs"].require_group("__categories")[column] = categories
                    file["obs"][column] = codes
                    file["obs"][column].attrs["categories"] = file["obs"]["__categories"][column].ref
    prepare_studies(studies, tmp_path / "out", inputs=[tmp_path / f"{name}.h5ad" for name in ("one", "two", "three")])
    expected, found = load_rows(prepared, tmp_path), load_rows(tmp_path / "out", tmp_path)
    assert found["train"]["cell_type"] == expected["train"]["cell_type"]
    assert found["train"]["donor_id"] == expected["train"]["donor_id"]


def test_a_file_can_be_written_after_a_run(studies, tmp_path):
    adata = make_file(tmp_path / "a.h5ad", 60)
    prepare_studies(studies, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], split="random")
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").n_obs == 60

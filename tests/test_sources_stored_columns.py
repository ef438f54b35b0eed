"""Names of the columns of data frames that are stored in h5ad files and zarr stores."""

import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr

from cell2text.sources.containers import read_column
from cell2text.sources.stored_columns import column_names


COLUMNS = {
    "plain": ["u", "v"],
    "a/b": ["x", "y"],
    "a/c": pd.Categorical(["u", "v"]),
    "deep/er/name": [1.5, 2.5],
    "nullable": pd.array([1, None], dtype="Int64"),
}


def write(path, columns):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ad.AnnData(obs=pd.DataFrame(columns, index=["1", "2"])).write(path)


def test_columns_with_a_slash_are_listed_in_order_and_read(tmp_path):
    write(tmp_path / "a.h5ad", COLUMNS)
    with h5py.File(tmp_path / "a.h5ad") as file:
        assert column_names(file["obs"]) == list(COLUMNS)
        for name, values in COLUMNS.items():
            found = pd.Series(np.asarray(read_column(file["obs"], name), dtype=object))
            pd.testing.assert_series_equal(found, pd.Series(np.asarray(values, dtype=object)))


def test_columns_that_the_order_lacks_come_last_and_lost_ones_are_left_out(tmp_path):
    write(tmp_path / "a.h5ad", COLUMNS)
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["obs"].attrs["column-order"] = ["deep/er/name", "lost", "a/b"]
        assert column_names(file["obs"]) == ["deep/er/name", "a/b", "a/c", "nullable", "plain"]
        del file["obs"].attrs["column-order"]
        assert sorted(column_names(file["obs"])) == sorted(COLUMNS)


def test_categories_of_anndata_0_7_are_not_columns(tmp_path):
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        obs = file.create_group("obs")
        obs.attrs["_index"], obs.attrs["column-order"] = "barcode", ["a/b"]
        obs["barcode"], obs["a/b"] = ["1", "2"], [1, 0]
        obs["__categories/a/b"] = ["x", "y"]
        obs["a/b"].attrs["categories"] = obs["__categories/a/b"].ref
        assert column_names(obs) == ["a/b"]
        assert list(read_column(obs, "a/b")) == ["y", "x"]


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_stores(tmp_path, version):
    columns = {name: values for name, values in COLUMNS.items() if "/" not in name}
    with ad.settings.override(zarr_write_format=version), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ad.AnnData(obs=pd.DataFrame(columns, index=["1", "2"])).write_zarr(tmp_path / "a.zarr")
    assert column_names(zarr.open_group(tmp_path / "a.zarr", mode="r")["obs"]) == ["plain", "nullable"]

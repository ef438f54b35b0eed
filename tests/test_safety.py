"""What a file of somebody else must not do: lead to other files, or run in a spreadsheet; and two runs at once."""

import os
import shutil
import threading
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from cell2text.describe.options import DescribeOptions
from cell2text.describe.run import describe_file
from cell2text.describe.shards import ShardFolder
from cell2text.errors import BusyError, UserError
from cell2text.example import example_cells
from cell2text.files import lock_folder
from cell2text.sources.containers import load_anndata, open_source
from cell2text.sources.discovery import find_source
from cell2text.sources.safety import check_hdf5, check_unchanged, file_identity
from cell2text.spreadsheets import harmless

from .conftest import run_cli
from .describing import write_zarr


@pytest.fixture
def cells(tmp_path):
    path = tmp_path / "cells.h5ad"
    example_cells(unseen=True)[:6].copy().write_h5ad(path)
    return path


def external_group(path, other):
    with h5py.File(path, "r+") as root:
        del root["obs"]
        root["obs"] = h5py.ExternalLink(str(other), "/obs")


def external_matrix(path, other):
    with h5py.File(path, "r+") as root:
        del root["X"]
        root["X"] = h5py.ExternalLink(str(other), "/X")


def link_in_a_nested_group(path, other):
    with h5py.File(path, "r+") as root:
        root.require_group("uns/a/b")["c"] = h5py.ExternalLink(str(other), "/obs")


def external_storage(path, other):
    with h5py.File(path, "r+") as root:
        root["obs"].create_dataset("secret", (64,), dtype="u1", external=[(str(other), 0, 64)])
        root["obs"].attrs["column-order"] = np.array([*root["obs"].attrs["column-order"], "secret"], dtype=object)


def virtual_dataset(path, other):
    layout = h5py.VirtualLayout((3,), dtype="i4")
    layout[:] = h5py.VirtualSource(str(other), "X/indptr", shape=(3,))
    with h5py.File(path, "r+") as root:
        root["obs"].create_virtual_dataset("sneaky", layout)


@pytest.mark.parametrize(
    "change", [external_group, external_matrix, link_in_a_nested_group, external_storage, virtual_dataset]
)
def test_files_that_lead_to_other_files_are_refused_and_change_nothing(cells, tmp_path, change):
    other = tmp_path / "other.h5ad"
    shutil.copyfile(cells, other)
    before = other.read_bytes()
    change(cells, other)
    location = find_source(str(cells))
    for read in (open_source, load_anndata):
        with pytest.raises(UserError, match="Only files that hold all of their content are read"):
            read(location)
    assert run_cli("describe", cells, "--out", tmp_path / "out.h5ad") == 2
    assert other.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "other.h5ad"]


def test_links_within_a_file_are_followed(cells):
    with h5py.File(cells, "r+") as root:
        root["uns"]["again"] = root["uns"]  # a group that contains itself
        root["alias"] = h5py.SoftLink("/obs")
        check_hdf5(root, "cells")
    assert open_source(find_source(str(cells))).n_cells == 6


def test_stores_with_symbolic_links_are_refused(cells, tmp_path):
    store = tmp_path / "cells.zarr"
    write_zarr(cells, store)
    with open_source(find_source(str(store))) as source:
        assert source.n_cells == 6
    (tmp_path / "secret.txt").write_text("secret")
    os.symlink(tmp_path / "secret.txt", store / "obs" / "secret")
    with pytest.raises(UserError, match="obs/secret is a symbolic link"):
        open_source(find_source(str(store)))
    assert run_cli("describe", store, "--out", tmp_path / "out.zarr") == 2 and not (tmp_path / "out.zarr").exists()


def test_an_input_that_changes_while_it_is_read_is_refused(cells, tmp_path, monkeypatch):
    from cell2text.describe import shard_writing

    def change(table, path, real=shard_writing.write_shard):
        real(table, path)
        with open(cells, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\1")

    out = tmp_path / "out.csv"
    out.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(shard_writing, "write_shard", change)
        monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
        with pytest.raises(UserError, match=r"cells: was changed while it was read"):
            describe_file(cells, out, overwrite=True, progress=False)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "out.csv"]
    describe_file(cells, out, overwrite=True, progress=False)
    assert len(pd.read_csv(out)) == 6 and sorted(p.name for p in tmp_path.iterdir()) == ["cells.h5ad", "out.csv"]


def test_removal_and_replacement_are_changes(cells, tmp_path):
    identity = file_identity(f"file://{cells}")
    check_unchanged(identity, "cells")
    copy = tmp_path / "copy.h5ad"
    shutil.copy2(cells, copy)
    os.replace(copy, cells)
    with pytest.raises(UserError, match="changed"):
        check_unchanged(identity, "cells")
    cells.unlink()
    with pytest.raises(UserError, match="removed"):
        check_unchanged(identity, "cells")


def test_a_second_run_into_the_same_output_says_who_holds_it(cells, tmp_path, monkeypatch):
    out, errors = tmp_path / "out.csv", []
    from cell2text.describe import shard_writing

    def second(table, path, real=shard_writing.write_shard):
        real(table, path)

        def start():
            with pytest.raises(BusyError) as caught:
                describe_file(cells, out, progress=False)
            errors.append(str(caught.value))

        thread = threading.Thread(target=start)
        monkeypatch.setattr(shard_writing, "write_shard", real)
        thread.start()
        thread.join()

    monkeypatch.setattr(shard_writing, "write_shard", second)
    describe_file(cells, out, progress=False)
    assert f"(process {os.getpid()} on " in errors[0] and len(pd.read_csv(out)) == 6
    assert not ShardFolder(out).path.exists()


def test_files_of_others_beside_the_shards_are_kept(cells, tmp_path):
    folder = tmp_path / "out.csv.describing"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (tmp_path / ".out.partial.csv").write_text("mine")
    describe_file(cells, tmp_path / "out.csv", progress=False)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert (tmp_path / ".out.partial.csv").read_text() == "mine"


def test_a_refused_run_leaves_no_plan(cells, tmp_path, monkeypatch):
    from cell2text.describe.engine import Describer

    def fail(self, cells):
        raise UserError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(Describer, "__call__", fail)
        with pytest.raises(UserError, match="refused"):
            describe_file(cells, tmp_path / "out.csv", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


def test_a_lock_leaves_nothing_behind(tmp_path):
    held, second = (lock_folder(tmp_path / "work", "out") for _ in range(2))
    with held, pytest.raises(BusyError, match=f"process {os.getpid()}"), second:
        pass
    assert not list(tmp_path.iterdir())


def test_csv_files_hold_no_formulas_unless_asked_for(cells, tmp_path):
    adata = ad.read_h5ad(cells)
    adata.obs_names = ["=cmd()", "+1", "-1", "@x", "plain", "a=b"]
    adata.write_h5ad(cells)
    describe_file(cells, tmp_path / "safe.csv", progress=False)
    describe_file(cells, tmp_path / "plain.csv", progress=False, options=DescribeOptions(plain_csv=True))
    safe, plain = (pd.read_csv(tmp_path / f"{name}.csv")["cell_id"].tolist() for name in ("safe", "plain"))
    assert safe == ["'=cmd()", "'+1", "'-1", "'@x", "plain", "a=b"] and plain == adata.obs_names.tolist()
    assert harmless(-1.0) == -1.0 and harmless(None) is None


def test_links_to_nothing_and_to_themselves_are_refused(cells):
    with h5py.File(cells, "r+") as root:
        root["uns"]["loop"] = h5py.SoftLink("/uns/loop")
        with pytest.raises(UserError, match="/uns/loop is a link to nothing, or to itself"):
            check_hdf5(root, "cells")


def test_the_input_is_never_the_table_of_groups_of_the_output(tmp_path):
    lists = tmp_path / "x.groups.csv"
    lists.write_text("cell,genes\na,CD3D CD3E\n")
    with pytest.raises(UserError, match="its table of groups is the input"):
        describe_file(lists, tmp_path / "x.csv", overwrite=True, progress=False)
    assert lists.exists()


def test_partial_files_of_a_killed_run_are_removed(cells, tmp_path):
    folder = ShardFolder(tmp_path / "out.csv")
    folder.path.mkdir()
    for name in (".holder.json.7.partial", ".output.groups.csv.7.partial", ".rows-0000000000.parquet.7.partial"):
        (folder.path / name).write_text("")
    describe_file(cells, folder.out, progress=False)
    assert not folder.path.exists()


def test_a_link_to_a_store_is_replaced_by_the_output(cells, tmp_path):
    write_zarr(cells, tmp_path / "real.zarr")
    (tmp_path / "out.zarr").symlink_to(tmp_path / "real.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        describe_file(cells, tmp_path / "out.zarr", overwrite=True, progress=False)
    assert not (tmp_path / "out.zarr").is_symlink() and (tmp_path / "real.zarr").exists()


def test_a_search_is_written_as_csv_without_formulas_and_never_over_its_input(cells, tmp_path):
    adata = ad.read_h5ad(cells)
    adata.obs_names = [f"=cmd{i}" for i in range(6)]
    adata.write_h5ad(cells)
    before = cells.read_bytes()
    assert run_cli("search", cells, "pancreatic A cells", "--out", cells, "--overwrite") == 2
    assert cells.read_bytes() == before
    assert run_cli("search", cells, "pancreatic A cells", "--out", tmp_path / "found.csv") == 0
    assert pd.read_csv(tmp_path / "found.csv")["cell"].str.startswith("'=").all()

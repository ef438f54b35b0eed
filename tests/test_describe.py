"""Describe a file: equal texts for any batches and processes, output formats, resuming, and input errors."""

import json
import os
import shutil
import signal
import time
import warnings
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import fsspec
import h5py
import numpy as np
import pandas as pd
import pytest

from cell2text import tl
from cell2text.describe import DescribeOptions, describe_file
from cell2text.describe.engine import Describer
from cell2text.describe.ranked_cells import RankedCells
from cell2text.describe.shards import ShardFolder
from cell2text.errors import RunStoppedError, UserError
from declining_cell2text import EMPTY_CELL_TEXT

from .conftest import run_cli
from .describing import FAST, N_CELLS, experiment, model, texts_of, write_zarr  # noqa: F401
from .tiny import make_adata, make_model, make_processor


ADDED = [
    "_cell_type",
    "_cell_type_ontology_term_id",
    "_tissue",
    "_disease",
    "_pathways",
    "_type_probability",
    "_cell_type_candidates",
    "_n_genes",
    "_counts_used",
    "_coverage",
]


def test_texts_that_name_no_type_have_no_type_probability():
    processor = make_processor()
    model = make_model("concepts", processor=processor)
    cells = processor.rank_encode(make_adata(5))
    described = Describer(model, processor, FAST)(RankedCells(list("abcde"), cells, np.ones(5), np.ones(5), 1.0))
    assert described["type_probability"].null_count == 5  # the tiny model generates no words


def test_texts_do_not_depend_on_batch_shard_order_or_process(model, experiment, tmp_path):
    one = describe_file(experiment, tmp_path / "one.jsonl", model=str(model), options=FAST, progress=False)
    options = DescribeOptions(max_new_tokens=10, batch_size=3)
    other = describe_file(
        experiment, tmp_path / "b.jsonl", model=str(model), options=options, progress=False, shard_rows=7
    )
    assert texts_of(one) == texts_of(other) and len(set(texts_of(one))) > 5
    two = describe_file(
        experiment, tmp_path / "two.jsonl", model=str(model), options=FAST, progress=False, shard_rows=7, processes=2
    )
    assert two.read_bytes() == one.read_bytes() and not (tmp_path / "two.jsonl.describing").exists()
    adata = ad.read_h5ad(experiment)[::-1].copy()
    tl.describe(adata, str(model), max_new_tokens=10, batch_size=5)
    assert adata.obs["cell2text"].tolist() == texts_of(one)[::-1]


@pytest.mark.parametrize("ending", ["h5ad", "zarr", "jsonl", "parquet", "csv"])
def test_every_format_holds_the_same(ending, model, experiment, tmp_path):
    out = describe_file(experiment, tmp_path / f"out.{ending}", model=str(model), options=FAST, progress=False)
    expected = ad.read_h5ad(experiment)
    tl.describe(expected, str(model), max_new_tokens=10, batch_size=8)
    texts = expected.obs["cell2text"].tolist()
    assert texts[5] == EMPTY_CELL_TEXT and pd.isna(expected.obs["cell2text_cell_type"].iloc[5])
    if ending in ("h5ad", "zarr"):
        found = ad.read_h5ad(out) if ending == "h5ad" else ad.read_zarr(out)
        assert found.obs_names.tolist() == expected.obs_names.tolist()
        assert set(found.obs) == {"mine", "cell2text", *(c for c in expected.obs if c.startswith("cell2text_"))}
        assert {f"cell2text{name}" for name in ADDED} <= set(found.obs)
        for name in found.obs:
            pd.testing.assert_series_equal(
                found.obs[name].astype(object), expected.obs[name].astype(object), check_dtype=False
            )
        np.testing.assert_allclose(found.obsm["X_cell2text"], expected.obsm["X_cell2text"], atol=1e-6)
        assert found.obsm["X_cell2text"].dtype == np.float32
        before = ad.read_h5ad(experiment)
        assert (found.X != before.X).nnz == 0 and found.var.equals(before.var) and (found.obsm["X_pca"] == 1).all()
        assert found.uns["kept"]["colours"].tolist() == ["red", "blue"]
        params = found.uns["cell2text"]["params"]
        assert json.loads(params["options"])["max_new_tokens"] == 10 and params["model"] == str(model)
        assert "Describe" in params["prompt"] and json.loads(params["libraries"])["cell2text"]
    else:
        read = {"jsonl": lambda p: pd.read_json(p, lines=True), "csv": pd.read_csv, "parquet": pd.read_parquet}[ending]
        table = read(out)
        assert table["cell_id"].astype(str).tolist() == expected.obs_names.tolist()
        assert table["text"].fillna("").tolist() == texts
    assert not list(tmp_path.glob("*.describing")) and not list(tmp_path.glob(".*"))


def test_an_input_in_another_format_is_converted(model, experiment, tmp_path):
    write_zarr(experiment, tmp_path / "in.zarr")
    out = describe_file(tmp_path / "in.zarr", tmp_path / "out.h5ad", model=str(model), options=FAST, progress=False)
    same = describe_file(experiment, tmp_path / "same.h5ad", model=str(model), options=FAST, progress=False)
    assert ad.read_h5ad(out).obs["cell2text"].tolist() == ad.read_h5ad(same).obs["cell2text"].tolist()


def test_describing_again_replaces_the_descriptions(model, experiment, tmp_path):
    first = describe_file(experiment, tmp_path / "a.h5ad", model=str(model), options=FAST, progress=False)
    short = DescribeOptions(max_new_tokens=2, fields_only=True)
    with pytest.raises(UserError, match="has the column 'cell2text' in obs.*overwrite=True"):
        describe_file(first, tmp_path / "b.h5ad", model=str(model), options=short, progress=False)
    second = describe_file(first, tmp_path / "b.h5ad", model=str(model), options=short, progress=False, overwrite=True)
    found = ad.read_h5ad(second)
    assert "cell2text" not in found.obs and "cell2text_cell_type" in found.obs
    assert json.loads(found.uns["cell2text"]["params"]["options"])["max_new_tokens"] == 2
    with h5py.File(second) as file:
        order = list(file["obs"].attrs["column-order"])
    assert len(order) == len(set(order)) == found.obs.shape[1]


def wait_for_shard(folder, forked, process):
    """Wait until a run has written its first shard."""
    while not list(folder.glob("rows-*.parquet")) and forked.poll(process) is None:
        time.sleep(0.003)


def stop(process, with_signal):
    """Send a signal to a process, which may have ended."""
    with suppress(ProcessLookupError):
        os.kill(process, with_signal)


def test_a_killed_run_of_two_processes_resumes_to_the_same_output(model, experiment, tmp_path, forked):
    whole = describe_file(
        experiment, tmp_path / "whole.jsonl", model=str(model), options=FAST, progress=False, shard_rows=4
    )
    out, folder = tmp_path / "killed.jsonl", tmp_path / "killed.jsonl.describing"
    arguments = ("-m", "cell2text.describe", experiment, "--model", model, "--out", out, "--max-new-tokens", 10,
                 "--batch-size", 8, "--quiet", "--shard-rows", 2)  # fmt: skip
    logs = [tmp_path / f"rank{rank}.log" for rank in (0, 1)]

    def start():
        shared = {"WORLD_SIZE": "2"}  # set by a launcher
        return [
            forked.start(*arguments, folder=tmp_path, log=log, **shared, RANK=str(rank))
            for rank, log in enumerate(logs)
        ]

    processes = start()
    wait_for_shard(folder, forked, processes[0])
    for process in processes:
        stop(process, signal.SIGKILL)
        forked.wait(process)
    done = len(list(folder.glob("rows-*.parquet")))
    assert 1 <= done < 15 and not out.exists()
    processes = start()
    assert [forked.wait(process) for process in processes] == [0, 0], [log.read_text() for log in logs]
    assert [out.name in log.read_text() for log in logs] == [True, False]
    assert out.read_bytes() == whole.read_bytes() and not folder.exists()


def test_a_terminated_run_leaves_shards_and_no_lock(model, experiment, tmp_path, forked):
    out, folder, log = tmp_path / "out.jsonl", tmp_path / "out.jsonl.describing", tmp_path / "log.txt"
    arguments = ("-m", "cell2text.describe", experiment, "--model", model, "--out", out, "--max-new-tokens", 10,
                 "--quiet", "--shard-rows", 1)  # fmt: skip
    process = forked.start(*arguments, folder=tmp_path, log=log)
    wait_for_shard(folder, forked, process)
    stop(process, signal.SIGTERM)
    assert forked.wait(process) == 128 + signal.SIGTERM, log.read_text()
    names = {path.name for path in folder.iterdir()}
    assert "plan.json" in names and not out.exists()
    assert all(name == "plan.json" or name.startswith("rows-") for name in names)
    assert forked.wait(forked.start(*arguments, folder=tmp_path, log=log)) == 0, log.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl", "log.txt"}


def test_a_killed_worker_ends_the_run_which_resumes_to_the_same_output(model, experiment, tmp_path, monkeypatch):
    from cell2text.describe import shard_writing

    options = {"model": str(model), "options": FAST, "progress": False, "shard_rows": 7}
    expected = describe_file(experiment, tmp_path / "expected.csv", **options).read_bytes()
    parent = os.getpid()

    def die_at_the_end(table, path, real=shard_writing.write_shard):
        if os.getpid() != parent and path.name == "rows-0000000021.parquet":
            os.kill(os.getpid(), signal.SIGKILL)
        real(table, path)

    with monkeypatch.context() as patch:
        patch.setattr(shard_writing, "write_shard", die_at_the_end)
        with pytest.raises(RunStoppedError, match="A worker process was killed.*with a smaller processes="):
            describe_file(experiment, tmp_path / "o.csv", processes=2, **options)
    assert not (tmp_path / "o.csv").exists() and (tmp_path / "o.csv.describing").exists()
    assert describe_file(experiment, tmp_path / "o.csv", processes=2, **options).read_bytes() == expected


def test_an_error_in_a_worker_is_that_of_one_process(model, experiment, tmp_path):
    adata = ad.read_h5ad(experiment)
    adata.X[25, 3] = np.nan
    adata.write_h5ad(tmp_path / "nan.h5ad")
    for processes in (1, 2):
        with pytest.raises(ValueError, match="NaN"):
            describe_file(
                tmp_path / "nan.h5ad", tmp_path / "o.csv", model=str(model), options=FAST, progress=False,
                shard_rows=7, processes=processes,
            )  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nan.h5ad"]


def test_a_resumed_run_describes_only_missing_shards(model, experiment, tmp_path, monkeypatch):
    from cell2text.describe import run, shard_writing

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_output", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            describe_file(experiment, tmp_path / "o.csv", model=str(model), options=FAST, progress=False, shard_rows=10)
    folder = tmp_path / "o.csv.describing"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert len(before) == 3
    ShardFolder(tmp_path / "o.csv").shard(10).unlink()
    with pytest.raises(ValueError, match="left by an interrupted run with different options. Pass overwrite=True"):
        describe_file(experiment, tmp_path / "o.csv", model=str(model), progress=False, shard_rows=10)
    written = []
    monkeypatch.setattr(
        shard_writing,
        "write_shard",
        lambda table, path, real=shard_writing.write_shard: written.append(path.name) or real(table, path),
    )
    describe_file(experiment, tmp_path / "o.csv", model=str(model), options=FAST, progress=False, shard_rows=10)
    assert written == ["rows-0000000010.parquet"] and pd.read_csv(tmp_path / "o.csv").shape[0] == N_CELLS


def test_a_zarr_store_is_replaced(model, experiment, tmp_path):
    for limit in (3, 6):
        options = DescribeOptions(max_new_tokens=limit)
        out = describe_file(
            experiment, tmp_path / "o.zarr", model=str(model), options=options, progress=False, overwrite=True
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        params = ad.read_zarr(out).uns["cell2text"]["params"]
    assert json.loads(params["options"])["max_new_tokens"] == 6 and [p.name for p in tmp_path.iterdir()] == ["o.zarr"]


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda a: a.X.__setattr__("data", np.log1p(a.X.data)), {}, "holds log-normalised values"),
        (lambda a: a.X.data.__setitem__(0, np.nan), {}, "holds NaN"),
        (lambda a: a.var.__setattr__("index", [f"Gene{i}" for i in range(60)]), {}, "genes are in the vocabulary"),
        (lambda a: None, {"layer": "counts"}, "no layer 'counts'|layer='counts'"),
        (lambda a: None, {"gene_key": "symbol"}, "symbol"),
        (lambda a: None, {"compare_to": "cell99"}, "0 of 30 cells have this name"),
    ],
)
def test_files_and_python_raise_the_same_errors(spoil, options, message, model, experiment, tmp_path):
    adata = ad.read_h5ad(experiment)
    if "feature_name" in adata.var:
        del adata.var["feature_name"]
    spoil(adata)
    adata.write_h5ad(tmp_path / "bad.h5ad")
    with pytest.raises((ValueError, KeyError), match=message):
        describe_file(
            tmp_path / "bad.h5ad",
            tmp_path / "o.csv",
            model=str(model),
            options=DescribeOptions(**options),
            progress=False,
        )
    with pytest.raises((ValueError, KeyError), match=message):
        tl.describe(adata, str(model), **options)
    assert not (tmp_path / "o.csv").exists() and "cell2text" not in adata.obs


def test_an_experiment_without_cells_raises(model, experiment, tmp_path):
    adata = ad.read_h5ad(experiment)[:0].copy()
    adata.write_h5ad(tmp_path / "none.h5ad")
    with pytest.raises(ValueError, match="none.h5ad holds no cells"):
        describe_file(tmp_path / "none.h5ad", tmp_path / "o.csv", model=str(model), progress=False)
    with pytest.raises(ValueError, match="holds no cells"):
        tl.describe(adata, str(model))


def test_wrong_paths_and_models_end_in_one_line(model, experiment, tmp_path, capsys):
    zarr = tmp_path / "in.zarr"
    write_zarr(experiment, zarr)
    (tmp_path / "there.csv").write_text("precious")
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "processor_config.json").unlink()
    other = tmp_path / "other"
    shutil.copytree(model, other)
    rows = (other / "gene_vocabulary.tsv").read_text().splitlines()
    extra = "\t".join([str(int(rows[-1].split("\t")[0]) + 1), "ENSG00000999999", "1.0", "EXTRA"])
    (other / "gene_vocabulary.tsv").write_text("\n".join([*rows, extra]) + "\n")
    llama = tmp_path / "llama"
    llama.mkdir()
    (llama / "config.json").write_text('{"model_type": "llama"}')
    cases = [
        (experiment, model, experiment, "is the input or lies inside it"),
        (zarr, model, zarr / "obs.csv", "is the input or lies inside it"),
        (experiment, model, tmp_path / "there.csv", r"exists\. Pass overwrite=True"),
        (experiment, model, tmp_path / "no" / "o.csv", "does not exist"),
        (experiment, model, tmp_path / "o.txt", "expected one of the suffixes h5ad"),
        (tmp_path / "nowhere.h5ad", model, tmp_path / "o.csv", "does not exist"),
        (experiment, bare, tmp_path / "o.csv", "has no processor"),
        (experiment, other, tmp_path / "o.csv", "do not belong together|belong together"),
        (experiment, llama, tmp_path / "o.csv", "of type 'llama'. Expected type 'cell2text'"),
        (experiment, tmp_path / "gone", tmp_path / "o.csv", "gone' does not exist"),
    ]
    for source, folder, out, message in cases:
        with pytest.raises(ValueError, match=message):
            describe_file(source, out, model=str(folder), options=FAST, progress=False)
    assert (tmp_path / "there.csv").read_text() == "precious" and not (tmp_path / "o.csv").exists()
    capsys.readouterr()
    assert run_cli("describe", experiment, "--model", model, "--out", tmp_path / "there.csv") == 2
    printed = capsys.readouterr().err
    assert printed.startswith("cell2text: --out") and "Pass --overwrite" in printed and "Traceback" not in printed


def test_a_file_at_an_address_is_described_into_the_current_folder(model, experiment, tmp_path, monkeypatch, capsys):
    with fsspec.open("memory://described/four.h5ad", "wb") as file:
        file.write(experiment.read_bytes())
    monkeypatch.chdir(tmp_path)
    out = describe_file("memory://described/four.h5ad", model=str(model), options=FAST)
    assert out == Path("four.described.h5ad") and [path.name for path in tmp_path.iterdir()] == [out.name]
    local = describe_file(experiment, tmp_path / "local.h5ad", model=str(model), options=FAST, progress=False)
    assert list(ad.read_h5ad(out).obs["cell2text"]) == list(ad.read_h5ad(local).obs["cell2text"])
    assert ad.read_h5ad(out).obs_names[0] in capsys.readouterr().out
    with pytest.raises(ValueError, match="is not writable|does not exist"):
        describe_file(experiment, "/proc/other.h5ad", model=str(model), options=FAST)


def test_an_interrupted_write_leaves_the_existing_output(model, experiment, tmp_path, monkeypatch):
    from cell2text.describe import writers

    out = describe_file(experiment, tmp_path / "o.h5ad", model=str(model), options=FAST, progress=False)
    before = out.read_bytes()

    def broken(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writers, "write_embedding", broken)
        with pytest.raises(OSError, match="No space"):
            describe_file(experiment, out, model=str(model), options=FAST, progress=False, overwrite=True)
    assert out.read_bytes() == before and [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    describe_file(experiment, out, model=str(model), options=FAST, progress=False, overwrite=True)
    assert ad.read_h5ad(out).obs["cell2text"].notna().all()


def test_describing_again_removes_columns_of_earlier_versions(model, experiment, tmp_path):
    adata = ad.read_h5ad(experiment)[:3].copy()
    adata.obs["cell2text_confidence"] = adata.obs["cell2text_mapped_fraction"] = 0.5  # columns of the user
    tl.describe(adata, str(model), max_new_tokens=4)
    assert "cell2text_confidence" in adata.obs
    adata.write_h5ad(tmp_path / "before.h5ad")
    tl.describe(adata, str(model), max_new_tokens=4)
    assert not {"cell2text_confidence", "cell2text_mapped_fraction"} & set(adata.obs)
    out = describe_file(
        tmp_path / "before.h5ad", tmp_path / "after.h5ad", model=str(model), options=FAST, overwrite=True,
        progress=False,
    )  # fmt: skip
    assert not {"cell2text_confidence", "cell2text_mapped_fraction"} & set(ad.read_h5ad(out).obs)


def test_the_number_of_processes_follows_cores_memory_shards_and_device(monkeypatch):
    from cell2text.describe import shard_writing

    monkeypatch.setattr(shard_writing, "available_cores", lambda: 8)
    monkeypatch.setattr(shard_writing.psutil, "virtual_memory", lambda: SimpleNamespace(available=5 * 2**30))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    number = shard_writing.number_of_processes
    assert [number(None, "cpu", 100), number(None, "cpu", 3), number(12, "cpu", 100), number(None, "cuda", 9)] == [
        5, 3, 12, 1,
    ]  # fmt: skip
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert number(None, "cpu", 100) == 1

"""Interrupted runs resume and end with the same output."""

import errno
import os
import signal
import subprocess
import sys
import time

import anndata as ad
import pyarrow.parquet as pq
import pytest
import yaml

import cell2text.preparation.jobs as jobs_module

from .conftest import run_cli
from .preparation_runs import MIX, digest, load_rows, make_file, prepare_studies


def test_a_failed_run_resumes_with_the_same_output(studies, prepared, tmp_path, monkeypatch):
    done = []

    def fail_at_the_fourth(table, path):
        done.append(path)
        if len(done) == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(table, path)

    write = jobs_module.write_table
    monkeypatch.setattr(jobs_module, "write_table", fail_at_the_fourth)
    with pytest.raises(OSError, match="No space left on device"):
        prepare_studies(studies, tmp_path / "out")
    assert not (tmp_path / "out" / "report.json").exists()
    first = done[0].stat().st_mtime_ns
    monkeypatch.setattr(jobs_module, "write_table", write)
    prepare_studies(studies, tmp_path / "out")
    assert done[0].stat().st_mtime_ns == first  # what was done is not done again
    assert digest(tmp_path / "out") == digest(prepared)


def test_a_full_disk_leaves_no_partial_file_and_explains_how_to_resume(studies, tmp_path, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    vocabulary = ("--gene-vocab", studies / "vocabulary")
    assert run_cli("prepare", studies / "cells", "--out", tmp_path / "out", "--quiet", *vocabulary) == 1
    message = capsys.readouterr().err
    assert message.startswith("cell2text: The disk is full") and "run the same command again to resume" in message
    assert not list((tmp_path / "out").rglob("*.partial"))


def command_line(studies, out, *more):
    return [
        "prepare", str(studies / "cells"), "--out", str(out), "--quiet", "--gene-vocab", str(studies / "vocabulary"),
        "--gene-sets", str(studies / "sets.gmt"), "--config", str(studies / "mix.yaml"), *more,
    ]  # fmt: skip


def test_a_killed_run_of_four_workers_resumes_with_the_same_output(studies, prepared, tmp_path):
    """benchmarks/interruptions.py does this many times; here once, when some jobs are done."""
    (studies / "mix.yaml").write_text(yaml.safe_dump({"split": "donor", "tasks": MIX, "cells_per_shard": 25}))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "cell2text", *command_line(studies, out, "--workers", "4")]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 120
    while (
        not list((out / ".prepare" / "jobs").glob("0*.json")) and time.monotonic() < deadline and process.poll() is None
    ):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)  # the workers must notice by themselves
    assert process.wait() == -signal.SIGKILL
    left = len(list((out / ".prepare" / "jobs").glob("0*.json")))
    assert 0 < left < 10
    assert run_cli(*command_line(studies, out)) == 0
    assert digest(out) == digest(prepared)


def test_a_resumed_run_still_skips_the_files_it_skipped_before(studies, tmp_path, monkeypatch):
    make_file(tmp_path / "long.h5ad", 400, seed=5, prefix="long")
    adata = ad.read_h5ad(tmp_path / "long.h5ad")
    adata.X.data[adata.X.indptr[360]] = 0.5
    adata.write_h5ad(tmp_path / "long.h5ad")
    inputs = [studies / "cells", tmp_path / "long.h5ad"]
    prepare_studies(studies, tmp_path / "whole", inputs=inputs, skip_bad_files=True)
    planned = []

    def fail_in_the_second_round(table, path):
        rounds = len({os.stat(tmp_path / "out" / ".prepare" / "plan.json").st_mtime_ns, *planned})
        planned.append(os.stat(tmp_path / "out" / ".prepare" / "plan.json").st_mtime_ns)
        if rounds > 1:
            raise OSError(errno.EIO, "pulled the plug")
        write(table, path)

    write = jobs_module.write_table
    monkeypatch.setattr(jobs_module, "write_table", fail_in_the_second_round)
    with pytest.raises(OSError, match="pulled the plug"):
        prepare_studies(studies, tmp_path / "out", inputs=inputs, skip_bad_files=True)
    monkeypatch.setattr(jobs_module, "write_table", write)
    prepare_studies(studies, tmp_path / "out", inputs=inputs, skip_bad_files=True)
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


def test_leftovers_of_a_run_killed_at_its_end_are_removed(studies, prepared, tmp_path):
    import shutil

    shutil.copytree(prepared, tmp_path / "out")
    (tmp_path / "out" / ".prepare" / "jobs").mkdir(parents=True)
    (tmp_path / "out" / ".prepare" / "plan.json").write_text("{}")
    prepare_studies(studies, tmp_path / "out")
    assert digest(tmp_path / "out") == digest(prepared)
    (tmp_path / "out" / "report.json").unlink()
    (tmp_path / "out" / ".prepare").mkdir()
    (tmp_path / "out" / ".report.html.77.partial").write_text("half of it")
    (tmp_path / "out" / "data" / "train-99999.parquet").write_bytes(b"a shard of an older plan")
    prepare_studies(studies, tmp_path / "out")
    assert digest(tmp_path / "out") == digest(prepared)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_job_of_an_older_plan_writes_into_the_new_one(workers, studies, tmp_path):
    """A fault deep in one file, found while other jobs are under way: their cells stand in the output once."""
    make_file(tmp_path / "cells" / "a_bad.h5ad", 400, seed=5, prefix="bad")
    adata = ad.read_h5ad(tmp_path / "cells" / "a_bad.h5ad")
    adata.X.data[adata.X.indptr[300]] = 0.5
    adata.write_h5ad(tmp_path / "cells" / "a_bad.h5ad")
    make_file(tmp_path / "cells" / "good.h5ad", 3000, seed=6, prefix="good")
    prepare_studies(
        studies,
        tmp_path / "out",
        inputs=[tmp_path / "cells"],
        skip_bad_files=True,
        workers=workers,
        cells_per_shard=100,
    )
    ids = [cell for split in load_rows(tmp_path / "out", tmp_path).values() for cell in split["cell_id"]]
    assert len(ids) == len(set(ids)) == 3000

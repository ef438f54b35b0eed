"""Faults that stop a run: full disks as each library reports them, servers that say nothing, and hostile messages."""

import errno
import resource
import socket
import threading

import h5py
import numpy as np
import pandas as pd
import pytest

from cell2text.app.experiment import Experiment
from cell2text.describe.described_file import Described
from cell2text.errors import UserError, exit_code, guard, message_of
from cell2text.files import write_atomically

from .conftest import run_cli
from .tiny import make_adata


class SafetensorError(Exception):
    """Stands for the class of the same name, which only Rust code raises with such a message."""


def raised_from(cause: Exception, error: Exception) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


FULL = [
    OSError(errno.ENOSPC, "No space left on device", "a.csv"),
    OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
    RuntimeError("basic_ios::clear: iostream error"),
    RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
    raised_from(OSError(errno.ENOSPC, "No space left on device"), UserError("anndata cannot write x as h5ad")),
    raised_from(OSError(errno.EDQUOT, "Disk quota exceeded"), RuntimeError("cannot save")),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_a_full_disk_has_one_message_whatever_library_met_it(error):
    assert exit_code(error) == 1
    assert message_of(error).startswith("The disk is full (") and "to resume" in message_of(error)


def test_other_errors_are_not_taken_for_a_full_disk():
    for error in (
        OSError(errno.EIO, "Input/output error"),
        RuntimeError("CUDA error"),
        raised_from(OSError(errno.ENOENT, "No such file", "a"), UserError("a does not exist")),
    ):
        assert "full" not in message_of(error)


def test_a_limit_on_the_size_of_files_is_named_and_keeps_the_old_file(tmp_path, capsys):
    path, before = tmp_path / "a.txt", resource.getrlimit(resource.RLIMIT_FSIZE)
    write_atomically(path, "old")

    def write_text():
        write_atomically(path, "x" * 100_000)

    def write_hdf5():
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["x"] = np.arange(100_000)

    for write in (write_text, write_hdf5):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        try:
            code = guard("cell2text", write, flags={})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        (line,) = capsys.readouterr().err.splitlines()
        assert code == 1 and "(ulimit -f)" in line and "File too large" in line
    assert path.read_text() == "old" and not list(tmp_path.glob(".*"))
    write_text()
    assert len(path.read_text()) == 100_000


def test_messages_are_one_line_of_bounded_length_without_control_characters(capsys):
    def fail():
        raise UserError("the column 'a\x1b[2Jb\nc\u2028d' " + "x" * 10_000)

    assert guard("cell2text", fail, flags={}) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("cell2text: the column 'a [2Jb c d' xx") and printed.count("\n") == 1
    assert len(printed) < 4_100


def test_an_error_that_is_its_own_cause_is_printed(capsys):
    def fail():
        error = UserError("no cells")
        raise error from error

    assert guard("cell2text", fail, flags={}) == 2
    assert capsys.readouterr().err == "cell2text: no cells\n"


@pytest.mark.parametrize(("command", "out"), [("describe", "out.csv"), ("prepare", "out"), ("report", "out.html")])
@pytest.mark.parametrize("missing", ["obs", "var"])
def test_hdf5_files_that_are_no_anndata_are_refused_in_one_line(command, out, missing, tmp_path, capsys):
    path = tmp_path / "cells.h5ad"
    make_adata(5).write_h5ad(path)
    with h5py.File(path, "r+") as root:
        del root[missing]
    assert run_cli(command, path, "--out", tmp_path / out) == 2
    line = capsys.readouterr().err.splitlines()[-1].rpartition("\r")[-1]  # after the progress
    assert line.startswith("cell2text: ") and "cells" in line


def test_a_scheduler_that_accepts_and_says_nothing_is_refused(monkeypatch):
    pytest.importorskip("distributed")
    from cell2text.preparation import executor

    monkeypatch.setattr(executor, "DASK_TIMEOUT_SECONDS", 0.5)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        accepted: list = []
        threading.Thread(target=lambda: accepted.append(server.accept()), daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match="does not answer within 0.5 seconds"):
            executor._connect_to_dask(address)
    for address in ("banana", "tcp://", "http://x", "tcp://127.0.0.1:1"):
        with pytest.raises(UserError, match="does not answer"):
            executor._connect_to_dask(address)


def test_a_scheduler_without_workers_is_refused(monkeypatch):
    distributed = pytest.importorskip("distributed")
    from cell2text.preparation import executor

    monkeypatch.setattr(executor, "DASK_WORKERS_SECONDS", 0.5)
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster,
        pytest.raises(UserError, match="has no worker after 0.5 seconds.*Start one first: dask worker"),
    ):
        executor._connect_to_dask(cluster.scheduler_address)


def test_cells_are_found_by_name_and_type_without_a_search(monkeypatch):
    types = pd.Categorical(["B cell", "T cell", None, "T cell"])
    cells = pd.DataFrame({"cell_type": types}, index=["a1", "a2", "b", "b"])
    experiment = Experiment(
        Described(None, cells, [], None, {}, {}), "cell2text", np.arange(4), np.zeros((4, 2)), "map", None
    )
    assert experiment.row_of("a2") == experiment.find("A2") == 1
    assert experiment.rows_by_type["T cell"].tolist() == [1, 3] and set(experiment.rows_by_type) == {"B cell", "T cell"}
    for name, number in (("a", 0), ("b", 2)):
        with pytest.raises(UserError, match=f"{number} of 4 cells have the name '{name}'"):
            experiment.row_of(name)
    with pytest.raises(UserError, match="2 of 4 cells have 'a' in their name"):
        experiment.find("a")

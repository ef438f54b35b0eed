"""Paths: what is read, and what can be written, is checked before any work."""

import os
import socket

import pytest

from cell2text.cli import app
from cell2text.errors import UserError
from cell2text.options import Options, option
from cell2text.paths import check_arguments, check_folder, check_input, check_output
from cell2text.sources.discovery import find_sources
from cell2text.sources.safety import check_store

from .conftest import run_cli


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket is at most 108 bytes long
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


SPECIAL = {
    "a named pipe": os.mkfifo,
    "a socket": make_socket,
    "a device": lambda path: os.symlink("/dev/zero", path),
}


@pytest.fixture(params=SPECIAL)
def special(request, tmp_path):
    """A path that leads to something that is neither a file nor a folder, and what it is."""
    path = tmp_path / "x.h5ad"
    SPECIAL[request.param](path)
    return path, request.param


def test_pipes_sockets_and_devices_are_neither_read_nor_written(special):
    path, kind = special
    for check in (check_input, check_output, lambda path: find_sources([str(path.parent)])):
        with pytest.raises(UserError, match=f"x.h5ad'? is {kind}"):
            check(path)
    with pytest.raises(UserError, match=kind):
        check_store(path.parent, "store")
    with pytest.raises(UserError, match=kind):
        check_folder(path.parent)


COMMANDS = (
    ["describe", "@"], ["describe", "cells.h5ad", "--model", "@"], ["describe", "cells.h5ad", "--out", "@"],
    ["describe", "cells.h5ad", "--prompt", "@"], ["report", "@"], ["report", "cells.h5ad", "--out", "@"],
    ["example", "--out", "@"], ["prepare", "@"], ["prepare", "cells.h5ad", "--config", "@"],
    ["prepare", "cells.h5ad", "--gene-sets", "@"], ["prepare", "cells.h5ad", "--out", "@"],
    ["vocab", "@"], ["simulate", "@"], ["simulate", "cells.h5ad", "--like", "@"],
    ["evaluate", "@"], ["evaluate", "cells.h5ad", "--references", "@"], ["evaluate", "cells.h5ad", "--out", "@"],
    ["evaluate", "cells.h5ad", "--embeddings", "@"], ["evaluate", "cells.h5ad", "--counts", "@"],
    ["ask", "@", "What is it?"], ["score", "@", "B cell"], ["score", "cells.h5ad", "B cell", "--out", "@"],
    ["search", "@", "B cells"], ["search", "cells.h5ad", "B cells", "--out", "@"], ["export", "@", "--out", "x.json"],
    ["export", "cells.h5ad", "--out", "@"], ["push", "@", "a/b"], ["app", "@"], ["app", "--model", "@"],
    ["donors", "@"], ["donors", "cells.h5ad", "--out", "@"], ["generate", "B cell", "--out", "@"],
)  # fmt: skip


def test_every_command_that_takes_a_path_is_tried():
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert commands == {arguments[0] for arguments in COMMANDS}


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_refuses_a_named_pipe_in_one_line(arguments, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "cells.h5ad").write_bytes(b"")
    paths = {"@": tmp_path / "pipe", "cells.h5ad": tmp_path / "cells.h5ad"}
    assert run_cli(*[paths.get(one, one) for one in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("pipe is a named pipe. Expected the path of a file or folder.")


def test_paths_in_options_are_checked_wherever_they_come_from(tmp_path):
    from dataclasses import dataclass

    @dataclass
    class Reading(Options):
        inputs: list[str] = option(factory=list, help="Files.")

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "config.yaml").write_text(f"inputs: [{tmp_path / 'pipe'}]\n")
    with pytest.raises(UserError, match="named pipe"):
        Reading.from_yaml(tmp_path / "config.yaml")
    with pytest.raises(UserError, match="named pipe"):
        Reading.from_yaml(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"'x.udcff' is not valid UTF-8"):
        check_arguments(["x\udcff"])
    check_arguments([str(tmp_path), 3, None, "Is this a T cell?", "s3://bucket/pipe", "\0", "x" * 10_000])


def test_an_output_must_be_creatable(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    for out, options, message in (
        (tmp_path / "no" / "a.csv", {}, "does not exist. Create it first"),
        (tmp_path / "file" / "a.csv", {}, "is not a folder"),
        (tmp_path / "folder", {}, "is a folder. Choose the name of a file"),
        (tmp_path / "file", {"folder": True}, "is a file. Choose a folder"),
        (tmp_path / "file" / "a" / "b", {"folder": True, "parents": True}, "is not a folder"),
        (tmp_path / "loop", {}, "is a symbolic link to nothing"),
        (tmp_path / "dangling", {"folder": True}, "is a symbolic link to nothing"),
        ("", {}, "not the name of a file"),
        (".", {}, "not the name of a file"),
        ("/proc/a.csv", {}, "is not writable|does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            check_output(out, **options)
    for name in ("loop", "dangling"):
        (tmp_path / name).unlink()
    check_output(tmp_path / "file")
    check_output(tmp_path / "folder", folder=True)
    check_output(tmp_path / "a" / "b" / "c", folder=True, parents=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_names_leave_room_for_temporary_files(tmp_path):
    check_output(tmp_path / ("n" * 227 + ".csv"))
    for size in (240, 300):
        with pytest.raises(UserError, match=rf"the name has {size + 4} bytes, expected at most 231"):
            check_output(tmp_path / ("n" * size + ".csv"))


def test_a_folder_of_other_files_is_never_replaced_by_a_store(tmp_path):
    from cell2text.describe.run import describe_file
    from cell2text.example import example_cells

    example_cells(unseen=True)[:2].copy().write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "out.zarr" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="folder of other files, not a zarr store"):
        describe_file(tmp_path / "cells.h5ad", tmp_path / "out.zarr", overwrite=True, progress=False)
    assert (tmp_path / "out.zarr" / "mine.txt").read_text() == "mine"

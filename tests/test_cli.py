"""The command line as a whole: start-up, help, version, verbosity and errors."""

import json
import logging
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cell2text import __version__
from cell2text.cli import app

from .conftest import run_cli


COMMANDS = (
    "example",
    "describe",
    "report",
    "prepare",
    "vocab",
    "simulate",
    "evaluate",
    "push",
    "ask",
    "score",
    "search",
    "donors",
    "app",
)
LIGHT = """
import json, sys
from cell2text.cli import run
codes = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["cell2text", *arguments]
    try:
        run()
    except SystemExit as stopped:
        codes.append(stopped.code)
loaded = [name for name in ("anndata", "numpy", "pandas", "torch", "transformers") if name in sys.modules]
print(json.dumps({"codes": codes, "loaded": loaded}))
"""


def test_help_and_wrong_usage_load_no_library(tmp_path):
    """One process runs them all, and none of the libraries that take seconds is loaded in the end."""
    calls = [
        ["--help"],
        ["--version"],
        *([command, "--help"] for command in COMMANDS),
        ["describe", "nowhere.h5ad"],
        ["describe", "nowhere.h5ad", "--batch-size", "0"],
        ["describe", "here.h5ad", "--model", "./nowhere"],
        ["describe", "here.h5ad", "--out", "no/where.h5ad"],
        ["prepare", "nowhere.h5ad"],
        ["prepare", "here.h5ad", "--split", "patient"],
        ["vocab"],
        ["evaluate", "nowhere.jsonl"],
        ["push", "nowhere", "lab/model"],
        ["ask", "nowhere.h5ad", "Is this a T cell?"],
        ["ask", "here.h5ad", "Is this a T cell?", "--where", "leiden"],
        ["score", "here.h5ad", "T cell", "--out", "no/where.csv"],
        ["search", "here.h5ad", "T cells", "--model", "./nowhere"],
        ["donors", "nowhere.h5ad"],
    ]
    (tmp_path / "here.h5ad").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, json.dumps(calls)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    result = json.loads(done.stdout.splitlines()[-1])
    n_helps = 2 + len(COMMANDS)
    assert result == {"codes": [0] * n_helps + [2] * (len(calls) - n_helps), "loaded": []}, done.stderr
    assert len(done.stderr.splitlines()) == len(calls) - n_helps, done.stderr


def test_the_version_is_the_package_version():
    assert CliRunner().invoke(app, ["--version"]).output == f"cell2text {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_verbose_and_quiet(command):
    output = CliRunner().invoke(app, [command, "--help"]).output
    assert "--verbose" in output and "--quiet" in output


def test_quiet_and_verbose_exclude_each_other(capsys):
    assert run_cli("--quiet", "vocab", "--verbose") == 2
    assert capsys.readouterr().err.endswith("cell2text: --quiet and --verbose exclude each other.\n")


@pytest.mark.parametrize(
    ("flags", "level"),
    [([], logging.WARNING), (["--quiet"], logging.ERROR), (["--verbose"], logging.DEBUG)],
    ids=["normal", "quiet", "verbose"],
)
def test_verbosity_sets_the_level_of_the_package_logger(flags, level):
    assert run_cli("vocab", *flags) == 2
    assert logging.getLogger("cell2text").level == level


def test_verbose_prints_the_traceback_before_the_message(capsys):
    assert run_cli("prepare", "--verbose") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "cell2text: No input. Name h5ad files, zarr stores or folders."


def test_messages_name_flags_of_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells.h5ad").write_text("")
    cases = [
        (
            ["describe", "cells.h5ad", "--cells-per-group", "3"],
            "--cells-per-group 3 needs the column of the groups. Pass",
        ),
        (["describe", "cells.h5ad", "--max-new-tokens", "0"], "--max-new-tokens 0: expected an integer of at least 1."),
        (["describe", "cells.h5ad", "--out", "no/o.csv"], "--out no/o.csv: the folder no does not exist."),
        (["describe", "cells.h5ad", "--model", "cells.h5ad"], "--model cells.h5ad is a file."),
        (["prepare", "cells.h5ad", "--tasks", "sing=1"], "--tasks sing: no task of this name."),
        (["prepare", "cells.h5ad", "--shares", "train=most"], "--shares train=most: expected NAME=VALUE, a number."),
        (["prepare", "cells.h5ad", "--split", "named"], "--split named with 0 splits of named cells"),
        (["example", "--out", "example.csv"], "--out example.csv: expected a name that ends in .h5ad."),
    ]
    for arguments, message in cases:
        assert run_cli(*arguments) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith(f"cell2text: {message}") and error.count("\n") == 1, error

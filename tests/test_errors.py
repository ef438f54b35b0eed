"""Errors: exit codes, messages, and parameters rewritten as flags."""

import errno
import json

import pyarrow as pa
import pytest
import yaml

from cell2text.errors import (
    RunStoppedError,
    UserError,
    UserKeyError,
    as_flags,
    exit_code,
    flags_of,
    guard,
    message_of,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("x"), 2),
        (UserKeyError("x"), 2),
        (FileNotFoundError(errno.ENOENT, "No such file", "a"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "a"), 2),
        (RunStoppedError("x"), 1),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (OSError("The Hub cannot be reached."), 1),
        (OSError(errno.EIO, "Input/output error"), 1),
        (OSError(errno.EROFS, "Read-only file system", "a"), 2),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a"), 2),
        (OSError(errno.EFBIG, "File too large"), 1),
        (MemoryError(), 1),
        (RecursionError("maximum recursion depth exceeded"), 2),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 2),
        (json.JSONDecodeError("Expecting value", "", 0), 2),
        (yaml.YAMLError("bad"), 2),
        (pa.ArrowInvalid("bad"), 2),
        (ValueError("x"), None),
        (KeyError("x"), None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_exit_codes_separate_users_faults_from_ours(error, code):
    assert exit_code(error) == code


def test_a_fault_of_the_package_is_one_line_without_a_traceback(capsys):
    def fail():
        raise ZeroDivisionError("division by zero\nsecond line")

    assert guard("cell2text", fail, flags={}) == 1
    printed = capsys.readouterr().err
    assert printed == (
        "cell2text: An error that should not happen: ZeroDivisionError: division by zero. Run the command again with "
        "--verbose, and report what it prints.\n"
    )
    assert guard("cell2text", fail, flags={}, verbose=True) == 1
    assert capsys.readouterr().err.startswith("Traceback")
    with pytest.raises(ZeroDivisionError):
        guard("train_sft.py", fail, flags={}, debug=True)


def test_input_that_a_library_cannot_read_is_one_line(capsys):
    assert guard("cell2text", lambda: json.loads("[" * 100_000), flags={}) == 2
    assert guard("cell2text", lambda: yaml.safe_load("{"), flags={}) == 2
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith("cell2text: The input cannot be read (") and len(line) < 500


def test_an_expected_error_is_one_line_with_flags(capsys):
    def fail():
        raise UserError("adata.X holds non-integer counts. Pass layer='counts', or allow_fractional=True.")

    assert guard("cell2text", fail, flags=flags_of(["layer", "allow_fractional"])) == 2
    assert capsys.readouterr().err == (
        "cell2text: adata.X holds non-integer counts. Pass --layer counts, or --allow-fractional.\n"
    )


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ('Pass layer="counts".', "Pass --layer counts."),
        ("gene_key='my column' is missing", "--gene-key 'my column' is missing"),
        ("shares=train=0.8,test=0.2: too much", "--shares train=0.8,test=0.2: too much"),
        ("out='a/b.h5ad': the folder", "--out a/b.h5ad: the folder"),
        ("Pass overwrite=True, or another.", "Pass --overwrite, or another."),
        ("which columns= maps", "which --columns maps"),
        ("adata.layer='x' and gene_layer='y'", "adata.layer='x' and gene_layer='y'"),
        ("unknown_name='x'", "unknown_name='x'"),
        ("Pass fields_only=True", "Pass --fields"),
    ],
)
def test_parameters_become_flags(message, expected):
    names = ["layer", "gene_key", "shares", "out", "overwrite", "columns"]
    assert as_flags(message, flags_of(names) | {"fields_only": "--fields"}) == expected


def test_training_scripts_spell_flags_with_underscores():
    assert as_flags("Pass stage='lora'.", flags_of(["stage"], dashes=False)) == "Pass --stage lora."
    assert flags_of(["gene_key"], dashes=False) == {"gene_key": "--gene_key"}


def test_a_full_disk_says_how_to_resume():
    message = message_of(OSError(errno.ENOSPC, "No space left on device", "a.h5ad"))
    assert "The disk is full" in message and "run the same command again to resume" in message

"""Files: atomic writes and checks of inputs."""

import pytest

from cell2text.errors import UserError
from cell2text.files import atomic_path, write_atomically
from cell2text.paths import check_input


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as partial:
        partial.write_text(f"new {1 / 0}")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_write_replaces_the_whole_file(tmp_path):
    write_atomically(tmp_path / "a.txt", "a longer text")
    write_atomically(tmp_path / "a.txt", "short µ")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "short µ"


@pytest.mark.parametrize("path", ["s3://bucket/cells.h5ad", "zip::https://host/cells.zip", "data/*.h5ad"])
def test_remote_addresses_and_globs_are_left_to_the_reader(path):
    check_input(path)


def test_local_inputs_must_exist(tmp_path):
    check_input(tmp_path)
    check_input(f"file://{tmp_path}")
    for path in (tmp_path / "nowhere.h5ad", f"file://{tmp_path}/nowhere.h5ad"):
        with pytest.raises(UserError, match="nowhere.h5ad does not exist"):
            check_input(path)

"""Finding files, stores, folders and globs."""

import pytest

from cell2text.sources.discovery import find_sources


def test_sources_are_found_and_named(tmp_path):
    for name in ("a/cells.h5ad", "b/cells.h5ad", "b/deep/other.h5ad"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b" / "store.zarr" / "inside.h5ad").mkdir(parents=True)
    (tmp_path / "b" / "notes.txt").write_text("")
    assert [source.name for source in find_sources([str(tmp_path)])] == ["a/cells", "b/cells", "other", "store"]
    assert [source.name for source in find_sources([f"{tmp_path}/*/cells.h5ad"])] == ["a/cells", "b/cells"]
    with pytest.raises(ValueError, match="does not exist"):
        find_sources([str(tmp_path / "c")])
    with pytest.raises(ValueError, match="is neither an .h5ad file nor a .zarr store"):
        find_sources([str(tmp_path / "b" / "notes.txt")])
    with pytest.raises(ValueError, match="contains no .h5ad file"):
        find_sources([str(tmp_path / "c*")])
    with pytest.raises(ValueError, match="more than once"):
        find_sources([str(tmp_path / "a"), str(tmp_path / "a" / "cells.h5ad")])

"""Which output folders a run accepts."""

import pytest

from cell2text.errors import BusyError
from cell2text.preparation.output_folder import lock_output_folder

from .preparation_runs import digest, prepare_studies


def test_a_finished_run_is_not_repeated_and_another_run_is_refused(studies, tmp_path):
    first = prepare_studies(studies, tmp_path / "out")
    before = digest(tmp_path / "out")
    assert prepare_studies(studies, tmp_path / "out") == first and digest(tmp_path / "out") == before
    with pytest.raises(ValueError, match="belongs to a run that differs in config: seed. Choose another folder"):
        prepare_studies(studies, tmp_path / "out", seed=7)
    with pytest.raises(ValueError, match="differs in files: three"):
        prepare_studies(
            studies, tmp_path / "out", inputs=[studies / "cells" / "one.h5ad", studies / "cells" / "two.h5ad"]
        )


def test_a_second_run_in_the_same_folder_is_refused(studies, tmp_path):
    with lock_output_folder(tmp_path / "out"), pytest.raises(BusyError, match="is in use by another run"):
        prepare_studies(studies, tmp_path / "out")


def test_a_folder_with_other_files_stays_unchanged(studies, tmp_path):
    (tmp_path / "thesis.tex").write_text("all my work")
    with pytest.raises(ValueError, match="contains other files \\(thesis.tex\\)"):
        prepare_studies(studies, tmp_path)
    with pytest.raises(ValueError, match="is a file. Choose a folder"):
        prepare_studies(studies, tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_with_data_and_readme_of_someone_else_stays_unchanged(studies, tmp_path):
    """`data` and README.md are names that anyone may use: without a plan or a report nothing there is ours to clear."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious.parquet").write_text("months of work")
    (tmp_path / "README.md").write_text("my project")
    with pytest.raises(ValueError, match="contains other files \\(README.md, data\\)"):
        prepare_studies(studies, tmp_path)
    assert (tmp_path / "data" / "precious.parquet").read_text() == "months of work"

"""Metadata of the inputs: columns, labels, genes and duplicates."""

import warnings

import anndata as ad
import pandas as pd
import pytest

from cell2text.preparation.config import PrepareConfig
from cell2text.sources.checks import BadFileError
from cell2text.sources.containers import open_source
from cell2text.sources.discovery import find_sources

from .preparation_runs import load_rows, make_file, prepare_studies


def test_columns_are_mapped_and_labels_resolved(studies, tmp_path):
    for name in ("one", "two", "three"):
        adata = ad.read_h5ad(studies / "cells" / f"{name}.h5ad")
        adata.obs = adata.obs.rename(columns={"cell_type": "CellType", "donor_id": "patient"})
        adata.obs["cell_type_ontology_term_id"] = "unknown"
        adata.obs["CellType"] = adata.obs["CellType"].replace(
            {"B cell": "b-cell", "T cell": "t_cell", "monocyte": "my monos"}
        )
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    report = prepare_studies(
        studies, tmp_path / "out", inputs=[tmp_path], columns={"cell_type": "CellType", "donor_id": "patient"}
    )
    rows = load_rows(tmp_path / "out", tmp_path)["train"]
    assert set(zip(rows["cell_type"], rows["cell_type_ontology_term_id"])) == {
        ("B cell", "CL:0000236"), ("T cell", "CL:0000084"), ("my monos", None)
    }  # fmt: skip
    labels = report["files"]["one"]["labels"]["cell_type"]
    assert set(labels["routes"]) == {"synonym", "common_name", "unresolved"}
    assert labels["common_names"] == {"t_cell": "T cell"} and set(labels["unresolved"]) == {"my monos"}
    assert "common names: t_cell = T cell" in (tmp_path / "out" / "report.html").read_text()


def test_files_with_symbols_and_ensembl_ids_share_a_vocabulary(studies, prepared, tmp_path):
    for name in ("one", "two", "three"):
        adata = ad.read_h5ad(studies / "cells" / f"{name}.h5ad")
        if name == "two":
            adata.var_names = adata.var["feature_name"].astype(str)
            adata.var = adata.var[[]]
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    report = prepare_studies(studies, tmp_path / "out", inputs=[tmp_path])
    assert report["files"]["two"]["genes_by_route"]["symbol"] == 60
    assert report["files"]["one"]["genes_by_route"]["ensembl_id"] == 60
    expected, found = load_rows(prepared, tmp_path), load_rows(tmp_path / "out", tmp_path)
    assert found["train"]["cells"][:] == expected["train"]["cells"][:]
    with pytest.raises(BadFileError, match="two: 0 of 60 genes are in the vocabulary .first: 'GENE0'"):
        prepare_studies(studies, tmp_path / "fitted", inputs=[tmp_path], gene_vocab=None)


def test_cells_are_duplicates_if_data_set_donor_and_name_agree(studies, tmp_path):
    make_file(tmp_path / "a.h5ad", 40, seed=1, prefix="a")
    make_file(tmp_path / "b.h5ad", 40, seed=2, prefix="b")
    report = prepare_studies(studies, tmp_path / "apart", inputs=[tmp_path])
    assert report["rows"] == 80
    adata = ad.read_h5ad(tmp_path / "a.h5ad")
    adata[5:25, :50].copy().write_h5ad(tmp_path / "subset_of_a.h5ad")
    report = prepare_studies(
        studies, tmp_path / "copies", inputs=[tmp_path / f"{name}.h5ad" for name in ("subset_of_a", "a", "b")]
    )
    assert report["rows"] == 80
    assert report["files"]["subset_of_a"]["dropped"] == {"duplicate of a cell in another file": 20}


def test_metadata_are_stored_as_categories(studies):
    """Metadata of a file stay as categories: a few bytes a cell."""
    from cell2text.preparation.survey import survey_metadata

    (source,) = find_sources([str(studies / "cells" / "one.h5ad")])
    with open_source(source) as reader:
        cells, _, _ = survey_metadata(reader, PrepareConfig(inputs=["x"]))
    objects = [
        name for name, dtype in cells.dtypes.items() if dtype.kind == "O" and not isinstance(dtype, pd.CategoricalDtype)
    ]
    assert not objects and isinstance(cells["cell_type"].dtype, pd.CategoricalDtype)


def test_term_ids_of_the_usual_column_do_not_override_a_mapped_column(studies, tmp_path):
    make_file(tmp_path / "a.h5ad", mine=["fibroblast"] * 60)
    prepare_studies(
        studies, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], columns={"cell_type": "mine"}, split="random"
    )
    assert set(load_rows(tmp_path / "out", tmp_path)["train"]["cell_type"]) == {"fibroblast"}


def test_repeated_names_within_a_file_are_separate_cells(studies, tmp_path):
    adata = make_file(tmp_path / "a.h5ad", 60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.obs_names = [f"cell{i % 30}" for i in range(60)]
        adata.write_h5ad(tmp_path / "a.h5ad")
    assert prepare_studies(studies, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], split="random")["rows"] == 60


def test_files_with_the_same_contents_are_refused(studies, tmp_path):
    (tmp_path / "again.h5ad").write_bytes((studies / "cells" / "one.h5ad").read_bytes())
    with pytest.raises(ValueError, match="one has the same contents as again"):
        prepare_studies(studies, tmp_path / "out", inputs=[studies / "cells", tmp_path / "again.h5ad"])

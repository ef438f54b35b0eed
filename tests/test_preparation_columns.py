"""Columns of metadata under other names: cell types by their labels, donors by the name of the column."""

import json

import pytest

from cell2text.preparation.columns import choose_columns
from cell2text.sources.checks import BadFileError
from cell2text.sources.containers import open_source
from cell2text.sources.discovery import find_sources

from .conftest import run_cli
from .preparation_runs import make_file


SCHEMA = ("cell_type", "cell_type_ontology_term_id", "tissue", "disease", "donor_id")


def write_obs(folder, drop=SCHEMA, **columns):
    """Write a file whose `obs` lacks some columns of the schema and has others."""
    adata = make_file(folder / "a.h5ad", 60)
    for name, column in columns.items():
        adata.obs[name] = adata.obs.get(column, column)
    adata.obs = adata.obs.drop(columns=list(drop))
    adata.write_h5ad(folder / "a.h5ad")
    return adata


def choose(folder, **mapping):
    (location,) = find_sources([str(folder / "a.h5ad")])
    with open_source(location) as source:
        return choose_columns(source, mapping)


@pytest.mark.parametrize("name", ["celltype", "CellType", "cell_type_original", "annotation", "louvain"])
def test_the_only_column_with_cell_types_is_used_and_noted(tmp_path, name):
    write_obs(tmp_path, **{name: "cell_type", "leiden": "3"} if name != "leiden" else {})
    chosen = choose(tmp_path)
    assert chosen.columns["cell_type"] == name and chosen.recognised == {"cell_type": name}
    (note,) = chosen.notes
    assert note.startswith(f"cell_type is read from the column {name!r}: {name} (100%) of its labelled cells")


def test_ids_of_the_cell_ontology_are_used_without_labels(tmp_path):
    write_obs(tmp_path, cell_ontology_id="cell_type_ontology_term_id")
    assert choose(tmp_path).recognised == {"cell_type_ontology_term_id": "cell_ontology_id"}
    write_obs(tmp_path, cell_ontology_id="cell_type_ontology_term_id", cell_ontology_class="cell_type")
    assert choose(tmp_path).recognised == {"cell_type": "cell_ontology_class"}


def test_several_columns_with_cell_types_are_an_error_that_lists_them(tmp_path):
    write_obs(tmp_path, celltype="cell_type", annotation="cell_type", cluster="7")
    message = r"several that hold cell types .*: celltype \(100%\), annotation \(100%\). .*columns=, such as cell_type="
    with pytest.raises(BadFileError, match=message):
        choose(tmp_path)
    assert choose(tmp_path, cell_type="annotation").columns["cell_type"] == "annotation"
    write_obs(tmp_path, ("cell_type", "cell_type_ontology_term_id"), celltype="cell_type", annotation="cell_type")
    assert "cell_type" not in choose(tmp_path).columns and "Choose one with the option" in choose(tmp_path).notes[0]


def test_labels_outside_the_ontology_are_not_cell_types(tmp_path):
    write_obs(tmp_path, cluster="cluster 7", leiden="3", batch="B cell")
    with pytest.raises(BadFileError, match="no other whose labels are cell types.*such as cell_type=CellType"):
        choose(tmp_path)


def test_columns_of_the_schema_are_never_replaced(tmp_path):
    write_obs(tmp_path, (), celltype="cell_type", patient="donor_id")
    assert choose(tmp_path).recognised == {} and not choose(tmp_path).notes


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"patient": "donor_id"}, "patient"),
        ({"Patient_ID": "donor_id", "sample": "donor_id"}, "Patient_ID"),
        ({"orig.ident": "donor_id"}, "orig.ident"),
        ({"batch": "donor_id"}, None),
    ],
)
def test_donors_are_recognised_by_the_name_of_the_column(tmp_path, columns, expected):
    write_obs(tmp_path, ("donor_id",), **columns)
    chosen = choose(tmp_path)
    assert chosen.columns.get("donor_id") == expected
    assert ("Samples of one donor" in "".join(chosen.notes)) == (expected == "orig.ident")


def test_a_column_that_differs_for_every_cell_holds_no_donors(tmp_path):
    adata = write_obs(tmp_path, ("donor_id",))
    adata.obs["sample"] = [f"cell {i}" for i in range(60)]
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert "donor_id" not in choose(tmp_path).columns


def test_a_file_with_other_names_is_prepared_with_defaults(tmp_path, capsys):
    write_obs(tmp_path, celltype="cell_type", patient="donor_id")
    assert run_cli("prepare", tmp_path / "a.h5ad", "--out", tmp_path / "out", "--quiet") == 0
    assert "donor_id is read from the column 'patient' (5 values)." in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["files"]["a"]["columns"] == {"cell_type": "celltype", "donor_id": "patient"}
    assert "read from the column" in (tmp_path / "out" / "report.html").read_text()

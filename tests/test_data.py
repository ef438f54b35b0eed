"""Descriptions, definitions and rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cell2text.data import build_rows, describe_row, example_cells
from cell2text.data.descriptions import with_article
from cell2text.data.ontology import first_sentence, term_definition
from cell2text.evaluation.fields import accuracy, read_cell_type

from .conftest import make_adata, make_processor


ALPHA = {
    "cell_type": "pancreatic A cell",
    "cell_type_ontology_term_id": "CL:0000171",
    "tissue": "pancreas",
    "disease": "normal",
}
DEFINITION = "a type A enteroendocrine cell found in the periphery of the islets of Langerhans that secretes glucagon"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, f"This cell is a pancreatic A cell: {DEFINITION}. It comes from the pancreas of a healthy donor."),
        ({"disease": "type 2 diabetes mellitus"}, f"This cell is a pancreatic A cell: {DEFINITION}. It comes from the pancreas of a donor with type 2 diabetes mellitus."),
        ({"disease": "unknown"}, f"This cell is a pancreatic A cell: {DEFINITION}. It comes from the pancreas."),
        ({"tissue": "unknown"}, f"This cell is a pancreatic A cell: {DEFINITION}. It comes from a healthy donor."),
        ({"tissue": "unknown", "disease": "nan"}, f"This cell is a pancreatic A cell: {DEFINITION}."),
        ({"cell_type": "unknown"}, "This cell comes from the pancreas of a healthy donor."),
        ({"cell_type_ontology_term_id": "unknown"}, "This cell is a pancreatic A cell. It comes from the pancreas of a healthy donor."),
        ({"cell_type_ontology_term_id": "CL:9999999"}, "This cell is a pancreatic A cell. It comes from the pancreas of a healthy donor."),
        ({"cell_type": "unknown", "tissue": "unknown", "disease": "unknown"}, None),
    ],
)  # fmt: skip
def test_a_field_that_is_unknown_is_left_out(changes, text):
    assert describe_row({**ALPHA, **changes}) == text


def test_a_missing_column_is_an_unknown_field():
    assert describe_row({"tissue": "lung"}) == "This cell comes from the lung." and describe_row({}) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [("amacrine cell", "an amacrine cell"), ("B cell", "a B cell"), ("OFF-bipolar cell", "an OFF-bipolar cell"), ("unipolar brush cell", "a unipolar brush cell")],
)  # fmt: skip
def test_articles(name, expected):
    assert with_article(name) == expected


def test_every_definition_of_the_example_cells_is_one_whole_sentence():
    terms = example_cells().obs["cell_type_ontology_term_id"].unique()
    definitions = {term: term_definition(term) for term in terms}
    assert all(definitions.values())
    for text in definitions.values():
        assert ". " not in text and not text.endswith(".") and text.count("(") == text.count(")") and len(text) > 20


def test_sentences_end_where_a_capital_follows():
    assert first_sentence("Lacks CD8, e.g. in blood. It grows.") == "Lacks CD8, e.g. in blood"
    assert first_sentence("One (of two).  Two.") == "One (of two)"


names = st.text(
    alphabet=st.characters(whitelist_categories=("Ll", "Lu", "Nd"), whitelist_characters=" ,-+/'()αβγ"),
    min_size=1,
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(
    cell_type=names.map(str.strip).filter(lambda name: name and name.lower() not in {"unknown", "na", "nan", "none"}),
    tissue=names,
    disease=names,
)
def test_the_cell_type_that_is_written_is_the_one_that_is_read(cell_type, tissue, disease):
    text = describe_row({"cell_type": cell_type, "tissue": tissue, "disease": disease})
    assert read_cell_type(text) == cell_type


def test_the_cell_types_of_the_example_cells_are_read_back():
    for row in example_cells().obs.astype(str).to_dict(orient="records"):
        assert read_cell_type(describe_row(row)) == row["cell_type"]


@pytest.mark.parametrize(
    "text", ["", "I do not know.", "It comes from the pancreas.", "This cell comes from the lung."]
)
def test_a_text_that_names_no_cell_type_gives_none(text):
    assert read_cell_type(text) is None


def test_nothing_found_is_wrong_and_never_a_match():
    assert accuracy([None, "a"], ["a", "a"]) == 0.5 and accuracy([None], ["None"]) == 0.0
    with pytest.raises(ValueError, match="1 predictions for 2 labels"):
        accuracy(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="at least one"):
        accuracy([], [])


def test_rows_hold_cells_chat_and_metadata():
    processor, adata = make_processor(), make_adata(5)
    adata.obs["cell_type"] = ["B cell", "T cell", "unknown", "T cell", "B cell"]
    adata.obs["tissue"] = ["blood", "blood", "unknown", "blood", "blood"]
    adata.X[3] = 0
    rows, report = build_rows(adata, processor)
    assert rows["cell_id"] == ["cell0", "cell1", "cell4"]
    assert report.dropped == {
        "without counts": 1,
        "about which nothing is known": 1,
    } and "dropped: 1 without counts" in str(report)
    ranked = processor.rank_encode(adata)
    assert [row[0] for row in rows["cells"]] == [ranked[index].tolist() for index in (0, 1, 4)]
    assert str(rows.features["cells"].feature.feature.dtype) == "uint16"
    assert rows[0]["completion"][0]["content"][0]["text"] == "This cell is a B cell. It comes from the blood."
    assert rows[0]["donor_id"] == "unknown"


def test_rows_that_cannot_be_built_are_refused():
    processor, adata = make_processor(), make_adata(3)
    with pytest.raises(KeyError, match="adata.obs has no cell_type, tissue or disease column"):
        build_rows(adata, processor)
    adata.obs["cell_type"] = "unknown"
    with pytest.raises(ValueError, match="None of 3 cells gives a row"):
        build_rows(adata, processor)


def test_the_example_cells_are_what_their_page_says():
    adata = example_cells()
    assert (
        adata.shape == (1409, 16537)
        and adata.obs["cell_type"].nunique() == 43
        and adata.obs["dataset_id"].nunique() == 5
    )
    assert adata.obs.groupby(["dataset_id", "cell_type"], observed=True).size().max() <= 40
    fractional = np.array([(row.data % 1 != 0).any() for row in adata.X])
    assert set(adata.obs["dataset_id"][fractional]) == {"oligodendroglioma"}

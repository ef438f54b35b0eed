"""Broader cell types in the texts of training rows."""

import json

import numpy as np
import pytest

from cell2text.language.parsing import read_fields
from cell2text.ontology.broader_terms import broader_types, is_informative
from cell2text.ontology.definitions import term_definition
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import label_of
from cell2text.preparation.stated_types import choose_stated_types
from declining_cell2text import TYPE_THRESHOLD

from .preparation_runs import load_rows, prepare_studies


CD8 = "CL:0000625"  # CD8-positive, alpha-beta T cell


def choose(n, share, seed=0, rows=None):
    rows = np.arange(n) if rows is None else rows
    return choose_stated_types(["CD8"] * len(rows), [CD8] * len(rows), "file", rows, share=share, seed=seed)


def test_broader_types_lie_between_the_label_and_the_root():
    above = {label_of(term) for term in broader_types(CD8)}
    assert {"T cell", "mature alpha-beta T cell", "lymphocyte", "leukocyte"} <= above
    assert not above & {"cell", "eukaryotic cell", "nucleate cell", "motile cell", label_of(CD8)}
    assert broader_types("CL:0000000") == broader_types("CL:9999999") == broader_types(None) == ()
    assert not is_informative("CL:0000518")  # phagocyte (sensu Vertebrata)


def test_the_share_of_broader_types_and_of_likely_subtypes_is_as_asked():
    stated = choose(6000, 0.4)
    broader = np.array(stated.cell_type) != "CD8"
    assert abs(broader.mean() - 0.4) < 0.02
    subtypes = np.array([subtype is not None for subtype in stated.likely_subtype])
    assert not (subtypes & ~broader).any() and abs(subtypes.sum() / broader.sum() - 2 / 3) < 0.03
    assert {stated.likely_subtype[i] for i in np.flatnonzero(subtypes)} == {"CD8"}
    assert set(stated.cell_type_ontology_term_id) == {CD8, *broader_types(CD8)}  # every parent of every level
    probabilities = [p for p in stated.likely_subtype_probability if p is not None]
    assert len(probabilities) == subtypes.sum() and set(probabilities) == {
        f"{p / 100:.2f}" for p in range(20, round(100 * TYPE_THRESHOLD))
    }


def test_a_choice_depends_on_seed_and_row_alone():
    whole, part = choose(100, 0.5), choose(0, 0.5, rows=np.arange(40, 60))
    assert part.cell_type == whole.cell_type[40:60] and part.likely_subtype == whole.likely_subtype[40:60]
    assert choose(100, 0.5, seed=1).cell_type != whole.cell_type
    assert set(choose(100, 0.0).cell_type) == {"CD8"}


def test_labels_without_a_broader_term_are_stated_as_they_are():
    labels, terms = ["cluster 7", None, "cell"], [None, None, "CL:0000000"]
    stated = choose_stated_types(labels, terms, "file", np.arange(3), share=1.0, seed=0)
    assert stated.cell_type == labels and stated.cell_type_ontology_term_id == terms
    assert stated.likely_subtype == [None] * 3


@pytest.fixture(scope="module")
def broader(studies, tmp_path_factory):
    folder = tmp_path_factory.mktemp("broader")
    prepare_studies(studies, folder / "out", broader_types=0.5, tasks={"describe": 1.0, "annotate": 1.0})
    return folder / "out"


def test_training_texts_state_what_the_columns_hold(broader, tmp_path):
    rows = load_rows(broader, tmp_path)["train"]
    graph, n_broader = load_graph("CL"), 0
    for row in rows:
        text = row["completion"][0]["content"][0]["text"]
        fields = read_fields(text)
        assert fields.cell_type.term_id == row["stated_cell_type_ontology_term_id"], text
        assert fields.cell_type.label == row["stated_cell_type"]
        assert row["cell_type"] in ("B cell", "T cell", "monocyte")  # stays the label
        assert row["stated_cell_type_ontology_term_id"] in graph.ancestors(row["cell_type_ontology_term_id"])
        n_broader += row["stated_cell_type"] != row["cell_type"]
        if row["task"] == "annotate":
            assert text == row["stated_cell_type"]
            continue
        assert (fields.likely_subtype and fields.likely_subtype.label) == row["likely_subtype"]
        if row["likely_subtype"]:
            assert row["likely_subtype"] == row["cell_type"] and f"({row['likely_subtype_probability']})" in text
        definition = term_definition(row["stated_cell_type_ontology_term_id"])
        assert definition is None or definition in text
    assert abs(n_broader / len(rows) - 0.5) < 0.15
    report = json.loads((broader / "report.json").read_text())["splits"]["train"]
    assert report["broader_types"] == n_broader
    assert report["likely_subtypes"] == sum(row["likely_subtype"] is not None for row in rows)


def test_held_out_texts_name_the_label(broader, tmp_path):
    data = load_rows(broader, tmp_path)
    for split in ("validation", "test"):
        for row in data[split]:
            assert row["stated_cell_type"] == row["cell_type"] and row["likely_subtype"] is None
            assert row["completion"][0]["content"][0]["text"].startswith(f"This cell is a {row['cell_type']}: ")


def test_card_and_report_state_the_broader_types(broader, prepared):
    card, page = (broader / "README.md").read_text(), (broader / "report.html").read_text()
    for text in (card, page):
        assert "training rows name a broader term" in text
    assert "`likely_subtype_probability`" in card
    assert "name a broader term of" not in (prepared / "report.html").read_text()

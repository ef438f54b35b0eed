"""Concept names: column order, splitting, encoding of overrides, saved configurations."""

import json

import pytest
import torch

from concepts_cell2text import ConceptNames
from configuration_cell2text import Cell2TextConfig
from modeling_cell2text import Cell2TextForConditionalGeneration

from .tiny import CONCEPTS, make_model


NAMES = ConceptNames({"tissue": ["blood", "lung"], "cell_type": ["B cell", "T cell"]}, {"pathways": ["A", "B", "C"]})


def test_columns_are_sorted_by_group_and_keep_the_order_of_names():
    assert NAMES.groups == {
        "cell_type": ["B cell", "T cell"],
        "pathways": ["A", "B", "C"],
        "tissue": ["blood", "lung"],
    }
    assert list(NAMES.groups) == ["cell_type", "pathways", "tissue"]
    assert NAMES.sizes == {"cell_type": 2, "pathways": 3, "tissue": 2} and NAMES.n_concepts == 7


def test_split_and_join_are_inverse():
    values = torch.arange(14.0).view(2, 7)
    parts = NAMES.split(values)
    assert parts["pathways"].tolist() == [[2, 3, 4], [9, 10, 11]]
    assert torch.equal(NAMES.join(parts), values)


def test_encoded_names_override_their_group_alone():
    found = NAMES.encode(pathways=["A", "C"], cell_type="T cell", tissue=None)
    assert found[:5].tolist() == [0, 1, 1, 0, 1] and found[5:].isnan().all()
    assert NAMES.encode(pathways=[])[2:5].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"sex": "male"}, r"\['sex'\] are not concept groups of this model: expected some of \['cell_type', 'path"),
        ({"cell_type": "neuron"}, r"cell_type=\['neuron'\]: expected one of \['B cell', 'T cell'\]"),
        ({"cell_type": ["B cell", "T cell"]}, "expected one of"),
        ({"pathways": ["D"]}, "expected some of"),
    ],
)
def test_names_that_do_not_exist_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        NAMES.encode(**names)


def test_overrides_with_other_columns_are_refused():
    NAMES.check_overrides(torch.zeros(3, 7))
    with pytest.raises(ValueError, match="concept_overrides has 6 columns but the model has 7 concepts"):
        NAMES.check_overrides(torch.zeros(3, 6))


def test_a_group_can_be_left_out():
    assert NAMES.without("pathways").groups == {name: NAMES.groups[name] for name in ("cell_type", "tissue")}


@pytest.mark.parametrize(
    "wrong", [{"other": {}}, {"multiclass": {"tissue": ["blood"]}, "multilabel": {"tissue": ["blood"]}}]
)
def test_unknown_keys_and_repeated_groups_are_refused(wrong):
    with pytest.raises(ValueError, match="cell_concepts has the keys"):
        ConceptNames.from_dict(wrong)


def test_names_survive_a_configuration():
    assert ConceptNames.from_dict(NAMES.to_dict()) == NAMES == Cell2TextConfig(cell_concepts=NAMES.to_dict()).concepts
    assert ConceptNames.from_dict(None).n_concepts == 0 == Cell2TextConfig().concepts.n_concepts


def test_a_model_saved_with_the_older_keys_loads_and_saves_the_newer_ones(tiny_processor, tmp_path):
    model = make_model("concepts", processor=tiny_processor)
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    saved = json.loads(file.read_text())
    saved["cell_concepts"] = {"one_of": CONCEPTS["multiclass"], "any_of": CONCEPTS["multilabel"]}
    file.write_text(json.dumps(saved))
    loaded = Cell2TextForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.config.cell_concepts == CONCEPTS
    batch = tiny_processor.pad_cells([[[5, 6, 7]]], return_tensors="pt")
    for group, values in model.get_cell_concepts(**batch).items():
        torch.testing.assert_close(values, loaded.get_cell_concepts(**batch)[group])
    loaded.save_pretrained(tmp_path)
    assert json.loads(file.read_text())["cell_concepts"] == CONCEPTS


TYPES = {"cell": [], "lymphocyte": ["cell"], "B cell": ["lymphocyte"], "T cell": ["lymphocyte"]}


def test_a_name_of_a_hierarchy_includes_the_names_above_it():
    names = ConceptNames(hierarchical={"cell_type": TYPES})
    assert names.groups == {"cell_type": ["B cell", "T cell", "cell", "lymphocyte"]}
    assert names.encode(cell_type="T cell").tolist() == [0, 1, 1, 1]
    assert names.ancestors("cell_type")[2].all() and not names.ancestors("cell_type")[0, 1]
    assert ConceptNames.from_dict(names.to_dict()) == names == Cell2TextConfig(cell_concepts=names.to_dict()).concepts


@pytest.mark.parametrize(
    ("parents", "message"),
    [({"T cell": ["lymphocyte"]}, "'lymphocyte'"), ({"a": ["b"], "b": ["a"]}, "stand above themselves")],
)
def test_names_that_form_no_hierarchy_are_refused(parents, message):
    with pytest.raises(ValueError, match=message):
        ConceptNames.from_dict({"hierarchical": {"cell_type": parents}})

"""The Python of docs/guides/concepts.md runs, and the overrides have the effects that the guide states."""

import re
from pathlib import Path

import pytest

from configuration_cell2text import Cell2TextConfig
from declining_cell2text import MIN_SUBTYPE_PROBABILITY, declined_text
from statements_cell2text import SPECIFIC_SHARE


GUIDE = (Path(__file__).resolve().parents[1] / "docs" / "guides" / "concepts.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def scope():
    scope: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```$", GUIDE, flags=re.M | re.S):
        exec(block, scope)
    return scope


def test_probabilities_are_those_of_the_named_cell_types(scope):
    names = scope["names"]
    assert scope["probabilities"].shape == (2, len(names))
    pancreatic, killer = scope["killer"].tolist()
    assert killer > 0.2 > 0.05 > pancreatic
    sums = scope["model"].get_cell_concepts(**scope["batch"])
    for group in scope["model"].config.cell_concepts["multiclass"]:
        assert sums[group].sum(-1).flatten().tolist() == pytest.approx([1, 1], abs=1e-5)


def test_an_overridden_cell_type_is_named(scope):
    assert all(text.startswith("This cell is a macrophage") for text in scope["macrophages"])


def test_the_columns_of_overrides_follow_the_sorted_groups(scope):
    model = scope["model"]
    overrides = model.encode_concepts(cell_type="macrophage")
    by_group = model.config.concepts.split(overrides)
    assert list(by_group) == sorted(by_group)
    assert by_group["cell_type"].nansum() >= 1 and by_group["pathways"].isnan().all()


def test_the_sentences_of_declined_cells_are_those_of_the_model():
    for reason, candidates in (("ambient", []), ("two_profiles", ["T cell", "monocyte"]), ("unknown_type", [])):
        assert f"| {declined_text(reason, candidates)} |" in GUIDE


def test_thresholds_are_those_of_the_model():
    threshold = Cell2TextConfig().type_threshold
    assert f"({threshold} by default)" in GUIDE and f"`type_threshold` is {threshold}" in GUIDE
    assert f"if it has at least {MIN_SUBTYPE_PROBABILITY}" in GUIDE and SPECIFIC_SHARE == 0.5

"""The Python of docs/guides/concepts.md runs, and the overrides have the effects that the guide states."""

import re
from pathlib import Path

import pytest


GUIDE = (Path(__file__).resolve().parents[1] / "docs" / "guides" / "concepts.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def scope():
    scope: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```$", GUIDE, flags=re.M | re.S):
        exec(block, scope)
    return scope


def test_probabilities_are_those_of_the_named_cell_types(scope):
    names = scope["names"]
    assert scope["probabilities"].shape == (2, 1, len(names))
    assert scope["predicted"] == ["pancreatic A cell", "natural killer cell"]
    sums = scope["model"].get_cell_concepts(**scope["batch"])
    for group in scope["model"].config.cell_concepts["multiclass"]:
        assert sums[group].sum(-1).flatten().tolist() == pytest.approx([1, 1], abs=1e-5)


def test_an_overridden_cell_type_is_named(scope):
    assert all(text.startswith("This cell is a macrophage") for text in scope["macrophages"])


def test_an_overridden_tissue_is_named_only_if_the_cell_type_allows_it(scope):
    pancreatic, killer = scope["in_blood"]
    assert pancreatic.startswith("This cell is a pancreatic A cell") and "comes from the pancreas" in pancreatic
    assert killer.startswith("This cell is a natural killer cell") and "comes from the blood" in killer


def test_the_columns_of_overrides_follow_the_sorted_groups(scope):
    model = scope["model"]
    overrides = model.encode_concepts(tissue="blood")
    by_group = model.config.concepts.split(overrides)
    assert list(by_group) == sorted(by_group)
    assert by_group["tissue"].nansum() == 1 and by_group["cell_type"].isnan().all()

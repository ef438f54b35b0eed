"""Assigning cells to splits."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cell2text.preparation.splits import COVERED_COLUMNS, GROUP_COLUMNS, SPLITS, check_split, split_cells

from .preparation_runs import make_metadata


SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


@pytest.mark.parametrize("method", GROUP_COLUMNS)
@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_in_two_splits(method, seed):
    cells = make_metadata(seed=seed)
    shares = SHARES if method == "donor" else {"train": 0.6, "validation": 0.2, "test": 0.2}
    splits = split_cells(cells, method, shares=shares, seed=seed)
    of_group = pd.DataFrame({"group": cells[GROUP_COLUMNS[method]], "split": splits}).groupby("group", observed=True)[
        "split"
    ]
    assert (of_group.nunique() == 1).all()
    assert set(splits) == {0, 1, 2}
    for index, name in enumerate(SPLITS):
        largest = cells[GROUP_COLUMNS[method]].value_counts().max() / len(cells)
        assert abs((splits == index).mean() - shares[name]) < largest + 0.06


def split_or_refusal(cells, seed):
    try:
        return split_cells(cells, "donor", shares=SHARES, seed=seed)
    except ValueError as error:
        return str(error)


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6), st.integers(0, 3)), min_size=30, max_size=200),
    seed=st.integers(0, 100),
)
def test_split_by_donor_covers_all_categories_or_is_refused(pairs, seed):
    """Whatever types and tissues donors have: groups stay whole and categories are covered, or the error is clear."""
    donors, types, tissues = zip(*pairs)
    cells = make_metadata(len(pairs))
    cells["donor"] = pd.Categorical([f"d{i}" for i in donors])
    cells["cell_type"] = pd.Categorical([None if i == 0 else f"t{i}" for i in types])
    cells["tissue"] = pd.Categorical([f"o{i}" for i in tissues])
    cells["disease"] = pd.Categorical(["normal"] * len(pairs))
    splits = split_or_refusal(cells, seed)
    if isinstance(splits, str):
        assert "leaves no cell for" in splits
        return
    for index in (1, 2):
        assert not set(cells["donor"][splits == index]) & set(cells["donor"][splits != index])
        for column in COVERED_COLUMNS:
            held_out = set(cells[column][splits == index].dropna())
            assert held_out <= set(cells[column][splits == 0].dropna())


def test_a_divided_group_and_a_missing_category_are_detected():
    cells = make_metadata(60)
    splits = split_cells(cells, "dataset", shares=SHARES, seed=0)
    torn = splits.copy()
    torn[np.flatnonzero(cells["dataset_id"] == cells["dataset_id"][0])[:1]] = 2 if splits[0] != 2 else 0
    with pytest.raises(RuntimeError, match="dataset_id .* is in more than one split"):
        check_split(cells, torn, "dataset")
    one = pd.DataFrame({"donor": ["a", "b"], "cell_type": ["x", "y"], "tissue": ["t", "t"], "disease": ["n", "n"]})
    with pytest.raises(RuntimeError, match="Training lacks the cell_type \\['y'\\]"):
        check_split(one, np.array([0, 2]), "donor")


@pytest.mark.parametrize("method", ["tissue", "cell_type"])
def test_held_out_categories_do_not_occur_in_training(method):
    cells = make_metadata()
    splits = split_cells(cells, method, shares={"train": 0.6, "validation": 0.2, "test": 0.2}, seed=1)
    held_out = set(cells[method][splits > 0])
    assert held_out and not held_out & set(cells[method][splits == 0])


def test_a_random_split_divides_every_stratum_by_the_shares():
    cells = make_metadata()
    splits = split_cells(cells, "random", shares=SHARES, stratify=("dataset_id", "cell_type"), seed=3)
    table = cells.assign(split=splits).groupby(["dataset_id", "cell_type"], observed=True)["split"]
    for _, group in table:
        for index in (1, 2):
            assert abs((group == index).sum() - 0.1 * len(group)) <= 1
        assert (group == 0).any()


def test_the_validation_share_does_not_change_the_test_split():
    cells = make_metadata()
    for method in ("random", "donor", "dataset"):
        final = split_cells(cells, method, shares={"train": 0.8, "test": 0.2}, seed=5)
        choosing = split_cells(cells, method, shares={"train": 0.64, "validation": 0.16, "test": 0.2}, seed=5)
        assert ((final == 2) == (choosing == 2)).all() and (choosing == 1).any()


def test_a_named_split_holds_out_the_named_cells_only():
    cells = make_metadata()
    named = {"test": ["dataset_id=s2", "donor_id=d1"], "validation": ["donor_id=d1", "donor_id=d13"]}
    splits = split_cells(cells, "named", shares=SHARES, named=named, seed=0)
    test = (cells["dataset_id"] == "s2") | (cells["donor_id"] == "d1")
    assert (splits == np.where(test, 2, np.where(cells["donor_id"] == "d13", 1, 0))).all()


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"test": ["donor_id=d99"]}, "test cells 'donor_id=d99': no cell has this donor_id; there are d"),
        ({"test": ["donor"]}, "no cell has this donor"),
        ({"validation": ["age=3"]}, r"'age=3': expected COLUMN=VALUE with a column of \['assay'"),
        ({"test": [f"dataset_id=s{i}" for i in range(6)]}, "leave none for training"),
        ({}, "hold out nothing"),
    ],
)
def test_names_that_match_no_cell_are_refused(named, message):
    with pytest.raises(ValueError, match=message):
        split_cells(make_metadata(), "named", shares=SHARES, named=named, seed=0)


def test_splits_depend_on_the_seed_only():
    cells = make_metadata()
    for method in ("random", "donor"):
        first, again, other = (split_cells(cells, method, shares=SHARES, seed=seed) for seed in (0, 0, 1))
        assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("donor", {"shares": {"train": 0.5, "test": 0.4}}, "that add up to 1"),
        ("donor", {"shares": {"train": 0.5, "exam": 0.5}}, "expected shares of"),
        ("batch", {"shares": SHARES}, "split='batch'"),
        ("random", {"shares": SHARES, "stratify": ("batch",)}, "there is no column \\['batch'\\]"),
    ],
)
def test_invalid_shares_and_methods_are_refused(method, options, message):
    with pytest.raises(ValueError, match=message):
        split_cells(make_metadata(50), method, seed=0, **options)


def test_one_donor_cannot_be_split_by_donor():
    cells = make_metadata(100)
    cells["donor"] = pd.Categorical(["one"] * 100)
    with pytest.raises(ValueError, match="leaves no cell for test: there are 1 groups by donor.*split='random'"):
        split_cells(cells, "donor", shares=SHARES, seed=0)

"""Assigning cells to splits."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cell2text.ontology.terms import clean_label
from cell2text.preparation.splits import GROUP_COLUMNS, SPLITS, check_split, choose_method, split_cells

from .conftest import SHARED
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
def test_split_by_donor_keeps_donors_whole_whatever_labels_they_have(pairs, seed):
    donors, types, tissues = zip(*pairs)
    cells = make_metadata(len(pairs))
    cells["donor"] = pd.Categorical([f"d{i}" for i in donors])
    cells["cell_type"] = pd.Categorical([None if i == 0 else f"t{i}" for i in types])
    cells["tissue"] = pd.Categorical([f"o{i}" for i in tissues])
    cells["disease"] = pd.Categorical(["normal"] * len(pairs))
    splits = split_or_refusal(cells, seed)
    if isinstance(splits, str):
        assert "split='donor' needs at least 3 donors" in splits or "leaves no cell for validation" in splits
        return
    assert set(splits) == {0, 1, 2}
    for index in (1, 2):
        assert not set(cells["donor"][splits == index]) & set(cells["donor"][splits != index])


def make_donors(**types):
    """Return metadata with the given cell types of each donor, as {donor: {cell type: number of cells}}."""
    rows = [(donor, name) for donor, counts in types.items() for name, n in counts.items() for _ in range(n)]
    cells = pd.DataFrame(rows, columns=["donor", "cell_type"]).assign(tissue="blood", disease="normal")
    return cells.assign(donor_id=cells["donor"]).astype("category")


def test_training_gets_every_label_if_enough_donors_share_them():
    cells = make_donors(**{f"d{i}": {"T cell": 10, "B cell": 5} for i in range(9)}, rare={"T cell": 10, "mast cell": 2})
    for seed in range(10):
        splits = split_cells(cells, "donor", shares=SHARES, seed=seed)
        assert set(splits) == {0, 1, 2} and (splits[cells["donor"] == "rare"] == 0).all()


def test_donors_whose_labels_others_have_are_held_out_first():
    """Every donor has a cell type of its own; the split still succeeds, and loses the fewest labelled cells."""
    cells = make_donors(
        a={"T cell": 20, "a only": 10}, b={"T cell": 29, "b only": 1}, c={"T cell": 22, "c only": 8},
        d={"T cell": 28, "d only": 2},
    )  # fmt: skip
    for seed in range(5):
        splits = split_cells(cells, "donor", shares=SHARES, seed=seed)
        assert set(cells["donor"][splits == 2]) == {"b"} and set(cells["donor"][splits == 1]) == {"d"}


def test_a_test_donor_taken_from_training_does_not_depend_on_the_validation_share():
    cells = make_donors(**{f"d{i}": {"T cell": 20 + i, f"type {i}": 3 + i} for i in range(6)})
    with_validation = split_cells(cells, "donor", shares=SHARES, seed=1)
    without = split_cells(cells, "donor", shares={"train": 0.9, "test": 0.1}, seed=1)
    assert ((with_validation == 2) == (without == 2)).all() and (without == 2).any()


def test_a_divided_group_is_detected():
    cells = make_metadata(60)
    splits = split_cells(cells, "dataset", shares=SHARES, seed=0)
    splits[np.flatnonzero(cells["dataset_id"] == cells["dataset_id"][0])[:1]] = 2 if splits[0] != 2 else 0
    with pytest.raises(RuntimeError, match="dataset_id .* is in more than one split"):
        check_split(cells, splits, "dataset")


EQUAL_DONORS = {f"d{i}": {"T cell": 60, "B cell": 40} for i in range(8)}


@pytest.mark.parametrize(
    ("donors", "method", "reason"),
    [
        (EQUAL_DONORS, "donor", "there are 8 donors"),
        (dict(list(EQUAL_DONORS.items())[:5]), "donor", "there are 5 donors"),
        (dict(list(EQUAL_DONORS.items())[:4]), "random", "there are 4 donors, and holding out donors needs at least 5"),
        ({"only": {"T cell": 9}}, "random", "there is 1 donor, and holding out donors needs at least 5"),
        (
            {**EQUAL_DONORS, "huge": {"T cell": 9000}, **{f"tiny {i}": {"T cell": 1} for i in range(2)}},
            "random",
            "there are 11 donors, but holding out donors would put 7.2% of the cells into test instead of 40.0%",
        ),
        (
            {f"line {i}": {f"line {i}": 50} for i in range(7)},
            "random",
            "there are 7 donors, but 100% of the test cells would have a cell type, tissue or disease that no training "
            "donor has",
        ),
    ],
)
def test_auto_splits_by_donor_only_if_there_are_enough_donors(donors, method, reason):
    shares = {"train": 0.6, "test": 0.4} if "huge" in donors else SHARES
    choice = choose_method(make_donors(**donors), "auto", shares=shares, seed=0)
    assert (choice.requested, choice.method, choice.reason) == ("auto", method, reason)
    assert split_cells(make_donors(**donors), choice.method, shares=shares, seed=0).any()


REFERENCE_METHODS = {
    "data/baron_pancreas": "random", "data/breast": "random", "data/example_cells": "donor", "data/heart_san": "random",
    "data/kang_pbmc_sle": "donor", "data/kidney_immune": "donor", "data/oligodendroglioma": "random",
    "data/pbmc3k": "random", "data/retina": "random", "data/zilionis_nsclc": "donor",
    "atlas/cells/blakeley_embryo": "random", "atlas/cells/gut_scp1884": "donor",
    "atlas/cells/li2017_celllines": "random", "atlas/cells/pollen2014_mixed": "donor",
}  # fmt: skip


@pytest.mark.skipif(not (SHARED / "atlas" / "cells").exists(), reason="shared/ is not there")
@pytest.mark.parametrize("name", REFERENCE_METHODS)
def test_every_reference_file_can_be_split_with_defaults(name):
    """Metadata of real files of one to 34 donors: no split is empty, and the choice does not depend on the seed."""
    obs = ad.read_h5ad(SHARED / f"{name}.h5ad", backed="r").obs
    columns = ("cell_type", "tissue", "disease", "donor_id", "dataset_id")
    cells = pd.DataFrame({column: [clean_label(value) for value in obs[column]] for column in columns})
    cells["donor"] = cells["donor_id"].fillna("unknown donor")
    for seed in range(3):
        choice = choose_method(cells.astype("category"), "auto", shares=SHARES, seed=seed)
        assert choice.method == REFERENCE_METHODS[name]
        assert set(split_cells(cells.astype("category"), choice.method, shares=SHARES, seed=seed)) == {0, 1, 2}


def test_the_choice_of_auto_does_not_depend_on_the_validation_share():
    for n in range(3, 12):
        cells = make_metadata(300, n_donors=n, seed=n)
        methods = {
            choose_method(cells, "auto", shares={"train": 0.9 - v, "validation": v, "test": 0.1}, seed=0).method
            for v in (0.0, 0.1, 0.4)
        }
        assert len(methods) == 1


def test_auto_says_that_unknown_donors_count_as_one():
    cells = make_donors(unknown={"T cell": 30})
    cells["donor_id"] = pd.Categorical([None] * 30)
    reason = choose_method(cells, "auto", shares=SHARES, seed=0).reason
    assert reason.startswith("there is 1 donor (the cells of unknown donors of a data set count as one)")


def test_a_random_split_of_small_strata_leaves_no_split_empty():
    cells = make_donors(a={f"type {i}": 2 for i in range(10)})
    splits = split_cells(cells, "random", shares=SHARES, seed=0)
    assert np.bincount(splits).tolist() == [16, 2, 2]
    assert set(cells["cell_type"][splits == 0]) == set(cells["cell_type"])
    with pytest.raises(ValueError, match="leaves no cell for validation: there are 2 cells"):
        split_cells(cells[:2], "random", shares=SHARES, seed=0)


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
    message = "split='donor' needs at least 3 donors, one per split, and the cells have 1.*split='random'.*split='auto'"
    with pytest.raises(ValueError, match=message):
        split_cells(cells, "donor", shares=SHARES, seed=0)

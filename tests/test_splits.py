"""Sampling and splits."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cell2text.preparation.sampling import add_organ, diversity, sample_cells
from cell2text.preparation.splits import COVERED_COLUMNS, GROUP_COLUMNS, SPLITS, check_split, split_cells


SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def make_cells(n=2000, n_donors=40, n_types=8, seed=0):
    rng = np.random.default_rng(seed)
    donors = rng.choice(n_donors, size=n, p=rng.dirichlet(np.ones(n_donors)))
    frame = pd.DataFrame(
        {
            "donor": [f"d{i}" for i in donors],
            "donor_id": [f"d{i}" for i in donors],
            "dataset_id": [f"s{i % 6}" for i in donors],
            "cell_type": [f"type {i}" for i in rng.choice(n_types, size=n, p=rng.dirichlet(np.ones(n_types)))],
            "tissue": [f"tissue {i % 5}" for i in donors],
            "disease": ["normal" if i % 3 else "asthma" for i in donors],
            "sex": ["male" if i % 2 else None for i in donors],
            "life_stage": "adulthood",
            "assay": "10x",
            "tissue_ontology_term_id": None,
        }
    )
    return frame.astype("category")


@pytest.mark.parametrize("method", GROUP_COLUMNS)
@pytest.mark.parametrize("seed", range(5))
def test_no_group_stands_in_two_splits(method, seed):
    cells = make_cells(seed=seed)
    shares = SHARES if method == "donor" else {"train": 0.6, "validation": 0.2, "test": 0.2}
    splits = split_cells(cells, method, shares=shares, seed=seed)
    of_group = pd.DataFrame({"group": cells[GROUP_COLUMNS[method]], "split": splits}).groupby("group", observed=True)["split"]
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
def test_trying_to_break_the_split_by_donor(pairs, seed):
    """Any assignment of types and tissues to donors, rare ones too: groups whole, categories covered, or a clear refusal."""
    donors, types, tissues = zip(*pairs)
    cells = make_cells(len(pairs))
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


def test_a_torn_group_and_a_missing_category_are_found():
    cells = make_cells(60)
    splits = split_cells(cells, "dataset", shares=SHARES, seed=0)
    torn = splits.copy()
    torn[np.flatnonzero(cells["dataset_id"] == cells["dataset_id"][0])[:1]] = 2 if splits[0] != 2 else 0
    with pytest.raises(RuntimeError, match="dataset_id .* is in more than one split"):
        check_split(cells, torn, "dataset")
    one = pd.DataFrame({"donor": ["a", "b"], "cell_type": ["x", "y"], "tissue": ["t", "t"], "disease": ["n", "n"]})
    with pytest.raises(RuntimeError, match="Training lacks the cell_type \\['y'\\]"):
        check_split(one, np.array([0, 2]), "donor")


@pytest.mark.parametrize("method", ["tissue", "cell_type"])
def test_a_held_out_category_is_never_seen_in_training(method):
    cells = make_cells()
    splits = split_cells(cells, method, shares={"train": 0.6, "validation": 0.2, "test": 0.2}, seed=1)
    held_out = set(cells[method][splits > 0])
    assert held_out and not held_out & set(cells[method][splits == 0])


def test_a_random_split_keeps_every_stratum():
    cells = make_cells()
    splits = split_cells(cells, "random", shares=SHARES, stratify=("dataset_id", "cell_type"), seed=3)
    table = cells.assign(split=splits).groupby(["dataset_id", "cell_type"], observed=True)["split"]
    for _, group in table:
        for index in (1, 2):
            assert abs((group == index).sum() - 0.1 * len(group)) <= 1
        assert (group == 0).any()


def test_choosing_on_validation_moves_no_test_cell():
    cells = make_cells()
    for method in ("random", "donor", "dataset"):
        final = split_cells(cells, method, shares={"train": 0.8, "test": 0.2}, seed=5)
        choosing = split_cells(cells, method, shares={"train": 0.64, "validation": 0.16, "test": 0.2}, seed=5)
        assert ((final == 2) == (choosing == 2)).all() and (choosing == 1).any()


def test_named_cells_are_held_out_and_no_others():
    cells = make_cells()
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
        ({"test": [f"dataset_id=s{i}" for i in range(6)]}, "leaves none for training"),
        ({}, "holds out no cell"),
    ],
)
def test_names_of_no_cell_are_refused(named, message):
    with pytest.raises(ValueError, match=message):
        split_cells(make_cells(), "named", shares=SHARES, named=named, seed=0)


def test_seeds_decide():
    cells = make_cells()
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
def test_wrong_splits_are_refused(method, options, message):
    with pytest.raises(ValueError, match=message):
        split_cells(make_cells(50), method, seed=0, **options)


def test_one_donor_cannot_be_split_by_donor():
    cells = make_cells(100)
    cells["donor"] = pd.Categorical(["one"] * 100)
    with pytest.raises(ValueError, match="leaves no cell for test: there are 1 groups by donor.*split='random'"):
        split_cells(cells, "donor", shares=SHARES, seed=0)


def test_published_sampling_keeps_its_caps():
    rng = np.random.default_rng(0)
    n = 40_000
    cells = make_cells(n, n_donors=300, n_types=60)
    blood, brain, cortex = "UBERON:0000178", "UBERON:0000955", "UBERON:0000956"
    tissue = rng.choice(8, size=n, p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.06, 0.03, 0.01])
    cells["tissue"] = pd.Categorical([f"tissue {i}" for i in tissue])
    cells["tissue_ontology_term_id"] = pd.Categorical([{0: blood, 1: brain, 2: cortex}.get(i) for i in tissue])
    cells["disease"] = pd.Categorical(rng.choice(["normal", "COVID-19", "asthma"], size=n, p=[0.8, 0.15, 0.05]))
    chosen, parts = sample_cells(cells, "published", n_cells=4000, seed=0)
    assert len(chosen) == len(set(chosen)) == sum(part["taken"] for part in parts)
    asked = [part["asked"] for part in parts]
    assert asked == [1200, 1000, 800, 600, 400] and all(part["taken"] <= part["asked"] for part in parts)
    organ = add_organ(cells)["organ"]
    assert {"blood", "brain"} <= set(organ) and not {"tissue 1", "tissue 2"} & set(organ)
    # Brain: at most a fifth of the first part, and what the others bring, of which none is larger than its own share.
    assert (cells["cell_type"].iloc[chosen].value_counts(normalize=True) < 0.2).all()
    before, after = diversity(cells)["tissue"]["shannon"], diversity(cells.iloc[chosen])["tissue"]["shannon"]
    assert after > before
    first = sample_cells(cells, "published", n_cells=4000, seed=0)[0]
    assert np.array_equal(first, chosen) and not np.array_equal(
        sample_cells(cells, "published", n_cells=4000, seed=1)[0], chosen
    )


def test_each_published_part_keeps_its_caps():
    from cell2text.preparation.sampling import PUBLISHED_STRATA, sample_strata

    cells = add_organ(make_cells(20_000, n_donors=300, n_types=60))
    for part in PUBLISHED_STRATA[1:4]:
        chosen, _ = sample_strata(cells, (part,), 4000, np.random.default_rng(0))
        counts = cells[part.column].iloc[chosen].value_counts()
        n = round(part.share * 4000)
        for name, count in counts.items():
            assert count <= max(1, part.caps.get(name, part.cap or 1.0) * n), (part.column, name)


def test_a_balanced_sample_is_as_even_as_the_cells_allow():
    cells = make_cells(300)
    cells["cell_type"] = pd.Categorical(["rare"] * 10 + ["common"] * 190 + [None] * 100)
    chosen, _ = sample_cells(cells, "balanced", n_cells=40, seed=0)
    assert cells["cell_type"].iloc[chosen].value_counts().to_dict() == {"common": 30, "rare": 10}


def test_samples_of_every_kind_have_their_size():
    cells = make_cells(500)
    assert sample_cells(cells, "all", n_cells=None, seed=0)[0].tolist() == list(range(500))
    for method in ("all", "random"):
        chosen, parts = sample_cells(cells, method, n_cells=50, seed=0)
        assert len(set(chosen)) == 50 and parts == [{"part": method, "asked": 50, "taken": 50}]
    with pytest.raises(ValueError, match="n_cells=0: expected a positive number"):
        sample_cells(cells, "all", n_cells=0, seed=0)
    with pytest.raises(ValueError, match="sampling='some'"):
        sample_cells(cells, "some", n_cells=None, seed=0)


def test_shannon_diversity_by_hand():
    cells = make_cells(4)
    cells["cell_type"] = pd.Categorical(["a", "a", "b", None])
    expected = -(2 / 3) * np.log(2 / 3) - (1 / 3) * np.log(1 / 3)
    assert diversity(cells)["cell_type"] == {"shannon": round(expected, 6), "categories": 2, "known": 3}
    assert diversity(cells)["life_stage"] == {"shannon": 0.0, "categories": 1, "known": 4}

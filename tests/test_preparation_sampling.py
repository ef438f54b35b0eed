"""Sampling cells and measuring their diversity."""

import numpy as np
import pandas as pd
import pytest

from cell2text.preparation.sampling import add_organ, diversity, sample_cells

from .preparation_runs import make_metadata


def test_published_sampling_respects_its_caps():
    rng = np.random.default_rng(0)
    n = 40_000
    cells = make_metadata(n, n_donors=300, n_types=60)
    blood, brain, cortex = "UBERON:0000178", "UBERON:0000955", "UBERON:0000956"
    tissue = rng.choice(8, size=n, p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.06, 0.03, 0.01])
    cells["tissue"] = pd.Categorical([f"tissue {i}" for i in tissue])
    cells["tissue_ontology_term_id"] = pd.Categorical([{0: blood, 1: brain, 2: cortex}.get(i) for i in tissue])
    cells["disease"] = pd.Categorical(rng.choice(["normal", "COVID-19", "asthma"], size=n, p=[0.8, 0.15, 0.05]))
    chosen, parts = sample_cells(cells, "published", n_cells=4000, seed=0)
    assert len(chosen) == len(set(chosen)) == sum(part["taken"] for part in parts)
    targets = [part["asked"] for part in parts]
    assert targets == [1200, 1000, 800, 600, 400] and all(part["taken"] <= part["asked"] for part in parts)
    organ = add_organ(cells)["organ"]
    assert {"blood", "brain"} <= set(organ) and not {"tissue 1", "tissue 2"} & set(organ)
    # Brain: at most a fifth of the first stratum, plus its cells in the other strata, which have caps of their own.
    assert (cells["cell_type"].iloc[chosen].value_counts(normalize=True) < 0.2).all()
    before, after = diversity(cells)["tissue"]["shannon"], diversity(cells.iloc[chosen])["tissue"]["shannon"]
    assert after > before
    first = sample_cells(cells, "published", n_cells=4000, seed=0)[0]
    assert np.array_equal(first, chosen) and not np.array_equal(
        sample_cells(cells, "published", n_cells=4000, seed=1)[0], chosen
    )


def test_each_published_stratum_respects_its_caps():
    from cell2text.preparation.sampling import PUBLISHED_STRATA, sample_strata

    cells = add_organ(make_metadata(20_000, n_donors=300, n_types=60))
    for part in PUBLISHED_STRATA[1:4]:
        chosen, _ = sample_strata(cells, (part,), 4000, np.random.default_rng(0))
        counts = cells[part.column].iloc[chosen].value_counts()
        n = round(part.share * 4000)
        for name, count in counts.items():
            assert count <= max(1, part.caps.get(name, part.cap or 1.0) * n), (part.column, name)


def test_a_balanced_sample_is_as_even_as_the_cells_allow():
    cells = make_metadata(300)
    cells["cell_type"] = pd.Categorical(["rare"] * 10 + ["common"] * 190 + [None] * 100)
    chosen, _ = sample_cells(cells, "balanced", n_cells=40, seed=0)
    assert cells["cell_type"].iloc[chosen].value_counts().to_dict() == {"common": 30, "rare": 10}


def test_samples_of_every_method_have_the_requested_size():
    cells = make_metadata(500)
    assert sample_cells(cells, "all", n_cells=None, seed=0)[0].tolist() == list(range(500))
    for method in ("all", "random"):
        chosen, parts = sample_cells(cells, method, n_cells=50, seed=0)
        assert len(set(chosen)) == 50 and parts == [{"part": method, "asked": 50, "taken": 50}]
    with pytest.raises(ValueError, match="n_cells=0: expected a positive number"):
        sample_cells(cells, "all", n_cells=0, seed=0)
    with pytest.raises(ValueError, match="sampling='some'"):
        sample_cells(cells, "some", n_cells=None, seed=0)


def test_shannon_diversity_by_hand():
    cells = make_metadata(4)
    cells["cell_type"] = pd.Categorical(["a", "a", "b", None])
    expected = -(2 / 3) * np.log(2 / 3) - (1 / 3) * np.log(1 / 3)
    assert diversity(cells)["cell_type"] == {"shannon": round(expected, 6), "categories": 2, "known": 3}
    assert diversity(cells)["life_stage"] == {"shannon": 0.0, "categories": 1, "known": 4}

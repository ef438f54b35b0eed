"""Baselines and controls on small synthetic cells."""

import numpy as np
import pytest
import scipy.sparse as sp

from cell2text.evaluation.baselines import (
    METHODS,
    Cells,
    cell_type_pathways,
    derangement,
    fit_baselines,
    majority_system,
    shuffle_cells,
)
from cell2text.evaluation.expression_features import log_normalise, rank_features
from cell2text.evaluation.predictions import label_rows
from cell2text.evaluation.systems import system_from_texts


TYPES = ("B cell", "T cell")
SETS = (("HALLMARK_HYPOXIA", "HALLMARK_APOPTOSIS"), ("HALLMARK_GLYCOLYSIS", "HALLMARK_APOPTOSIS"))


def make_cells(n: int, seed: int) -> Cells:
    """Make cells of two alternating types, each with high counts of ten genes."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1.0, size=(n, 60)).astype(np.float32)
    counts[::2, :10] += 20
    counts[1::2, 10:20] += 20
    rows = label_rows(
        {"cell_id": f"cell{i}", "cell_type": TYPES[i % 2], "tissue": "lung", "sex": ("male", "female")[i % 2] if i % 3 else None,
         "pathways": SETS[i % 2], "donor_id": f"donor{i % 5}"}
        for i in range(n)
    )  # fmt: skip
    texts = [f"This cell is a {TYPES[i % 2]}. It comes from the lung." for i in range(n)]
    return Cells(rows, log_normalise(sp.csr_matrix(counts)), texts, counts[:, :20])


@pytest.fixture(scope="module")
def systems():
    train, test = make_cells(61, 0), make_cells(30, 1)
    return test, fit_baselines(train, test)


def test_log_normalisation_by_hand():
    found = log_normalise(sp.csr_matrix([[1, 3], [0, 0]])).toarray()
    assert np.allclose(found, [[np.log1p(2500), np.log1p(7500)], [0, 0]])


def test_ranks_as_features_by_hand():
    found = rank_features([[5, 2], []], 6).toarray()
    assert np.allclose(found, [[0, 0, 1 / np.log2(3), 0, 0, 1], [0] * 6])


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("majority", "usual_pathways")])
def test_every_baseline_learns_separable_labels(systems, method):
    test, found = systems
    system = found[method]
    assert [claim.name for claim in system.fields["cell_type"]] == [row["cell_type"] for row in test.rows]
    assert {claim.name for claim in system.fields["tissue"]} == {"lung"}
    if method != "nearest_description":  # its texts contain no sex and no pathways
        known = [i for i, row in enumerate(test.rows) if row["sex"]]
        assert [system.fields["sex"][i].name for i in known] == [test.rows[i]["sex"] for i in known]
        assert [set(names) for names in system.pathways] == [set(row["pathways"]) for row in test.rows]


def test_the_majority_label_comes_from_the_training_cells(systems):
    _, found = systems
    assert {claim.name for claim in found["majority"].fields["cell_type"]} == {"B cell"}
    assert set(found["majority"].pathways) == {("HALLMARK_APOPTOSIS", "HALLMARK_HYPOXIA")}
    assert "disease" not in found["majority"].fields  # no training cell has one
    assert majority_system([], 3).fields == {}


def test_usual_pathways_are_those_of_the_true_cell_type():
    def rows(*found):
        return label_rows(
            {"cell_id": f"c{i}", "cell_type": kind, "pathways": sets} for i, (kind, sets) in enumerate(found)
        )

    train = rows(
        ("B cell", ["A", "B"]), ("B cell", ["A", "C"]), ("B cell", ["C", "D"]), ("T cell", ["D", "E"]), (None, ["D"])
    )
    test = rows(("B cell", ["E"]), ("T cell", None), ("neuron", ["A"]), (None, ["A"]))
    system = cell_type_pathways(train, test)
    assert system.pathways == [("A", "C"), ("D", "E"), ("D", "A"), ("D", "A")] and system.fields == {}


def test_baselines_fit_a_single_varying_pathway_and_very_few_cells():
    train, test = make_cells(12, 0), make_cells(4, 1)
    for i, row in enumerate(train.rows):
        row["pathways"] = ("A", "B") if i % 2 else ("A",)
    found = fit_baselines(train, test)
    assert all(len(system.pathways) == 4 for name, system in found.items() if name != "nearest_description")
    few = make_cells(2, 0)
    assert set(fit_baselines(few, test, methods=["knn", "nearest_description"])) == {"knn", "nearest_description"}


def test_unknown_methods_and_different_genes_raise():
    train, test = make_cells(6, 0), make_cells(4, 1)
    with pytest.raises(ValueError, match=r"No baseline is called svm"):
        fit_baselines(train, test, methods=["svm"])
    test.features = test.features[:, :50]
    with pytest.raises(ValueError, match="different genes: 60 in training, 50"):
        fit_baselines(train, test)


def test_the_shuffled_control_assigns_every_cell_the_prediction_for_another():
    for n in (2, 3, 50):
        moved = derangement(n, seed=0)
        assert sorted(moved) == list(range(n)) and (moved != range(n)).all()
    system = system_from_texts(["B cell", "T cell", "neuron"], ())
    names = [claim.name for claim in shuffle_cells(system, 0).fields["cell_type"]]
    assert sorted(names) == ["B cell", "T cell", "neuron"]
    assert all(moved != own.name for moved, own in zip(names, system.fields["cell_type"]))

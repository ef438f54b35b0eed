"""Figures of named cell types against labels, on a hierarchy small enough to compute by hand."""

import numpy as np
import pytest

from cell2text.evaluation.bootstrap import Resampler, interval
from cell2text.evaluation.named_types import (
    NAMED_TYPE_METRICS,
    named_type_metrics,
    named_type_replicates,
    named_type_values,
)
from cell2text.ontology.graph import OntologyGraph


#      cell
#     /    \
#   blood  nerve
#     |
#     T
#    / \
#  CD4  CD8
GRAPH = OntologyGraph(
    {"cell": [], "blood": ["cell"], "nerve": ["cell"], "T": ["blood"], "CD4": ["T", "blood"], "CD8": ["T"]}
)
T_CELL, B_CELL, LYMPHOCYTE, CD8 = "CL:0000084", "CL:0000236", "CL:0000542", "CL:0000625"


def figures(named, labels, probabilities=None):
    values = named_type_values(named, labels, probabilities, graph=GRAPH)
    return {name: float(found[0]) for name, found in named_type_replicates(values, Resampler([None] * 9)).items()}


def test_depth_is_the_longest_path_from_the_root():
    assert {term: GRAPH.depth(term) for term in GRAPH.terms} == {
        "cell": 0, "blood": 1, "nerve": 1, "T": 2, "CD4": 3, "CD8": 3,
    }  # fmt: skip


def test_a_broader_type_is_true_at_part_of_the_depth():
    found = figures(["T", "CD8", "blood", "nerve", None], ["CD8", "CD8", "T", "T", "T"])
    assert found == pytest.approx({"named_share": 4 / 5, "named_true": 3 / 4, "named_depth": (2 / 3 + 1 + 1 / 2) / 3})


def test_a_narrower_type_is_true_at_full_depth_and_a_sibling_is_wrong():
    assert figures(["CD8", "CD4"], ["T", "CD8"]) == {"named_share": 1, "named_true": 0.5, "named_depth": 1}


def test_the_root_is_true_and_has_no_depth():
    assert figures(["cell"], ["CD8"]) == {"named_share": 1, "named_true": 1, "named_depth": 0}
    assert figures(["CD8"], ["cell"])["named_depth"] == 1


def test_calibration_error_by_hand():
    named, labels = ["T", "T", "T", "T", None], ["T", "T", "nerve", "T", "T"]
    found = figures(named, labels, [0.95, 0.95, 0.95, 0.3, None])
    # bin of 0.95: 3 cells, stated 2.85, true 2; bin of 0.3: 1 cell, stated 0.3, true 1
    assert found["ece"] == pytest.approx((0.85 + 0.7) / 4)
    assert found["wrong_above_90"] == pytest.approx(1 / 5)  # of all labelled cells
    assert figures(["T"], ["T"], [1.0])["ece"] == 0  # a probability of 1 is in the last bin


def test_a_probability_of_exactly_90_percent_is_not_above():
    assert figures(["nerve"], ["T"], [0.9])["wrong_above_90"] == 0


def test_cells_without_a_label_do_not_count():
    assert figures(["nerve", "T"], [None, "T"], [0.99, 1.0]) == {
        "named_share": 1, "named_true": 1, "named_depth": 1, "ece": 0, "wrong_above_90": 0,
    }  # fmt: skip


def test_figures_without_any_cell_are_missing():
    for named, labels in (([None], ["T"]), (["T"], [None]), ([], [])):
        found = named_type_metrics(named, labels, [None] * len(named))
        assert set(found) == set(NAMED_TYPE_METRICS)
        assert np.isnan([found["named_true"], found["named_depth"], found["ece"]]).all()
    assert named_type_metrics([None], [T_CELL], [None])["wrong_above_90"] == 0  # a declined cell is not wrong
    assert np.isnan(named_type_metrics([T_CELL], [B_CELL], [None])["wrong_above_90"])


def test_terms_of_the_cell_ontology_are_compared_by_default():
    found = named_type_metrics([LYMPHOCYTE, CD8, B_CELL, "not a term"], [T_CELL] * 4)
    assert found["named_true"] == 0.5 and 0.5 < found["named_depth"] < 1


def test_replicates_give_intervals_around_each_figure():
    rng = np.random.default_rng(0)
    named, labels = rng.choice(["T", "CD8", "nerve"], 200), ["CD8"] * 200
    values = named_type_values(named.tolist(), labels, rng.random(200), graph=GRAPH)
    for name, found in named_type_replicates(values, Resampler([None] * 200, n_resamples=100)).items():
        low, high = interval(found)
        assert low <= found[1:].mean() <= high and found.shape == (101,), name


@pytest.mark.parametrize("probabilities", [[1.5], [0.5, 0.5], [-0.1]])
def test_wrong_probabilities_are_errors(probabilities):
    with pytest.raises(ValueError, match=r"probabilities"):
        named_type_metrics([T_CELL], [T_CELL], probabilities)


def test_a_wrong_number_of_labels_is_an_error():
    with pytest.raises(ValueError, match="2 named types for 1 labels"):
        named_type_metrics([T_CELL, T_CELL], [T_CELL])

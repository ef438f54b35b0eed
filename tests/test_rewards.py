"""Rewards of texts: exact values on hand-made texts, and what a text without a readable type gets."""

import numpy as np
import pytest

from cell2text.ontology.graph import OntologyGraph, load_graph
from cell2text.training.rewards import (
    LABEL_COLUMN,
    PATHWAYS_COLUMN,
    UNREADABLE_CALIBRATION_REWARD,
    UNREADABLE_TYPE_REWARD,
    calibration_reward,
    pathway_reward,
    read_type_statement,
    text_rewards,
    type_reward,
)


CELL, LYMPHOCYTE, T_CELL, B_CELL, NEURON = "CL:0000000", "CL:0000542", "CL:0000084", "CL:0000236", "CL:0000540"
SUBTYPE = "This cell is a lymphocyte. It is most likely a T cell ({})."
HALLMARKS = ["HALLMARK_APOPTOSIS", "HALLMARK_HYPOXIA", "HALLMARK_MYC_TARGETS_V1"]


@pytest.fixture(scope="module")
def graph():
    """Three kinds of cells: information content 0 for the cell, 1 - log(3) / log(5) for the lymphocyte, 1 for leaves."""
    return OntologyGraph({CELL: [], LYMPHOCYTE: [CELL], T_CELL: [LYMPHOCYTE], B_CELL: [LYMPHOCYTE], NEURON: [CELL]})


@pytest.fixture
def content(graph):
    value = 1 - np.log(3) / np.log(5)
    assert graph.information_content[LYMPHOCYTE] == pytest.approx(value)
    return value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("This cell is a T cell.", (T_CELL, None, 0.0), id="named_type"),
        pytest.param(SUBTYPE.format("0.62"), (LYMPHOCYTE, T_CELL, 0.62), id="likely_subtype"),
        pytest.param("T cell", (T_CELL, None, 0.0), id="bare_name"),
        pytest.param(
            "This cell is a T cell. It is most likely a lymphocyte (0.90).", (T_CELL, None, 0.0), id="subtype_above"
        ),
        pytest.param("This cell is a T cell. It is most likely a B cell (0.90).", None, id="subtype_elsewhere"),
        pytest.param("This cell is a T cell. This cell is a neuron.", None, id="two_types"),
        pytest.param("This cell is a wobbly thing.", None, id="unknown_type"),
        pytest.param("Its most active pathway is hypoxia.", None, id="no_type"),
        pytest.param("", None, id="no_text"),
    ],
)
def test_types_are_read_from_texts(text, expected, graph):
    found = read_type_statement(text, graph)
    assert expected is None if found is None else (found.named, found.subtype, found.probability) == expected


def test_type_reward_is_the_pagerank_similarity_to_the_label(graph):
    assert type_reward("This cell is a T cell.", T_CELL, graph=graph) == 1
    similarity = type_reward("This cell is a B cell.", T_CELL, graph=graph)
    assert similarity == graph.pagerank_similarity(B_CELL, T_CELL)
    assert 0 < similarity < type_reward("This cell is a lymphocyte.", T_CELL, graph=graph) < 1


def test_calibration_reward_is_the_weighted_brier_score_that_a_text_saves(graph, content):
    assert calibration_reward("This cell is a T cell.", T_CELL, graph=graph) == 1
    assert calibration_reward("This cell is a B cell.", T_CELL, graph=graph) == -1
    assert calibration_reward("This cell is a lymphocyte.", T_CELL, graph=graph) == pytest.approx(content)
    expected = content + (1 - content) * (2 * 0.62 - 0.62**2)
    assert calibration_reward(SUBTYPE.format("0.62"), T_CELL, graph=graph) == pytest.approx(expected)
    expected = content - (1 - content) * 0.62**2
    assert calibration_reward(SUBTYPE.format("0.62"), B_CELL, graph=graph) == pytest.approx(expected)
    expected = -content - (1 - content) * 0.62**2
    assert calibration_reward(SUBTYPE.format("0.62"), NEURON, graph=graph) == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_the_true_probability_has_the_highest_expected_calibration_reward(share, graph):
    stated = [f"{percent / 100:.2f}" for percent in range(5, 100, 5)]
    rewards = [
        share * calibration_reward(SUBTYPE.format(p), T_CELL, graph=graph)
        + (1 - share) * calibration_reward(SUBTYPE.format(p), B_CELL, graph=graph)
        for p in stated
    ]
    assert float(stated[int(np.argmax(rewards))]) == share
    flat = calibration_reward("This cell is a lymphocyte.", T_CELL, graph=graph)
    assert max(rewards) > flat  # a calibrated subtype earns more than none


def test_a_type_below_the_label_counts_as_the_label(graph, content):
    assert calibration_reward("This cell is a T cell.", LYMPHOCYTE, graph=graph) == pytest.approx(content)
    assert calibration_reward(SUBTYPE.format("0.90"), LYMPHOCYTE, graph=graph) == pytest.approx(content)
    assert type_reward("This cell is a T cell.", LYMPHOCYTE, graph=graph) < 1


def test_a_text_without_a_readable_type_gets_the_lowest_rewards(graph):
    for text in ("", "No cell type is assigned.", "This cell is a T cell. It is most likely a B cell (0.90)."):
        assert type_reward(text, T_CELL, graph=graph) == UNREADABLE_TYPE_REWARD == 0
        assert calibration_reward(text, T_CELL, graph=graph) == UNREADABLE_CALIBRATION_REWARD == -1


def test_rewards_of_types_use_the_cell_ontology_by_default():
    own = load_graph("CL")
    assert type_reward("This cell is a B cell.", T_CELL) == own.pagerank_similarity(B_CELL, T_CELL)
    assert calibration_reward("This cell is a T cell.", T_CELL) == own.information_content[T_CELL]


@pytest.mark.parametrize(
    ("names", "reward"),
    [
        pytest.param("pathways are hypoxia and apoptosis", 1, id="both_active"),
        pytest.param("pathways are hypoxia and MYC targets (set 1)", 0, id="one_active"),
        pytest.param("pathway is hypoxia", 0.5, id="one_stated"),
        pytest.param("pathway is MYC targets (set 1)", -0.5, id="one_stated_not_active"),
        pytest.param("pathways are hypoxia, apoptosis and MYC targets (set 1)", 1 / 3, id="three_stated"),
        pytest.param("pathway is a made-up one", -0.5, id="unknown_name"),
        pytest.param(None, 0, id="none_stated"),
    ],
)
def test_pathway_reward_counts_active_against_other_pathways(names, reward):
    text = "This cell is a T cell." + (f" Its most active {names}." if names else "")
    assert pathway_reward(text, HALLMARKS[:2], HALLMARKS) == pytest.approx(reward)


def test_cells_without_labels_have_no_reward():
    assert type_reward("This cell is a T cell.", None) is None
    assert calibration_reward("This cell is a T cell.", "no term") is None
    assert pathway_reward("Its most active pathway is hypoxia.", [], HALLMARKS) is None


def test_rewards_read_chats_and_plain_texts_beside_the_columns_of_the_rows():
    rewards = text_rewards(HALLMARKS)
    text = "This cell is a T cell. Its most active pathways are hypoxia and apoptosis."
    completions = [[{"role": "assistant", "content": f" {text}\n"}], text]
    columns = {LABEL_COLUMN: [T_CELL, None], PATHWAYS_COLUMN: [HALLMARKS, ["HALLMARK_HYPOXIA"]], "prompts": [[], []]}
    assert rewards["type"](completions=completions, **columns) == [1, None]
    assert rewards["pathways"](completions=completions, **columns) == [1, 0]
    assert [reward.__name__ for reward in rewards.values()] == ["type", "calibration", "pathways"]

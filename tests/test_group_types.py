"""Cell types of groups from the probabilities of their cells: combination, decision, disagreement, markers, summaries."""

import json
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

import cell2text
from cell2text.describe import DescribeOptions, describe_file
from cell2text.describe import group_markers as markers_module
from cell2text.describe.group_markers import group_markers, sample_rows
from cell2text.describe.group_summary import summarise_groups
from cell2text.describe.group_types import MIN_CELLS, GroupType, GroupTypes, calibrate_group, decide_group_types
from cell2text.describe.groups import find_groups
from cell2text.describe.inputs import CellReader
from cell2text.describe.table import output_names, type_probability_matrix, with_type_probabilities
from cell2text.errors import UserError
from concepts_cell2text import ConceptNames
from configuration_cell2text import Cell2TextConfig
from source_cell2text import AnnDataContainer, CellSource
from statements_cell2text import TypeHierarchy


PARENTS = {"B cell": ["lymphocyte"], "T cell": ["lymphocyte"], "lymphocyte": ["cell"], "neuron": ["cell"], "cell": []}
CURVE = {"slope": 2.0, "intercept": 0.5, "named_slope": 0.5, "named_intercept": 1.0}
B, T, LYMPHOCYTE, NEURON = ("B cell", "T cell", "lymphocyte", "neuron")


@pytest.fixture(scope="module")
def hierarchy():
    return TypeHierarchy(ConceptNames(hierarchical={"cell_type": PARENTS}), uninformative=["cell"])


def probabilities(hierarchy, rows):
    """Rows of probabilities from dictionaries; a type is at least as probable as those below it."""
    found = np.zeros((len(rows), len(hierarchy.names)))
    for row, values in zip(found, rows):
        for name, value in (values | {"cell": 1.0}).items():
            row[hierarchy.names.index(name)] = value
    return found


def decide(hierarchy, rows, **options):
    types = GroupTypes(hierarchy, 1, **options)
    types.add(np.zeros(len(rows), dtype=int), probabilities(hierarchy, rows))
    return types.decide()[0]


def test_unsure_cells_name_the_broader_type_that_all_support(hierarchy):
    found = decide(hierarchy, [{B: 0.55, T: 0.4, LYMPHOCYTE: 0.95}, {B: 0.4, T: 0.55, LYMPHOCYTE: 0.95}])
    assert (found.name, found.term_id, found.probability) == (LYMPHOCYTE, "CL:0000542", 0.95)
    assert [name for name, _ in found.candidates] == [B, T]


def test_a_group_is_not_named_narrower_than_most_of_its_cells(hierarchy):
    broad, narrow = {LYMPHOCYTE: 0.9, B: 0.58}, {LYMPHOCYTE: 0.95, B: 0.8}
    found = decide(hierarchy, [broad] * 6 + [narrow] * 4)  # the mean of the B cell is 0.67
    assert (found.name, found.probability) == (LYMPHOCYTE, 0.92)
    assert found.candidates == ((B, 0.668),)
    assert decide(hierarchy, [broad] * 4 + [narrow] * 6).name == B


def test_a_minority_of_other_cells_does_not_change_the_type(hierarchy):
    cells = [{B: 0.9, LYMPHOCYTE: 0.95}] * 9 + [{NEURON: 0.99}]
    assert decide(hierarchy, cells).name == B


def test_the_threshold_falls_in_steps_only_where_no_type_reaches_it(hierarchy):
    rows = probabilities(hierarchy, [{B: 0.65, LYMPHOCYTE: 0.9}, {B: 0.45, LYMPHOCYTE: 0.55}, {B: 0.1, NEURON: 0.2}])
    decision = decide_group_types(hierarchy, rows, 0.6, np.array([-1, -1, -1]))
    assert [hierarchy.names[i] if i >= 0 else None for i in decision.named] == [B, LYMPHOCYTE, None]
    assert decision.probability.tolist() == pytest.approx([0.65, 0.55, 0.0])


def test_the_threshold_of_the_calibration_replaces_that_of_a_cell(hierarchy):
    cells = [{B: 0.65, LYMPHOCYTE: 0.9}] * 5
    assert decide(hierarchy, cells).name == B
    assert decide(hierarchy, cells, calibration={"slope": 1.0, "intercept": 0.0, "threshold": 0.7}).name == LYMPHOCYTE


def test_a_group_of_one_cell_keeps_the_probabilities_of_the_cell():
    means = np.array([[0.2, 0.7], [0.2, 0.7]])
    one, many = calibrate_group(means, np.array([1, 10_000]), CURVE)
    assert one == pytest.approx(means[0])
    odds = means[0] / (1 - means[0])
    expected = odds**2 * np.exp(0.5)
    assert many == pytest.approx(expected / (1 + expected), rel=1e-3)


def test_the_probability_of_the_named_type_has_a_curve_of_its_own(hierarchy):
    cells = [{B: 0.8, LYMPHOCYTE: 0.9}] * 1000
    raw, calibrated = (decide(hierarchy, cells, calibration=curve) for curve in (None, CURVE))
    assert (raw.name, calibrated.name, raw.probability) == (B, B, 0.8)
    logit = np.log(4) * 2 + 0.5  # first the curve of all types, then that of the named one
    assert calibrated.probability == pytest.approx(1 / (1 + np.exp(-(logit * 0.5 + 1))), abs=2e-3)


def test_sums_do_not_depend_on_how_cells_are_split_into_shards(hierarchy):
    rng = np.random.default_rng(0)
    cells = rng.random((200, len(hierarchy.names)))
    cells[::7] = np.nan
    codes = rng.integers(-1, 3, 200)
    whole, split = (GroupTypes(hierarchy, 4, calibration=CURVE) for _ in range(2))
    whole.add(codes, cells)
    for start in range(0, 200, 13):
        split.add(codes[start : start + 13], cells[start : start + 13])
    assert whole.decide() == split.decide()
    assert whole.decide()[3] == GroupType()  # without cells
    assert whole.n_cells.sum() == (np.isfinite(cells).all(axis=1) & (codes >= 0)).sum()


def test_two_halves_of_incompatible_types_are_flagged_with_the_reason(hierarchy):
    halves = [{B: 0.96, LYMPHOCYTE: 0.97}] * 10 + [{NEURON: 0.9}] * 10
    found = decide(hierarchy, halves)
    assert found.disagreement > 0.2
    assert found.heterogeneity == (
        "Its cells disagree: 48 % of their type probability is on B cell and 45 % on neuron, in different cells."
    )


def test_cells_that_are_unsure_alike_or_too_few_are_not_flagged(hierarchy):
    unsure = [{B: 0.5, NEURON: 0.45, LYMPHOCYTE: 0.5}] * 20
    assert decide(hierarchy, unsure).heterogeneity is None and decide(hierarchy, unsure).disagreement == 0
    broad_and_narrow = [{LYMPHOCYTE: 0.9, B: 0.9}] * 10 + [{LYMPHOCYTE: 0.9, B: 0.0}] * 10
    assert decide(hierarchy, broad_and_narrow).heterogeneity is None
    few = [{B: 0.95, LYMPHOCYTE: 0.95}, {NEURON: 0.95}] * (MIN_CELLS // 2 - 1)
    assert decide(hierarchy, few).heterogeneity is None and decide(hierarchy, few).disagreement > 0.2


@pytest.mark.parametrize(
    "calibration",
    [
        {"slope": 1.0},
        CURVE | {"extra": 1.0},
        CURVE | {"slope": 0.0},
        CURVE | {"named_slope": -1.0},
        CURVE | {"threshold": 0.4},
    ],
)
def test_a_configuration_with_other_coefficients_for_groups_raises(calibration):
    with pytest.raises(UserError, match="group_calibration has"):
        Cell2TextConfig(group_calibration=calibration)


def test_probabilities_survive_a_shard_and_cells_without_any_are_nan(tmp_path):
    values = np.array([[0.25, 0.75], [np.nan, np.nan], [0.5, 1.0]], dtype=np.float32)
    table = with_type_probabilities(pa.table({"cell_id": ["a", "b", "c"]}), values)
    pq.write_table(table, tmp_path / "shard.parquet")
    stored = pq.read_table(tmp_path / "shard.parquet")
    np.testing.assert_array_equal(type_probability_matrix(stored), values)
    assert output_names(stored.schema) == ["cell_id"]
    nothing = with_type_probabilities(table.select(["cell_id"]), np.full((3, 2), np.nan))
    assert type_probability_matrix(nothing).shape[0] == 3


@pytest.fixture(scope="module")
def mini():
    return cell2text.load(device="cpu")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Twelve cells of one type, twelve of two others, and one in a cluster with a hostile name."""
    adata = cell2text.example_cells()
    types = adata.obs["cell_type"].astype(str).to_numpy()
    rows = [
        np.flatnonzero(types == name)[:n] for name, n in (("macrophage", 13), ("pancreatic A cell", 6), ("B cell", 6))
    ]
    adata = adata[np.concatenate(rows)].copy()
    adata.obs["cluster"] = np.where(adata.obs["cell_type"].astype(str) == "macrophage", "main", "rest")
    adata.obs.iloc[0, adata.obs.columns.get_loc("cluster")] = "=1+1;<b>"
    path = tmp_path_factory.mktemp("grouped") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


def test_groups_are_the_same_in_python_and_with_any_shards(cells, mini, tmp_path):
    adata = ad.read_h5ad(cells)
    cell2text.tl.describe(adata, mini, groupby="cluster", allow_fractional=True)
    table = adata.uns["cell2text"]["groups"]
    options = DescribeOptions(groupby="cluster", allow_fractional=True)
    out = describe_file(cells, tmp_path / "o.h5ad", options=options, progress=False, shard_rows=7, device="cpu")
    written = ad.read_h5ad(out)
    pd.testing.assert_frame_equal(written.uns["cell2text"]["groups"], table, rtol=1e-3)
    assert not any("type_probabilities" in name for name in [*written.obs, *adata.obs])
    assert table["group"].tolist() == ["=1+1;<b>", "main", "rest"]
    main = table.iloc[1]
    assert main["cell_type"] == main["majority_cell_type"] == "macrophage"
    assert 0.6 < main["type_probability"] <= 1 and not main["heterogeneous"]
    assert table["heterogeneous"].tolist() == [False, False, True]
    assert table["heterogeneity"].iloc[2].startswith("Its cells disagree: ")
    assert main["summary"].startswith("Group main of cluster (")


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_plain_tables_do_not_hold_the_probabilities_of_all_types(ending, cells, tmp_path):
    options = DescribeOptions(groupby="cluster", allow_fractional=True, evidence=3)
    out = describe_file(cells, tmp_path / f"o.{ending}", options=options, progress=False, device="cpu")
    text = pq.read_schema(out).names if ending == "parquet" else out.read_text()
    assert "type_probabilities" not in text and "cell_type_candidates" in text
    beside = tmp_path / f"o.groups.{ending}"
    readers = {"csv": pd.read_csv, "parquet": pd.read_parquet, "jsonl": lambda path: pd.read_json(path, lines=True)}
    main = readers[ending](beside).set_index("group").loc["main"]
    first = main["evidence_genes"].split("; ")[0]
    assert f"The model's evidence for it is {first}" in main["summary"]


def reader_of(adata, processor, groups=None):
    return CellReader(CellSource(AnnDataContainer(adata)), processor, DescribeOptions(groupby=groups), ConceptNames())


@pytest.fixture(scope="module")
def marked(mini):
    """Sixty cells of two groups, the first of which expresses three genes more; two genes have the same symbol."""
    rng = np.random.default_rng(0)
    vocabulary = mini[1].gene_vocabulary
    tokens = [i for i, name in enumerate(vocabulary.tokens) if name.startswith("ENSG") and vocabulary.symbols[i]][:200]
    counts = rng.poisson(1.0, (60, 200))
    counts[:30, :3] += 20
    obs = pd.DataFrame({"group": ["a"] * 30 + ["b"] * 29 + ["single"]}, index=[f"c{i}" for i in range(60)])
    adata = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs)
    adata.var_names = [vocabulary.tokens[i] for i in tokens]
    return adata, [vocabulary.symbols[i] for i in tokens[:3]]


def test_marker_genes_are_those_that_a_group_expresses_more(marked, mini):
    adata, expected = marked
    reader = reader_of(adata, mini[1], "group")
    found = group_markers(reader, reader.groups, seed=0)
    assert sorted(found[0]) == sorted(expected) and not set(found[1]) & set(expected) and found[2] == []
    assert found == group_markers(reader, reader.groups, seed=0)


def test_one_group_has_no_marker_genes(marked, mini):
    adata = marked[0][:30].copy()
    reader = reader_of(adata, mini[1], "group")
    assert group_markers(reader, reader.groups) == [[]]


def test_without_scanpy_groups_have_no_marker_genes_and_the_reason_is_recorded(cells, mini, monkeypatch):
    monkeypatch.setattr(markers_module, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "scanpy", None)
    adata = ad.read_h5ad(cells)
    cell2text.tl.describe(adata, mini, groupby="cluster", allow_fractional=True, max_new_tokens=4)
    assert "marker_genes" not in adata.uns["cell2text"]["groups"]
    notes = json.loads(adata.uns["cell2text"]["reading"])["notes"]
    assert any("scanpy is not installed" in note for note in notes)


def test_cells_for_markers_are_bounded_per_group_and_in_all(monkeypatch):
    values = pd.Series(["a"] * 500 + ["b"] * 2 + [None] * 5)
    groups = find_groups(values, "x", None, 0)
    rows = sample_rows(groups, 0)
    assert np.bincount(groups.codes[rows]).tolist() == [200, 2] and (np.diff(rows) > 0).all()
    monkeypatch.setattr(markers_module, "MAX_CELLS", 100)
    assert np.bincount(groups.codes[sample_rows(groups, 0)]).tolist() == [50, 2]


def test_a_summary_states_contradictions_and_evidence():
    row = {
        "group": "3", "n_cells": 1200, "n_described": 50, "cell_type": "T cell", "cell_type_n": 48,
        "cell_type_ontology_term_id": "CL:0000084", "type_probability": 0.934, "cell_type_disagree": 0.25,
        "cell_type_candidates": "mature T cell (0.61)", "heterogeneity": "Its cells disagree.", "pathways": np.nan,
        "pseudobulk_cell_type": "neuron", "pseudobulk_cell_type_ontology_term_id": "CL:0000540",
        "marker_genes": "CD3D; IL32; TRAC",
    }  # fmt: skip
    found = summarise_groups(pd.DataFrame([row]), "leiden", evidence={"3": ["CD3E", "CD2"]})[0]
    assert found == (
        "Group 3 of leiden (1,200 cells) is most likely a T cell, with a probability of 0.93. The most probable type below "
        "it is mature T cell (0.61). 48 of 50 described cells name a type, and 25 % of these contradict it. Its cells "
        "disagree. Its summed counts are described as a neuron instead. The model's evidence for it is CD3E and CD2. It "
        "expresses CD3D, IL32 and TRAC more than the other groups."
    )


def test_a_group_without_a_type_or_descriptions_is_summarised():
    row = {"group": "9", "n_cells": 1, "n_described": 0, "cell_type": None, "cell_type_n": 0}
    found = summarise_groups(pd.DataFrame([row]), "leiden")[0]
    assert found == "Group 9 of leiden (1 cell) has no cell type. None of its cells has a description."


def test_a_part_without_any_probabilities_adds_nothing(hierarchy):
    types = GroupTypes(hierarchy, 2)
    types.add(np.array([0, 1, -1]), np.full((3, 0), np.nan, dtype=np.float32))
    assert types.decide() == [GroupType(), GroupType()]

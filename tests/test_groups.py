"""Groups of cells: consensus, agreement, pseudobulk, sampling, and columns that are not groups."""

import threading
import time
from itertools import combinations

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp

from cell2text import tl
from cell2text.describe import DescribeOptions, describe_file
from cell2text.describe.consensus import describe_groups
from cell2text.describe.groups import find_groups
from cell2text.describe.ranked_cells import RankedCells
from cell2text.describe.shards import ShardFolder
from cell2text.describe.table import make_table
from cell2text.inference.cell_types import CellTypes
from cell2text.language.described import has_description
from cell2text.ontology.graph import load_graph
from concepts_cell2text import ConceptNames

from .describing import N_CELLS, experiment, model  # noqa: F401


BY_CLUSTER = DescribeOptions(max_new_tokens=10, batch_size=8, groupby="cluster")


@pytest.fixture(scope="module")
def clustered(experiment, tmp_path_factory):
    """The experiment with clusters 2, 10 and, of one cell, 9; two cells are in none, and one has no counts."""
    adata = ad.read_h5ad(experiment)
    clusters = np.array([["2", "10"][i % 2] for i in range(N_CELLS)], dtype=object)
    clusters[3], clusters[[7, 8]] = "9", None
    adata.obs["cluster"] = pd.Categorical(clusters)
    adata.obs["number"] = np.arange(N_CELLS) * 1.5
    adata.obs["none"] = pd.Categorical([None] * N_CELLS, categories=["a"])
    path = tmp_path_factory.mktemp("clustered") / "clustered.h5ad"
    adata.write_h5ad(path)
    return path


def rows_of(texts, type_names=(), concepts=None):
    n = len(texts)
    ranked = RankedCells([f"c{i}" for i in range(n)], [], np.full(n, 5), np.ones(n), 1.0)
    types = CellTypes(ConceptNames({"cell_type": list(type_names)}))
    return make_table(ranked, texts, np.zeros((n, 2), dtype=np.float32), types, concepts, fields_only=False)


def test_the_consensus_is_the_most_frequent_value_with_agreement_and_disagreement():
    texts = [
        "This cell is a T cell. It comes from the blood of a healthy male donor.",
        "This cell is a T cell. It comes from the blood of a healthy female donor.",
        "This cell is a CD8-positive, alpha-beta T cell. It comes from the lung of a healthy female donor.",
        "This cell is a B cell. Its most active pathways are TNF-alpha signaling via NF-kB and adipogenesis.",
        "Who knows.",
        None,
        "This cell is a B cell.",
        "This cell is a neuron.",
    ]
    groups = find_groups(pd.Series([*["x"] * 6, "y", None]), "cluster", None, 0)
    table = describe_groups(groups, [rows_of(texts[:3]), rows_of(texts[3:])], rows_of(["This cell is a T cell.", None]))
    x, y = table.to_dict("records")
    assert (x["group"], x["n_cells"], x["n_described"]) == ("x", 6, 5)
    assert np.isnan(x["mean_type_probability"]) and np.isnan(x["pseudobulk_type_probability"])
    assert (x["cell_type"], x["cell_type_ontology_term_id"], x["cell_type_n"]) == ("T cell", "CL:0000084", 4)
    terms = ["CL:0000084", "CL:0000084", "CL:0000625", "CL:0000236"]
    assert x["cell_type_agreement"] == np.mean([a == b for a, b in combinations(terms, 2)])
    assert load_graph("CL").related("CL:0000625", "CL:0000084") and x["cell_type_disagree"] == 1 / 4
    assert (x["tissue"], x["tissue_n"], x["tissue_disagree"]) == ("blood", 3, 1 / 3)
    assert (x["sex"], x["disease"], x["disease_agreement"]) == ("female", "normal", 1.0)
    assert x["life_stage"] is None and x["life_stage_n"] == 0 and np.isnan(x["life_stage_agreement"])
    assert x["text"] == "This cell is a T cell. It comes from the blood of a healthy female donor."
    assert x["pathways"] is None and x["pseudobulk_cell_type"] == "T cell"
    assert (y["n_cells"], y["cell_type"]) == (1, "B cell") and np.isnan(y["cell_type_agreement"])
    assert y["pseudobulk_text"] is None and groups.summary()["cells_without_group"] == 1


def test_ties_go_to_the_first_term_and_pathways_need_half_of_the_cells():
    texts = ["This cell is a T cell. Its most active pathway is adipogenesis.", "This cell is a B cell."]
    groups = find_groups(pd.Series(["x", "x"]), "cluster", None, 0)
    for order in (texts, texts[::-1]):
        row = describe_groups(groups, [rows_of(order)], rows_of([None])).iloc[0]
        assert row["cell_type_ontology_term_id"] == "CL:0000084" < "CL:0000236" and row["pathways"] == "adipogenesis"


def test_groups_have_the_mean_type_probability_of_their_cells():
    texts = ["This cell is a T cell.", "This cell is a B cell.", "This cell is a neuron.", None]
    concepts = np.array([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6], [np.nan, np.nan]])
    groups = find_groups(pd.Series(["x"] * 4), "cluster", None, 0)
    row = describe_groups(groups, [rows_of(texts, ["T cell", "B cell"], concepts)], rows_of([None])).iloc[0]
    assert row["mean_type_probability"] == pytest.approx((0.9 + 0.5) / 2)  # no concept for neurons


def test_groups_are_in_natural_order_and_cells_are_sampled_from_each():
    values = pd.Series([10, 2, 10, 10, 2, 10])
    groups = find_groups(values, "cluster", 2, 0)
    assert groups.names == ["2", "10"] and groups.sizes.tolist() == [2, 4]
    assert groups.to_describe.sum() == 4 and groups.to_describe[[1, 4]].all()
    assert (groups.to_describe == find_groups(values, "cluster", 2, 0).to_describe).all()


@pytest.fixture(scope="module")
def by_cluster(clustered, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("by_cluster") / "out.h5ad"
    return ad.read_h5ad(describe_file(clustered, out, model=str(model), options=BY_CLUSTER, progress=False))


def test_the_pseudobulk_is_the_summed_counts_described_as_a_cell(by_cluster, clustered, model):
    groups = by_cluster.uns["cell2text"]["groups"]
    assert groups["group"].tolist() == ["2", "9", "10"] and groups["n_cells"].sum() == N_CELLS - 2
    before = ad.read_h5ad(clustered)
    sums = np.stack([before.X[(before.obs["cluster"] == name).to_numpy()].sum(axis=0).A1 for name in groups["group"]])
    summed = ad.AnnData(sp.csr_matrix(sums), obs=pd.DataFrame(index=list(groups["group"])), var=before.var)
    tl.describe(summed, str(model), max_new_tokens=10)
    assert groups["pseudobulk_text"].tolist() == summed.obs["cell2text"].tolist()
    assert groups["pseudobulk_n_genes"].tolist() == summed.obs["cell2text_n_genes"].tolist()
    is_described = has_description(by_cluster.obs.rename(columns={"cell2text": "text"}))
    described = (
        pd.Series(is_described, index=by_cluster.obs_names).groupby(by_cluster.obs["cluster"], observed=True).sum()
    )
    assert groups["n_described"].tolist() == described[groups["group"]].tolist()
    assert '"cells_without_group": 2' in by_cluster.uns["cell2text"]["params"]["groups"]


def test_groups_are_equal_in_python_with_shards_and_with_ranks(by_cluster, clustered, model, tmp_path, monkeypatch):
    expected = by_cluster.uns["cell2text"]["groups"]
    adata = ad.read_h5ad(clustered)
    tl.describe(adata, str(model), max_new_tokens=10, groupby="cluster")
    pd.testing.assert_frame_equal(adata.uns["cell2text"]["groups"], expected, check_exact=False, rtol=1e-4)

    def run(out, **options):
        return describe_file(clustered, out, model=str(model), options=BY_CLUSTER, progress=False, **options)

    one = run(tmp_path / "one.csv", shard_rows=7)
    two = tmp_path / "two.csv"
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "two.csv.describing").mkdir()
    plan = threading.Thread(target=run, args=(two,), kwargs={"shard_rows": 7})  # the first rank, which waits
    monkeypatch.setenv("RANK", "0")
    plan.start()
    while not (tmp_path / "two.csv.describing" / "plan.json").exists():
        time.sleep(0.01)
    monkeypatch.setenv("RANK", "1")
    assert run(two, shard_rows=7) is None
    plan.join()
    assert one.with_suffix(".groups.csv").read_bytes() == two.with_suffix(".groups.csv").read_bytes()
    assert one.read_bytes() == two.read_bytes()
    assert pd.read_csv(one.with_suffix(".groups.csv"))["n_cells"].tolist() == [14, 1, 13]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_plain_table_has_its_table_of_groups_beside_it(ending, by_cluster, clustered, model, tmp_path):
    out = describe_file(clustered, tmp_path / f"o.{ending}", model=str(model), options=BY_CLUSTER, progress=False)
    beside = tmp_path / f"o.groups.{ending}"
    table = pd.read_parquet(beside) if ending == "parquet" else pd.read_json(beside, lines=True, dtype={"group": str})
    assert table["group"].tolist() == ["2", "9", "10"] and len(pd.DataFrame(table)) == 3
    assert table["pseudobulk_text"].tolist() == by_cluster.uns["cell2text"]["groups"]["pseudobulk_text"].tolist()
    out.unlink()
    with pytest.raises(ValueError, match=f"o.groups.{ending}' exists. Pass overwrite=True"):
        describe_file(clustered, out, model=str(model), options=BY_CLUSTER, progress=False)


def test_cells_per_group_limits_descriptions_and_not_embeddings(by_cluster, clustered, model, tmp_path):
    options = DescribeOptions(max_new_tokens=10, batch_size=8, groupby="cluster", cells_per_group=3)
    out = describe_file(clustered, tmp_path / "o.h5ad", model=str(model), options=options, progress=False)
    some = ad.read_h5ad(out)
    described = some.obs["cell2text"] != ""
    assert described.sum() == 7
    assert (some.obs["cell2text"][described] == by_cluster.obs["cell2text"][described]).all()
    np.testing.assert_allclose(some.obsm["X_cell2text"], by_cluster.obsm["X_cell2text"], atol=1e-5)
    assert some.uns["cell2text"]["groups"]["n_cells"].tolist() == [14, 1, 13]
    assert '"cells_without_text": 23' in some.uns["cell2text"]["params"]["groups"]


def test_equal_numbers_have_a_fixed_order_and_spellings_do_not_disagree():
    for values in (["1", "01", "001"] * 4, ["001", "1", "01"] * 4):
        assert find_groups(pd.Series(values), "x", 2, 0).names == ["001", "01", "1"]
    texts = ["This cell is a FOO cell.", "This cell is a foo cell."]
    row = describe_groups(find_groups(pd.Series(["x", "x"]), "x", None, 0), [rows_of(texts)], rows_of([None])).iloc[0]
    assert (row["cell_type"], row["cell_type_agreement"], row["cell_type_disagree"]) == ("FOO cell", 1.0, 0.0)


def test_a_run_killed_between_the_two_tables_resumes(clustered, model, tmp_path, monkeypatch):
    from cell2text.describe import writers

    out, beside = tmp_path / "o.csv", tmp_path / "o.groups.csv"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writers, "_replace", killed)
        with pytest.raises(KeyboardInterrupt):
            describe_file(clustered, out, model=str(model), options=BY_CLUSTER, progress=False)
    assert beside.exists() and not out.exists()
    describe_file(clustered, out, model=str(model), options=BY_CLUSTER, progress=False)
    assert len(pd.read_csv(out)) == N_CELLS and len(pd.read_csv(beside)) == 3
    plain = DescribeOptions(max_new_tokens=2)
    describe_file(clustered, out, model=str(model), options=plain, progress=False, overwrite=True)
    assert not beside.exists()  # it belongs to the replaced texts
    with pytest.raises(ValueError, match="is the name of another output's table of groups"):
        describe_file(clustered, beside, model=str(model), options=plain, progress=False)


def test_a_rank_that_starts_after_the_run_is_done_returns(clustered, model, tmp_path, monkeypatch):
    out = describe_file(clustered, tmp_path / "o.csv", model=str(model), options=BY_CLUSTER, progress=False)
    before = out.read_bytes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert describe_file(clustered, out, model=str(model), options=BY_CLUSTER, progress=False) is None
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compare_to": "cell5"}, "compare_to='cell5': This cell cannot be described: it has no counts"),
        ({"groupby": "cluster", "seed": -1}, "seed=-1: expected an integer from 0"),
        ({"groupby": "cluster", "cells_per_group": 2.5}, "cells_per_group=2.5: expected an integer"),
        ({"groupby": "leiden"}, "groupby='leiden': obs has no such column, it has \\['cluster'"),
        ({"groupby": "none"}, "none of the 30 cells has a value"),
        ({"cells_per_group": 3}, "Pass groupby='COLUMN'"),
        ({"groupby": "cluster", "cells_per_group": 0}, "cells_per_group=0: expected an integer of at least 1"),
    ],
)
def test_columns_that_are_not_groups_raise(options, message, clustered, model, tmp_path):
    with pytest.raises((KeyError, ValueError), match=message):
        describe_file(
            clustered, tmp_path / "o.csv", model=str(model), options=DescribeOptions(**options), progress=False
        )
    adata = ad.read_h5ad(clustered)
    with pytest.raises((KeyError, ValueError), match=message):
        tl.describe(adata, str(model), **options)
    assert not list(tmp_path.iterdir()) and "cell2text" not in adata.obs


def test_numbers_that_are_not_groups_raise():
    with pytest.raises(
        ValueError, match=r"'n_counts': 1,500 different values in 1,500 cells, expected at most 1,000 groups"
    ):
        find_groups(pd.Series(np.arange(1500) / 7), "n_counts", None, 0)


def test_a_run_killed_while_describing_groups_keeps_its_shards(clustered, model, tmp_path, monkeypatch):
    from cell2text.describe import run, shard_writing

    out = tmp_path / "o.csv"
    with monkeypatch.context() as patch:
        patch.setattr(run, "group_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            describe_file(clustered, out, model=str(model), options=BY_CLUSTER, progress=False)
    assert ShardFolder(tmp_path / "o.csv").shard(0).exists() and not out.exists()
    monkeypatch.setattr(shard_writing, "write_shard", None)  # no shard is described again
    describe_file(clustered, out, model=str(model), options=BY_CLUSTER, progress=False)
    assert len(texts_of_csv(out)) == N_CELLS and (tmp_path / "o.groups.csv").exists()


def texts_of_csv(path):
    return pd.read_csv(path)["text"].tolist()


def test_rows_without_a_text_are_null():
    table = rows_of(["This cell\0 is a T cell.", None])  # HDF5 strings cannot hold NUL
    assert table["text"].to_pylist() == ["This cell is a T cell.", None] and isinstance(table, pa.Table)
    assert table["type_probability"].null_count == 2  # a model without concepts
    assert table["cell_type_candidates"].null_count == 2 and table["cell_type"].to_pylist() == ["T cell", None]

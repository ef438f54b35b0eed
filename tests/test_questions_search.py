"""Search by words: claims of a query, their evaluation, what is not evaluated, and outputs."""

import numpy as np
import pandas as pd
import pytest

import cell2text
from cell2text import tl
from cell2text.errors import UserError
from cell2text.questions.claims import read_query
from cell2text.questions.model_types import ModelTypes
from cell2text.signatures.gene_sets import hallmark_gene_sets

from .conftest import run_cli
from .tiny import make_adata, make_model, make_processor


@pytest.fixture(scope="module")
def adata():
    return cell2text.example_cells(unseen=True)


@pytest.fixture(scope="module")
def loaded():
    return cell2text.load()


@pytest.fixture(scope="module")
def read(loaded):
    types, values = ModelTypes(loaded[0].config), {"tissue": {"kidney": "kidney", "bone marrow": "bone marrow"}}
    return lambda query: read_query(query, types, hallmark_gene_sets().names, values)


@pytest.mark.parametrize(
    ("query", "titles", "rest"),
    [
        (
            "tissue-resident T cells with interferon response",
            ["T cell", "interferon alpha response or interferon gamma response"],
            ["tissue-resident"],
        ),
        ("T cells", ["T cell"], []),
        ("find me all kidney NK cells", ["tissue = kidney", "natural killer cell"], []),
        ("B cells from the bone marrow", ["B cell", "tissue = bone marrow"], []),
        ("hypoxic fibroblasts", ["hypoxia", "fibroblast"], []),
        ("fibroblasts without hypoxia", ["fibroblast", "not hypoxia"], []),
        ("low hypoxia fibroblasts", ["not hypoxia", "fibroblast"], []),
        ("macrophages without hypoxia or glycolysis", ["macrophage", "not hypoxia", "not glycolysis"], []),
        ("not T cells", ["not T cell"], []),
        ("T cells or B cells", ["T cell or B cell"], []),
        ("CD4 and CD8 T cells", ["CD4-positive, alpha-beta T cell or CD8-positive, alpha-beta T cell"], []),
        ("male alpha cells", ["male", "pancreatic A cell"], []),
        ("proliferating B cells", ["E2F targets or G2/M checkpoint", "B cell"], []),
        ("macrophagess next to tumor vessels", ["macrophage"], ["next", "tumor", "vessels"]),
        ("T cells T cells", ["T cell"], []),
    ],
)
def test_queries_are_read_as_claims_and_other_words_are_kept(read, query, titles, rest):
    found = read(query)
    assert [claim.title for claim in found.claims] == titles and list(found.not_evaluated) == rest


def test_the_score_is_the_product_of_its_parts(adata, loaded):
    found = tl.search(adata, "T cells with interferon gamma response", loaded, n=None)
    parts = found.columns[2:]
    np.testing.assert_allclose(found["score"], found[parts].prod(axis=1), rtol=2e-3)
    assert found["score"].is_monotonic_decreasing and len(found) == adata.n_obs
    labels = adata.obs["cell_type"].astype(str)[found["cell"][:10]]
    assert labels.str.contains("T cell").all()


def test_types_are_ranked_by_their_calibrated_probability(adata, loaded):
    found = tl.search(adata, "NK cells", loaded, n=None).set_index("cell")["natural killer cell"]
    scored = tl.score(adata, ["NK"], loaded, copy=True).obsm["cell2text_score"]["NK"]
    np.testing.assert_allclose(found[adata.obs_names], scored, rtol=2e-3, atol=1e-6)


def test_pathways_are_ranked_by_their_aucell_score(adata, loaded):
    from cell2text.signatures.pathways import PathwayScorer
    from ranking_cell2text import CellRanker

    found = tl.search(adata, "hypoxia", loaded, n=None).set_index("cell")["hypoxia"]
    genes = CellRanker(adata.var, loaded[1].gene_vocabulary, max_genes=8)
    scorer = PathwayScorer(hallmark_gene_sets(), adata.var, genes)
    scores = scorer.score(adata.X)[:, hallmark_gene_sets().names.index("HALLMARK_HYPOXIA")]
    ranks = (pd.Series(scores, adata.obs_names).rank() - 0.5) / adata.n_obs
    np.testing.assert_allclose(found[adata.obs_names], ranks, rtol=1e-3)


def test_denied_claims_are_turned_round(adata, loaded):
    wanted = tl.search(adata, "T cells", loaded, n=None).set_index("cell")["score"]
    denied = tl.search(adata, "not T cells", loaded, n=None).set_index("cell")["score"]
    np.testing.assert_allclose(denied, 1 - wanted[denied.index], atol=1e-3)


def test_values_of_obs_are_matched_and_words_of_numbers_are_not(adata, loaded):
    annotated = adata.copy()
    annotated.obs["batch"] = [str(i % 3) for i in range(adata.n_obs)]
    annotated.obs["stage"] = "resting state"
    found = tl.search(annotated, "resting state cells of the kidney, batch 2", loaded, n=None)
    assert list(found.columns[2:]) == ["stage = resting state", "tissue = kidney"]
    assert found.attrs["not_evaluated"] == ["batch", "2"]
    in_kidney = set(annotated.obs_names[annotated.obs["tissue"] == "kidney"])
    assert set(found["cell"][found["score"] == 1]) == in_kidney


def test_columns_that_cell2text_wrote_are_not_searched(adata, loaded):
    described = adata[:5].copy()
    described.obs["cell2text_cell_type"] = "thingummy"
    with pytest.raises(UserError, match="no part of it can be evaluated"):
        tl.search(described, "thingummy", loaded)


def test_words_that_are_not_evaluated_are_reported(adata, loaded, caplog):
    found = tl.search(adata, "tissue-resident T cells", loaded, n=3)
    assert found.attrs["not_evaluated"] == ["tissue-resident"] and "Not evaluated: 'tissue-resident'" in caplog.text


def test_ranks_do_not_depend_on_the_order_of_the_cells(adata, loaded):
    order = np.random.default_rng(0).permutation(adata.n_obs)
    query = "macrophages with TNF-alpha signaling"
    one, other = (tl.search(cells, query, loaded, n=10) for cells in (adata, adata[order]))
    assert one["cell"].tolist() == other["cell"].tolist()


@pytest.mark.parametrize("query", ["unicorns", "?", "<b>", "the cells of all"])
def test_queries_without_a_claim_raise_and_name_what_can_be_searched(adata, loaded, query):
    with pytest.raises(UserError, match="cell types .449 of this model., pathways"):
        tl.search(adata, query, loaded)


@pytest.mark.parametrize("n", [0, -1, "3", True, 2.5])
def test_numbers_of_cells_below_one_raise(adata, loaded, n):
    with pytest.raises(UserError, match="expected a number of cells"):
        tl.search(adata, "T cells", loaded, n=n)


def test_models_without_concepts_search_pathways_and_columns_alone():
    processor = make_processor()
    model, cells = make_model(processor=processor), make_adata(8)
    cells.obs["tissue"] = ["lung", "liver"] * 4
    found = tl.search(cells, "T cells of the lung", (model, processor), n=None)
    assert list(found.columns) == ["cell", "score", "tissue = lung"]
    assert found.attrs["not_evaluated"] == ["t"]


def test_cells_without_counts_come_last_without_a_score(loaded):
    adata = cell2text.example_cells(unseen=True)[:4].copy()
    adata.X = adata.X.copy()
    adata.X[0] = 0
    found = tl.search(adata, "alpha cells", loaded)
    assert found["cell"].iloc[-1] == adata.obs_names[0] and np.isnan(found["score"].iloc[-1])
    assert found.attrs["cells_without_score"] == 1


def test_the_command_prints_or_writes_the_cells(adata, tmp_path, capsys):
    path, out = tmp_path / "cells.h5ad", tmp_path / "found.csv"
    adata[:9].copy().write_h5ad(path)
    assert run_cli("search", path, "shiny alpha cells", "--n", "2") == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3 and "Not evaluated: 'shiny'" in printed.err
    assert run_cli("search", path, "alpha cells", "--out", out, "--quiet") == 0
    assert list(pd.read_csv(out).columns) == ["cell", "score", "pancreatic A cell"]
    assert run_cli("search", path, "alpha cells", "--out", out) == 2
    assert "--overwrite" in capsys.readouterr().err

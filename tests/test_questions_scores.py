"""Zero-shot scores of a user's labels: mapping to types, nested labels, likelihoods of text, and outputs."""

import json
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import cell2text
from cell2text import tl
from cell2text.errors import UserError
from cell2text.questions.likelihood import StatementScorer, statement_of
from cell2text.questions.model_types import ModelTypes, nested_labels
from cell2text.questions.reading import rank_cells
from cell2text.questions.scoring import NONE_OF_THEM, LabelScorer, choose_labels, twins
from concepts_cell2text import ConceptNames

from .conftest import run_cli
from .tiny import make_adata, make_model, make_processor


LABELS = ["T cell", "CD8 T cells", "NK", "B cell", "alpha cell", "acinar cell", "monocyte", "hepatocyte"]


@pytest.fixture(scope="module")
def adata():
    return cell2text.example_cells(unseen=True)


@pytest.fixture(scope="module")
def loaded():
    return cell2text.load()


@pytest.fixture(scope="module")
def types(loaded):
    return ModelTypes(loaded[0].config)


@pytest.fixture(scope="module")
def scored(adata, loaded):
    return tl.score(adata, LABELS, loaded, copy=True)


@pytest.mark.parametrize(
    ("label", "route", "names"),
    [
        ("T cell", "exact", ["T cell"]),
        ("t CELL", "exact", ["T cell"]),
        ("NK cells", "synonym", ["natural killer cell"]),
        ("This cell is a B cell.", "synonym", ["B cell"]),
        ("alpha cell", "synonym", ["pancreatic A cell"]),
        ("mature gamma-delta T cell", "broader", ["gamma-delta T cell", "mature T cell"]),
        ("tissue-resident T cell", "broader", ["T cell"]),
        ("exhausted or dead", "text", []),
        ("not a T cell", "text", []),
        ("unicorn", "text", []),
    ],
)
def test_labels_are_mapped_to_types_of_the_model(types, label, route, names):
    mapped = types.map_label(label)
    assert (mapped.route, list(mapped.types)) == (route, names)


def test_a_term_without_a_concept_joins_its_narrower_types_up_to_the_broader_one():
    concepts = ConceptNames(
        hierarchical={"cell_type": {"leukocyte": [], "B cell": ["leukocyte"], "T cell": ["leukocyte"]}}
    )
    types = ModelTypes(SimpleNamespace(concepts=concepts, uninformative_types=[]))
    lymphocyte = types.map_label("lymphocyte")
    assert (lymphocyte.route, lymphocyte.types) == ("narrower", ("B cell", "T cell"))
    values = np.array([[0.3, 0.4, 0.9], [0.3, 0.4, 0.6], [0.1, 0.7, 0.6]])  # B cell, T cell, leukocyte
    np.testing.assert_allclose(types.probability(lymphocyte, values), [0.7, 0.6, 0.7])


def test_labels_of_types_get_the_calibrated_probability_of_the_model(adata, loaded, scored):
    described = tl.describe(adata, loaded, copy=True).obs
    for label, name in (("B cell", "B cell"), ("alpha cell", "pancreatic A cell"), ("NK", "natural killer cell")):
        rows = (described["cell2text_cell_type"] == name).to_numpy()
        np.testing.assert_allclose(
            scored.obsm["cell2text_score"].loc[rows, label], described["cell2text_type_probability"][rows], atol=1e-3
        )


def test_the_chosen_label_agrees_with_the_annotation(adata, scored):
    best = scored.obs["cell2text_score_best"].astype(str).to_numpy()
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    expected = {
        "B cell": "B cell", "natural killer cell": "NK", "pancreatic A cell": "alpha cell", "monocyte": "monocyte",
        "pancreatic acinar cell": "acinar cell", "mast cell": NONE_OF_THEM, "type B pancreatic cell": NONE_OF_THEM,
    }  # fmt: skip
    rows = np.isin(truth, list(expected))
    right = np.array([expected[label] for label in truth[rows]]) == best[rows]
    assert right.mean() > 0.9


def test_scores_add_only_the_documented_fields(adata, loaded, scored):
    returns = tl.score.__doc__.partition("Returns\n")[2].partition("Raises\n")[0]
    added = set(scored.obs) - set(adata.obs)
    assert added == {"cell2text_score_best", "cell2text_score_best_probability"}
    assert all(f'"{name.removeprefix("cell2text_score")}"' in returns for name in added)
    assert set(scored.obsm) - set(adata.obsm) == set(scored.uns) - set(adata.uns) == {"cell2text_score"}
    assert list(scored.obsm["cell2text_score"].columns) == LABELS
    mapping = scored.uns["cell2text_score"]["mapping"]
    assert list(mapping.index) == LABELS and mapping.loc["NK", "types"] == "natural killer cell"
    assert scored.uns["cell2text_score"]["params"]["model"] == str(loaded[0].config._name_or_path)


def test_scores_survive_writing_and_reading(scored, tmp_path):
    scored[:5].copy().write_h5ad(tmp_path / "scored.h5ad")
    read = ad.read_h5ad(tmp_path / "scored.h5ad")
    pd.testing.assert_frame_equal(read.obsm["cell2text_score"], scored.obsm["cell2text_score"][:5])
    assert list(read.uns["cell2text_score"]["mapping"].index) == LABELS


def test_scores_depend_neither_on_other_cells_nor_on_the_order_of_labels(adata, loaded, scored):
    few = tl.score(adata[[150, 3]].copy(), LABELS[::-1], loaded, copy=True)
    whole = scored.obsm["cell2text_score"].iloc[[150, 3]][LABELS[::-1]]
    np.testing.assert_allclose(few.obsm["cell2text_score"], whole, atol=2e-4)
    assert few.obs["cell2text_score_best"].tolist() == scored.obs["cell2text_score_best"].iloc[[150, 3]].tolist()


def test_nested_labels_are_chosen_by_their_share_of_the_label_above():
    nested = np.array([[False, True, True, False], [False] * 4, [False] * 4, [False] * 4])
    values = np.array(
        [
            [0.95, 0.45, 0.40, 0.02],  # T cell; CD8 and CD4 each have less than half
            [0.95, 0.60, 0.30, 0.02],  # CD8
            [0.30, 0.30, 0.00, 0.15],  # none of them
            [0.80, 0.10, 0.10, 0.80],  # two exclusive labels share the whole
        ]
    )
    best, chosen = choose_labels(values, nested)
    assert best.tolist() == [0, 1, -1, 0]
    np.testing.assert_allclose(chosen, [0.95, 0.60, 1 - 0.45, 0.5], atol=1e-6)


def test_probabilities_of_exclusive_labels_and_of_none_add_up_to_one(scored):
    values = scored.obsm["cell2text_score"].drop(columns="CD8 T cells").to_numpy()
    best = scored.obs["cell2text_score_best"].astype(str)
    none = (best == NONE_OF_THEM).to_numpy()
    np.testing.assert_allclose(
        scored.obs["cell2text_score_best_probability"][none], 1 - values[none].sum(axis=1), atol=1e-5
    )


def test_an_upper_bound_never_takes_the_place_of_a_label_above(types):
    labels = [types.map_label(label) for label in ("gamma-delta T cell", "mature gamma-delta T cell")]
    assert nested_labels(labels).tolist() == [[False, True], [False, False]]
    values = np.array([[0.9, 0.9]])
    assert choose_labels(values, nested_labels(labels), bounds=np.array([False, True]))[0].tolist() == [0]


def test_labels_of_the_same_type_are_counted_once_and_reported(loaded, adata):
    scorer = LabelScorer(*loaded, ["B cell", "B lymphocyte", "T cell"])
    assert twins(scorer.labels) == [0, 0, 2] and "'B cell' and 'B lymphocyte'" in scorer.notes()[-1]
    row = adata.obs["cell_type"].tolist().index("B cell")
    found = scorer(rank_cells(adata[[row]], *loaded))
    assert found.best == ["B cell"] and found.best_probabilities[0] > 0.9


def test_words_without_a_cell_type_share_what_the_types_leave():
    values = np.array([[0.7, 0.99], [0.1, 0.99]])
    best, chosen = choose_labels(values, np.zeros((2, 2), dtype=bool), texts=np.array([False, True]))
    assert best.tolist() == [0, 1]
    np.testing.assert_allclose(chosen, [0.7, 0.99 * 0.9], atol=1e-6)


def test_likelihoods_of_statements_find_the_type_in_the_text_alone(loaded, adata):
    names = ["B cell", "pancreatic A cell", "pancreatic acinar cell", "natural killer cell"]
    rows = [adata.obs["cell_type"].tolist().index(name) for name in names]
    cells = rank_cells(adata[rows], *loaded)
    scorer = StatementScorer(*loaded, [statement_of(name) for name in names])
    information = scorer(cells.cells, cells.concept_overrides)
    assert information.argmax(axis=1).tolist() == [0, 1, 2, 3] and (information.max(axis=1) > 0).all()


def test_models_without_concepts_score_every_label_by_its_words():
    processor = make_processor()
    model = make_model(processor=processor)
    adata = make_adata(6)
    tl.score(adata, ["T cell", "B cell", "It comes from human blood."], (model, processor))
    values = adata.obsm["cell2text_score"]
    assert ((values > 0) & (values < 1)).all(axis=None) and set(adata.uns["cell2text_score"]["mapping"]["route"]) == {
        "text"
    }
    single = tl.score(make_adata(6)[:1].copy(), ["B cell"], (model, processor), copy=True)
    np.testing.assert_allclose(single.obsm["cell2text_score"]["B cell"], values["B cell"][:1], atol=1e-4)


def test_multiclass_models_sum_types_up_the_ontology():
    processor = make_processor()
    model = make_model("concepts", processor=processor)
    adata = make_adata(3)
    tl.score(adata, ["B cell", "T cell", "lymphocyte"], (model, processor))
    values = adata.obsm["cell2text_score"]
    np.testing.assert_allclose(values["B cell"] + values["T cell"], 1, atol=1e-4)
    np.testing.assert_allclose(values["lymphocyte"], 1, atol=1e-4)


def test_cells_that_cannot_be_described_have_no_scores(loaded, caplog):
    adata = cell2text.example_cells(unseen=True)[:3].copy()
    adata.X = adata.X.copy()
    adata.X[1] = 0
    tl.score(adata, ["T cell", "unicorn"], loaded)
    assert adata.obsm["cell2text_score"].isna().all(axis=1).tolist() == [False, True, False]
    assert adata.obs["cell2text_score_best"].isna().tolist() == [False, True, False]
    assert "1 of 3 cells cannot be described" in caplog.text


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "0 labels"),
        ("T cell", "expected a list of labels"),
        (["T cell", "T cell"], "more than once"),
        (["T cell", 7], "expected a text, found int"),
        (["T cell", " "], "is empty"),
        (["x" * 501], "501 characters"),
        ([f"label {i}" for i in range(1001)], "1,001 labels"),
        ([NONE_OF_THEM], "mean that no label applies"),
        (None, "expected a list of labels"),
    ],
)
def test_what_is_no_list_of_labels_raises(adata, loaded, labels, message):
    with pytest.raises(UserError, match=message):
        tl.score(adata[:1].copy(), labels, loaded)


def test_hostile_labels_are_plain_text(loaded, tmp_path):
    adata = cell2text.example_cells(unseen=True)[:2].copy()
    labels = ["=cmd|' /C calc'!A0", "<script>alert(1)</script>", '{"a": "b,c"}', "T/cell"]
    tl.score(adata, labels, loaded)
    assert list(adata.obsm["cell2text_score"].columns) == labels


def test_the_command_writes_tables_and_copies(adata, tmp_path, capsys):
    path = tmp_path / "cells.h5ad"
    adata[:4].copy().write_h5ad(path)
    for suffix in ("csv", "parquet", "jsonl", "h5ad"):
        assert run_cli("score", path, "alpha cell", "T cell", "--out", tmp_path / f"out.{suffix}") == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert list(table.columns) == ["cell", "best", "best_probability", "alpha cell", "T cell"]
    assert table["best"].tolist() == pd.read_parquet(tmp_path / "out.parquet")["best"].tolist()
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["best"] == "alpha cell"
    assert ad.read_h5ad(tmp_path / "out.h5ad").obs["cell2text_score_best"].tolist() == table["best"].tolist()
    out = capsys.readouterr().out
    assert "pancreatic A cell" in out and "synonym" in out
    for arguments, message in (
        (("--out", tmp_path / "out.csv"), "--overwrite"),
        (("--out", path), "never changed"),
        (("--out", tmp_path / "out.txt"), "expected one of the suffixes"),
    ):
        assert run_cli("score", path, "T cell", *arguments) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "pair", [("mucosal type mast cell", "mast cell"), ("transitional epithelial cell", "epithelial cell")]
)
def test_labels_read_from_the_same_type_are_chosen_alike_in_any_order(loaded, pair):
    values = np.array([[0.95, 0.95]])
    for labels in (pair, pair[::-1]):
        scorer = LabelScorer(*loaded, list(labels))
        found = scorer.choose(values)
        assert found.best == [pair[1]] and found.best_probabilities[0] == pytest.approx(0.95)

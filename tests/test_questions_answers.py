"""Answers to questions about one cell, groups and pairs, with the packaged model and with models without concepts."""

import json

import numpy as np
import pytest

import cell2text
from cell2text import tl
from cell2text.errors import UserError, UserKeyError
from cell2text.questions.answering import QuestionAnswerer
from cell2text.questions.reading import rank_cells
from cell2text.questions.wording import ANSWERED_QUESTIONS
from declining_cell2text import FOREIGN_CELL_TEXT

from .conftest import run_cli
from .tiny import make_adata, make_model, make_processor


@pytest.fixture(scope="module")
def adata():
    return cell2text.example_cells(unseen=True)


@pytest.fixture(scope="module")
def loaded():
    return cell2text.load()


@pytest.fixture(scope="module")
def cells(adata, loaded):
    return rank_cells(adata, *loaded)


@pytest.fixture(scope="module")
def answerer(loaded):
    return QuestionAnswerer(*loaded)


@pytest.fixture(scope="module")
def row_of(adata):
    """Row of the first cell of a type that the packaged model is sure of."""
    labels = adata.obs["cell_type"].tolist()
    return lambda label: labels.index(label)


def test_a_true_type_is_affirmed_with_its_calibrated_probability(answerer, cells, row_of, loaded):
    row = row_of("B cell")
    answer = answerer(cells.take(np.array([row])), "Is this a B lymphocyte?")
    assert answer.verdict == "yes" and answer.text.startswith("Yes: this cell is a B cell (0.9")
    assert answer.values[0].term_id == "CL:0000236"
    batch = loaded[1].pad_cells([[cells.cells[row]]], return_tensors="pt")
    names = loaded[0].config.concept_groups["cell_type"]
    expected = float(loaded[0].get_cell_concepts(**batch)["cell_type"].detach()[0, 0, names.index("B cell")])
    assert answer.values[0].probability == pytest.approx(expected, abs=1e-3)


def test_a_type_above_the_named_one_is_affirmed_and_the_named_type_is_told(answerer, cells, row_of):
    answer = answerer(cells.take(np.array([row_of("B cell")])), "is it a white blood cell?")
    assert answer.verdict == "yes" and answer.values[0].name == "leukocyte"
    assert "The model names this cell a B cell" in answer.text


def test_a_wrong_type_is_denied(answerer, cells, row_of):
    answer = answerer(cells.take(np.array([row_of("B cell")])), "Could it be a hepatocyte?")
    assert answer.verdict == "no" and answer.values[0].probability < 0.1
    assert answer.text.startswith("No: the probability that this cell is a hepatocyte is")


def test_a_negated_question_is_answered_without_yes_and_no(answerer, cells, row_of):
    text = answerer(cells.take(np.array([row_of("B cell")])), "Isn't this a B cell?").text
    assert text.startswith("This cell is a B cell (")


def test_of_two_types_the_more_probable_one_comes_first(answerer, cells, row_of):
    answer = answerer(cells.take(np.array([row_of("B cell")])), "T cell or B cell?")
    assert [value.name for value in answer.values] == ["B cell", "T cell"] and answer.verdict is None


def test_words_that_the_answer_does_not_depend_on_make_it_unclear_and_are_named(answerer, cells, row_of):
    answer = answerer(cells.take(np.array([row_of("B cell")])), "Is this a tissue-resident B cell?")
    assert answer.verdict == "unclear" and "tissue-resident" in answer.notes[0]


def test_a_type_that_the_model_lacks_is_bounded_by_a_broader_one(answerer, cells, row_of):
    answer = answerer(cells.take(np.array([row_of("B cell")])), "Is this a mature gamma-delta T cell?")
    assert answer.verdict == "no" and "an upper bound" in answer.notes[0]


@pytest.mark.parametrize("question", ["What is this?", "Describe this cell."])
def test_the_type_and_the_description_are_the_models_own_text(answerer, cells, row_of, question):
    answer = answerer(cells.take(np.array([row_of("pancreatic A cell")])), question)
    assert answer.text.startswith("This cell is a pancreatic A cell")
    assert answer.text.endswith(f"The probability of the type is {answer.values[0].probability:.2f}.")


def test_descriptions_equal_those_of_describe(answerer, cells, adata, loaded):
    rows = np.array([0, 60])
    described = tl.describe(adata[rows].copy(), loaded, copy=True).obs["cell2text"]
    for row, text in zip(rows, described):
        assert answerer(cells.take(np.array([row])), "Describe this cell.").text.startswith(text)


def test_confidence_states_the_calibrated_probability(answerer, cells, row_of):
    answer = answerer(cells.take(np.array([row_of("B cell")])), "How sure are you?")
    value = answer.values[0].probability
    assert f"a calibrated probability of {value:.2f}" in answer.text and value > 0.9


def test_candidates_are_below_the_type_that_the_question_names(answerer, cells, row_of):
    rows = np.array([row_of("CD4-positive, alpha-beta T cell")])
    answer = answerer(cells.take(rows), "Which kind of T cell is it?")
    assert answer.task == "candidates" and answer.values and all("T cell" in value.name for value in answer.values)
    assert all(value.probability >= 0.05 for value in answer.values)


def test_alternatives_are_neither_above_nor_below_the_named_type(answerer, cells, row_of):
    from cell2text.ontology.graph import load_graph

    for label in ("B cell", "mature NK T cell", "dendritic cell"):
        answer = answerer(cells.take(np.array([row_of(label)])), "What else could it be?")
        named = answerer(cells.take(np.array([row_of(label)])), "How sure are you?").values[0]
        if "other types are" in answer.text:
            others = answer.text.partition("other types are")[2]
            away = [value for value in answer.values if value.name in others]
            assert away and not any(load_graph("CL").related(value.term_id, named.term_id) for value in away)


def test_pathways_are_the_two_that_the_text_names(answerer, cells, row_of):
    cell = cells.take(np.array([row_of("B cell")]))
    found = answerer(cell, "Which pathways are most active?")
    assert [value.kind for value in found.values] == ["pathway", "pathway"]
    described = answerer(cell, "Describe this cell.")
    assert [value.name for value in described.values if value.kind == "pathway"] == [one.name for one in found.values]
    yes = answerer(cell, f"Is {found.values[0].name} active?")
    assert yes.verdict == "yes" and answerer(cell, "is spermatogenesis active?").verdict == "no"


def test_the_sex_is_answered_where_the_cell_shows_it(answerer, cells, row_of):
    male = cells.take(np.array([row_of("pancreatic A cell")]))
    assert answerer(male, "Is the donor male?").verdict == "yes"
    assert answerer(male, "Is the donor a woman?").verdict == "no"
    unknown = cells.take(np.array([row_of("B cell")]))
    assert answerer(unknown, "Is the donor female?").verdict == "unclear"


@pytest.mark.parametrize(
    ("question", "field"),
    [
        ("Which tissue is it from?", "tissue"),
        ("Is the donor healthy?", "disease of the donor"),
        ("How old?", "life stage of the donor"),
    ],
)
def test_what_the_packaged_model_never_states_is_said_so(answerer, cells, question, field):
    assert answerer(cells[:1], question).text.startswith(f"The model does not state the {field}. ")


def test_doublets_are_answered_from_the_profile(answerer, cells):
    answer = answerer(cells[:1], "Is this a doublet?")
    assert answer.values[0].name == "one cell" and answer.values[0].probability > 0.9
    assert sum(value.probability for value in answer.values) == pytest.approx(1, abs=0.01)


def test_the_genes_behind_the_named_type_are_those_of_explain(adata, loaded, row_of):
    row = row_of("pancreatic A cell")
    answer = tl.ask(adata, "Why?", loaded, cells=adata.obs_names[row])
    evidence = tl.explain(adata, [adata.obs_names[row]], loaded)
    genes = evidence[(evidence["field"] == "cell_type") & (evidence["role"] == "evidence")]["gene"].tolist()
    assert [value.name for value in answer.values if value.kind == "gene"] == genes and genes[0] == "GCG"
    absent = evidence[evidence["role"] == "absent marker"]["gene"].tolist()
    assert [value.name for value in answer.values if value.kind == "absent marker"] == absent
    assert "Known markers that it does not express" in answer.text
    assert "ask about one cell" in tl.ask(adata, "Which genes support this?", loaded).text


@pytest.mark.parametrize("question", ["What is the capital of France?", "<b>hi</b>", "{cells} %s", "help"])
def test_other_questions_are_answered_with_the_questions_that_are_answered(answerer, cells, question):
    answer = answerer(cells[:1], question)
    assert all(one in answer.text for one in ANSWERED_QUESTIONS)
    assert answer.is_answered == (question == "help") and "<" not in answer.text


def test_counts_of_a_group_equal_the_named_types(answerer, cells, adata, loaded):
    described = tl.describe(adata[100:130].copy(), loaded, copy=True).obs
    group = cells[100:130]
    answer = answerer(group, "How many are NK cells?")
    named = described["cell2text_cell_type"].isin(["natural killer cell"]).sum()
    assert answer.values[0].n_cells >= named and answer.text.startswith(f"{answer.values[0].n_cells} of 30 cells")
    found = answerer(group, "What do these cells have in common?")
    assert "The group as a whole is named" in found.text or "Its cells disagree" in found.text
    counts = described["cell2text_cell_type"].value_counts()
    assert {value.name: value.n_cells for value in found.values} == counts[counts > 0].to_dict()


def test_answers_about_a_group_do_not_depend_on_the_order_of_its_cells(answerer, cells):
    rows = np.arange(60, 100)
    shuffled = np.random.default_rng(0).permutation(rows)
    for question in ("What are these cells?", "How many are beta cells?", "Which pathways?", "sex?", "How sure?"):
        one, other = (answerer(cells.take(order), question) for order in (rows, shuffled))
        assert one.text == other.text and one.values == other.values


def test_two_cells_are_compared_by_types_pathways_and_ontology(answerer, cells, row_of):
    pair = cells.take(np.array([row_of("B cell"), row_of("pancreatic A cell")]))
    answer = answerer(pair, "How do they differ?")
    assert answer.task == "compare" and answer.verdict == "no"
    assert "The first cell is a B cell and the second cell is a pancreatic A cell." in answer.text
    same = answerer(cells[:1], "Are they of the same type?", cells[:1])
    assert same.verdict == "yes" and len(same.cells) == 2


def test_two_groups_are_compared_by_their_types(answerer, cells):
    answer = answerer(cells[:20], "Compare these groups", cells[100:120])
    assert answer.text.startswith("First group: ") and "Second group: " in answer.text


def test_cells_that_cannot_be_described_get_the_reason(answerer, loaded):
    empty = cell2text.example_cells(unseen=True)[:3].copy()
    empty.X = empty.X.copy()
    empty.X[1] = 0
    ranked = rank_cells(empty, *loaded)
    for question in ("What is this?", "Is this a T cell?", "How sure are you?", "What else could it be?", "doublet?"):
        assert "cannot be described" in answerer(ranked[1:2], question).text, question
    assert answerer(ranked, "What are these?").text.startswith("2 of 3 cells have a named type")
    assert "cannot be described" in answerer(ranked[:2], "Compare them").text
    ranked.counts_used[1] = 0.5  # counts on genes of another species alone
    assert answerer(ranked[1:2], "What is this?").text == FOREIGN_CELL_TEXT


def test_answers_hold_plain_data(answerer, cells):
    for question in ("Is this a T cell?", "Which pathways?", "sex?", "help", "What is this?"):
        assert json.loads(json.dumps(answerer(cells[:2], question).to_dict()))["question"] == question


@pytest.mark.parametrize("projector", ["mlp", "concepts"])
def test_every_question_is_answered_for_models_without_hierarchical_types(projector):
    processor = make_processor()
    answer = QuestionAnswerer(make_model(projector, processor=processor), processor, max_new_tokens=8)
    cells = rank_cells(make_adata(4), answer.model, processor)
    questions = "What is this?|Describe|T cell?|How sure?|What else?|pathways?|sex?|tissue?|doublet?|compare them|age?"
    for question in [*questions.split("|"), "how many T cells?", "what do they have in common?"]:
        for group in (cells[:1], cells[:2], cells):
            assert answer(group, question).text, question


def test_no_cells_raise(answerer, cells):
    with pytest.raises(UserError, match="no cells to ask about"):
        answerer(cells[:0], "Is this a T cell?")


def test_tl_selects_cells_by_name_and_by_column(adata, loaded):
    named = tl.ask(adata, "Is this an alpha cell?", loaded, cells=adata.obs_names[0])
    assert named.cells == (adata.obs_names[0],) and named.verdict == "yes"
    group = tl.ask(adata, "What are these?", loaded, where={"cell_type": "B cell"})
    assert len(group.cells) == 4
    pair = tl.ask(adata, "Compare them", loaded, cells=[adata.obs_names[0]], compare_to=adata.obs_names[60])
    assert pair.task == "compare" and pair.cells == (adata.obs_names[0], adata.obs_names[60])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cells": "nobody"}, UserError, "cells: 1 of 1 names do not match any cell: 'nobody'"),
        ({"cells": []}, UserError, "expected the name of a cell"),
        ({"cells": [7]}, UserError, "expected the name of a cell"),
        ({"where": {"leiden": "3"}}, UserKeyError, "obs has no such column"),
        ({"where": {"cell_type": "unicorn"}}, UserError, "none of 200 cells has the value 'unicorn'"),
        ({"compare_to": "nobody"}, UserError, "compare_to: 1 of 1 names"),
    ],
)
def test_selections_that_choose_no_cell_raise(adata, loaded, options, error, message):
    with pytest.raises(error, match=message):
        tl.ask(adata, "What is this?", loaded, **options)


def test_repeated_cell_names_raise(adata, loaded):
    with pytest.warns(UserWarning, match="not unique"):
        twice = adata[[0, 0, 1]].copy()
    with pytest.raises(UserError, match="several cells have the same name"):
        tl.ask(twice, "What is this?", loaded, cells=adata.obs_names[0])
    with pytest.raises(UserError, match="expected an AnnData, found str"):
        rank_cells("cells.h5ad", *loaded)


def test_the_command_prints_the_answer_or_json(adata, tmp_path, capsys):
    path = tmp_path / "cells.h5ad"
    adata[:20].copy().write_h5ad(path)
    n = int((adata.obs["cell_type"][:20] == "pancreatic A cell").sum())
    assert run_cli("ask", path, "Is this an alpha cell?", "--cells", adata.obs_names[0]) == 0
    assert capsys.readouterr().out.startswith("Yes: this cell is a pancreatic A cell (")
    assert run_cli("ask", path, "Is this an alpha cell?", "--cells", adata.obs_names[0], "--json") == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "yes"
    assert run_cli("ask", path, "sex?", "--where", "cell_type=pancreatic A cell") == 0
    assert capsys.readouterr().out.startswith(f"Of {n} cells")
    assert run_cli("ask", path, "?") == 0 and "cannot answer" in capsys.readouterr().out
    assert run_cli("ask", path, "", "--quiet") == 2
    assert run_cli("ask", path, "sex?", "--where", "cell_type=x") == 2
    assert "--where" in capsys.readouterr().err


def test_the_command_reads_ranked_gene_lists(tmp_path, capsys, loaded):
    path = tmp_path / "lists.jsonl"
    path.write_text(
        json.dumps({"cell_id": "a", "genes": ["CD79A", "MS4A1", "CD79B", "CD74", "HLA-DRA"] * 1})
        + "\n"
        + json.dumps({"cell_id": "b", "genes": ["INS", "IAPP"]})
        + "\n"
    )
    assert run_cli("ask", path, "Is this a B cell?", "--cells", "a") == 0
    assert capsys.readouterr().out
    assert run_cli("ask", path, "Is this a B cell?", "--where", "x=y") == 2
    assert "have no columns" in capsys.readouterr().err

"""Own tasks: a question about a column of `obs`, from its declaration to the answers of a trained model."""

import json
import logging

import anndata as ad
import numpy as np
import pytest
from datasets import load_dataset
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from cell2text import tl
from cell2text.choices.answering import NO_TASK
from cell2text.choices.run import evaluate_choices
from cell2text.errors import UserError
from cell2text.inference.own_tasks import OwnTaskScorer
from cell2text.language.own_tasks import parse_task, parse_tasks, task_asked, task_with_values, tasks_of
from cell2text.loading import load
from cell2text.preparation.config import PrepareConfig
from cell2text.preparation.dataset_card import describe_leakage
from cell2text.preparation.rows import TEXT_FIELDS, TaskSampler
from cell2text.questions.own_answers import own_task
from cell2text.training.own_tasks import OWN_TASKS_FILE, add_own_tasks
from configuration_cell2text import Cell2TextConfig

from .conftest import run_cli
from .preparation_runs import load_rows, make_file, prepare_studies
from .tiny import make_adata, make_model, make_processor
from .training_runs import run


TASK = {"drug_response": "response:sensitive,resistant"}
QUESTION = "What is the drug response of this cell: sensitive or resistant?"


def responses(n_cells: int) -> list[str]:
    return [("sensitive", "resistant", "unclear")[i % 3] for i in range(n_cells)]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "cells.h5ad"
    make_file(path, 90, donors=9, response=responses(90))
    return path


@pytest.fixture(scope="module")
def prepared(cells, studies, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "prepared"
    tasks = {"describe": 1.0, "drug_response": 3.0}
    report = prepare_studies(studies, folder, [cells], gene_sets=None, tasks=tasks, own_tasks=TASK)
    return folder, report


def test_question_and_answer_are_made_of_name_and_values():
    task = parse_task("drug_response", "obs:response:sensitive, resistant,partly")
    assert (task.column, task.values) == ("obs:response", ("sensitive", "resistant", "partly"))
    assert task.question == "What is the drug response of this cell: sensitive, resistant or partly?"
    assert [task.value_in(task.completion(value)) for value in task.values] == list(task.values)
    assert parse_task("drug_response", "response:a,b", "Does it react?").question == "Does it react?"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"own_tasks": {"Drug": "response:a,b"}}, "expected a name of lower-case letters"),
        ({"own_tasks": {"describe": "response:a,b"}}, "is not one of the tasks"),
        ({"own_tasks": {"tissue": "response:a,b"}}, "rows have a column of this name"),
        ({"own_tasks": {"drug": "response"}}, "expected NAME=COLUMN:VALUE,VALUE"),
        ({"own_tasks": {"drug": "response:a"}}, "2 to 100 different values"),
        ({"own_tasks": {"drug": "response:a,a"}}, "2 to 100 different values"),
        ({"task_questions": {"drug": "How?"}}, "there is no own task of this name"),
        ({"own_tasks": {"a": "x:1,2", "b": "x:1,2"}, "task_questions": {"a": "Q?", "b": "Q?"}}, "the same question"),
        ({"tasks": {"drug": 1.0}}, "no task of this name"),
    ],
)
def test_invalid_tasks_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        PrepareConfig(inputs=["cells.h5ad"], **options)


def test_options_without_own_tasks_keep_the_identity_of_a_run():
    assert {"own_tasks", "task_questions"}.isdisjoint(PrepareConfig(inputs=["cells.h5ad"]).to_dict())
    assert PrepareConfig(inputs=["cells.h5ad"], own_tasks=TASK).to_dict()["own_tasks"] == TASK


def test_cells_with_an_answer_get_the_question():
    tasks = parse_tasks(TASK)
    sampler = TaskSampler({"drug_response": 1.0}, "", seed=0, definitions={}, own_tasks=tasks)
    row = tuple({"cell_type": "B cell"}.get(name) for name in TEXT_FIELDS)
    rows = [(*row, (), value) for value in ("sensitive", None)]
    found, texts, prompts, _ = sampler.compose(rows, "file", np.arange(2), training=True)
    assert found == ["drug_response", "describe"]
    assert texts[0] == "Drug response: sensitive." and texts[1].startswith("This cell is a B cell")
    assert sampler.prompt_array()[int(prompts[0])].as_py()[-1]["content"][-1]["text"] == QUESTION


def test_rows_hold_question_answer_and_column(prepared, tmp_path):
    folder, report = prepared
    entry = report["own_tasks"]["drug_response"]
    assert entry["column"] == "response" and entry["question"] == QUESTION
    assert sum(sum(found.values()) for found in entry["answers"].values()) == 60
    assert entry["left_out"] == {"unclear": 30}
    rows = load_rows(folder, tmp_path)["train"]
    asked = [row for row in rows if row["task"] == "drug_response"]
    assert len(asked) > 10
    for row in asked:
        assert row["completion"][0]["content"][0]["text"] == f"Drug response: {row['drug_response']}."
    assert {row["drug_response"] for row in rows} == {"sensitive", "resistant", None}
    assert "drug_response (sensitive / resistant, from the column response)" in (folder / "README.md").read_text()


def test_a_split_by_donor_shares_no_donor_and_a_random_one_warns(prepared, cells, studies, tmp_path, caplog):
    assert prepared[1]["own_tasks"]["drug_response"]["shared_donors"] == {"donors": 0, "held_out_cells": 0}
    assert describe_leakage(prepared[1]) == ""
    options = {"gene_sets": None, "tasks": {"describe": 1.0}, "own_tasks": TASK, "split": "random"}
    with caplog.at_level(logging.WARNING):
        report = prepare_studies(studies, tmp_path / "random", [cells], **options)
    assert report["own_tasks"]["drug_response"]["shared_donors"]["donors"] > 0
    assert "Some held-out cells come from donors that are also in the training split (drug_response:" in caplog.text


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("dose:low,high", "has no column 'dose' in obs, which the task drug_response asks for; it has"),
        ("response:low,high", "has no cell with one of the values low, high .* it has 'resistant', 'sensitive'"),
    ],
)
def test_missing_columns_and_values_are_errors(cells, studies, tmp_path, task, message):
    with pytest.raises(UserError, match=message):
        prepare_studies(
            studies,
            tmp_path / "out",
            [cells],
            gene_sets=None,
            tasks={"describe": 1.0},
            own_tasks={"drug_response": task},
        )


def test_the_command_reads_tasks_and_questions(cells, studies, tmp_path, capsys):
    done = run_cli(
        "prepare", cells, "--out", tmp_path / "out", "--gene-vocab", studies / "vocabulary", "--split", "random",
        "--task", "drug_response=response:sensitive,resistant", "--task-question", "drug_response=Does it respond?",
    )  # fmt: skip
    assert done == 0
    assert "Own tasks, cells with an answer by split: drug_response (sensitive / resistant" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["own_tasks"]["drug_response"]["question"] == "Does it respond?"


def test_questions_find_their_task():
    drug, dose = parse_tasks({**TASK, "dose": "dose:low,high"}, {"drug_response": "Does it react?"}).values()
    assert task_asked("does it react", [drug, dose]) == drug
    assert task_asked("What is the drug-response here?", [drug, dose]) == drug
    assert task_asked("Which dose?", [drug, dose]) == dose
    assert task_asked("Is this a T cell?", [drug, dose]) is None
    assert task_with_values(["Resistant", "sensitive"], [drug, dose]) == drug
    assert task_with_values(["sensitive"], [drug, dose]) is None


def test_configuration_checks_own_tasks():
    config = Cell2TextConfig(own_tasks={"drug": {"question": "Q?", "values": ["a", "b"]}})
    assert Cell2TextConfig.from_dict(config.to_dict()).own_tasks == config.own_tasks
    assert [task.values for task in tasks_of(config)] == [("a", "b")]
    with pytest.raises(UserError, match="expected a `question` and a list of `values`"):
        Cell2TextConfig(own_tasks={"drug": {"question": "Q?", "values": "a"}})


def test_probabilities_of_the_answers_add_up_to_one():
    processor = make_processor()
    model, task = make_model(processor=processor), parse_tasks(TASK)["drug_response"]
    cells = processor.rank_encode(make_adata(5))
    found = OwnTaskScorer(model, processor, task)([*cells, []])
    assert found.shape == (6, 2) and found[:5].sum(axis=1) == pytest.approx(np.ones(5))
    assert np.isnan(found[5]).all()
    assert found[:1] == pytest.approx(OwnTaskScorer(model, processor, task)(cells[:1]), abs=1e-5)
    swapped = OwnTaskScorer(
        model, processor, parse_task("drug_response", "response:resistant,sensitive", task.question)
    )
    assert swapped(cells) == pytest.approx(found[:5, ::-1], abs=1e-5)


def test_answers_about_one_cell_and_about_groups():
    task = parse_tasks(TASK)["drug_response"]
    one = own_task(task, np.array([[0.3, 0.7]]))
    assert one.text == "Drug response: resistant. Its probability is 0.70." and one.values[0].probability == 0.7
    group = own_task(task, np.array([[0.3, 0.7], [0.9, 0.1], [0.4, 0.6]]))
    assert group.text == "Drug response: resistant for 2 of 3 cells, sensitive for 1."
    assert own_task(task, np.full((1, 2), np.nan)).text == "No cell has enough genes of the model to answer."


def test_models_of_concepts_cannot_learn_own_tasks(prepared):
    from types import SimpleNamespace

    rows = SimpleNamespace(report=prepared[1])
    with pytest.raises(UserError, match="projector_type=concepts passes only the concepts"):
        add_own_tasks(SimpleNamespace(config=SimpleNamespace(projector_type="concepts")), rows)


def check_scores(scores, folder, model, processor):
    """Compare the scores of the held-out cells with those that scikit-learn finds for the answers of the model."""
    rows = load_dataset(str(folder))
    held_out = rows["test"].filter(lambda row: row["drug_response"] is not None)
    (task,) = tasks_of(model.config)
    probabilities = OwnTaskScorer(model, processor, task)([cells[0] for cells in held_out["cells"]])
    answers, truth = np.array(task.values)[probabilities.argmax(axis=1)], np.array(held_out["drug_response"])
    trained = [answer for answer in rows["train"]["drug_response"] if answer is not None]
    majority = max(sorted(set(trained)), key=trained.count)
    assert scores["n"] == len(truth) > 0
    assert scores["accuracy"] == pytest.approx(accuracy_score(truth, answers), abs=1e-4)
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, answers), abs=1e-4)
    assert scores["majority"] == pytest.approx(np.mean(truth == majority), abs=1e-4)
    low, high = scores["intervals"]["accuracy"]
    assert low <= scores["accuracy"] <= high


def test_a_trained_model_answers_its_task(prepared, cells, tmp_path, capsys):
    folder, _ = prepared
    run(tmp_path, dataset=[str(folder)], max_steps=2, projector_type="pooled", baselines=["none"], max_genes=None)
    scores = json.loads((tmp_path / "out" / OWN_TASKS_FILE).read_text())
    loaded = load(tmp_path / "out", device="cpu")
    check_scores(scores["drug_response"], folder, *loaded)
    adata = ad.read_h5ad(cells)
    answer = tl.ask(adata[:1].copy(), "What is its drug response?", loaded)
    assert answer.task == "own_task" and answer.values[0].kind == "drug_response"
    assert tl.ask(adata[:4].copy(), QUESTION, loaded).text.startswith("Drug response: ")
    with pytest.raises(UserError, match="compare_to cannot be used with"):
        tl.ask(adata[:1].copy(), QUESTION, loaded, compare_to=str(adata.obs_names[0]))
    questions = [
        {"question": "How does it respond to the drug?", "options": ["Resistant", "Sensitive"], "answer": "Sensitive",
         "cell_id": str(adata.obs_names[0])},
        {"question": "Does the drug perturb it?", "options": ["yes", "no"], "answer": "no", "cell_id": "cell1"},
    ]  # fmt: skip
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    metrics = evaluate_choices(
        tmp_path / "questions.json", tmp_path / "choices", loaded, format="instructcell", cells=cells, n_resamples=0
    )
    assert metrics["own_tasks"] == {"drug_response": 1}
    assert metrics["unanswered"] == {"perturbation": {NO_TASK: 1}}
    rows = [json.loads(line) for line in (tmp_path / "choices" / "choices.jsonl").read_text().splitlines()]
    assert rows[0]["own_task"] == "drug_response" and sum(rows[0]["probabilities"].values()) == pytest.approx(
        1, abs=1e-5
    )

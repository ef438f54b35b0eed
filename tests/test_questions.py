"""More questions about the same training cells: other tasks, words and second cells, and answers as true as the first."""

import json
from dataclasses import replace

import pytest
from datasets import load_dataset

from cell2text.data import example_cells_path
from cell2text.data.descriptions import compare_cells
from cell2text.data.prepare import prepare
from cell2text.training.arguments import Cell2TextArguments
from cell2text.training.questions import ask_more
from cell2text.training.sources import TrainingRows

from .training_runs import run


BATCH = 64
TASKS = {"describe": 2, "annotate": 1, "ask": 1, "compare": 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions") / "prepared"
    prepare(
        [str(example_cells_path())],
        folder,
        progress=False,
        split="random",
        tasks=TASKS,
        max_genes=64,
        allow_fractional=True,
    )
    return folder


@pytest.fixture(scope="module")
def rows(prepared):
    dataset = load_dataset(str(prepared), cache_dir=str(prepared.parent / "cache"))
    report = json.loads((prepared / "report.json").read_text())
    return TrainingRows(dataset["train"], dataset["test"], prepared / "vocabulary", [], report)


def words(messages) -> str:
    return " ".join(block["text"] or "<cell>" for message in messages for block in message["content"])


def test_one_question_a_cell_leaves_the_rows_alone(rows):
    assert ask_more(rows, 1) is rows.train


def test_cells_are_asked_other_questions_and_answered_by_their_labels(rows):
    asked, n = ask_more(rows, 3), len(rows.train)
    assert len(asked) == 3 * n and asked.features == rows.train.features
    assert asked.select(range(n)).to_list() == rows.train.to_list()
    cell_of = {row["cell_id"]: row for row in rows.train}
    for time in (1, 2):
        again = asked.select(range(time * n, time * n + n)).to_list()
        assert [row["cell_id"] for row in again] == rows.train["cell_id"]
        others = sum(
            (row["task"], row["prompt"]) != (first["task"], first["prompt"]) for row, first in zip(again, rows.train)
        )
        assert others > n / 2
        for row in again:
            first, answer = cell_of[row["cell_id"]], words(row["completion"])
            assert row["cells"][0] == first["cells"][0] and row["cell_type"] == first["cell_type"]
            assert words(row["prompt"]).count("<cell>") == len(row["cells"])
            if row["task"] == "compare":
                second = cell_of[row["second_cell_id"]]
                assert row["cells"][1] == second["cells"][0] and second["source"] == row["source"]
                assert answer == compare_cells(first, second)
            else:
                assert len(row["cells"]) == 1 and row["second_cell_id"] is None
            if row["task"] in ("describe", "annotate"):
                assert row["cell_type"] in answer
        assert {row["task"] for row in again} == set(TASKS)
    pairs = [(row["cell_id"], row["second_cell_id"]) for row in asked if row["task"] == "compare"]
    assert len(set(pairs)) > 0.9 * len(pairs)


def test_the_same_questions_are_asked_in_every_run(rows):
    assert ask_more(rows, 2).to_list() == ask_more(rows, 2).to_list()


def test_rows_that_do_not_say_what_is_asked_are_refused(rows):
    with pytest.raises(ValueError, match="questions_per_cell=2 needs rows of `cell2text prepare`.*report.json"):
        ask_more(replace(rows, report=None), 2)
    with pytest.raises(ValueError, match=r"lack the columns \['source_row'\]"):
        ask_more(replace(rows, train=rows.train.remove_columns("source_row")), 2)
    with pytest.raises(ValueError, match="questions_per_cell=0: expected 1 or more"):
        Cell2TextArguments(questions_per_cell=0)


def test_training_asks_as_many_questions_and_keeps_each_cell_once_elsewhere(prepared, rows, tmp_path):
    """Twice the steps; the warm start, which asks nothing, does what it did."""
    losses, steps = [], []
    for times in (1, 2):
        folder = tmp_path / str(times)
        run(
            folder, dataset=[str(prepared)], questions_per_cell=times, class_balance=0.5, warm_start_epochs=1,
            cache_cell_states=False, describe_held_out=False, save_strategy="epoch", max_genes=64,
            per_device_train_batch_size=BATCH,
        )  # fmt: skip
        losses.append(json.loads((folder / "out" / "warm_start.json").read_text())["loss"])
        state = next((folder / "out").glob("checkpoint-*/trainer_state.json"))
        steps.append(json.loads(state.read_text())["global_step"])
        assert f"{len(rows.train):,} training rows" in (folder / "out" / "README.md").read_text()
    assert losses[0] == losses[1]
    assert steps == [-(-len(rows.train) // BATCH), -(-2 * len(rows.train) // BATCH)]

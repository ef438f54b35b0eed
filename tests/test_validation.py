"""The best checkpoint is chosen by what texts on validation cells get right, and never on the held-out cells."""

import json

import pytest
from datasets import Dataset
from trl import SFTConfig

from cell2text.preparation.rows import METADATA_COLUMNS
from cell2text.training.arguments import Cell2TextArguments
from cell2text.training.rows import TrainingRows
from cell2text.training.validation import (
    GenerationEvaluator,
    check_metric,
    check_validation,
    sample_validation_cells,
    text_metrics,
)

from .training_runs import run, weights


ROWS = [
    {"cell_type": "B cell", "tissue": "blood", "disease": "normal"},
    {"cell_type": "T cell", "tissue": "blood", "disease": None},
    {"cell_type": "monocyte", "tissue": "lung", "disease": None},
    {"cell_type": None, "tissue": "lung", "disease": None},
]
ROWS = [dict.fromkeys(METADATA_COLUMNS) | row for row in ROWS]
TEXTS = [
    "This cell is a B cell. It comes from the blood of a healthy donor.",
    "This cell is a B cell. It comes from the blood.",
    "This cell is a monocyte. It comes from the heart.",
    "nothing",
]


def test_figures_of_texts_are_those_counted_by_hand():
    found = text_metrics(ROWS, TEXTS)
    assert found["cell_type_accuracy"] == pytest.approx(2 / 3)
    assert 2 / 3 < found["cell_type_pagerank"] < 1  # a B cell is near a T cell
    assert found["tissue_accuracy"] == pytest.approx(2 / 4) and found["disease_accuracy"] == 1
    assert "disease_accuracy" not in text_metrics([row | {"disease": None} for row in ROWS], TEXTS)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_the_cells_and_agree(ranks):
    data = Dataset.from_list([row | {"cells": [[i]]} for i, row in enumerate(ROWS)])
    steps = []

    def describe(cells):
        steps.append(len(cells))
        return [TEXTS[cell[0]] for cell in cells]

    parts = [GenerationEvaluator(data, describe, rank=rank, ranks=ranks) for rank in range(ranks)]
    said = [pair for part in parts for pair in zip(part.mine, part.describe(part.cells))]
    for part in parts:
        part.gather = lambda mine: said
        assert part.metrics() == text_metrics(ROWS, TEXTS)
    assert len(set(steps)) == 1  # every rank takes as many steps, which sharded models need


def test_the_same_cells_are_chosen_each_time():
    data = Dataset.from_dict({"cell_id": [f"c{i}" for i in range(50)]})
    first = sample_validation_cells(data, 10, seed=3)["cell_id"]
    assert list(first) == list(sample_validation_cells(data, 10, seed=3)["cell_id"]) and len(set(first)) == 10
    assert list(first) != list(sample_validation_cells(data, 10, seed=4)["cell_id"])
    assert len(sample_validation_cells(data, 100, seed=3)) == 50


@pytest.mark.parametrize(
    ("ours", "theirs", "validation", "message"),
    [
        ({}, {"load_best_model_at_end": True}, False, "there are none: pass validation_share=0.1"),
        ({"describe_validation": 5}, {}, False, "The held-out cells never choose a checkpoint"),
        ({"describe_validation": 5}, {"eval_strategy": "no"}, True, "pass eval_strategy=epoch"),
        ({"early_stopping_patience": 2}, {}, True, "needs load_best_model_at_end=True"),
        ({}, {"load_best_model_at_end": True, "metric_for_best_model": "cell_type_accuracy"}, True,
         "pass describe_validation=500"),
        ({}, {"save_strategy": "best", "metric_for_best_model": "loss"}, False, "never choose a checkpoint"),
        ({"describe_validation": 5}, {"load_best_model_at_end": True, "metric_for_best_model": "cell_type_acuracy"}, True,
         "expected one of loss, cell_type_accuracy"),
    ],
)  # fmt: skip
def test_a_choice_that_cannot_be_made_is_refused(ours, theirs, validation, message, tmp_path):
    rows = TrainingRows(None, None, None, [], validation=Dataset.from_dict({"a": [1]}) if validation else None)
    options = {"output_dir": str(tmp_path), "eval_strategy": "epoch", "save_strategy": "epoch", "bf16": False} | theirs
    with pytest.raises(ValueError, match=message):
        check_validation(Cell2TextArguments(**ours), SFTConfig(**options), rows)


def test_the_best_model_is_kept_and_a_run_that_stands_still_stops_and_stays_so(small_h5ad, tmp_path):
    options = {
        "dataset": [str(small_h5ad)], "validation_share": 0.2, "describe_validation": 6, "eval_strategy": "steps",
        "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True, "max_steps": 9,
        "metric_for_best_model": "cell_type_accuracy", "early_stopping_patience": 2, "describe_held_out": False,
    }  # fmt: skip
    run(tmp_path, **options)
    out = tmp_path / "out"
    state = json.loads((out / "checkpoint-3" / "trainer_state.json").read_text())
    scores = [entry["eval_cell_type_accuracy"] for entry in state["log_history"] if "eval_loss" in entry]
    assert scores == [0.0, 0.0, 0.0]  # so small a model says nothing yet: the first is the best, two more are not
    assert not (out / "checkpoint-4").exists()
    assert state["best_metric"] == 0.0 and state["best_global_step"] == 1
    best, last, kept = (weights(folder) for folder in (out / "checkpoint-1", out / "checkpoint-3", out))
    assert all(kept[name].equal(best[name]) for name in best)
    assert any(not last[name].equal(best[name]) for name in best)
    run(tmp_path, **options, resume_from_checkpoint="true")  # it had stopped: nothing more is trained
    assert not (out / "checkpoint-4").exists() and all(weights(out)[name].equal(best[name]) for name in best)


def test_a_metric_of_a_label_that_no_cell_has_is_refused():
    rows = Dataset.from_list([row | {"disease": None} for row in ROWS])
    check_metric(rows, "eval_tissue_accuracy")
    check_metric(rows, "loss")
    with pytest.raises(ValueError, match="none of the 4 validation cells .* one of loss, cell_type_accuracy, .*tissue"):
        check_metric(rows, "disease_accuracy")

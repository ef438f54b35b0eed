"""Assign tasks, instructions and comparison cells to rows."""

import numpy as np

from cell2text.preparation.rows import TEXT_FIELDS, TaskSampler, choose_comparison_cells
from processing_cell2text import INSTRUCTION


def chat(tasks=None, seed=0):
    return TaskSampler(tasks or {"describe": 1.0}, "", seed=seed, definitions={})


def plan_rows(n):
    values = {"cell_type": "B cell", "tissue": "blood", "disease": "normal", "sex": "male", "life_stage": "adulthood"}
    row = tuple(values.get(name) for name in TEXT_FIELDS)
    return [(*row, ("HALLMARK_HYPOXIA",))] * n


def test_tasks_are_mixed_by_weight_and_do_not_depend_on_the_batch():
    weights = {"describe": 3.0, "annotate": 1.0, "ask": 2.0, "pathways": 1.0, "compare": 1.0}
    tasks, texts, _, partners = chat(weights).compose(plan_rows(4000), "file", np.arange(4000), training=True)
    for task, weight in weights.items():
        assert abs(tasks.count(task) / 4000 - weight / 8) < 0.03
    assert ((partners >= 0) == (np.array(tasks) == "compare")).all()
    part = chat(weights).compose(plan_rows(100), "file", np.arange(500, 600), training=True)
    kept = [i for i in range(100) if tasks[500 + i] != "compare"]
    assert [part[1][i] for i in kept] == [texts[500 + i] for i in kept]
    other = chat(weights, seed=1).compose(plan_rows(4000), "file", np.arange(4000), training=True)
    assert other[0] != tasks


def test_held_out_cells_are_described_with_the_fixed_instruction():
    weights = {"annotate": 1.0}
    composer = chat(weights)
    tasks, texts, prompts, partners = composer.compose(plan_rows(50), "file", np.arange(50), training=False)
    assert set(tasks) == {"describe"} and len(set(texts)) == 1 and set(prompts) == {0} and (partners < 0).all()
    assert composer.prompt_array()[0].as_py()[-1]["content"][-1]["text"] == INSTRUCTION


def test_a_row_without_an_answer_to_the_wanted_tasks_is_described():
    row = [(*("blood" if name == "tissue" else None for name in TEXT_FIELDS), ())]
    tasks, texts, *_ = chat({"annotate": 1.0}).compose(row, "file", np.array([0]), training=True)
    assert tasks == ["describe"] and texts == ["This cell comes from the blood."]


def test_no_cell_is_compared_with_itself():
    rows = plan_rows(30) + [(None, *plan_rows(1)[0][1:])] * 5
    partners = choose_comparison_cells(rows, 0, "file", np.arange(35))
    assert (partners[:30] >= 0).all() and (partners[:30] < 30).all() and (partners[30:] == -1).all()
    assert (partners[:30] != np.arange(30)).all()
    assert choose_comparison_cells(plan_rows(1), 0, "file", np.arange(1)).tolist() == [-1]

"""Tasks: completions, instructions, and reproducible random numbers per row."""

import hashlib
import json

import numpy as np
import pytest

from cell2text.errors import UserError
from cell2text.language.fields import FIELDS
from cell2text.language.tasks import (
    INSTRUCTIONS,
    QUESTIONS,
    TASKS,
    available_tasks,
    default_instruction,
    hashed_uniform,
    task_completion,
    task_instructions,
)
from processing_cell2text import INSTRUCTION


ALPHA = {
    "cell_type": "pancreatic A cell",
    "cell_type_definition": "a cell that secretes glucagon",
    "tissue": "pancreas",
    "disease": "normal",
    "sex": "male",
    "life_stage": "adulthood",
    "pathways": ["HALLMARK_HYPOXIA", "HALLMARK_TNFA_SIGNALING_VIA_NFKB"],
}


@pytest.mark.parametrize(
    ("task", "field", "text"),
    [
        ("annotate", None, "pancreatic A cell"),
        ("pathways", None, "This cell's most active pathways are hypoxia and TNF-alpha signaling via NF-kB."),
        ("ask", "cell_type", "This cell is a pancreatic A cell."),
        ("ask", "tissue", "This cell comes from the pancreas."),
        ("ask", "disease", "This cell comes from a healthy donor."),
        ("ask", "sex", "This cell comes from a male donor."),
        ("ask", "life_stage", "This cell comes from a donor in adulthood."),
    ],
)
def test_completions(task, field, text):
    assert task_completion(task, ALPHA, field=field) == text


def test_completions_name_the_likely_subtype_after_the_type():
    row = {**ALPHA, "likely_subtype": "L6 neuron", "likely_subtype_probability": "0.62"}
    assert task_completion("annotate", row) == "pancreatic A cell"
    told = "This cell is a pancreatic A cell. It is most likely an L6 neuron (0.62)."
    assert task_completion("ask", row, field="cell_type") == told
    assert "(0.62)" in task_completion("describe", row) and "L6" not in task_completion("ask", row, field="tissue")


def test_tasks_without_metadata_are_unavailable():
    assert available_tasks({}, has_partner=True) == ([], [])
    assert available_tasks({"tissue": "lung"}, has_partner=True) == (["describe", "ask"], ["tissue"])
    assert available_tasks(ALPHA, has_partner=True) == (list(TASKS), list(FIELDS))
    assert "compare" not in available_tasks(ALPHA, has_partner=False)[0]
    assert task_completion("ask", {"tissue": "lung"}, field="sex") is None
    with pytest.raises(UserError, match="task='sing' does not exist"):
        task_completion("sing", ALPHA)


def test_every_task_has_nine_instructions_including_the_default():
    assert default_instruction("describe") == INSTRUCTION
    for task, field in [*((task, None) for task in INSTRUCTIONS), *(("ask", field) for field in FIELDS)]:
        assert default_instruction(task, field) in task_instructions(task, field)
        assert len(task_instructions(task, field)) == len(set(task_instructions(task, field))) >= 9
    assert set(INSTRUCTIONS) | {"ask"} == set(TASKS) and set(QUESTIONS) == set(FIELDS)


def test_hashed_numbers_depend_on_seed_stream_source_and_row_only():
    rows = np.arange(10_000)
    whole = hashed_uniform(1, "task", "a", rows)
    assert np.array_equal(hashed_uniform(1, "task", "a", rows[500:600]), whole[500:600])
    others = [
        hashed_uniform(2, "task", "a", rows),
        hashed_uniform(1, "field", "a", rows),
        hashed_uniform(1, "task", "b", rows),
    ]
    assert all(abs(np.corrcoef(whole, other)[0, 1]) < 0.05 for other in others)
    assert whole.min() >= 0 and whole.max() < 1
    assert np.abs(np.histogram(whole, bins=10, range=(0, 1))[0] - 1000).max() < 150


def test_instructions_that_models_were_trained_on_stay_the_same():
    texts = json.dumps([INSTRUCTIONS, QUESTIONS], sort_keys=True).encode()
    assert hashlib.sha256(texts).hexdigest() == "28d11dd4f86433f8168fa5c1d6e139decf9c2587f5bcddf3ea12c38f7efc3d3d"

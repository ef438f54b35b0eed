"""Metadata to text, tasks and their wordings."""

import re
from itertools import product

import numpy as np
import pytest

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
from cell2text.language.writing import compare_cells, describe_row, pathway_words, with_article
from cell2text.ontology.definitions import term_definition
from cell2text.ontology.life_stages import LIFE_STAGES
from cell2text.ontology.terms import ontology_parser
from cell2text.preparation.aucell import read_gmt
from cell2text.preparation.rows import TEXT_FIELDS, TaskSampler, find_partners
from processing_cell2text import INSTRUCTION

from .conftest import shared_path


ALPHA = {
    "cell_type": "pancreatic A cell",
    "cell_type_definition": "a cell that secretes glucagon",
    "tissue": "pancreas",
    "disease": "normal",
    "sex": "male",
    "life_stage": "adulthood",
    "pathways": ["HALLMARK_HYPOXIA", "HALLMARK_TNFA_SIGNALING_VIA_NFKB"],
}
TYPE = "This cell is a pancreatic A cell: a cell that secretes glucagon."
PATHWAYS = "Its most active pathways are hypoxia and TNF-alpha signaling via NF-kB."


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, f"{TYPE} It comes from the pancreas of a healthy male donor in adulthood. {PATHWAYS}"),
        ({"disease": "type 2 diabetes mellitus"}, f"{TYPE} It comes from the pancreas of a male donor with type 2 diabetes mellitus in adulthood. {PATHWAYS}"),
        ({"sex": "unknown", "life_stage": None}, f"{TYPE} It comes from the pancreas of a healthy donor. {PATHWAYS}"),
        ({"sex": None, "disease": "unknown", "life_stage": None}, f"{TYPE} It comes from the pancreas. {PATHWAYS}"),
        ({"tissue": "unknown"}, f"{TYPE} It comes from a healthy male donor in adulthood. {PATHWAYS}"),
        ({"pathways": ["HALLMARK_HYPOXIA"], "cell_type_definition": None}, "This cell is a pancreatic A cell. It comes from the pancreas of a healthy male donor in adulthood. Its most active pathway is hypoxia."),
        ({"cell_type": "nan", "pathways": []}, "This cell comes from the pancreas of a healthy male donor in adulthood."),
        ({name: None for name in ALPHA if name != "pathways"}, "This cell's most active pathways are hypoxia and TNF-alpha signaling via NF-kB."),
        ({"life_stage": "the fetal stage of prenatal development", "pathways": None}, f"{TYPE} It comes from the pancreas of a healthy male donor in the fetal stage of prenatal development."),
        (dict.fromkeys(ALPHA), None),
    ],
)  # fmt: skip
def test_a_field_that_is_unknown_is_left_out(changes, text):
    assert describe_row({**ALPHA, **changes}) == text


def test_a_missing_column_is_an_unknown_field():
    assert describe_row({"tissue": "lung"}) == "This cell comes from the lung." and describe_row({}) is None


DONOR = r"an? (healthy )?((fe)?male )?donor( with [^.]+?)?( in [a-z ]+)?"
GRAMMAR = re.compile(
    rf"^(This cell is an? [^.:]+(: [^:]+)?\.)?( ?(This cell|It) comes from ((the )?[^.]+?( of {DONOR})?|{DONOR})\.)?"
    r"( ?(This cell's|Its) most active (pathway is|pathways are) [^.]+\.)?$"
)


def real_labels(ontology, n):
    entries = ontology_parser().cxg_schema.ontology(ontology)
    labels = [
        (t, e["label"])
        for t, e in entries.items()
        if not e.get("deprecated") and e.get("label") and "." not in e["label"] and ":" not in e["label"]
    ]
    return labels[:: max(1, len(labels) // n)]


def test_every_combination_of_missing_fields_is_correct_english():
    """Every subset of fields, with real labels: the sentences have the grammar, no gap, no doubled word."""
    types, tissues, diseases = (real_labels(name, 40) for name in ("CL", "UBERON", "MONDO"))
    rng = np.random.default_rng(0)
    sets = [f"HALLMARK_{name}" for name in ("HYPOXIA", "MYC_TARGETS_V1", "UV_RESPONSE_DN")]
    for present in product([True, False], repeat=7):
        for _ in range(3):
            term, cell_type = types[rng.integers(len(types))]
            row = {
                "cell_type": cell_type,
                "cell_type_definition": term_definition(term),
                "tissue": tissues[rng.integers(len(tissues))][1],
                "disease": "normal" if rng.random() < 0.5 else diseases[rng.integers(len(diseases))][1],
                "sex": str(rng.choice(["male", "female"])),
                "life_stage": str(rng.choice(list(LIFE_STAGES))),
                "pathways": list(rng.choice(sets, size=rng.integers(1, 3), replace=False)),
            }
            row = {name: value for (name, value), there in zip(row.items(), present) if there}
            text = describe_row(row)
            if not set(row) - {"cell_type_definition"}:
                assert text is None
                continue
            if "cell_type_definition" not in row or ":" not in row["cell_type_definition"]:
                assert GRAMMAR.match(text), text
            assert "  " not in text and " ." not in text and ".." not in text and text.endswith("."), text
            assert not re.search(r"\b(a|an|the|of|with|in|from|is|it|this) \1\b", text, re.IGNORECASE), text
            for name in ("cell_type", "tissue", "sex", "life_stage"):
                assert name not in row or row[name] in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("amacrine cell", "an"), ("B cell", "a"), ("OFF-bipolar cell", "an"), ("unipolar brush cell", "a"), ("NK cell", "an"),
        ("L2/3 intratelencephalic neuron", "an"), ("MAIT cell", "a"), ("eukaryotic cell", "a"), ("umbrella cell", "an"),
        ("urothelial cell", "a"), ("T cell", "a"), ("Hofbauer cell", "a"), ("M cell of gut", "an"), ("endothelial cell", "an"),
    ],
)  # fmt: skip
def test_articles(name, expected):
    assert with_article(name) == f"{expected} {name}"


def test_names_of_pathways_are_words_and_stay_apart():
    names = read_gmt(shared_path("genesets/h.all.v7.0.symbols.gmt")).names
    words = [pathway_words(name) for name in names]
    assert len(set(words)) == 50 and not any("_" in text or "HALLMARK" in text for text in words)
    assert pathway_words("HALLMARK_IL6_JAK_STAT3_SIGNALING") == "IL-6 JAK STAT3 signaling"
    assert pathway_words("HALLMARK_MYC_TARGETS_V2") == "MYC targets (set 2)"


@pytest.mark.parametrize(
    ("second", "text"),
    [
        ({}, "Both cells are of the type pancreatic A cell. Both cells come from the pancreas. Both cells come from healthy donors."),
        ({"cell_type": "B cell", "tissue": "blood", "disease": "asthma"}, "The first cell is a pancreatic A cell and the second cell is a B cell. The first cell comes from the pancreas and the second cell from the blood. The first cell comes from a healthy donor and the second cell from a donor with asthma."),
        ({"tissue": None, "disease": None}, "Both cells are of the type pancreatic A cell."),
        ({"cell_type": None}, None),
    ],
)  # fmt: skip
def test_two_cells_are_compared_by_what_is_known_of_both(second, text):
    assert compare_cells(ALPHA, {**ALPHA, **second}) == text


@pytest.mark.parametrize(
    ("task", "field", "text"),
    [
        ("annotate", None, "pancreatic A cell"),
        ("pathways", None, PATHWAYS.replace("Its", "This cell's")),
        ("ask", "cell_type", "This cell is a pancreatic A cell."),
        ("ask", "tissue", "This cell comes from the pancreas."),
        ("ask", "disease", "This cell comes from a healthy donor."),
        ("ask", "sex", "This cell comes from a male donor."),
        ("ask", "life_stage", "This cell comes from a donor in adulthood."),
    ],
)
def test_answers(task, field, text):
    assert task_completion(task, ALPHA, field=field) == text


def test_what_cannot_be_answered_is_not_asked():
    assert available_tasks({}, has_partner=True) == ([], [])
    assert available_tasks({"tissue": "lung"}, has_partner=True) == (["describe", "ask"], ["tissue"])
    assert available_tasks(ALPHA, has_partner=True) == (list(TASKS), list(FIELDS))
    assert "compare" not in available_tasks(ALPHA, has_partner=False)[0]
    assert task_completion("ask", {"tissue": "lung"}, field="sex") is None
    with pytest.raises(ValueError, match="task='sing' does not exist"):
        task_completion("sing", ALPHA)


def test_every_task_has_eight_wordings_beside_the_fixed_one():
    assert default_instruction("describe") == INSTRUCTION
    for task, field in [*((task, None) for task in INSTRUCTIONS), *(("ask", field) for field in FIELDS)]:
        assert default_instruction(task, field) in task_instructions(task, field)
        assert len(task_instructions(task, field)) == len(set(task_instructions(task, field))) >= 9
    assert set(INSTRUCTIONS) | {"ask"} == set(TASKS) and set(QUESTIONS) == set(FIELDS)


def test_draws_depend_on_seed_stream_source_and_row_alone():
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
    partners = find_partners(rows, 0, "file", np.arange(35))
    assert (partners[:30] >= 0).all() and (partners[:30] < 30).all() and (partners[30:] == -1).all()
    assert (partners[:30] != np.arange(30)).all()
    assert find_partners(plan_rows(1), 0, "file", np.arange(1)).tolist() == [-1]

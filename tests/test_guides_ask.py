"""The Python of docs/guides/ask.md prints what the guide shows, and its figures are those of the benchmark."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from cell2text.questions.answer import TASKS
from cell2text.questions.model_types import ROUTES
from cell2text.questions.scoring import NARROWER_SHARE, NONE_BELOW
from cell2text.questions.understanding import understand
from cell2text.questions.words import MAX_LETTERS
from cell2text.signatures.gene_sets import hallmark_gene_sets
from declining_cell2text import TYPE_THRESHOLD


PROJECT = Path(__file__).resolve().parents[1]
GUIDE = (PROJECT / "docs" / "guides" / "ask.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", GUIDE, flags=re.M | re.S)
RESULTS = json.loads((PROJECT / "benchmarks" / "results" / "zero_shot.json").read_text())


def prose(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def printed():
    scope: dict = {}
    found = []
    for code, _ in BLOCKS:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, scope)
        found.append(out.getvalue())
    return found


def test_examples_print_what_the_guide_shows(printed):
    assert len(BLOCKS) == 3
    for (_, shown), out in zip(BLOCKS, printed):
        assert [line.rstrip() for line in out.splitlines()] == [line.rstrip() for line in shown.splitlines()]


def test_questions_of_the_table_are_answered():
    rows = re.findall(r"^\| ([^|]*\?[^|]*) \| [^|]+ \|$", GUIDE.partition("## Score")[0], flags=re.M)
    questions = [one.strip() for row in rows for one in re.findall(r"[^?.]+[?.]", row)]
    assert len(questions) > 12
    for question in questions:
        task = understand(question, hallmark_gene_sets().names, n_cells=2).task
        assert task in TASKS and task != "outside", question


def test_thresholds_and_routes_of_the_guide_are_those_of_the_code():
    text = prose(GUIDE)
    assert f"at least {TYPE_THRESHOLD} is a yes, one of at most {1 - TYPE_THRESHOLD} a no" in text
    assert f"a question has at most {MAX_LETTERS} characters" in text
    assert NARROWER_SHARE == 0.5 and "at least half of its probability" in text
    assert f"add up to less than {NONE_BELOW}" in text
    assert all(f"`{route}`" in GUIDE for route in ROUTES)


@pytest.mark.parametrize("study", RESULTS["studies"])
def test_figures_of_the_guide_are_those_of_the_benchmark(study):
    for name, found in RESULTS["studies"][study]["systems"].items():
        low, high = found["accuracy_interval"]
        speed = f"{found['cells_per_second']:,.0f}" if "cells_per_second" in found else "not measured"
        figures = [found["named_share"], found["named_true"], found["ece"], found["ece_exact"], found["wrong_above_90"]]
        row = [
            study, name, f"{100 * found['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})",
            *(f"{100 * value:.1f}" for value in figures), speed,
        ]  # fmt: skip
        assert f"| {' | '.join(row)} |" in GUIDE, row

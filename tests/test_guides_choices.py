"""Figures and examples of docs/guides/choices.md and docs/guides/own_tasks.md."""

import json
import re
import shlex
from pathlib import Path

import pytest

from cell2text.choices import expression_order
from cell2text.choices.reading import read_questions
from cell2text.language.own_tasks import parse_task


PROJECT = Path(__file__).resolve().parents[1]
STUDIES = ("breast", "kang_pbmc_sle", "zilionis_nsclc")
POOLS = {"any": "all three studies", "own": "the cell's study"}
TARGET = 0.6  # of right choices among ten candidates


def guide(name: str) -> str:
    return (PROJECT / "docs" / "guides" / f"{name}.md").read_text(encoding="utf-8")


def results(name: str) -> dict:
    return json.loads((PROJECT / "benchmarks" / "results" / f"{name}.json").read_text())


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def with_interval(found: dict) -> str:
    low, high = found["interval"]
    return f"{percent(found['accuracy'])} ({percent(low)} to {percent(high)})"


@pytest.mark.parametrize("length", ["all genes", "100 genes"])
@pytest.mark.parametrize("pool", POOLS)
def test_choices_are_quoted_as_measured(pool, length):
    found = results("choices")["parts"]["unseen"][pool][length]
    total, studies = found["expression"]["total"], found["expression"]["studies"]
    cells = [
        POOLS[pool], length, with_interval(total), percent(total["chance"]),
        *(percent(studies[name]["accuracy"]) for name in STUDIES), percent(total["probability"]),
        percent(found["relative"]["total"]["accuracy"]),
    ]  # fmt: skip
    assert f"| {' | '.join(cells)} |" in guide("choices")


def test_the_target_is_met_with_ten_candidates():
    unseen = results("choices")["parts"]["unseen"]["any"]
    for found in unseen.values():
        assert found["expression"]["candidates"] == 10 and found["expression"]["total"]["accuracy"] >= TARGET
    kang = unseen["all genes"]["expression"]["studies"]["kang_pbmc_sle"]
    assert kang["accuracy"] < TARGET and f"{percent(kang['accuracy'])} % are right" in guide("choices")
    assert kang["accuracy"] < kang["probability"]


def test_the_exponent_is_the_best_one_on_validation_questions():
    found = results("choices")
    means = {
        float(name): value + found["exponents"]["100 genes"][name]
        for name, value in found["exponents"]["all genes"].items()
    }
    assert expression_order.EXPONENT == found["settings"]["exponent"] == max(means, key=means.__getitem__)
    validation = found["parts"]["validation"]["own"]
    quoted = [percent(validation[length]["expression"]["total"]["accuracy"]) for length in ("all genes", "100 genes")]
    text = " ".join(guide("choices").split())
    assert f"{quoted[0]} % of the choices are right with all genes and {quoted[1]} % with 100" in text
    n_candidates = sum(validation["all genes"]["expression"]["labels"].values())
    assert f"gut_scp1884 with {n_candidates} different candidates" in text


def test_the_question_of_the_guide_is_read(tmp_path):
    (example,) = re.findall(r"^```json\n(.*?)^```$", guide("choices"), flags=re.M | re.S)
    (tmp_path / "questions.json").write_text(example)
    (question,) = read_questions(tmp_path / "questions.json")
    assert question.answer == "pancreatic beta cell" and len(question.candidates) == 3 and len(question.genes) > 20


def test_question_and_answer_of_the_task_are_those_of_the_code():
    text = guide("own_tasks")
    (command,) = re.findall(r"cell2text prepare [^\n]*\\\n[^\n]*", text)
    words = shlex.split(command.replace("\\\n", " "))
    name, _, declared = words[words.index("--task") + 1].partition("=")
    task = parse_task(name, declared)
    assert f'"{task.question}"' in " ".join(text.split()) and f'"{task.completion("sensitive")}"' in text
    assert f'own_tasks={{"{name}": "{declared}"}}' in text


def test_the_task_is_compared_with_logistic_regression_as_measured():
    found, text = results("column_task"), guide("own_tasks")
    for name, key in {"Cell2Text": "cell2text", "logistic regression": "logistic_regression"}.items():
        scores = found[key]
        assert (
            f"| {name} | {with_interval(scores)} | {percent(scores['auroc'])} | {percent(scores['probability'])} |"
            in text
        )
    assert f"| most frequent answer | {percent(found['majority'])} | | |" in text
    prose = " ".join(text.split())
    assert found["asked"] in text
    assert f"{found['cells']['train']:,} training cells of {found['donors']['train']} donors" in prose
    assert f"{found['cells']['test']:,} test cells of {found['donors']['test']}" in prose
    low, high = found["difference"]["interval"]
    difference = f"{100 * found['difference']['difference']:.1f} points ({100 * low:.1f} to {100 * high:.1f})"
    assert f"the difference is {difference}" in prose

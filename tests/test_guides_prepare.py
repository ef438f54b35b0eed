"""The guide to `cell2text prepare`: its commands run, print what it says, and its options exist."""

import re
import shlex
from pathlib import Path

import pytest
from datasets import load_dataset

from cell2text.language.tasks import default_instruction, task_instructions
from cell2text.options import flags_of_options
from cell2text.preparation.config import PrepareConfig

from .conftest import run_cli


PROJECT = Path(__file__).resolve().parents[1]
GUIDE = (PROJECT / "docs" / "guides" / "prepare.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.S)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which all commands of the guide have run, and what they printed."""
    folder = tmp_path_factory.mktemp("guide")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in "".join(blocks("bash")).replace("\\\n", " ").splitlines():
            program, *arguments = shlex.split(line)
            if program == "printf":
                text, arrow, name = arguments
                assert arrow == ">"
                Path(name).write_text(text.replace("\\t", "\t").replace("\\n", "\n"))
            else:
                assert program == "cell2text"
                assert run_cli(*arguments, "--quiet") == 0, line
    return folder


def test_python_finds_the_finished_data_set(finished, monkeypatch):
    monkeypatch.chdir(finished)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(finished / "cache"))
    scope: dict = {}
    exec("".join(blocks("python")), scope)
    assert scope["report"]["rows"] == 200 == sum(map(len, scope["rows"].values()))


def test_first_command_prints_what_the_guide_shows(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    assert run_cli("prepare", "example.h5ad", "--out", "prepared", "--quiet") == 0
    assert capsys.readouterr().out == blocks("text")[0]


def test_commands_write_what_the_guide_says(finished):
    assert {path.name for path in (finished / "prepared").iterdir()} == {
        "data", "vocabulary", "report.html", "report.json", "README.md",
    }  # fmt: skip
    unseen = load_dataset(str(finished / "unseen_study"), cache_dir=str(finished / "cache"))
    assert set(unseen["test"]["dataset_id"]) == {"baron_pancreas"}
    assert set(unseen["validation"]["donor_id"]) == {"RCC2"}
    tasks = set(load_dataset(str(finished / "with_pathways"), cache_dir=str(finished / "cache"))["train"]["task"])
    assert tasks == {"describe", "annotate", "ask", "pathways", "compare"}


def test_prompts_of_the_guide_are_real():
    assert f"| {default_instruction('describe')} |" in GUIDE and f"| {task_instructions('compare')[0]} |" in GUIDE
    assert f"| {task_instructions('pathways')[0]} |" in GUIDE
    assert f"| {task_instructions('ask', 'tissue')[0]} |" in GUIDE


def test_flags_of_the_guide_exist():
    others = {"out", "config", "workers", "dask-scheduler", "push-to-hub", "test-cells", "validation-cells", "dataset"}
    flags = {*flags_of_options(PrepareConfig).values(), *(f"--{name}" for name in others)}
    for flag in re.findall(r"--[a-z][a-z-]+", GUIDE):
        assert flag in flags, flag

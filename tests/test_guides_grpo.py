"""docs/guides/grpo.md: its options exist, its code runs, and its figures are those of benchmarks/results/grpo.json."""

import json
import re
from contextlib import redirect_stdout
from dataclasses import fields
from io import StringIO
from pathlib import Path

import pytest


PROJECT = Path(__file__).resolve().parents[1]
GUIDE = (PROJECT / "docs" / "guides" / "grpo.md").read_text(encoding="utf-8")
RESULTS = json.loads((PROJECT / "benchmarks" / "results" / "grpo.json").read_text(encoding="utf-8"))
ARMS = ("sft", "sft_longer", "grpo")
# Rows of the table, by their first cell, and how their figures are written.
ROWS = {
    "Named type is the label": ("named_label", "percent"),
    "Named type is true": ("named_true", "percent"),
    "Readable type": ("readable", "percent"),
    "Reward of the type": ("type_reward", "number"),
    "Reward of calibration": ("calibration_reward", "number"),
    "Reward of pathways": ("pathway_reward", "number"),
    "Texts with a likely subtype": ("states_subtype", "percent"),
    "Stated probability of the subtype": ("subtype_probability", "percent"),
    "Subtype is true": ("subtype_true", "percent"),
    "Brier score of the subtype": ("subtype_brier", "number"),
}


def written(value: float | None, kind: str) -> str:
    if value is None:
        return "–"
    return (f"{100 * value:.1f} %" if kind == "percent" else f"{value:.3f}").replace("-", "−")


def test_options_that_the_guide_names_exist_with_their_defaults():
    from trl import GRPOConfig, ModelConfig

    from cell2text.training.arguments import ReinforcementArguments

    classes = (ReinforcementArguments, GRPOConfig, ModelConfig)
    known = {field.name for kind in classes for field in fields(kind)} | {"config", "help"}
    assert set(re.findall(r"(?<![\w-])--([a-z]\w*)", GUIDE)) <= known
    defaults = {field.name: field.default for field in fields(ReinforcementArguments)}
    weights = re.findall(r"`--(\w+_reward_weight) ([\d.]+)`", GUIDE)
    assert len(weights) == 3 and all(defaults[name] == float(value) for name, value in weights)


def test_the_code_of_the_guide_runs():
    (code,) = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.M | re.S)
    with redirect_stdout(StringIO()) as out:
        exec(code, {})
    first, second = out.getvalue().splitlines()
    assert all(0 < float(value) < 1 for value in first.split()) and second == "0.5"


@pytest.mark.parametrize("start", ROWS)
def test_figures_are_quoted(start):
    (line,) = [line for line in GUIDE.splitlines() if line.startswith(f"| {start} |")]
    name, kind = ROWS[start]
    expected = [written(RESULTS["means"][arm][name], kind) for arm in ARMS]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == expected


def test_the_seeds_are_quoted_one_by_one():
    (line,) = [line for line in GUIDE.splitlines() if line.startswith("| Named type is true, by seed |")]
    values = [[run["mean_of_studies"]["named_true"] for run in RESULTS["runs"][arm]] for arm in ARMS]
    expected = [", ".join(written(value, "percent") for value in own) for own in values]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == expected


def test_settings_are_quoted():
    settings = RESULTS["settings"]
    seeds, second = len(settings["seeds"]), settings["second_stage"]
    cells = sum(study["cells"] for study in RESULTS["runs"]["sft"][0]["studies"].values())
    assert f"{cells} cells of {len(settings['unseen'])} studies" in GUIDE
    assert f"{second['max_steps']} steps of {second['per_device_train_batch_size']} texts" in GUIDE
    assert f"means of {('one', 'two', 'three')[seeds - 1]} random seeds" in GUIDE

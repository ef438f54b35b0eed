"""The guide to `cell2text generate`: its figures are those that the benchmark wrote, its examples are read as stated."""

import json
import re
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from cell2text.generate.prompt import read_prompt
from cell2text.models import GENERATOR


PROJECT = Path(__file__).resolve().parents[1]
GUIDE = (PROJECT / "docs" / "guides" / "generate.md").read_text(encoding="utf-8")
PROSE = " ".join(GUIDE.split())
RESULTS = json.loads((PROJECT / "benchmarks" / "results" / "generation.json").read_text())
LABELS = {"generated": "generated cells", "resampled": "training cells", "mean_profile": "mean profile"}


def rows_after(heading: str) -> dict[str, list[str]]:
    """Rows of the first table after a heading, by their first cell."""
    part = GUIDE.split(heading, 1)[1]
    table = re.search(r"(?:^\|.*\n)+", part, re.M)[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in cells}


def figures(row: dict) -> list[str]:
    return [
        f"{row['mmd']:.3f}", f"{row['wasserstein_1']:.2f}", f"{row['wasserstein_2']:.2f}", f"{row['auroc']:.3f}",
        f"{row['auroc_genes']:.3f}", f"{row['correlation']:.2f}", f"{100 * row['zeros']:.1f}",
    ]  # fmt: skip


@pytest.mark.parametrize(("part", "heading"), [("donors", "### Held-out donors"), ("combinations", "### Combinations")])
def test_comparisons_are_quoted(part, heading):
    table = rows_after(heading)
    for system, label in LABELS.items():
        assert table[label] == figures(RESULTS[part]["mean"][system])


def test_classifiers_are_quoted():
    table = rows_after("### Classifiers")
    for study, found in RESULTS["donors"]["classifiers"].items():
        if found:
            expected = [f"{100 * found[name]:.1f}" for name in ("real", *LABELS)]
            assert table[f"`{study}`"] == [str(found["types"]), str(found["cells"]), *expected]


def test_the_round_trip_is_quoted():
    found = RESULTS["roundtrip"]
    stated = f"each of {found['prompts']} prompts covering {found['types']} cell types. For {100 * found['share']:.0f} % of the prompts"
    assert stated in PROSE


def test_the_card_is_the_one_that_the_recipe_writes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(PROJECT / "recipes" / "generator")
    for name in ("seen.tsv", "config.json", "model.safetensors"):
        shutil.copyfile(GENERATOR / name, tmp_path / name)
    import_module("generator_card").write_card(tmp_path)
    assert (tmp_path / "README.md").read_text() == (GENERATOR / "README.md").read_text()


def test_the_prose_quotes_the_results():
    mean = RESULTS["donors"]["mean"]
    generated, training, profile = (mean[name] for name in LABELS)
    assert f"{100 * generated['zeros_real']:.1f} % of the values of real cells" in PROSE
    assert f"{generated['auroc']:.3f} against {training['auroc']:.3f} on components" in PROSE
    nearer = ("mmd", "wasserstein_1", "wasserstein_2", "auroc", "auroc_genes")
    assert all(generated[name] < profile[name] for name in nearer)
    classifiers = [found for found in RESULTS["donors"]["classifiers"].values() if found]
    assert all(found["generated"] >= 0.99 * found["real"] for found in classifiers)


@pytest.mark.parametrize("text", re.findall(r'generate\("([^"]+)"', GUIDE) + re.findall(r'generate "([^"]+)"', GUIDE))
def test_prompts_of_the_guide_are_understood(text):
    assert read_prompt(text).not_used == ()

"""The README: its length, its figures, its links and the Python it shows."""

import json
import re
from pathlib import Path

import pytest

from cell2text.evaluation.named_types import NAMED_TYPE_METRICS
from declining_cell2text import is_description


PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
BASELINES = ("kNN", "logistic regression", "LightGBM")


def results(name: str = "mini") -> dict:
    return json.loads((PROJECT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def quoted(title: str) -> list[str]:
    """Figures of the only table row with this title."""
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


def test_readme_has_at_most_150_lines():
    assert len(README.splitlines()) <= 150


def test_accuracy_table_quotes_the_committed_results():
    found = results()["mean"]["unseen"]
    assert quoted("Cell2Text") == [percent(found[name]) for name in NAMED_TYPE_METRICS]


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_quote_the_committed_results(name):
    unseen = [study for study, found in results()["studies"].items() if found["part"] == "unseen"]
    assert f"Means over {len(unseen)} unseen studies" in README
    scores = [results("mini_baselines")["baselines"][name]["test"][f"{study}: real"] for study in unseen]
    assert quoted(name) == [percent(sum(one[key] for one in scores) / len(scores)) for key in NAMED_TYPE_METRICS]


def test_accuracy_on_held_out_donors_quotes_the_committed_results():
    found, text = results()["mean"]["donors"], " ".join(README.split())
    assert f"{percent(found['exact'])} % of the cells get exactly the label" in text
    assert f"{percent(found['named_true'])} % of the named types are true" in text


def test_packaged_model_knows_as_many_types_as_the_readme_says():
    config = json.loads((PROJECT / "cell2text" / "models" / "mini" / "config.json").read_text(encoding="utf-8"))
    terms, text = config["cell_concepts"]["hierarchical"]["cell_type"], " ".join(README.split())
    assert f"knows {len(terms)} terms of the Cell Ontology" in text
    simulated = results("mini_rows")["simulated"]["types_without_real_cells"]
    assert f"It learned {simulated} cell types from simulated cells alone" in text


def test_links_lead_to_files():
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        assert (PROJECT / target).exists(), target


def test_python_example_runs():
    (example,) = blocks("python")
    assert len(example.strip().splitlines()) <= 10
    scope: dict = {}
    exec(example, scope)
    assert scope["adata"].obs["cell2text"].map(is_description).all()
    assert scope["model"].config.concept_groups["cell_type"]


def test_pipeline_line_describes_the_same_cells():
    from transformers import pipeline

    import cell2text

    (line,) = re.findall(r"`(pipeline\(\"cell-to-text\", model=model, processor=processor\)\(adata\))`", README)
    model, processor = cell2text.load()
    adata = cell2text.example_cells(unseen=True)[:2].copy()
    found = eval(line, {"pipeline": pipeline, "model": model, "processor": processor, "adata": adata})
    assert all(is_description(entry["generated_text"]) for entry in found)

"""The README: its length, its figures, its links and the Python it shows."""

import json
import re
from pathlib import Path

import pytest


PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
ROWS = {
    "Cell2Text, read from the text": "cell2text",
    "logistic regression": "logistic_regression",
    "kNN": "knn",
    "text of another cell (control)": "shuffled_cells",
}


def results() -> dict:
    return json.loads((PROJECT / "benchmarks" / "results" / "mini.json").read_text(encoding="utf-8"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


def test_readme_has_at_most_150_lines():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize(("title", "system"), ROWS.items())
def test_accuracy_table_quotes_the_committed_results(title, system):
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {title} |")]
    scores = [results()[part]["systems"][system]["cell_type"] for part in ("donors", "studies")]
    expected = [f"{100 * part[key][0]:.1f}" for part in scores for key in ("accuracy", "pagerank_similarity")]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == expected


def test_calibration_sentence_quotes_the_committed_results():
    found = results()["studies"]
    (highest,) = [
        entry
        for entry in found["calibration"]["type_probability"]["bins"]
        if (entry["from"], entry["to"]) == (0.99, 1.0)
    ]
    sentence = f"of {highest['n']} cells with a type probability of at least 0.99, {100 * highest['accuracy']:.1f} % were right"
    assert sentence in " ".join(README.split())


def test_packaged_model_knows_as_many_types_and_tissues_as_the_readme_says():
    config = json.loads((PROJECT / "cell2text" / "models" / "mini" / "config.json").read_text(encoding="utf-8"))
    groups = {name: labels for kind in config["cell_concepts"].values() for name, labels in kind.items()}
    *others, last = [label for label in groups["tissue"] if label != "unknown"]
    sentence = f"knows {len(groups['cell_type'])} cell types of {', '.join(others)} and {last}"
    assert sentence in " ".join(README.split())


def test_links_lead_to_files():
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        assert (PROJECT / target).exists(), target


def test_python_example_runs():
    (example,) = blocks("python")
    assert len(example.strip().splitlines()) <= 10
    scope: dict = {}
    exec(example, scope)
    assert scope["adata"].obs["cell2text"].str.startswith("This cell is").all()


def test_pipeline_line_describes_the_same_cells():
    from transformers import pipeline

    import cell2text

    (line,) = re.findall(r"`(pipeline\(\"cell-to-text\", model=model, processor=processor\)\(adata\))`", README)
    model, processor = cell2text.load()
    adata = cell2text.example_cells(unseen=True)[:2].copy()
    found = eval(line, {"pipeline": pipeline, "model": model, "processor": processor, "adata": adata})
    assert [entry["generated_text"].startswith("This cell is") for entry in found] == [True, True]

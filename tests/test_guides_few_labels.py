"""The Python of docs/guides/few_labels.md runs, and its figures are those of the benchmark."""

import json
import re
from pathlib import Path

import numpy as np


RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "few_labels.json"
GUIDE = (Path(__file__).resolve().parents[1] / "docs" / "guides" / "few_labels.md").read_text(encoding="utf-8")


def test_five_labelled_cells_per_type_annotate_the_example_cells():
    (code,) = re.findall(r"^```python\n(.*?)^```$", GUIDE, flags=re.M | re.S)
    scope: dict = {}
    exec(code, scope)
    adata, labels, labelled = scope["adata"], scope["labels"], scope["labelled"]
    test = np.isin(labels, scope["types"])
    test[labelled] = False
    assert (adata.obs["my_cell_type"].to_numpy() == labels)[test].mean() > 2 / len(scope["types"])


def test_figures_are_those_of_the_benchmark():
    found = json.loads(RESULTS.read_text())["mean_over_studies"]
    tables = GUIDE.split("| Features and classifier |")[1:]
    assert len(tables) == 2
    for table, metric in zip(tables, ("macro_f1", "accuracy")):
        for name, by_number in found.items():
            (line,) = (line for line in table.splitlines() if line.startswith(f"| {name} |"))
            figures = [[f"{100 * value:.1f}" for value in by_number[n][metric]] for n in ("1", "5", "10", "50")]
            assert line.strip("| ").split(" | ")[1:] == [f"{mean} ({low} to {high})" for mean, low, high in figures]
    labelled = json.loads(RESULTS.read_text())["studies"]["breast"]["labelled"]
    assert labelled["10"] == labelled["50"] == 10 * json.loads(RESULTS.read_text())["studies"]["breast"]["types"]
    others = [by_number["1"]["macro_f1"][0] for name, by_number in found.items() if not name.startswith("Cell2Text")]
    assert max(others) < 0.45
    best = found["Cell2Text, logistic regression"]["1"]["macro_f1"][0]
    assert f"a macro-F1 of {100 * best:.1f} %" in GUIDE

"""The commands and the Python of docs/guides/evaluate.md run as they are printed there."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import load_dataset
from huggingface_hub import parse_eval_result_entries

from cell2text.evaluation.report import SYSTEM_NAMES
from cell2text.example import example_cells
from cell2text.preparation.run import prepare

from .conftest import run_cli


GUIDE = (Path(__file__).resolve().parents[1] / "docs" / "guides" / "evaluate.md").read_text(encoding="utf-8")
KEYS = ("cell_type", "cell_type_ontology_term_id", "tissue", "donor_id", "dataset_id")
N_CELLS, N_GENES = 60, 800


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, flags=re.M | re.S)


def commands() -> list[list[str]]:
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("cell2text evaluate ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the guide names: counts, a prepared data set, and predictions of two runs."""
    folder = tmp_path_factory.mktemp("guide")
    adata = example_cells()
    described = adata[:: len(adata) // N_CELLS].copy()
    for name in ("cell_type", "tissue"):
        described.obs[f"cell2text_{name}"] = described.obs[name]
    described.obs["cell2text_type_probability"] = 0.5
    described.obs.filter(like="cell2text_").rename(columns=lambda name: name.removeprefix("cell2text_")).to_csv(
        folder / "types.csv", index_label="cell_id"
    )
    described.write_h5ad(folder / "example.described.h5ad")
    described.write_h5ad(folder / "example.h5ad")
    frequent = np.argsort(-np.asarray(adata.X.sum(axis=0)).ravel())[:N_GENES]
    adata = adata[(adata.obs["dataset_id"] == "baron_pancreas").to_numpy(), np.sort(frequent)][:N_CELLS].copy()
    adata.write_h5ad(folder / "cells.h5ad")
    prepare(
        [folder / "cells.h5ad"], folder / "runs" / "default" / "data", progress=False, allow_fractional=True,
        max_genes=128, split="random", shares={"train": 0.7, "test": 0.3}, seed=0,
    )  # fmt: skip
    splits = load_dataset(str(folder / "runs" / "default" / "data"), cache_dir=str(folder / "cache"))
    texts = [row["completion"][0]["content"][0]["text"] for row in splits["test"]]
    for run, predictions in (("default", texts), ("other", texts[1:] + texts[:1])):
        rows = [
            {"prediction": prediction, "reference": text, "cell_id": row["cell_id"], **{key: row[key] for key in KEYS}}
            for prediction, text, row in zip(predictions, texts, splits["test"])
        ]
        path = folder / "runs" / run / "predictions.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_commands_run_and_write_what_the_guide_says(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for command in commands():
        assert run_cli(*command, "--resamples", "20", "--bertscore-model", "none") == 0, command
    for out in ("own_labels", "author_labels", "from_table", "evaluation", "with_baselines", "compared", "by_study"):
        assert {path.name for path in (folder / out).iterdir()} == {"report.html", "report.md", "metrics.json"}
    systems = json.loads((folder / "with_baselines" / "metrics.json").read_text())["systems"]
    assert systems.keys() == SYSTEM_NAMES.keys() - {"cell2text", "against", "constant", "usual_pathways", "linear_head"}
    assert "against" in json.loads((folder / "compared" / "metrics.json").read_text())["differences"]
    assert json.loads((folder / "by_study" / "metrics.json").read_text())["by"].keys() == {"dataset_id", "tissue"}


def test_python_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    scope: dict = {}
    for block in blocks("python"):
        exec(block, scope)
    assert scope["metrics"]["cell_type"]["accuracy"] == 1
    entries = yaml.safe_load((folder / "runs" / "default" / ".eval_results" / "cell2text.yaml").read_text())
    assert {entry.dataset_id for entry in parse_eval_result_entries(entries)} == {"OWNER/DATASET"}

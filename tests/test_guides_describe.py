"""The guide to describing: its commands and Python run, its options and columns are complete, its figures are right."""

import inspect
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest

import cell2text
from cell2text.describe import DescribeOptions, describe_file
from cell2text.example import example_cells

from .conftest import run_cli


PROJECT = Path(__file__).resolve().parents[1]
GUIDE = (PROJECT / "docs" / "guides" / "describe.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `experiment.h5ad`, eight cells with integer counts in two clusters, and `lists.txt`."""
    folder = tmp_path_factory.mktemp("guide")
    adata = example_cells(unseen=True)
    adata = adata[adata.obs_names.str.startswith("kidney_immune")][:8].copy()
    adata.obs["leiden"] = ["0", "1"] * 4
    adata.write_h5ad(folder / "experiment.h5ad")
    _, processor = cell2text.load()
    beta = example_cells()[example_cells().obs["cell_type"] == "type B pancreatic cell"][:1]
    tokens = processor.rank_encode(beta, allow_fractional=True)[0]
    symbols = [processor.gene_vocabulary.symbols[token] for token in tokens]
    (folder / "lists.txt").write_text("beta cell: " + " ".join(symbol for symbol in symbols[1:301] if symbol))
    return folder


def test_commands_run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for line in "".join(blocks("bash")).splitlines():
        program, *arguments = shlex.split(line)
        if program == "torchrun":  # tests/test_describe.py runs several processes; one writes the same output
            arguments = ["describe", *arguments[arguments.index("cell2text.describe") + 1 :]]
        assert run_cli(*arguments) == 0, capsys.readouterr().err
    described = ad.read_h5ad("experiment.described.h5ad")
    assert ad.read_h5ad("many.h5ad").obs["cell2text"].equals(described.obs["cell2text"])
    assert pd.read_csv("lists.csv")["cell_type"].tolist() == ["type B pancreatic cell"]
    assert {"experiment.described.h5ad", "report.html", "types.csv", "clusters.h5ad", "clusters.html"} <= {
        path.name for path in folder.iterdir()
    }
    prefixes = {column.removesuffix("_ontology_term_id") for column in described.obs if column.startswith("cell2text")}
    assert all(f"`{column}`" in GUIDE or f"`{column.removeprefix('cell2text')}`" in GUIDE or column == "cell2text"
               for column in prefixes)  # fmt: skip
    groups = ad.read_h5ad("clusters.h5ad").uns["cell2text"]["groups"]
    names = ("group", "n_cells", "n_described", "mean_type_probability", "cell_type_agreement",
             "cell_type_disagree", "cell_type_n", "pathways", "text", "pseudobulk_text")  # fmt: skip
    assert set(names) <= set(groups) and all(f"`{name}`" in GUIDE for name in names)


def test_python_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    scope: dict = {}
    for block in blocks("python"):
        exec(block, scope)
    assert scope["adata"].uns["cell2text"]["groups"]["n_cells"].tolist() == [4, 4]
    assert 0 <= scope["to_check"].n_obs <= 8
    assert scope["table"]["cell_type"].tolist() == ["type B pancreatic cell"]


def test_every_option_is_explained():
    parameters = [field.name for field in fields(DescribeOptions)]
    parameters += [
        name for name in inspect.signature(describe_file).parameters if name not in ("source", "options", "on_progress")
    ]
    flags = {"fields_only": "--fields", "progress": "--quiet"}
    for name in parameters:
        assert re.search(rf"`{flags.get(name, '--' + name.replace('_', '-'))}\b", GUIDE), name


def test_figures_equal_the_results_of_the_packaged_model():
    found = json.loads((PROJECT / "benchmarks" / "results" / "mini.json").read_text(encoding="utf-8"))
    config = json.loads((PROJECT / "cell2text" / "models" / "mini" / "config.json").read_text(encoding="utf-8"))
    text = " ".join(GUIDE.split())

    def percent(part: str, name: str) -> str:
        return f"{100 * found['mean'][part][name]:.1f} %"

    assert f"{percent('donors', 'named_true')} of the named cells from held-out donors" in text
    assert f"{percent('unseen', 'named_true')} of the named cells from unseen studies" in text
    assert f"exactly the label for {percent('donors', 'exact')} and {percent('unseen', 'exact')} of the cells" in text
    errors = sorted(study["ece"][0] for study in found["studies"].values() if study["part"] == "unseen")
    assert f"was {100 * errors[0]:.1f} to {100 * errors[-1]:.1f} points" in text
    rows = json.loads((PROJECT / "benchmarks" / "results" / "mini_rows.json").read_text(encoding="utf-8"))
    terms, simulated = config["cell_concepts"]["hierarchical"]["cell_type"], rows["simulated"]
    known = (
        f"It knows {len(terms)} terms of the Cell Ontology, {simulated['types_without_real_cells']} of the types from"
    )
    assert known in text

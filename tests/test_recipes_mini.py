"""The packaged model: its files, its card and its recipe, and that the first command works."""

import importlib.util
import json
import re
import tomllib
from fnmatch import fnmatch
from itertools import product
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from datasets import Dataset
from safetensors import safe_open

import cell2text
from cell2text.describe.run import cell_heading
from cell2text.example import UNSEEN_DONORS, example_cells
from cell2text.language.writing import compare_cells
from cell2text.models import MINI, MINI_NAME
from cell2text.publish import files_to_push
from cell2text.training.held_out import LABEL_COLUMNS, predict_rows
from declining_cell2text import EMPTY_CELL_TEXT

from .conftest import run_cli


PROJECT = Path(__file__).resolve().parents[1]
SOURCES = yaml.safe_load((PROJECT / "recipes" / "mini" / "sources.yaml").read_text())
MOST_BYTES = 60e6


@pytest.fixture(scope="module")
def mini():
    return cell2text.load(device="cpu")


def recipe(name: str):
    """Load a module of recipes/mini, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, PROJECT / "recipes" / "mini" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_packaged_model_is_complete_and_small():
    files = sorted(path for path in MINI.iterdir() if path.name != "__pycache__")
    shipped = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert {"config.json", "model.safetensors", "processor_config.json", "gene_vocabulary.tsv", "README.md"} <= {
        path.name for path in files
    }
    assert all(any(fnmatch(f"mini/{path.name}", kind) for kind in shipped["cell2text.models"]) for path in files)
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    with safe_open(MINI / "model.safetensors", "pt") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    assert kinds == {"BF16"}


def test_the_model_computes_in_float32_and_saves_with_its_code(mini, tmp_path):
    model, processor = mini
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32} and not model.training
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "modeling_cell2text.py").exists() and "auto_map" in json.loads(
        (tmp_path / "config.json").read_text()
    )


def test_the_first_commands_describe_held_out_donors(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_cli("example") == 0 and run_cli("example") == 2
    assert "--out example.h5ad exists. Pass --overwrite" in capsys.readouterr().err
    adata = ad.read_h5ad("example.h5ad")
    assert adata.n_obs == 200 and set(adata.obs["donor_id"]) <= set(UNSEEN_DONORS) == set(SOURCES["test_donors"])
    shown = [0, 49, 99, 149, 199]  # by the command on the whole file
    adata[sorted({*range(0, 200, 5), *shown})].copy().write_h5ad("few.h5ad")
    assert run_cli("describe", "few.h5ad") == 0
    assert capsys.readouterr().out.count("This cell is") == 5
    described = ad.read_h5ad("few.described.h5ad")
    said, truth = (described.obs[name].astype(str) for name in ("cell2text_cell_type", "cell_type"))
    assert (said == truth).mean() > 0.6 and described.uns["cell2text"]["params"]["model"] == MINI_NAME
    assert "MYC targets (set 1)" in set(described.obs["cell2text_pathways"].str.split("; ").explode())
    readme = " ".join((PROJECT / "README.md").read_text().split())
    for name in adata.obs_names[shown]:
        row = described.obs.loc[name]
        assert f"{cell_heading(name, row['cell2text_type_probability'])} {row['cell2text']}" in readme
    sure = described.obs["cell2text_type_probability"] > 0.99
    assert (said == truth)[sure].mean() > 0.9 > 0.6 > (said == truth)[~sure].mean() and 5 < (~sure).sum() < 30


def test_concept_overrides_determine_the_text(mini):
    """Of nothing but named concepts the text is made: another type, and another is described."""
    model, processor = mini
    cells = processor.rank_encode(example_cells(unseen=True)[:3], allow_fractional=True)
    inputs = processor.apply_chat_template(
        [processor.conversation()] * 3, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
        processor_kwargs={"cells": [[cell] for cell in cells]},
    )  # fmt: skip
    for name in ("B cell", "retinal rod cell", "macrophage"):
        known = model.encode_concepts(cell_type=name).expand(3, -1, -1)
        ids = model.generate(**inputs, concept_overrides=known, max_new_tokens=12)
        said = processor.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert all(text.startswith(f"This cell is a {name}") for text in said), said


def test_held_out_predictions_equal_described_texts(mini):
    adata = example_cells(unseen=True)[::40].copy()
    model, processor = mini
    ranked = processor.rank_encode(adata, allow_fractional=True)
    cells = [*ranked, ranked[0][:0]]
    rows = Dataset.from_list(
        [
            {**dict.fromkeys(LABEL_COLUMNS), "cells": [cell], "completion": [{"content": [{"text": "None."}]}]}
            for cell in cells
        ]
    )
    found, embeddings = predict_rows(model, processor, rows, batch_size=4, max_new_tokens=160)
    cell2text.tl.describe(adata, mini, allow_fractional=True)
    told = adata.obs[["cell2text", "cell2text_type_probability"]].to_numpy().tolist()
    names = ("prediction", "type_probability")
    for row, expected in zip(found, told):
        assert row["prediction"] == expected[0] and row["reference"] == "None."
        assert [row[name] for name in names[1:]] == pytest.approx(expected[1:], rel=1e-3)
    assert [found[-1][name] for name in names] == [EMPTY_CELL_TEXT, None]
    np.testing.assert_allclose(embeddings, [*adata.obsm["X_cell2text"], np.zeros(256)], rtol=1e-4, atol=1e-5)


def test_the_packaged_model_is_the_default(mini):
    adata = example_cells(unseen=True)[:3].copy()
    named = cell2text.tl.describe(adata, mini, copy=True)
    cell2text.tl.describe(adata)
    pd.testing.assert_series_equal(adata.obs["cell2text"], named.obs["cell2text"])
    assert named.uns["cell2text"]["params"] == adata.uns["cell2text"]["params"]


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("annotate", r"pancreatic \w+( cell)?|type B pancreatic cell"),
        ("ask:cell_type", r"This cell is an? .*cell\."),
        ("ask:tissue", r"This cell comes from the pancreas\."),
        ("pathways", r"This cell's most active pathways are .+ and .+\."),
        ("compare", r"(The first cell is|Both cells) .+\."),
    ],
)
def test_the_model_answers_every_trained_task(mini, prompt, answer):
    adata = example_cells(unseen=True)[:4].copy()
    second = {"compare_to": adata.obs_names[3]} if prompt == "compare" else {}
    cell2text.tl.describe(adata, mini, prompt=prompt, **second)
    assert adata.obs["cell2text"].str.fullmatch(answer).all(), list(adata.obs["cell2text"])


def test_comparisons_distinguish_first_and_second_cell(mini):
    """Every cell of three types is named as it is alone, whichever place it has and whatever stands beside it."""
    adata = example_cells(unseen=True)
    adata = adata[(adata.obs["dataset_id"] == "baron_pancreas").to_numpy()].copy()
    cell2text.tl.describe(adata, mini, prompt="annotate")
    chosen = adata[~adata.obs["cell2text"].duplicated()][:3].copy()
    alone = chosen.obs["cell2text"].astype(str).copy()
    assert len(chosen) == 3
    for beside in chosen.obs_names:
        cell2text.tl.describe(chosen, mini, prompt="compare", compare_to=beside)
        for cell in chosen.obs_names.drop(beside):
            text = chosen.obs["cell2text"][cell]
            assert re.match(
                rf"The first cell is an? {alone[cell]} and the second cell is an? {alone[beside]}\.", text
            ), text


def test_types_in_comparisons_are_read_as_written():
    stated_types = recipe("comparisons").stated_types
    for first, second in product(["B cell", "type B pancreatic cell", "CD4-positive, alpha-beta T cell"], repeat=2):
        text = compare_cells({"cell_type": first}, {"cell_type": second, "tissue": "blood"})
        assert stated_types(text) == (first, second)
    assert stated_types("This cell is a B cell.") == (None, None)


def test_the_packaged_model_is_published_with_its_code(tmp_path):
    assert {path.name for path in MINI.glob("*.py")} <= {upload.name for upload in files_to_push(MINI)}
    for path in MINI.iterdir():
        if path.is_file() and path.name != "modeling_cell2text.py":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"lacks modeling_cell2text\.py \(code that loads it"):
        files_to_push(tmp_path)


def test_a_package_that_lost_its_model_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("cell2text.loading.MINI", tmp_path)
    with pytest.raises(ValueError, match="The bundled model is missing"):
        cell2text.load()


def test_invalid_example_paths_write_nothing(tmp_path, capsys):
    for out, message in (("example.csv", "ends in .h5ad"), ("no/where.h5ad", "does not exist")):
        assert run_cli("example", "--out", tmp_path / out) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_card_matches_the_results():
    assert recipe("card").render_card(SOURCES) == (MINI / "README.md").read_text()


@pytest.mark.parametrize(
    ("interval", "word"), [([0.1, 0.2], "ahead"), ([-0.1, 0.2], "level"), ([-0.2, -0.1], "behind"), ([], "level")]
)
def test_the_card_words_differences_by_their_intervals(interval, word):
    assert recipe("card").difference([0.05, *interval]).endswith(f", {word}")


def test_validation_and_test_cells_do_not_overlap():
    assert not set(SOURCES["test_donors"]) & set(SOURCES["validation_donors"])
    assert not set(SOURCES["train"]) & set(SOURCES["unseen"]) and set(SOURCES["validation_studies"]) <= set(
        SOURCES["train"]
    )
    results = json.loads((PROJECT / "benchmarks" / "results" / "mini.json").read_text())
    assert set(SOURCES["unseen"]) < set(results["by_study"])

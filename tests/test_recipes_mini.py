"""The packaged model: its files, its card and its recipe, and that the first command works."""

import importlib
import json
import re
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from datasets import Dataset, load_dataset
from safetensors import safe_open

import cell2text
from cell2text.describe.run import cell_heading
from cell2text.evaluation.named_types import named_type_metrics
from cell2text.example import UNSEEN_DONORS, example_cells
from cell2text.language.parsing import read_fields
from cell2text.models import MINI, MINI_NAME
from cell2text.publish import files_to_push
from cell2text.training.held_out import LABEL_COLUMNS, predict_rows
from declining_cell2text import DECLINED_START, EMPTY_CELL_TEXT, is_description

from .conftest import run_cli
from .preparation_runs import prepare_studies


PROJECT = Path(__file__).resolve().parents[1]
RECIPES, RESULTS = PROJECT / "recipes" / "mini", PROJECT / "benchmarks" / "results"
SOURCES = yaml.safe_load((RECIPES / "sources.yaml").read_text())
PLAN = yaml.safe_load((RECIPES / "folds.yaml").read_text())
MOST_BYTES = 60e6


@pytest.fixture(scope="module")
def mini():
    return cell2text.load(device="cpu")


@pytest.fixture(scope="module")
def described(mini):
    """Cells of held-out donors, described."""
    adata = example_cells(unseen=True)[::4].copy()
    cell2text.tl.describe(adata, mini)
    return adata


def results(name: str):
    return json.loads((RESULTS / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def recipe():
    """Import modules of recipes/mini, which is not a package."""
    sys.path.insert(0, str(RECIPES))
    yield importlib.import_module
    sys.path.remove(str(RECIPES))
    for path in RECIPES.glob("*.py"):
        sys.modules.pop(path.stem, None)


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
    described = ad.read_h5ad("few.described.h5ad")
    printed = " ".join(capsys.readouterr().out.split())
    assert described.uns["cell2text"]["params"]["model"] == MINI_NAME
    readme = " ".join((PROJECT / "README.md").read_text().split())
    for name in adata.obs_names[shown]:
        row = described.obs.loc[name]
        probability = row["cell2text_type_probability"]
        text = f"{cell_heading(name, None if np.isnan(probability) else probability)} {row['cell2text']}"
        assert text in printed and text in readme


def test_named_types_of_held_out_donors_are_true_and_their_probabilities_fit(described):
    obs = described.obs
    named = [value if isinstance(value, str) else None for value in obs["cell2text_cell_type_ontology_term_id"]]
    found = named_type_metrics(named, list(obs["cell_type_ontology_term_id"]), obs["cell2text_type_probability"])
    assert found["named_share"] > 0.8 and found["named_true"] > 0.9 and found["wrong_above_90"] < 0.05


def test_texts_state_what_the_columns_hold(described, mini):
    """The statement decides the text: type, likely subtype and its probability, pathways and sex."""
    for _, row in described.obs.iterrows():
        if not is_description(row["cell2text"]):
            assert pd.isna(row["cell2text_cell_type"]) and pd.isna(row["cell2text_type_probability"])
            continue
        fields = read_fields(row["cell2text"])
        assert fields.cell_type.name == row["cell2text_cell_type"]
        assert row["cell2text_type_probability"] >= 0.6
        if fields.likely_subtype is not None:
            first = str(row["cell2text_cell_type_candidates"]).split("; ")[0]
            assert first.rpartition(" ")[0] == fields.likely_subtype.name, row["cell2text"]


def test_ambient_droplets_and_shuffled_cells_get_no_sure_type(mini):
    cells, rng = example_cells(unseen=True)[::8].copy(), np.random.default_rng(0)
    counts = cells.X.toarray()
    soup = counts.sum(axis=0) / counts.sum()
    ambient = np.stack([rng.multinomial(int(depth), soup) for depth in counts.sum(axis=1)])
    for changed in (ambient, rng.permuted(counts, axis=1)):
        droplets = ad.AnnData(changed.astype(np.float32), var=cells.var)
        cell2text.tl.describe(droplets, mini)
        assert (droplets.obs["cell2text_type_probability"].fillna(0) > 0.9).mean() <= 0.1
        declined = droplets.obs["cell2text_cell_type"].isna()
        assert declined.mean() > 0.3 and droplets.obs["cell2text"][declined].str.startswith(DECLINED_START).all()


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
    cell2text.tl.describe(adata, mini, allow_fractional=True, pathways="model", sex="model")
    told = adata.obs[["cell2text", "cell2text_type_probability"]].to_numpy().tolist()
    names = ("prediction", "type_probability")
    for row, expected in zip(found, told):
        assert row["prediction"] == expected[0] and row["reference"] == "None."
        assert row["type_probability"] == pytest.approx(None if np.isnan(expected[1]) else expected[1], rel=1e-3)
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
        ("ask:cell_type", r"This cell is an? .*cell\.( It is most likely an? .+ \(0\.\d\d\)\.)?"),
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


def test_the_card_matches_the_results(recipe):
    assert recipe("card").render_card(SOURCES) == (MINI / "README.md").read_text()


def test_the_card_reports_what_was_measured(recipe):
    found, card = results("mini"), recipe("card")
    assert card.percent(found["mean"]["unseen"]["named_true"]) in (MINI / "README.md").read_text()
    assert set(found["situations_mean"]) == set(card.SITUATIONS)
    assert all(set(card.FIGURES.values()) <= set(study) for study in found["studies"].values())


def test_a_text_without_its_review_is_refused(recipe):
    cell = {"study": "a", "cell": "one", "text": "This cell is a B cell."}
    review_counts = recipe("card").review_counts
    assert review_counts([cell], {"one": {"text": cell["text"], "type": "right"}}) == {"right": 1}
    for reviews in ({}, {"one": {"text": "This cell is a T cell.", "type": "right"}}):
        with pytest.raises(ValueError, match=r"Cell one of a: reading\.yaml does not review 'This cell is a B cell\.'"):
            review_counts([cell], reviews)


def test_sixty_cells_of_twelve_tissues_were_read_and_ten_of_them_have_no_type():
    cells = results("mini_cells")
    assert len(cells) >= 60 and len({cell["tissue"] for cell in cells}) >= 12
    assert sum(not is_description(cell["text"]) for cell in cells) >= 10


def test_test_studies_train_and_calibrate_nothing():
    learned = {*SOURCES["train"], *SOURCES["validation"]}
    assert not learned & set(SOURCES["unseen"]) and not set(SOURCES["like"]) - set(SOURCES["train"])
    held_out = {name for names in PLAN["folds"].values() for name in names}
    assert not held_out & set(SOURCES["unseen"])
    found = results("mini")["studies"]
    assert {name for name, study in found.items() if study["part"] == "unseen"} == set(SOURCES["unseen"])


def test_no_study_is_left_out_twice():
    names = [name for names in PLAN["folds"].values() for name in names]
    assert len(names) == len(set(names)) and set(SOURCES["validation_datasets"]) <= set(names)


def test_the_packaged_calibration_is_that_of_the_studies_left_out():
    config = json.loads((MINI / "config.json").read_text())
    assert config["type_calibration"] == results("mini_folds")["base"]["calibration"]
    assert config["group_calibration"] == results("group_calibration")["calibration"]


def test_recipes_of_the_plan_have_the_results_that_are_listed():
    for name, found in results("mini_folds").items():
        assert found["changes"] == PLAN["recipes"][name]["changes"]
        assert found["description"] == PLAN["recipes"][name]["description"]


def test_calibration_judges_the_label_and_what_is_above_it_only(recipe):
    """A label says nothing about types below it, and broad terms such as "cell" are never named."""
    part = {
        "names": np.array(["T cell", "cell", "lymphocyte", "monocyte"]),
        "probabilities": np.array([[0.7, 1.0, 0.9, 0.1]]), "n_genes": np.array([500]),
        "profile": np.array([[0.9, 0.1]]), "profile_names": np.array(["one cell", "no cell"]),
        "study": np.array(["a"]), "kind": np.array(["real"]), "term": np.array(["CL:0000542"]),
        "actual_profile": np.array(["one cell"]),
    }  # fmt: skip
    features, truth, weights = recipe("calibration").Fold(part).pairs()
    assert truth.tolist() == [1, 0] and weights.tolist() == [0.5, 0.5]
    np.testing.assert_allclose(features[:, 0], np.log([9, 1 / 9]), rtol=1e-3)


def test_calibration_lowers_probabilities_that_are_too_high(recipe):
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 3, 4000)
    truth = (rng.random(4000) < 1 / (1 + np.exp(-logit / 2))).astype(float)
    features = np.stack([logit, np.ones(4000)], axis=1)
    slope, intercept = recipe("calibration").regress([(features, truth, np.ones(4000))], [(1e-3, None), (None, None)])
    assert slope == pytest.approx(0.5, abs=0.05) and abs(intercept) < 0.2


def test_reviewed_cells_are_of_every_tissue_and_type_first(recipe):
    obs = pd.DataFrame(
        {"tissue": ["lung"] * 8 + ["blood"] * 2, "cell_type": ["a", "b"] * 4 + ["a", "c"]},
        index=[f"cell {i}" for i in range(10)],
    )
    rows = recipe("scoring").varied(obs, np.arange(10))
    assert sorted(rows) == list(range(10)) and set(obs["tissue"].iloc[rows[:2]]) == {"lung", "blood"}
    assert set(obs["cell_type"].iloc[rows[:5]]) == {"a", "b", "c"}
    assert set(recipe("scoring").varied(obs, np.array([1, 3]))) == {1, 3}


def test_thinned_copies_keep_labels_and_a_part_of_the_counts(recipe):
    cells = example_cells(unseen=True)[:20].copy()
    thinned = recipe("data")._thinned(cells, np.random.default_rng(0))
    assert set(thinned.obs["assay"]) == {"thinned"} and thinned.n_obs <= 20
    original = cells[[name.removeprefix("thinned-") for name in thinned.obs_names]]
    assert thinned.obs["cell_type"].tolist() == original.obs["cell_type"].astype(str).tolist()
    kept = np.asarray(thinned.X.sum(axis=1)).ravel() / np.asarray(original.X.sum(axis=1)).ravel()
    assert (kept < 0.6).all() and (kept > 0).all()


def test_the_types_of_a_fold_depend_on_the_seed_alone(recipe, studies, tmp_path):
    folds, folder = recipe("folds"), tmp_path / "rows"
    prepare_studies(studies, folder)
    rows = load_dataset(str(folder), split="train")
    changes = {
        "encoder_hidden_size": 16, "encoder_heads": 2, "projector_hidden_size": 16, "decoder_hidden_size": 16,
        "decoder_layers": 1, "decoder_heads": 2, "decoder_vocab_size": 400, "concept_pretraining_epochs": 1, "max_genes": 32,
        "max_steps": 2,
    }  # fmt: skip
    weights = []
    for number in range(2):
        torch.manual_seed(number)
        np.random.seed(number)
        model, _ = folds.train_types(folder, rows, tmp_path / str(number), changes)
        weights.append(model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())

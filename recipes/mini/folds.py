"""Leave whole studies out: predict their cell types, calibrate the probabilities, and compare recipes.

    cells of the studies left out -> probabilities of every type -> calibration -> named types -> figures

Writes benchmarks/results/mini_folds.json. Studies that are licensed for testing only are never used here.
"""

import itertools
import json
from argparse import Namespace
from pathlib import Path

import calibration
import gene_vectors
import numpy as np
import torch
import yaml
from data import kind_of
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset
from stages import build_once
from transformers import set_seed
from trl import ModelConfig

from cell2text.files import write_atomically
from cell2text.training.arguments import Cell2TextArguments
from cell2text.training.class_balance import training_weights
from cell2text.training.components import load_components
from cell2text.training.concept_targets import type_name
from cell2text.training.launch import parse
from cell2text.training.precision import SFTArguments
from cell2text.training.row_columns import column_values
from cell2text.training.rows import TrainingRows
from cell2text.training.sft import SFTRun, initialise
from statements_cell2text import ONE_CELL


PROJECT = Path(__file__).resolve().parents[2]
RECIPES = PROJECT / "recipes" / "mini"
FOLDS = PROJECT / "benchmarks" / "results" / "mini_folds.json"
BATCH_SIZE = 256
# Beginnings of the options of train.yaml on which the cell types depend.
TYPE_OPTIONS = (
    "encoder_hidden", "encoder_layers", "encoder_heads", "gene_", "concept_", "class_", "simulated_", "panel_",
    "depth_", "rank_", "projector_type", "projector_hidden", "projector_dropout", "num_cell_tokens", "seed",
)  # fmt: skip


def compare(args: Namespace, rows_folder: Path) -> None:
    """Train every chosen recipe on every fold, and score it on the studies left out."""
    plan = load_plan()
    results = json.loads(FOLDS.read_text()) if FOLDS.exists() else {}
    for name in args.recipes or ["base"]:
        recipe = plan["recipes"][name]
        members = recipe.get("mean_of", [name])
        for member, fold in itertools.product(members, plan["folds"]):
            predict_fold(args, rows_folder, plan, member, fold)
        parts = [mean_predictions([load_predictions(args, one, fold) for one in members]) for fold in plan["folds"]]
        found = calibration.cross_fit(parts, plan["ceiling"])
        results[name] = {key: recipe[key] for key in ("description", "changes", "mean_of") if key in recipe}
        results[name] |= {"device": args.device, **found}
        write_atomically(FOLDS, json.dumps(results, indent=1) + "\n")
        print(name, json.dumps(results[name]["mean"]), flush=True)


def load_plan() -> dict:
    """Return the folds and recipes of folds.yaml."""
    return yaml.safe_load((RECIPES / "folds.yaml").read_text())


def predict_fold(args: Namespace, rows_folder: Path, plan: dict, name: str, fold: str) -> None:
    """Train a recipe without the studies of a fold and store the predictions of these, unless they exist."""
    recipe, held_out = plan["recipes"][name], plan["folds"][fold]
    changes = dict(recipe["changes"])
    if "gene_vectors" in changes:
        changes["gene_vectors"] = gene_vectors.write_vectors(
            changes["gene_vectors"], args.atlas, args.work, args.device
        )
    if args.device == "cuda":
        changes["use_cpu"] = False
    settings = json.dumps([type_options(), rows_folder.with_suffix(".recipe").read_text(), recipe, held_out])
    out = predictions_file(args, name, fold)
    out.parent.mkdir(parents=True, exist_ok=True)

    def train_and_predict() -> None:
        rows = load_dataset(str(rows_folder))
        learned = without(training_rows(rows["train"], held_out), recipe.get("without"), plan.get("logarithmic", []))
        model, processor = train_types(rows_folder, learned, args.work / "folds" / f"{name} {fold}", changes)
        chosen = cells_to_predict(rows, held_out, plan["cells_per_study"])
        np.savez(out, **predict(model, processor, chosen))

    build_once(out, settings, train_and_predict)


def type_options() -> dict:
    """Return the options of train.yaml that concern cell types, not texts."""
    options = yaml.safe_load((RECIPES / "train.yaml").read_text())
    return {name: value for name, value in options.items() if name.startswith(TYPE_OPTIONS)}


def predictions_file(args: Namespace, name: str, fold: str) -> Path:
    return args.work / "folds" / f"{name} {fold}.npz".replace(" ", "_")


def load_predictions(args: Namespace, name: str, fold: str) -> dict[str, np.ndarray]:
    with np.load(predictions_file(args, name, fold), allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files} | {"fold": np.array(fold)}


def mean_predictions(parts: list[dict]) -> dict:
    """Return the mean of the predictions of several models for the same cells."""
    means = {
        key: np.mean([part[key] for part in parts], axis=0, dtype=np.float32) for key in ("probabilities", "profile")
    }
    return parts[0] | means


def training_rows(rows: Dataset, held_out: list[str]) -> Dataset:
    """Return the rows of all data sets that are not held out."""
    return rows.select(np.flatnonzero(~np.isin(np.array(column_values(rows, "dataset_id")), held_out)))


def without(rows: Dataset, kind: str | None, logarithmic: list[str]) -> Dataset:
    """Leave out all simulated cells, or only those of the `logarithmic` data sets; None leaves out nothing."""
    if kind is None:
        return rows
    kinds = np.array([kind_of(assay) for assay in column_values(rows, "assay")])
    if kind == "simulated":
        return rows.select(np.flatnonzero(kinds != "simulated"))
    return rows.select(np.flatnonzero(~np.isin(np.array(column_values(rows, "dataset_id")), logarithmic)))


def train_types(folder: Path, learned: Dataset, out: Path, changes: dict):
    """Train encoder and concept heads on rows; return the model and its processor."""
    options = {"dataset": folder, "output_dir": out, "disable_tqdm": True, **changes}
    argv = ["--config", str(RECIPES / "train.yaml")] + [p for k, v in options.items() for p in (f"--{k}", str(v))]
    args, training_args, model_args = parse(argv, (Cell2TextArguments, SFTArguments, ModelConfig))
    if not {"simulated"} < {kind_of(assay) for assay in column_values(learned, "assay")}:
        args.simulated_share = None
    rows = TrainingRows(learned, learned.select(range(1)), folder / "vocabulary", [])
    set_seed(training_args.seed)
    model, processor = load_components(args, model_args, rows)
    weights = training_weights(args, learned)
    initialise(SFTRun(args, training_args, model_args, None, rows, model, processor, weights, False))
    return model.eval(), processor


def cells_to_predict(rows: DatasetDict, held_out: list[str], n: int) -> Dataset:
    """Return at most `n` cells of each study and kind among those left out."""
    rng, parts = np.random.default_rng(0), []
    for split in ("train", "validation"):
        table = rows[split]
        studies = np.array(column_values(table, "dataset_id"))
        kinds = np.array([kind_of(assay) for assay in column_values(table, "assay")])
        for study in held_out:
            for kind in ("real", "thinned", "simulated"):
                found = np.flatnonzero((studies == study) & (kinds == kind))
                if len(found):
                    parts.append(table.select(np.sort(rng.permutation(found)[:n])))
    return concatenate_datasets(parts)


def predict(model, processor, rows: Dataset) -> dict[str, np.ndarray]:
    """Return uncalibrated probabilities of rows, with labels and what calibration needs."""
    names, parts = model.config.concept_groups, []
    groups = [group for group in ("cell_type", "profile") if group in names]  # no profile but one cell: no group
    with torch.inference_mode():
        for batch in rows.select_columns("cells").iter(BATCH_SIZE):
            cells = processor.pad_cells([cell[:1] for cell in batch["cells"]], return_tensors="pt")
            found = model.get_cell_concepts(**{name: values.to(model.device) for name, values in cells.items()})
            parts.append([found[group][:, 0].cpu().numpy().astype(np.float16) for group in groups])
    types, *profile = (np.concatenate(part) for part in zip(*parts))
    return described(rows) | {
        "probabilities": types, "profile": profile[0] if profile else np.ones((len(types), 1), dtype=np.float16),
        "names": np.array(names["cell_type"]), "profile_names": np.array(names.get("profile", [ONE_CELL])),
    }  # fmt: skip


def described(rows: Dataset) -> dict[str, np.ndarray]:
    """Return labels of rows and what calibration and scoring need to know of them."""
    terms, studies, profiles = (
        column_values(rows, name) for name in ("cell_type_ontology_term_id", "dataset_id", "profile")
    )
    labels = [type_name(*row) or "" for row in zip(column_values(rows, "cell_type"), terms)]
    return {
        "n_genes": np.array([len(cell[0]) for cell in column_values(rows, "cells")]),
        "label": np.array(labels),
        "term": np.array([term or "" for term in terms]),
        "study": np.array(studies),
        "kind": np.array([kind_of(assay) for assay in column_values(rows, "assay")]),
        "actual_profile": np.array([value or ONE_CELL for value in profiles]),
    }

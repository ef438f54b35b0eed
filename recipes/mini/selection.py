"""Compare recipes for the packaged model on validation cells: donors of the training studies, and held-out studies.

Test cells are never used here. Writes benchmarks/results/mini_selection.json.
"""

import json
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import yaml
from comparisons import score_comparisons
from datasets import load_dataset

import cell2text
from cell2text.files import write_atomically
from cell2text.preparation.run import prepare
from cell2text.training.concept_pretraining import CONCEPT_PRETRAINING_FILE, HEAD_METRICS


PROJECT = Path(__file__).resolve().parents[2]
RECIPES = PROJECT / "recipes" / "mini"
SELECTION = PROJECT / "benchmarks" / "results" / "mini_selection.json"
METRICS = {
    "cell_type": ("n", "accuracy", "lenient_accuracy", "pagerank_similarity"),
    "pathways": ("jaccard",),
    "truthfulness": ("share_of_pathway_claims_true",),
}


def select(args: Namespace, sources: dict) -> None:
    """Train every recipe of tried.yaml on each of its folds and score it on the fold's validation cells."""
    tried = yaml.safe_load((RECIPES / "tried.yaml").read_text())
    results = json.loads(SELECTION.read_text()) if SELECTION.exists() else {}
    every_fold = folds(sources)
    for recipe, options in tried.items():
        if args.recipes and recipe not in args.recipes:
            continue
        for name in options["folds"]:
            if args.folds and name not in args.folds:
                continue
            scores = score_fold(args, recipe, options["changes"], name, every_fold[name], sources)
            before = results.get(recipe, {"folds": {}})
            results[recipe] = {"changes": options["changes"], "folds": before["folds"] | {name: scores}}
            print(recipe, name, scores, flush=True)
            write_atomically(SELECTION, json.dumps(results, indent=1) + "\n")


def score_fold(args: Namespace, recipe: str, changes: dict, name: str, fold: dict, sources: dict) -> dict:
    """Train a recipe on one fold and return the metrics of its validation cells."""
    dataset = prepare_fold(args, name, fold, sources)
    out = args.work / f"{recipe}_{name}".replace(" ", "_")
    train(args, dataset, out, hold_out="validation", **changes)
    metrics = json.loads((out / "evaluation" / "metrics.json").read_text())
    scores = {key: float(f"{metrics[group][key]:.4g}") for group, keys in METRICS.items() for key in keys}
    head = json.loads((out / CONCEPT_PRETRAINING_FILE).read_text())["held_out"]
    scores |= {f"head_{key}": float(f"{head[key]:.4g}") for key in HEAD_METRICS}
    rows = load_dataset(str(dataset), split="validation")
    return scores | {"comparing": score_comparisons(*cell2text.load(out, device="cpu"), rows)}


def folds(sources: dict) -> dict[str, dict]:
    """Return the training files, validation cells and test cells of each fold; no fold trains on test cells."""
    test = [f"donor_id={donor}" for donor in sources["test_donors"]]
    validation = {"donors": [f"donor_id={donor}" for donor in sources["validation_donors"]]}
    validation |= {study: [f"dataset_id={study}"] for study in sources["validation_studies"]}
    every_fold = {
        name: {"validation": cells, "test": test, "files": list(sources["train"])} for name, cells in validation.items()
    }
    extended = every_fold[sources["with_all_files"]]
    every_fold[f"{sources['with_all_files']} with all files"] = extended | {
        "files": extended["files"] + list(sources["unseen"])
    }
    return every_fold


def final_fold(sources: dict) -> dict:
    """Return the fold of the packaged model: all training files without test donors; unseen studies are test cells."""
    donors = [f"donor_id={donor}" for donor in sources["test_donors"]]
    studies = [f"dataset_id={study}" for study in sources["unseen"]]
    return {"test": donors + studies, "files": [*sources["train"], *sources["unseen"]]}


def prepare_fold(args: Namespace, name: str, fold: dict, sources: dict) -> Path:
    """Prepare the data set of a fold, unless it exists with the same cells and options; return its folder."""
    folder = args.work / "data" / name.replace(" ", "_")
    named = {split: cells for split, cells in fold.items() if split != "files"}
    options = {**sources["prepare"], "split": "named", "named": named, "gene_sets": str(args.gene_sets)}
    files = [str(args.data / f"{file}.h5ad") for file in fold["files"]]
    settings = json.dumps([fold["files"], options | {"gene_sets": args.gene_sets.name}])
    build_once(folder, settings, lambda: prepare(files, folder, progress=False, **options))
    return folder


def train(args: Namespace, dataset: Path, out: Path, **changes) -> Path:
    """Run train_sft.py, unless `out` holds a run with the same settings; return the folder. Its log lies beside it."""
    options = {"dataset": dataset, "gene_sets": args.gene_sets, "output_dir": out, "disable_tqdm": True, **changes}
    command = [sys.executable, str(PROJECT / "train_sft.py"), "--config", str(RECIPES / "train.yaml")]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]

    def run() -> None:
        with open(out.with_suffix(".log"), "w", encoding="utf-8") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)

    settings = (RECIPES / "train.yaml").read_text() + json.dumps(changes) + _settings_file(dataset).read_text()
    build_once(out, settings, run)
    return out


def _settings_file(folder: Path) -> Path:
    return folder.with_suffix(".recipe")


def build_once(folder: Path, settings: str, build: Callable[[], object]) -> None:
    """Build a folder from scratch, unless it was completed with the same settings, which are recorded beside it."""
    done = _settings_file(folder)
    if done.exists() and done.read_text() == settings:
        return
    done.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    build()
    write_atomically(done, settings)

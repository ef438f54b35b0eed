"""The small model of the package, from the reference files: recipes tried, the chosen one trained, shipped and tested.

    python benchmarks/mini.py ../shared/data ../shared/genesets/h.all.v7.0.symbols.gmt
    python benchmarks/mini.py DATA GENE_SETS --steps select --recipes concepts --folds donors      # some of it

1. select: each recipe of configs/mini/tried.yaml on validation cells: donors of the training studies, and three studies
   left out of training as a whole. benchmarks/results/mini_selection.json
2. train: configs/mini/train.yaml on all training files but the test donors; 16-bit weights into cell2text/models/mini.
3. test: the shipped model on the test donors and on studies that trained nothing, by `cell2text evaluate`, beside
   baselines from the same cells. benchmarks/results/mini.json
4. read: single cells of every study beside their leading genes, to be judged in configs/mini/reading.yaml.
   benchmarks/results/mini_cells.json
5. card: what all these files say, as cell2text/models/mini/README.md

Each step goes on where it stopped: what a run left in --work is not done twice.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mini_card
import mini_test
import torch
import yaml
from datasets import load_dataset
from mini_compare import score_comparisons
from safetensors.torch import load_file, save_file

import cell2text
from cell2text.models import MINI as SHIPPED
from cell2text.preparation.run import prepare
from cell2text.training.concept_pretraining import CONCEPT_PRETRAINING_FILE, HEAD_METRICS
from vocabulary_cell2text import write_atomically


PROJECT = Path(__file__).resolve().parents[1]
CONFIGS = PROJECT / "configs" / "mini"
SELECTION = PROJECT / "benchmarks" / "results" / "mini_selection.json"
STEPS = ("select", "train", "test", "read", "card")
METRICS = {
    "cell_type": ("n", "accuracy", "lenient_accuracy", "pagerank_similarity"),
    "pathways": ("jaccard",),
    "truthfulness": ("share_of_pathway_claims_true",),
}
CODE = (
    "auto_map",
    "custom_pipelines",
)  # of a folder that brings its own code; the shipped one is read by the package's


def folds(sources: dict) -> dict[str, dict]:
    """Files that each fold trains on, its cells that validate, and those of the test, which no fold trains on."""
    test = [f"donor_id={donor}" for donor in sources["test_donors"]]
    found = {"donors": {"validation": [f"donor_id={donor}" for donor in sources["validation_donors"]]}}
    found |= {study: {"validation": [f"dataset_id={study}"]} for study in sources["validation_studies"]}
    every = {name: {**fold, "test": test, "files": list(sources["train"])} for name, fold in found.items()}
    richer = every[sources["with_all_files"]]
    every[f"{sources['with_all_files']} with all files"] = richer | {"files": richer["files"] + list(sources["unseen"])}
    return every


def final_fold(sources: dict) -> dict:
    """Everything trains but the test donors; the unseen studies are prepared to be tested on."""
    donors = [f"donor_id={donor}" for donor in sources["test_donors"]]
    studies = [f"dataset_id={study}" for study in sources["unseen"]]
    return {"test": donors + studies, "files": [*sources["train"], *sources["unseen"]]}


def prepared(args, name: str, fold: dict, sources: dict) -> Path:
    """Folder of a fold's data set, which is made if it is not there, or was of other cells or options."""
    folder = args.work / "data" / name.replace(" ", "_")
    named = {split: cells for split, cells in fold.items() if split != "files"}
    options = {**sources["prepare"], "split": "named", "named": named, "gene_sets": str(args.gene_sets)}
    files = [str(args.data / f"{file}.h5ad") for file in fold["files"]]
    recipe = json.dumps([fold["files"], options | {"gene_sets": args.gene_sets.name}])
    make(folder, recipe, lambda: prepare(files, folder, progress=False, **options))
    return folder


def trained(args, dataset: Path, out: Path, **changes) -> Path:
    """Folder of a run of train_sft.py, which is made if it is not there, or was of another recipe, and its log."""
    options = {"dataset": dataset, "gene_sets": args.gene_sets, "output_dir": out, "disable_tqdm": True, **changes}
    command = [sys.executable, str(PROJECT / "train_sft.py"), "--config", str(CONFIGS / "train.yaml")]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]

    def train() -> None:
        with open(out.with_suffix(".log"), "w", encoding="utf-8") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)

    make(out, (CONFIGS / "train.yaml").read_text() + json.dumps(changes) + recipe_of(dataset).read_text(), train)
    return out


def recipe_of(folder: Path) -> Path:
    return folder.with_suffix(".recipe")


def make(folder: Path, recipe: str, build: Callable[[], object]) -> None:
    """Build a folder from nothing, unless it was finished by this recipe, which is written down in the end."""
    done = recipe_of(folder)
    if done.exists() and done.read_text() == recipe:
        return
    done.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    build()
    write_atomically(done, recipe)


def select(args, sources: dict) -> None:
    tried = yaml.safe_load((CONFIGS / "tried.yaml").read_text())
    results = json.loads(SELECTION.read_text()) if SELECTION.exists() else {}
    every = folds(sources)
    for recipe, tries in tried.items():
        if args.recipes and recipe not in args.recipes:
            continue
        for name in tries["folds"]:
            if args.folds and name not in args.folds:
                continue
            dataset = prepared(args, name, every[name], sources)
            out = args.work / f"{recipe}_{name}".replace(" ", "_")
            trained(args, dataset, out, hold_out="validation", **tries["changes"])
            metrics = json.loads((out / "evaluation" / "metrics.json").read_text())
            found = {
                figure: float(f"{metrics[part][figure]:.4g}") for part, figures in METRICS.items() for figure in figures
            }
            head = json.loads((out / CONCEPT_PRETRAINING_FILE).read_text())["held_out"]
            found |= {f"head_{figure}": float(f"{head[figure]:.4g}") for figure in HEAD_METRICS}
            rows = load_dataset(str(dataset), split="validation")
            found["comparing"] = score_comparisons(*cell2text.load(out, device="cpu"), rows)
            before = results.get(recipe, {"folds": {}})
            results[recipe] = {"changes": tries["changes"], "folds": before["folds"] | {name: found}}
            print(recipe, name, found, flush=True)
            write_atomically(SELECTION, json.dumps(results, indent=1) + "\n")


def ship(run: Path) -> None:
    """The run's model into the package, without code: weights in 16 bits, which load as 32."""
    SHIPPED.mkdir(parents=True, exist_ok=True)
    for path in run.iterdir():
        if path.suffix == ".json" and path.name != CONCEPT_PRETRAINING_FILE:
            content = {key: value for key, value in json.loads(path.read_text()).items() if key not in CODE}
            write_atomically(SHIPPED / path.name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        elif path.suffix in (".jinja", ".tsv"):
            shutil.copyfile(path, SHIPPED / path.name)
    weights = load_file(run / "model.safetensors")
    small = {name: value.to(torch.bfloat16) if value.is_floating_point() else value for name, value in weights.items()}
    partial = SHIPPED / ".model.partial"
    save_file(small, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors writes for its owner alone, and packages are installed for others
    os.replace(partial, SHIPPED / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the reference files")
    parser.add_argument("gene_sets", type=Path, help="GMT file of the Hallmark gene sets")
    parser.add_argument("--work", type=Path, default=Path("runs/mini"))
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=STEPS)
    parser.add_argument("--recipes", nargs="*", help="of the first step; all if left out")
    parser.add_argument("--folds", nargs="*", help="of the first step; all if left out")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    sources = yaml.safe_load((CONFIGS / "sources.yaml").read_text())
    files = [str(args.data / f"{name}.h5ad") for name in (*sources["train"], *sources["unseen"])]
    if "select" in args.steps:
        select(args, sources)
    if {"train", "test"} & set(args.steps):
        dataset = prepared(args, "final", final_fold(sources), sources)
        if "train" in args.steps:
            ship(trained(args, dataset, args.work / "final", describe_held_out=False))
        if "test" in args.steps:
            mini_test.test(dataset, files, sources, args.work / "test")
    if "read" in args.steps:
        mini_test.read(files, sources)
    if "card" in args.steps:
        mini_card.write_card(sources)


if __name__ == "__main__":
    main()

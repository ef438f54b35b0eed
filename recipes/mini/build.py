"""Build the packaged model: simulate cells, compare recipes on studies left out, train, test, and write its card.

    python recipes/mini/build.py DATA ATLAS
    python recipes/mini/build.py DATA ATLAS --steps rows folds --recipes base wide

DATA is the folder of the reference h5ad files, ATLAS the folder with `profiles` and `cells`. The steps are:

1. rows: simulate cells, thin real ones, and prepare all of them. benchmarks/results/mini_rows.json
2. folds: train the cell types of each recipe of folds.yaml without whole studies, score the studies left out, and fit
   the calibration. benchmarks/results/mini_folds.json
3. baselines: train kNN, logistic regression and LightGBM on the same folds and rows, and score them on the same cells.
   benchmarks/results/mini_baselines.json
4. train: train with train.yaml on all training sources without the test donors; weights in bfloat16 and the calibration
   go to cell2text/models/mini.
5. test: describe test donors and unseen studies with the packaged model. benchmarks/results/mini.json
6. read: describe a few cells of every study for manual review in reading.yaml. benchmarks/results/mini_cells.json
7. names: look up previous symbols and aliases of the packaged vocabulary's genes in the tables of
   recipes/gene_tables/. cell2text/models/mini/gene_aliases.tsv
8. card: write the model card from these files. cell2text/models/mini/README.md

An interrupted build resumes: results in --work are reused while their settings are the same. A build that starts with
an empty --work writes the wall time of its steps to benchmarks/results/mini_seconds.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import baselines
import card
import data
import folds
import scoring
import torch
import yaml
from safetensors.torch import load_file, save_file
from stages import build_once

from cell2text.files import atomic_path, write_atomically
from cell2text.models import MINI
from cell2text.processes import available_cores
from cell2text.sources.gene_tables import aliases_for
from cell2text.training.concept_pretraining import CONCEPT_PRETRAINING_FILE
from declining_cell2text import TYPE_THRESHOLD
from vocabulary_cell2text import GeneVocabulary


SECONDS = scoring.RESULTS / "mini_seconds.json"
STEPS = ("rows", "folds", "baselines", "train", "test", "read", "names", "card")


def train(args: argparse.Namespace, rows: Path) -> Path:
    """Run train_sft.py, unless the folder holds a run with the same settings; return the folder."""
    out = args.work / "final"
    command = [sys.executable, str(folds.PROJECT / "train_sft.py"), "--config", str(folds.RECIPES / "train.yaml")]
    command += ["--dataset", str(rows), "--output_dir", str(out), "--disable_tqdm", "True"]

    def run() -> None:
        with open(out.with_suffix(".log"), "w", encoding="utf-8") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)

    settings = (folds.RECIPES / "train.yaml").read_text() + rows.with_suffix(".recipe").read_text()
    build_once(out, settings, run)
    return out


def package(run: Path, recipe: str) -> None:
    """Copy the model of a run into the package, with bfloat16 weights and links to the code files.

    The calibration is that of the studies left out of `recipe`, for groups that of group_calibration.py; the minimum
    number of genes was chosen by benchmarks/thin_cells.py.
    """
    MINI.mkdir(parents=True, exist_ok=True)
    chosen = json.loads((scoring.RESULTS / "thin_cells.json").read_text())["chosen"]
    calibration = json.loads(folds.FOLDS.read_text())[recipe]["calibration"]
    of_groups = json.loads((scoring.RESULTS / "group_calibration.json").read_text())["calibration"]
    settings = {
        "config.json": {
            "type_calibration": calibration,
            "group_calibration": of_groups,
            "type_threshold": TYPE_THRESHOLD,
        },
        "processor_config.json": {"min_genes": chosen["min_genes"]},
    }
    for path in run.iterdir():
        if path.suffix == ".json" and path.name != CONCEPT_PRETRAINING_FILE:
            content = json.loads(path.read_text()) | settings.get(path.name, {})
            write_atomically(MINI / path.name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        elif path.suffix in (".jinja", ".tsv"):
            shutil.copyfile(path, MINI / path.name)
        elif path.suffix == ".py" and not (MINI / path.name).exists():
            (MINI / path.name).symlink_to(Path("../../..", path.name))
    weights = load_file(run / "model.safetensors")
    small = {name: value.to(torch.bfloat16) if value.is_floating_point() else value for name, value in weights.items()}
    with atomic_path(MINI / "model.safetensors") as partial:
        save_file(small, partial, metadata={"format": "pt"})
        os.chmod(partial, 0o644)  # safetensors makes files that only their owner can read


def name_genes() -> None:
    """Write the further names of the packaged vocabulary's genes; tokens, medians and symbols stay as they are."""
    vocabulary = GeneVocabulary.from_pretrained(MINI)
    replace(vocabulary, aliases=aliases_for(vocabulary.tokens, vocabulary.symbols)).save_pretrained(MINI)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference h5ad files")
    parser.add_argument("atlas", type=Path, help="folder with mean profiles and further cells")
    parser.add_argument("--work", type=Path, default=Path("runs/mini"), help="folder for data sets and runs")
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=STEPS, help="defaults to all")
    parser.add_argument("--recipes", nargs="*", default=["base"], help="recipes of the step folds")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the step folds trains")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    fresh = not any(args.work.iterdir())
    sources = yaml.safe_load((folds.RECIPES / "sources.yaml").read_text())

    def rows() -> Path:
        return data.prepare_rows(args, sources)

    run: dict[str, Callable[[], object]] = {
        "rows": lambda: data.summarise_rows(args, rows()),
        "folds": lambda: folds.compare(args, rows()),
        "baselines": lambda: baselines.compare(args, rows()),
        "train": lambda: package(train(args, rows()), args.recipes[0]),
        "test": lambda: scoring.test(args, sources),
        "read": lambda: scoring.read(args, sources),
        "names": name_genes,
        "card": lambda: card.write_card(sources),
    }
    for step in (step for step in STEPS if step in args.steps):
        started = time.monotonic()
        run[step]()
        if fresh:
            note_seconds(step, time.monotonic() - started)


def note_seconds(step: str, seconds: float) -> None:
    """Write the wall time of a step to benchmarks/results/mini_seconds.json."""
    found = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
    found |= {"cores": available_cores(), step: round(seconds)}
    write_atomically(SECONDS, json.dumps(found, indent=1) + "\n")
    print(f"{step}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()

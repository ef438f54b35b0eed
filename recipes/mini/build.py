"""Build the packaged model from the reference files: compare recipes, train, test, and write its model card.

    python recipes/mini/build.py DATA GENE_SETS
    python recipes/mini/build.py DATA GENE_SETS --steps select --recipes concepts --folds donors

DATA is the folder of the reference h5ad files, GENE_SETS a GMT file of the Hallmark gene sets. The steps are:

1. select: train each recipe of tried.yaml and score it on validation cells. benchmarks/results/mini_selection.json
2. train: train with train.yaml on all training files without the test donors; weights in bfloat16 go to
   cell2text/models/mini.
3. test: evaluate the packaged model on test donors and unseen studies with `cell2text evaluate`, beside baselines
   trained on the same cells. benchmarks/results/mini.json
4. read: describe a few cells of every study for manual review in reading.yaml. benchmarks/results/mini_cells.json
5. names: look up previous symbols and aliases of the packaged vocabulary's genes in the tables of
   recipes/gene_tables/. cell2text/models/mini/gene_aliases.tsv
6. card: write the model card from these files. cell2text/models/mini/README.md

An interrupted build resumes: results in --work are reused while their settings are the same.
"""

import argparse
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import card
import scoring
import selection
import torch
import yaml
from safetensors.torch import load_file, save_file

from cell2text.files import atomic_path, write_atomically
from cell2text.models import MINI
from cell2text.sources.gene_tables import aliases_for
from cell2text.training.concept_pretraining import CONCEPT_PRETRAINING_FILE
from vocabulary_cell2text import GeneVocabulary


STEPS = ("select", "train", "test", "read", "names", "card")


def package(run: Path) -> None:
    """Copy the model of a run into the package, with bfloat16 weights and links to the code files.

    The settings for thin cells are those that benchmarks/thin_cells.py chose.
    """
    MINI.mkdir(parents=True, exist_ok=True)
    chosen = json.loads((scoring.RESULTS / "thin_cells.json").read_text())["chosen"]
    settings = {
        "config.json": {"type_reliability": chosen["type_reliability"]},
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
    parser.add_argument("gene_sets", type=Path, help="GMT file of the Hallmark gene sets")
    parser.add_argument("--work", type=Path, default=Path("runs/mini"), help="folder for data sets and runs")
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=STEPS, help="defaults to all")
    parser.add_argument("--recipes", nargs="*", help="recipes of the step select; defaults to all")
    parser.add_argument("--folds", nargs="*", help="folds of the step select; defaults to all")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    sources = yaml.safe_load((selection.RECIPES / "sources.yaml").read_text())
    files = [str(args.data / f"{name}.h5ad") for name in (*sources["train"], *sources["unseen"])]
    if "select" in args.steps:
        selection.select(args, sources)
    if {"train", "test"} & set(args.steps):
        dataset = selection.prepare_fold(args, "final", selection.final_fold(sources), sources)
        if "train" in args.steps:
            package(selection.train(args, dataset, args.work / "final", describe_held_out=False))
        if "test" in args.steps:
            scoring.test(dataset, files, sources, args.work / "test")
    if "read" in args.steps:
        scoring.read(files, sources)
    if "names" in args.steps:
        name_genes()
    if "card" in args.steps:
        card.write_card(sources)


if __name__ == "__main__":
    main()

"""The small default model from the reference files: recipes on validation folds.

    python benchmarks/mini.py ../shared/data ../shared/genesets/h.all.v7.0.symbols.gmt    # configs/mini/tried.yaml
    python benchmarks/mini.py DATA GENE_SETS --recipes augmented --folds donors           # some of it

Each recipe is trained on each fold, and its texts for the fold's held-out cells are scored: once donors of the training
studies, and for three studies all their cells. Writes benchmarks/results/mini_selection.json, and goes on where it
stopped: what a run left in --work is not done twice. The test donors and the studies under other terms are in no fold.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import yaml

from cell2text.data.prepare import prepare
from vocabulary_cell2text import write_atomically


PROJECT = Path(__file__).resolve().parents[1]
MINI = PROJECT / "configs" / "mini"
RESULTS = PROJECT / "benchmarks" / "results" / "mini_selection.json"
METRICS = ("n", "accuracy", "lenient_accuracy", "pagerank_similarity")


def folds(sources: dict) -> dict[str, dict[str, list[str]]]:
    """Cells of each fold that validate, and those of the test, which no fold trains on."""
    test = [f"donor_id={donor}" for donor in sources["test_donors"]]
    found = {"donors": [f"donor_id={donor}" for donor in sources["validation_donors"]]}
    found |= {study: [f"dataset_id={study}"] for study in sources["validation_studies"]}
    return {name: {"validation": cells, "test": test} for name, cells in found.items()}


def prepared(data: Path, gene_sets: Path, work: Path, fold: str, named: dict, sources: dict) -> Path:
    folder = work / "data" / fold
    if not (folder / "report.json").exists():
        files = [str(data / f"{name}.h5ad") for name in sources["train"]]
        options = {**sources["prepare"], "split": "named", "named": named, "gene_sets": str(gene_sets)}
        prepare(files, folder, progress=False, **options)
    return folder


def trained(changes: dict, dataset: Path, gene_sets: Path, out: Path) -> dict:
    """Metrics of the texts of one run, which is made if it is not there."""
    metrics = out / "evaluation" / "metrics.json"
    if not metrics.exists():
        command = [sys.executable, str(PROJECT / "train_sft.py"), "--config", str(MINI / "train.yaml")]
        options = {**changes, "dataset": dataset, "gene_sets": gene_sets, "output_dir": out, "hold_out": "validation"}
        command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
        with open(out.with_suffix(".log"), "w", encoding="utf-8") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    return json.loads(metrics.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the reference files")
    parser.add_argument("gene_sets", type=Path, help="GMT file of the Hallmark gene sets")
    parser.add_argument("--work", type=Path, default=Path("runs/mini_selection"))
    parser.add_argument("--recipes", nargs="*")
    parser.add_argument("--folds", nargs="*")
    args = parser.parse_args()
    sources = yaml.safe_load((MINI / "sources.yaml").read_text())
    tried = yaml.safe_load((MINI / "tried.yaml").read_text())
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    args.work.mkdir(parents=True, exist_ok=True)
    for fold, named in folds(sources).items():
        if args.folds and fold not in args.folds:
            continue
        dataset = prepared(args.data, args.gene_sets, args.work, fold, named, sources)
        for recipe in args.recipes or tried:
            metrics = trained(tried[recipe], dataset, args.gene_sets, args.work / f"{recipe}_{fold}")
            found = {
                name: float(f"{metrics['cell_type'][name]:.4g}") for name in METRICS if name in metrics["cell_type"]
            }
            results.setdefault(recipe, {"changes": tried[recipe]})[fold] = found
            print(recipe, fold, found, flush=True)
            write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Compare training recipes on validation cells, and evaluate the default recipe on test cells.

    python benchmarks/recipes.py [NAME ...]      # validation: benchmarks/results/recipes.json, one entry per recipe
    python benchmarks/recipes.py --test          # test: benchmarks/results/default.json

A recipe is `configs/default.yaml` with changes, run on three splits. Test cells are a fifth of all cells. Validation
cells are a fifth of the training cells, so recipes are chosen without the test cells.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

from cell2text.files import write_atomically


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results"
RECIPES: dict[str, dict] = {
    "default": {},
    "12 epochs": {"num_train_epochs": 12},
    "6 epochs": {"num_train_epochs": 6},
    "random gene embeddings that train": {"gene_embeddings": "random"},
    "no warm start": {"concept_pretraining_epochs": 0, "encoder_learning_rate": 1e-3, "projector_learning_rate": 1e-3},
    "256 genes": {"max_genes": 256},
    "512 genes, one attention layer": {"max_genes": 512, "encoder_layers": 1},
    "width 512": {"encoder_hidden_size": 512},
    "perceiver": {"projector_type": "perceiver", "projector_num_layers": 1},
    "mlp on the top 32 genes": {"projector_type": "mlp", "num_cell_tokens": 32},
    "encoder and projector fixed after the warm start": {"encoder_learning_rate": 0.0, "projector_learning_rate": 0.0},
}


def run(changes: dict, split: int) -> dict:
    """Run `train_sft.py` and return its metrics and wall time in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"split_seed": split, "seed": split, "output_dir": folder, "report_to": "none", "disable_tqdm": True}
        command = [sys.executable, "-m", "accelerate.commands.launch", str(PROJECT / "train_sft.py")]
        command += ["--config", str(PROJECT / "configs" / "default.yaml")]
        command += [part for name, value in (options | changes).items() for part in (f"--{name}", str(value))]
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        metrics = json.loads(Path(folder, "evaluation", "metrics.json").read_text())
        return {"split": split, **select_metrics(metrics), "seconds": round(time.monotonic() - start)}


def select_metrics(metrics: dict) -> dict:
    """Select the cell-type accuracy of every system and the share of texts that match exactly."""
    systems = {name: scores["cell_type"]["accuracy"] for name, scores in metrics["systems"].items()}
    systems = {name: value for name, value in systems.items() if name != "constant"}
    found = {"n": metrics["cell_type"]["n"], "cell2text": metrics["cell_type"]["accuracy"]}
    return found | {"exact_text": metrics["text"]["exact_match"], **systems}


def summarise(changes: dict, runs: list[dict]) -> dict:
    means = {key: round(mean(run[key] for run in runs), 4) for key in runs[0] if key not in ("split", "n", "seconds")}
    return {"changes": changes, "mean": means, "runs": runs}


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(RECIPES)}")
    parser.add_argument("--test", action="store_true", help="evaluate the default recipe on the test cells")
    parser.add_argument("--splits", nargs="+", type=int, default=[42, 43, 44], help="seeds; defaults to 42 43 44")
    args = parser.parse_args()
    unknown = set(args.names) - set(RECIPES)
    if unknown:
        parser.error(f"Unknown recipes {sorted(unknown)}: expected any of {list(RECIPES)}.")
    for name in ["default"] if args.test else args.names or RECIPES:
        changes = RECIPES[name] | ({} if args.test else {"hold_out": "validation", "eval_strategy": "no"})
        runs = []
        for split in args.splits:
            runs.append(run(changes, split))
            print(f"{name}, {runs[-1]}", flush=True)
        summary = summarise(changes, runs)
        if args.test:
            write(RESULTS / "default.json", summary)
        else:
            path = RESULTS / "recipes.json"
            write(path, (json.loads(path.read_text()) if path.exists() else {}) | {name: summary})
        print(f"{name}: {summary['mean']}", flush=True)


if __name__ == "__main__":
    main()

"""Compare recipes of the embedded default on validation cells; the test cells are never looked at.

    python benchmarks/recipes.py [NAME ...] [--splits 42 43 44]

Each recipe is `configs/default.yaml` with changes. For every split seed, a fifth of the training cells is held out for
validation. Results are added to `benchmarks/results/recipes.json`, one entry a recipe.
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


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "recipes.json"
RECIPES: dict[str, dict] = {
    "default": {"baselines": True},
    "random gene embeddings that train, 2 layers of 128": {
        "gene_embeddings": "random", "encoder_layers": 2, "encoder_hidden_size": 128, "warm_start_epochs": 12,
    },
    "random gene embeddings that train": {"gene_embeddings": "random"},
    "no warm start": {"warm_start_epochs": 0, "encoder_learning_rate": 1e-3, "projector_learning_rate": 1e-3},
    "256 genes": {"max_genes": 256},
    "512 genes": {"max_genes": 512},
    "1024 genes, no attention layer": {"max_genes": 1024, "encoder_layers": 0},
    "512 genes, no attention layer": {"max_genes": 512, "encoder_layers": 0},
    "16 epochs of warm start": {"warm_start_epochs": 16},
    "2 layers": {"encoder_layers": 2},
    "width 384": {"encoder_hidden_size": 384},
    "perceiver": {"projector_type": "perceiver", "projector_num_layers": 1},
    "mlp on the top 32 genes": {"projector_type": "mlp", "num_cell_tokens": 32},
    "encoder and projector at the full learning rate": {"encoder_learning_rate": 1e-3, "projector_learning_rate": 1e-3},
    "encoder and projector fixed after the warm start": {"encoder_learning_rate": 0.0, "projector_learning_rate": 0.0},
}  # fmt: skip


def run(changes: dict, split: int, folder: str) -> dict:
    options = {"hold_out": "validation", "split_seed": split, "seed": split, "output_dir": folder, "baselines": False}
    options |= {"report_to": "none", "eval_strategy": "no", "disable_tqdm": True, **changes}
    command = [sys.executable, "-m", "accelerate.commands.launch", str(PROJECT / "train_sft.py")]
    command += ["--config", str(PROJECT / "configs" / "default.yaml")]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(Path(folder, "results.json").read_text()) | {"seconds": round(time.monotonic() - start)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(RECIPES), metavar="NAME")
    parser.add_argument("--splits", nargs="+", type=int, default=[42, 43, 44])
    args = parser.parse_args()
    for name in args.names:
        runs = []
        for split in args.splits:
            with tempfile.TemporaryDirectory() as folder:
                runs.append({"split": split, **run(RECIPES[name], split, folder)})
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        accuracies = {
            key: round(mean(r[key] for r in runs), 4) for key in runs[0] if key not in ("split", "n", "seconds")
        }
        results[name] = {"changes": RECIPES[name], "mean": accuracies, "runs": runs}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
        print(
            f"{name}: {accuracies['cell2text']:.1%} ({', '.join(format(r['cell2text'], '.1%') for r in runs)})",
            flush=True,
        )


if __name__ == "__main__":
    main()

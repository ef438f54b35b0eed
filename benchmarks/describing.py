"""Bars 12 and 13 of describing, on CPU: what batches gain, what padding and ended rows cost, memory, and kills.

    python benchmarks/describing.py runs/default                  # writes benchmarks/results/describing.json
    python benchmarks/describing.py runs/default batches memory   # some of it
    python benchmarks/describing.py runs/default files --files ../shared/data

Ratios are from inside one run on one thread, the sides in turn, median of five. Cells are those that ship with the
package, and for memory synthetic ones. `kills` ends a run of two processes at ten random moments and starts it again.
`files` describes every file of a folder by its cell types, and opens and draws what comes out with scanpy.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from preparation import interleaved
from synthetic import synthetic_adata

from cell2text.describe import DescribeOptions, describe_file
from cell2text.describe.inputs import rank_adata
from cell2text.example import example_cells
from cell2text.files import write_atomically
from cell2text.inference.generation import BatchedTextGenerator
from cell2text.loading import load_model


RESULTS = Path(__file__).resolve().parent / "results" / "describing.json"
N_CELLS, BATCH = 64, 32
MEMORY_CELLS = (5_000, 50_000)
DRAWN = 2_000
KILL_CELLS, KILL_SHARD, MOMENTS, DONE = 320, 32, 10, "rows-*.parquet"
PEAK = """
import sys
import cell2text.describe as module
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
source, out, model = sys.argv[1:]
options = module.DescribeOptions(max_new_tokens=2)
module.describe_file(source, out, model=model, options=options, progress=False)
print(peak())
"""


def batches(model_name: str) -> dict:
    """Bar 12: cells a second at batch 32 against batch 1; prompts' padding; steps that brought no token; the texts."""
    model, processor = load_model(model_name, "cpu")
    adata = example_cells()
    chosen = np.random.default_rng(0).choice(adata.n_obs, N_CELLS, replace=False)
    options = DescribeOptions(allow_fractional=True)
    cells = rank_adata(adata[chosen].copy(), processor, options).cells
    said, steps = {}, {}

    def describe(name: str, size: int, order) -> None:
        generated = BatchedTextGenerator(model, processor, batch_size=size)([cells[i] for i in order])
        found = dict(zip(order, generated.texts))
        said[name] = [found[i] for i in range(len(order))]
        steps[name] = generated.steps / generated.useful

    straight, backwards = list(range(N_CELLS)), list(range(N_CELLS))[::-1]
    sides = {
        "one": lambda: describe("one", 1, straight),
        "batch": lambda: describe("batch", BATCH, straight),
        "backwards": lambda: describe("backwards", BATCH, backwards),
    }
    seconds = interleaved(sides)
    prompts = [
        len(ids)
        for ids in processor.apply_chat_template(
            [processor.conversation()] * N_CELLS, tokenize=True, add_generation_prompt=True
        )
    ]
    longest = max(len(processor.tokenizer(text)["input_ids"]) for text in said["batch"]) + 1
    useful = sum(len(processor.tokenizer(text)["input_ids"]) + 1 for text in said["batch"])
    return {
        "batch_32_over_batch_1": seconds["one"] / seconds["batch"],
        "prompt_tokens_over_real_ones": len(prompts) * max(prompts) / sum(prompts),
        "steps_over_tokens": steps["batch"],
        "steps_over_tokens_if_no_row_were_cut": N_CELLS * longest / useful,
        "texts_equal_in_any_order_and_batch": float(said["one"] == said["batch"] == said["backwards"]),
    }


def memory(model_name: str) -> dict:
    """Bar 13: peak memory of describing synthetic cells from an h5ad into an h5ad, in MiB."""
    found = {}
    _, processor = load_model(model_name, "cpu")
    genes = [token for token in processor.gene_vocabulary.tokens if token.startswith("ENSG")]
    with tempfile.TemporaryDirectory() as folder:
        part = synthetic_adata("sparse", 1_000)
        others = [f"ENSG9{i:010d}" for i in range(part.n_vars)]
        part.var = pd.DataFrame(index=[*genes, *others][: part.n_vars])
        for n_cells in MEMORY_CELLS:
            path = Path(folder, f"{n_cells}.h5ad")
            repeated(part, n_cells).write_h5ad(path)
            out = Path(folder, f"{n_cells}_described.h5ad")
            done = subprocess.run(
                [sys.executable, "-c", PEAK, str(path), str(out), model_name],
                capture_output=True,
                text=True,
                check=True,
            )
            found[f"peak_MiB_{n_cells}"] = float(done.stdout.split()[-1])
    small, large = (found[f"peak_MiB_{n_cells}"] for n_cells in MEMORY_CELLS)
    return {**found, "growth": large / small - 1}


def repeated(part: ad.AnnData, n_cells: int) -> ad.AnnData:
    counts = sp.vstack([part.X] * (n_cells // part.n_obs), format="csr")
    return ad.AnnData(counts, obs=pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)]), var=part.var)


def kills(model_name: str) -> dict:
    """Bar 13: runs of two processes that were killed and started again, against one process that was not."""
    lot = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, undisturbed = folder / "cells.h5ad", folder / "undisturbed.jsonl"
        adata = example_cells()
        adata[np.random.default_rng(0).choice(adata.n_obs, KILL_CELLS, replace=False)].copy().write_h5ad(source)
        for process in started(source, undisturbed, model_name, 1):
            process.wait()
        found = {"moments": 0, "killed": 0, "in_the_middle": 0, "equal": 0}
        for moment in range(MOMENTS):
            out = folder / f"{moment}.jsonl"
            shards = folder / f"{out.name}.describing"
            processes = started(source, out, model_name, 2)
            wanted = lot.randrange(KILL_CELLS // KILL_SHARD)
            while any(process.poll() is None for process in processes) and len(list(shards.glob(DONE))) < wanted:
                time.sleep(0.001)
            time.sleep(lot.uniform(0, 0.3))
            running = [process.poll() is None for process in processes]
            for process in processes:
                process.kill()
                process.wait()
            left = list(shards.glob(DONE))
            for process in started(source, out, model_name, 2):
                process.wait()
            found["moments"] += 1
            found["killed"] += any(running)
            found["in_the_middle"] += 0 < len(left) < KILL_CELLS // KILL_SHARD
            found["equal"] += out.read_bytes() == undisturbed.read_bytes()
    return found


def started(source: Path, out: Path, model_name: str, ranks: int) -> list[subprocess.Popen]:
    command = [sys.executable, "-m", "cell2text.describe", str(source), "--model", model_name, "--out", str(out)]
    options = ["--shard-rows", str(KILL_SHARD), "--allow-fractional", "--device", "cpu", "--quiet"]
    return [
        subprocess.Popen(
            [*command, *options],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(ranks)
    ]


def files(model_name: str, folder: str, pictures: Path) -> dict:
    """Every file of a folder described, read back, checked against its input, and drawn."""
    import scanpy as sc

    found: dict[str, float] = {}
    pictures.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        for path in sorted(Path(folder).glob("*.h5ad")):
            out = Path(name, path.name)
            options = DescribeOptions(allow_fractional=True, groupby="cell_type")
            describe_file(path, out, model=model_name, options=options, progress=False)
            before, after = ad.read_h5ad(path), sc.read_h5ad(out)
            unchanged = (before.X != after.X).nnz == 0 and before.var.equals(after.var)
            if not unchanged or not before.obs.equals(after.obs[before.obs.columns]):
                raise RuntimeError(f"{path.name} was changed by its description.")
            after.write_h5ad(out)  # what anndata wrote it can write again
            drawn = sc.pp.subsample(after, n_obs=min(DRAWN, after.n_obs), copy=True)
            sc.pp.neighbors(drawn, use_rep="X_cell2text", n_neighbors=min(15, drawn.n_obs - 1))
            sc.tl.umap(drawn)
            figure = sc.pl.umap(drawn, color=["cell_type", "cell2text_cell_type"], show=False, return_fig=True)
            figure.savefig(pictures / f"{path.stem}.png", bbox_inches="tight", dpi=70)
            same = after.obs["cell2text_cell_type"].astype(str) == after.obs["cell_type"].astype(str)
            groups = after.uns["cell2text"]["groups"]
            found |= {
                f"{path.stem} cells": after.n_obs,
                f"{path.stem} name a type": float(after.obs["cell2text_cell_type"].notna().mean()),
                f"{path.stem} name the annotated type": float(same.mean()),
                f"{path.stem} groups": len(groups),
                f"{path.stem} genes mapped": float(after.obs["cell2text_mapped_fraction"].mean()),
            }
    return found


BARS = {
    "batches": {
        "12 batch 32 >= 6 times batch 1": lambda r: r["batch_32_over_batch_1"] >= 6,
        "12 prompt padding <= 1.1": lambda r: r["prompt_tokens_over_real_ones"] <= 1.1,
        "12 same text in any order": lambda r: r["texts_equal_in_any_order_and_batch"] == 1,
    },
    "memory": {"13 growth <= 10 %": lambda r: r["growth"] <= 0.1},
    "kills": {"13 killed runs end with the same bytes": lambda r: r["equal"] == r["moments"] == r["killed"]},
    "files": {"every file": lambda r: len(r) > 0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("names", nargs="*", help=f"any of: {', '.join(BARS)}")
    parser.add_argument("--files", help="folder with h5ad files, for `files`")
    parser.add_argument("--pictures", default="pictures", type=Path, help="where `files` leaves its plots")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in args.names or ("batches", "memory", "kills"):
        options = {"folder": args.files, "pictures": args.pictures} if name == "files" else {}
        measured = globals()[name](args.model, **options)
        bars = {bar: bool(holds(measured)) for bar, holds in BARS[name].items()}
        rounded = {key: value if isinstance(value, int) else float(f"{value:.4g}") for key, value in measured.items()}
        results[name] = {"measured": rounded, "bars": bars}
        print(json.dumps({name: results[name]}, indent=1), flush=True)
        write_atomically(RESULTS, json.dumps(dict(sorted(results.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()

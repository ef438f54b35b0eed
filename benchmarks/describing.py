"""Bars 12 and 13 of describing, on CPU: what batches gain, what padding and ended rows cost, and memory.

    python benchmarks/describing.py runs/default                  # writes benchmarks/results/describing.json
    python benchmarks/describing.py runs/default batches memory   # some of it

Ratios inside one run on one thread, the sides in turn, median of five. Cells are those that ship with the package, and
for memory synthetic ones.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from preparation import REPETITIONS, interleaved
from synthetic import synthetic_adata

from cell2text.data import example_cells
from cell2text.describe.loading import load_model
from generation_cell2text import CellAnswerer
from vocabulary_cell2text import write_atomically


RESULTS = Path(__file__).resolve().parent / "results" / "describing.json"
N_CELLS, BATCH = 64, 32
MEMORY_CELLS = (5_000, 50_000)
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
    cells = [[cell] for cell in processor.rank_encode(adata[chosen].copy(), allow_fractional=True)]
    answer = CellAnswerer(model, processor, max_new_tokens=160)
    said = {}

    def describe(name: str, size: int, order) -> None:
        texts = [answer([cells[i] for i in order[start : start + size]]) for start in range(0, len(order), size)]
        found = dict(zip(order, (text for part in texts for text in part.texts)))
        said[name] = [found[i] for i in range(len(order))]
        said[f"{name} steps"] = sum(part.steps for part in texts) / sum(part.useful for part in texts)

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
            [processor.conversation()] * len(cells), tokenize=True, add_generation_prompt=True
        )
    ]
    longest = max(len(processor.tokenizer(text)["input_ids"]) for text in said["batch"]) + 1
    useful = sum(len(processor.tokenizer(text)["input_ids"]) + 1 for text in said["batch"])
    return {
        "batch_32_over_batch_1": seconds["one"] / seconds["batch"],
        "prompt_tokens_over_real_ones": len(prompts) * max(prompts) / sum(prompts),
        "steps_over_tokens": said["batch steps"],
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


BARS = {
    "batches": {
        "12 batch 32 >= 6 times batch 1": lambda r: r["batch_32_over_batch_1"] >= 6,
        "12 prompt padding <= 1.1": lambda r: r["prompt_tokens_over_real_ones"] <= 1.1,
        "12 same text in any order": lambda r: r["texts_equal_in_any_order_and_batch"] == 1,
    },
    "memory": {"13 growth <= 10 %": lambda r: r["growth"] <= 0.1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("names", nargs="*", help=f"any of: {', '.join(BARS)}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in args.names or BARS:
        measured = globals()[name](args.model)
        bars = {bar: bool(holds(measured)) for bar, holds in BARS[name].items()}
        rounded = {key: float(f"{value:.4g}") for key, value in measured.items()}
        results[name] = {"measured": rounded, "bars": bars, "repetitions": REPETITIONS}
        print(json.dumps({name: results[name]}, indent=1), flush=True)
        write_atomically(RESULTS, json.dumps(dict(sorted(results.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()

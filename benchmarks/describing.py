"""Measure `cell2text describe` on CPU (targets 12 and 13): batching, padding and memory.

    python benchmarks/describing.py runs/default                  # writes benchmarks/results/describing.json
    python benchmarks/describing.py runs/default batches memory   # only these
    python benchmarks/describing.py runs/default files --files ../shared/data

Ratios compare alternating measurements on one thread within one run, as the median of five. Cells are the packaged
example cells; memory is measured on synthetic cells. `files` describes every file of a folder by cell type, and opens
and plots the output with scanpy.
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
from preparation import interleaved
from synthetic import synthetic_adata

from cell2text.describe import DescribeOptions, describe_file
from cell2text.example import example_cells
from cell2text.files import write_atomically
from cell2text.inference.generation import BatchedTextGenerator
from cell2text.loading import load_model


RESULTS = Path(__file__).resolve().parent / "results" / "describing.json"
N_CELLS, BATCH_SIZE = 64, 32
MEMORY_CELLS = (5_000, 50_000)
PLOTTED_CELLS = 2_000
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
    """Measure target 12: throughput of batch size 32 over 1, prompt padding, steps per token, equality of texts."""
    model, processor = load_model(model_name, "cpu")
    adata = example_cells()
    chosen = np.random.default_rng(0).choice(adata.n_obs, N_CELLS, replace=False)
    cells = processor.rank_encode(adata[chosen].copy(), allow_fractional=True)
    texts, steps = {}, {}

    def describe(name: str, size: int, order) -> None:
        generated = BatchedTextGenerator(model, processor, batch_size=size)([cells[i] for i in order])
        found = dict(zip(order, generated.texts))
        texts[name] = [found[i] for i in range(len(order))]
        steps[name] = generated.steps / generated.useful

    forwards, backwards = list(range(N_CELLS)), list(range(N_CELLS))[::-1]
    sides = {
        "one": lambda: describe("one", 1, forwards),
        "batch": lambda: describe("batch", BATCH_SIZE, forwards),
        "backwards": lambda: describe("backwards", BATCH_SIZE, backwards),
    }
    seconds = interleaved(sides)
    prompts = [
        len(ids)
        for ids in processor.apply_chat_template(
            [processor.conversation()] * N_CELLS, tokenize=True, add_generation_prompt=True
        )
    ]
    longest = max(len(processor.tokenizer(text)["input_ids"]) for text in texts["batch"]) + 1
    useful = sum(len(processor.tokenizer(text)["input_ids"]) + 1 for text in texts["batch"])
    return {
        "batch_32_over_batch_1": seconds["one"] / seconds["batch"],
        "prompt_tokens_over_real_ones": len(prompts) * max(prompts) / sum(prompts),
        "steps_over_tokens": steps["batch"],
        "steps_over_tokens_if_no_row_were_cut": N_CELLS * longest / useful,
        "texts_equal_in_any_order_and_batch": float(texts["one"] == texts["batch"] == texts["backwards"]),
    }


def memory(model_name: str) -> dict:
    """Measure target 13: peak memory in MiB while describing synthetic cells from one h5ad file into another."""
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


def files(model_name: str, folder: str, pictures: Path) -> dict:
    """Describe every file of a folder, check that its input is unchanged, and plot it."""
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
                raise RuntimeError(f"{path.name} was changed by `describe_file`.")
            after.write_h5ad(out)  # the output can be written again
            plotted = sc.pp.subsample(after, n_obs=min(PLOTTED_CELLS, after.n_obs), copy=True)
            sc.pp.neighbors(plotted, use_rep="X_cell2text", n_neighbors=min(15, plotted.n_obs - 1))
            sc.tl.umap(plotted)
            figure = sc.pl.umap(plotted, color=["cell_type", "cell2text_cell_type"], show=False, return_fig=True)
            figure.savefig(pictures / f"{path.stem}.png", bbox_inches="tight", dpi=70)
            same = after.obs["cell2text_cell_type"].astype(str) == after.obs["cell_type"].astype(str)
            groups = after.uns["cell2text"]["groups"]
            found |= {
                f"{path.stem} cells": after.n_obs,
                f"{path.stem} name a type": float(after.obs["cell2text_cell_type"].notna().mean()),
                f"{path.stem} name the annotated type": float(same.mean()),
                f"{path.stem} groups": len(groups),
                f"{path.stem} genes mapped": float(after.obs["cell2text_counts_used"].mean()),
            }
    return found


TARGETS = {
    "batches": {
        "12 batch 32 >= 6 times batch 1": lambda r: r["batch_32_over_batch_1"] >= 6,
        "12 prompt padding <= 1.1": lambda r: r["prompt_tokens_over_real_ones"] <= 1.1,
        "12 same text in any order": lambda r: r["texts_equal_in_any_order_and_batch"] == 1,
    },
    "memory": {"13 growth <= 10 %": lambda r: r["growth"] <= 0.1},
    "files": {"every file": lambda r: len(r) > 0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("names", nargs="*", help=f"any of: {', '.join(TARGETS)}")
    parser.add_argument("--files", help="folder of h5ad files, for `files`")
    parser.add_argument(
        "--pictures", default="pictures", type=Path, help="folder for the plots of `files`; defaults to pictures"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in args.names or ("batches", "memory"):
        options = {"folder": args.files, "pictures": args.pictures} if name == "files" else {}
        measured = globals()[name](args.model, **options)
        bars = {bar: bool(is_met(measured)) for bar, is_met in TARGETS[name].items()}
        rounded = {key: value if isinstance(value, int) else float(f"{value:.4g}") for key, value in measured.items()}
        results[name] = {"measured": rounded, "bars": bars}
        print(json.dumps({name: results[name]}, indent=1), flush=True)
        write_atomically(RESULTS, json.dumps(dict(sorted(results.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()

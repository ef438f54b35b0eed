"""Measure the report page of 100,000 described cells (target 20: under a minute), as a user runs it: in a new process.

    python benchmarks/report.py         # writes benchmarks/results/report.json

The cells are those of the example, described once and drawn with replacement, with noise on their embeddings. The page
is written with UMAP of the embeddings, and again for a file with a map of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp

import cell2text
from cell2text.files import write_atomically


RESULTS = Path(__file__).resolve().parent / "results" / "report.json"
NOISE = 0.05


def described_cells(n_cells: int) -> ad.AnnData:
    adata = cell2text.example_cells(unseen=True)
    cell2text.tl.describe(adata)
    rng = np.random.default_rng(0)
    many = adata[rng.integers(0, adata.n_obs, n_cells)].copy()
    many.obs_names = [f"cell_{number}" for number in range(n_cells)]
    embeddings = many.obsm["X_cell2text"]
    many.obsm["X_cell2text"] = (embeddings + rng.normal(0, NOISE, embeddings.shape)).astype(np.float32)
    many.X = sp.csr_matrix(many.X)
    return many


def measure(source: Path, out: Path) -> dict[str, float]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "cell2text", "report", str(source), "--out", str(out), "--quiet"]
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall_seconds": time.perf_counter() - start,
        "page_mb": out.stat().st_size / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    args = parser.parse_args()
    found: dict = {"cells": args.cells}
    with tempfile.TemporaryDirectory() as folder:
        adata = described_cells(args.cells)
        for name in ("umap_of_embeddings", "own_map"):
            if name == "own_map":
                adata.obsm["X_umap"] = adata.obsm["X_cell2text"][:, :2].copy()
            source = Path(folder, f"{name}.h5ad")
            adata.write_h5ad(source)
            found[name] = measure(source, source.with_suffix(".html"))
            source.unlink()
    found["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    print(json.dumps(found, indent=1))
    write_atomically(RESULTS, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Describe a million synthetic cells with `cell2text describe --fields`, interrupt the run once and resume it.

    PYTHONPATH=. python benchmarks/million.py FILE WORK      # benchmarks/results/million.json

FILE is an h5ad file of raw counts; a synthetic cell is one of its cells with every molecule kept with a probability
between 0.5 and 1. WORK is a folder with room for some ten gigabytes, in which the cells stay for the next run. The run
is killed with SIGKILL when half of its shards are there; the same command then finishes. Memory is that of all
processes of the run together, shared pages counted once, ten times per second. Finally, some cells are described
alone: their rows must be equal.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import psutil
import scipy.sparse as sp
from anndata.experimental import concat_on_disk

from cell2text.files import write_atomically


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "million.json"
N_CELLS, CELLS_PER_PART, CELLS_ALONE = 1_000_000, 50_000, 2_000
POLL_SECONDS = 0.1
COMMAND = (
    sys.executable,
    "-m",
    "cell2text",
    "describe",
    "--fields",
    "--allow-fractional",
    "--quiet",
    "--device",
    "cpu",
)
MIB = 2**20


def write_cells(source: Path, folder: Path, n_cells: int) -> Path:
    """Write synthetic cells in parts, and join the parts; return the path of the file."""
    path = folder / f"cells_{n_cells}.h5ad"
    if path.exists():
        return path
    adata = ad.read_h5ad(source)
    counts = sp.csr_matrix(adata.X)
    parts = []
    for start in range(0, n_cells, CELLS_PER_PART):
        rng = np.random.default_rng([0, start])
        rows = rng.integers(adata.n_obs, size=min(CELLS_PER_PART, n_cells - start))
        thinned = counts[rows]
        kept = np.repeat(rng.uniform(0.5, 1.0, size=len(rows)), np.diff(thinned.indptr))
        thinned.data = rng.binomial(np.rint(thinned.data).astype(np.int64), kept).astype(np.float32)
        thinned.eliminate_zeros()
        obs = pd.DataFrame(index=[f"cell{start + row}" for row in range(len(rows))])
        parts.append(folder / f"part_{start}.h5ad")
        ad.AnnData(thinned, obs=obs, var=adata.var[[]]).write_h5ad(parts[-1])
    partial = folder / "partial.h5ad"
    concat_on_disk(parts, partial)
    os.replace(partial, path)
    for part in parts:
        part.unlink()
    return path


class MeasuredRun:
    """A command in a session of its own, with the peak of its memory."""

    def __init__(self, *arguments: object):
        self.started, self.peak = time.monotonic(), 0
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PROJECT)}
        environment.pop("OMP_NUM_THREADS", None)  # as a user would run it
        self.process = subprocess.Popen([*COMMAND, *map(str, arguments)], env=environment, start_new_session=True)

    def wait(self, until: Callable[[], bool] = lambda: False) -> float:
        """Wait for the end, or kill all processes of the run once `until()`; return the wall time in seconds."""
        while self.process.poll() is None:
            self._measure()
            if until():
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                return time.monotonic() - self.started
            time.sleep(POLL_SECONDS)
        if self.process.returncode:
            raise RuntimeError(f"Exit code {self.process.returncode}")
        return time.monotonic() - self.started

    def _measure(self) -> None:
        """Add up the proportional set sizes of all processes."""
        try:
            main = psutil.Process(self.process.pid)
            found = [main, *main.children(recursive=True)]
            self.peak = max(self.peak, sum(one.memory_full_info().pss for one in found))
        except psutil.NoSuchProcess:
            return


def measure(args: argparse.Namespace) -> dict:
    source = write_cells(args.file, args.work, args.cells)
    out = args.work / "described.h5ad"
    out.unlink(missing_ok=True)
    folder = out.with_name(f"{out.name}.describing")
    n_shards = -(-args.cells // 1024)

    def half_done() -> bool:
        return len(list(folder.glob("rows-*.parquet"))) >= n_shards // 2

    first = MeasuredRun(source, "--out", out)
    until_killed = first.wait(half_done)
    kept = len(list(folder.glob("rows-*.parquet")))
    second = MeasuredRun(source, "--out", out)
    resumed = second.wait()
    described = ad.read_h5ad(out, backed="r")
    alone = described_alone(source, args)
    names = [name for name in alone if name in described.obs]
    together = described.obs.loc[alone.index, names]
    size = source.stat().st_size
    return {
        "cells": described.n_obs,
        "genes": described.n_vars,
        "cores": len(os.sched_getaffinity(0)),
        "input_MiB": round(size / MIB),
        "killed": {"wall_seconds": round(until_killed, 1), "shards": kept, "of_shards": n_shards},
        "resumed": {"wall_seconds": round(resumed, 1)},
        "wall_seconds": round(until_killed + resumed, 1),
        "cells_per_second": round(args.cells / (until_killed + resumed)),
        "peak_MiB": round(max(first.peak, second.peak) / MIB),
        "cells_with_a_type": int(described.obs["cell2text_cell_type"].notna().sum()),
        "described_alone": len(alone),
        "equal_alone": int((together.astype(str) == alone[names].astype(str)).all(axis=1).sum()),
    }


def described_alone(source: Path, args: argparse.Namespace) -> pd.DataFrame:
    """Describe random cells in a file of their own; return their rows."""
    cells = ad.read_h5ad(source, backed="r")
    rows = np.sort(np.random.default_rng(1).choice(cells.n_obs, min(CELLS_ALONE, cells.n_obs), replace=False))
    few, out = args.work / "alone.h5ad", args.work / "alone_described.h5ad"
    cells[rows].to_memory().write_h5ad(few)
    out.unlink(missing_ok=True)
    MeasuredRun(few, "--out", out).wait()
    return ad.read_h5ad(out).obs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="h5ad file of raw counts")
    parser.add_argument("work", type=Path, help="folder for the cells and the output")
    parser.add_argument("--cells", type=int, default=N_CELLS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    results = measure(args)
    print(json.dumps(results, indent=1))
    if args.cells == N_CELLS:
        write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

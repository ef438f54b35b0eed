"""Compare the speed of `cell2text describe` with that of another commit, cell by cell and stage by stage.

    PYTHONPATH=. python benchmarks/speed.py --before COMMIT FILE...      # benchmarks/results/speed.json
    PYTHONPATH=. python benchmarks/speed.py --before COMMIT FILE --only encoder language_model

`describe` and `fields` run the command's function in a process of its own on one thread, in turn for both commits, and
count processor seconds of the whole process: those of a part of the cells are subtracted from those of more cells, so
that imports and loading count in neither. `processes` compares the wall time of one and two processes. `encoder` is the
stage from ranked genes to concepts, `language_model` the decoding of 48 tokens by a randomly initialised model of the
shape of SmolLM2-135M at batch size 32, `bf16` the same in bfloat16. `bf16_texts` counts the cells of the packaged
model whose text or fields differ in bfloat16. `padding` is the share of padding in the batches of
an encoder with attention. Figures are medians; ratios are of runs in turn on the same machine.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import anndata as ad
import numpy as np
import pandas as pd

import cell2text
from cell2text.files import write_atomically
from generation_cell2text import GENES_AT_ONCE_ON_CPU


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results" / "speed.json"
SHARD_CELLS = 1_024  # cells that are sorted together
PARTS = (256, 2_304)  # cells whose seconds are compared
CELLS_OF_PROCESSES = (12_288, 122_880)
DESCRIBE = """
import sys, torch
torch.set_num_threads(1)
from cell2text.describe.options import DescribeOptions
from cell2text.describe.run import describe_file
source, out, fields = sys.argv[1:]
options = DescribeOptions(allow_fractional=True, fields_only=fields == "fields")
describe_file(source, out, options=options, progress=False, overwrite=True, device="cpu")
"""
ENCODE = """
import sys, time, anndata, torch, cell2text
from cell2text.inference.batch_size import free_memory, gene_tokens_that_fit
from generation_cell2text import encode_cells
torch.set_num_threads(1)
model, processor = cell2text.load(device="cpu")
cells = sorted(processor.rank_encode(anndata.read_h5ad(sys.argv[1]), allow_fractional=True), key=len)
prompts = [[cell] for cell in cells if processor.reason_not_described(cell) is None]
tokens = gene_tokens_that_fit(model, processor.max_genes, free_memory(model.device))
for _ in range(2):
    started = time.process_time()
    for start in range(0, len(prompts), 512):
        encode_cells(model, processor, prompts[start : start + 512], tokens)
print((time.process_time() - started) / len(prompts))
"""
DECODE = """
import sys, time, anndata, torch, cell2text
from transformers import BertConfig, LlamaConfig
from generation_cell2text import CellTextGenerator
from modeling_cell2text import Cell2TextForConditionalGeneration
torch.set_num_threads(1)
torch.manual_seed(0)
_, processor = cell2text.load(device="cpu")
encoder = BertConfig(vocab_size=len(processor.gene_vocabulary), hidden_size=64, num_hidden_layers=1,
    num_attention_heads=2, intermediate_size=64, max_position_embeddings=processor.max_genes, pad_token_id=0)
language_model = LlamaConfig(vocab_size=49_152, hidden_size=576, intermediate_size=1_536, num_hidden_layers=30,
    num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    pad_token_id=0)
model = Cell2TextForConditionalGeneration.from_components(encoder, language_model, processor).eval()
cells = processor.rank_encode(anndata.read_h5ad(sys.argv[1])[:64].copy(), allow_fractional=True)
prompts = [[cell] for cell in cells if processor.reason_not_described(cell) is None][:32]
if sys.argv[2:] == ["bf16"]:
    model.get_decoder().to(torch.bfloat16)
    model.get_output_embeddings().to(torch.bfloat16)
generator = CellTextGenerator(model, processor, max_new_tokens=48, min_new_tokens=48)
started = time.process_time()
generator(prompts)
print(time.process_time() - started)
"""


def process(code: str, tree: Path, *arguments: object) -> dict:
    """Run code of a tree of the project in a process of its own; return its seconds, peak memory and output."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"PYTHONWARNINGS": "ignore"}
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        running = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)], cwd=tree, env=environment, stdout=subprocess.PIPE,
            stderr=errors, text=True,
        )  # fmt: skip
        printed = running.stdout.read()
        _, status, usage = os.wait4(running.pid, 0)
        if status:
            errors.seek(0)
            raise RuntimeError(errors.read()[-2000:])
    seconds = usage.ru_utime + usage.ru_stime
    return {
        "cpu": seconds,
        "wall": time.monotonic() - started,
        "MiB": usage.ru_maxrss / 1024,
        "printed": printed.strip(),
    }


def tree_of(commit: str, folder: Path) -> Path:
    """Extract a commit of the project."""
    archive = subprocess.run(["git", "archive", commit], cwd=PROJECT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="tar")
    return folder


def parts_of(source: Path, folder: Path) -> list[Path]:
    """Write random cells of a file to files of `PARTS` cells."""
    adata = ad.read_h5ad(source)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    paths = []
    for n_cells in PARTS:
        paths.append(folder / f"{source.stem}_{n_cells}.h5ad")
        adata[np.sort(order[:n_cells])].copy().write_h5ad(paths[-1])
    return paths


def describing(mode: str, trees: dict[str, Path], source: Path, folder: Path, repetitions: int) -> dict:
    """Measure cells per processor second of both trees, and compare what they write."""
    small, large = parts_of(source, folder)
    cells = {path: ad.read_h5ad(path, backed="r").n_obs for path in (small, large)}
    rates: dict[str, list[float]] = {name: [] for name in trees}
    memory = {}
    for name, tree in trees.items():  # compiled functions are cached by the first run
        process(DESCRIBE, tree, small, folder / f"{name}.csv", mode)
    for _ in range(repetitions):
        for name, tree in trees.items():
            few, many = (process(DESCRIBE, tree, path, folder / f"{name}.csv", mode) for path in (small, large))
            rates[name].append((cells[large] - cells[small]) / (many["cpu"] - few["cpu"]))
            memory[name] = many["MiB"]
    before, now = (pd.read_csv(folder / f"{name}.csv").fillna("") for name in trees)
    compared = [name for name in before if name in now]
    return {
        "cells": cells[large],
        "cells_per_cpu_second": {name: median(found) for name, found in rates.items()},
        "ratio": median(now / before for before, now in zip(*rates.values())),
        "ratios": [now / before for before, now in zip(*rates.values())],
        "peak_MiB": memory,
        "cells_that_differ": {name: int((before[name] != now[name]).sum()) for name in compared},
    }


def processes(tree: Path, source: Path, folder: Path, repetitions: int) -> dict:
    """Measure the wall time of one and two processes of the present commit, whole and without start and end."""
    adata = ad.read_h5ad(source)
    paths = {}
    for n_cells in CELLS_OF_PROCESSES:
        rows, paths[n_cells] = np.arange(n_cells) % adata.n_obs, folder / f"many_{n_cells}.h5ad"
        many = ad.AnnData(adata.X[rows], var=adata.var, obs=pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)]))
        many.write_h5ad(paths[n_cells])
    seconds: dict[int, list[dict[int, float]]] = {1: [], 2: []}
    for _ in range(repetitions):
        for number, found in seconds.items():
            code = DESCRIBE.replace('device="cpu"', f'device="cpu", processes={number}')
            found.append(
                {n: process(code, tree, path, folder / f"{number}.csv", "text")["wall"] for n, path in paths.items()}
            )
    few, many_cells = CELLS_OF_PROCESSES
    at_once = [two_at_once(tree, paths, folder) for _ in range(repetitions)]
    steady = {number: [one[many_cells] - one[few] for one in found] for number, found in seconds.items()}
    whole = {number: [one[many_cells] for one in found] for number, found in seconds.items()}
    return {
        "cells": many_cells,
        "less_cells": few,
        "wall_seconds": {str(number): median(found) for number, found in whole.items()},
        "whole_ratio": median(one / two for one, two in zip(*whole.values())),
        "ratio": median(one / two for one, two in zip(*steady.values())),
        "independent_ratio": median(2 * one / both for one, both in zip(steady[1], at_once)),
        "same_bytes": (folder / "1.csv").read_bytes() == (folder / "2.csv").read_bytes(),
    }


def two_at_once(tree: Path, paths: dict[int, Path], folder: Path) -> float:
    """Return the wall time of two independent runs of one process each, without start and end of a run."""
    code, walls = DESCRIBE.replace('device="cpu"', 'device="cpu", processes=1'), []
    for path in paths.values():
        started = time.monotonic()
        with ThreadPoolExecutor(2) as threads:
            runs = [threads.submit(process, code, tree, path, folder / f"{name}.csv", "text") for name in ("a", "b")]
        for run in runs:
            run.result()
        walls.append(time.monotonic() - started)
    return walls[1] - walls[0]


def texts_in_bf16(source: Path, folder: Path) -> dict:
    """Describe all cells of a file in float32 and in bfloat16, and count those that differ by column."""
    code = DESCRIBE.replace('fields_only=fields == "fields"', 'bf16=fields == "bf16"')
    for mode in ("float32", "bf16"):
        process(code, PROJECT, source, folder / f"{mode}.csv", mode)
    plain, small = (pd.read_csv(folder / f"{mode}.csv").fillna("") for mode in ("float32", "bf16"))
    return {"cells": len(plain)} | {name: int((plain[name] != small[name]).sum()) for name in plain}


def padding(source: Path) -> dict:
    """Return the share of padding in sorted batches of 8,192 gene tokens, and in batches in the order of the file."""
    _, processor = cell2text.load(device="cpu")
    cells = processor.rank_encode(ad.read_h5ad(source), allow_fractional=True)
    lengths = np.array([len(cell) for cell in cells if len(cell)])

    def share(found: np.ndarray) -> float:
        padded, start = 0, 0
        while start < len(found):
            size = max(1, GENES_AT_ONCE_ON_CPU // int(found[start : start + SHARD_CELLS].max()))
            padded += int(found[start : start + size].max()) * len(found[start : start + size])
            start += size
        return 1 - int(found.sum()) / padded

    shards = [np.sort(lengths[start : start + SHARD_CELLS]) for start in range(0, len(lengths), SHARD_CELLS)]
    return {
        "sorted": float(np.average([share(shard) for shard in shards], weights=[shard.sum() for shard in shards])),
        "unsorted": share(lengths),
    }


def stage(code: str, trees: dict[str, Path], source: Path, repetitions: int, *now: str) -> dict:
    """Compare the seconds that a script prints for both trees; `now` are further arguments for the present one."""
    seconds: dict[str, list[float]] = {name: [] for name in trees}
    for _ in range(repetitions):
        for name, tree in trees.items():
            more = now if name == "now" else ()
            seconds[name].append(float(process(code, tree, source, *more)["printed"]))
    return {
        "seconds": {name: median(found) for name, found in seconds.items()},
        "ratio": median(before / now for before, now in zip(*seconds.values())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="h5ad files of raw counts")
    parser.add_argument("--before", required=True, help="commit to compare with")
    parser.add_argument("--repetitions", type=int, default=3)
    names = ("encoder", "language_model", "bf16", "bf16_texts", "padding", "processes", "describe", "fields")
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trees = {"before": tree_of(args.before, folder / "before"), "now": tree_of("HEAD", folder / "now")}
        results["commit_before"] = args.before
        first = args.files[0].resolve()
        measures = {
            "encoder": lambda: stage(ENCODE, trees, parts_of(first, folder)[1], args.repetitions),
            "language_model": lambda: stage(DECODE, trees, first, args.repetitions),
            "bf16": lambda: stage(DECODE, trees, first, args.repetitions, "bf16"),
            "bf16_texts": lambda: {file.stem: texts_in_bf16(file.resolve(), folder) for file in args.files},
            "padding": lambda: {file.stem: padding(file) for file in args.files},
            "processes": lambda: processes(trees["now"], first, folder, args.repetitions),
            "describe": lambda: {
                file.stem: describing("text", trees, file.resolve(), folder, args.repetitions) for file in args.files
            },
            "fields": lambda: {
                file.stem: describing("fields", trees, file.resolve(), folder, args.repetitions) for file in args.files
            },
        }
        for measure in args.only:
            results[measure] = rounded(measures[measure]())
            print(json.dumps({measure: results[measure]}, indent=1), flush=True)
            write_atomically(RESULTS, json.dumps(results, indent=1, sort_keys=True) + "\n")


def rounded(values: object) -> object:
    """Return numbers with four digits, within dictionaries and lists."""
    if isinstance(values, dict):
        return {name: rounded(value) for name, value in values.items()}
    if isinstance(values, list):
        return [rounded(value) for value in values]
    return float(f"{values:.4g}") if isinstance(values, float) else values


if __name__ == "__main__":
    main()

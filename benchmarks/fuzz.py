"""Read thousands of damaged and hostile files, and count how the readers end.

    PYTHONPATH=. python benchmarks/fuzz.py --inputs 10000      # benchmarks/results/fuzz.json
    PYTHONPATH=. python benchmarks/fuzz.py --inputs 300 --kinds h5ad vocabulary

Each input is a small valid file with one to four mutations: bytes flipped, removed, inserted or repeated, the file
cut, HDF5 arrays and attributes replaced by extreme values, texts nested or made huge. As many inputs again have changed
bytes in `indptr` and `indices` of a sparse matrix. Further inputs declare arrays of terabytes, or models of impossible
sizes. Each is read in a child process with a time limit, through the function that a command calls. Outcomes: `read`;
`refused`, an error that a command prints in one line; `fault`, an error that should not happen; `signal`, the process
died; `slow`, it took longer than the limit; `changed`, a file outside of the input's folder changed. The same seed
gives the same inputs.
"""

import argparse
import functools
import json
import multiprocessing
import os
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import zarr

import cell2text
from cell2text.describe.cell_files import locate_cells, open_cells
from cell2text.describe.options import DescribeOptions
from cell2text.errors import exit_code
from cell2text.evaluation.predictions import check_rows, read_rows
from cell2text.files import write_atomically
from cell2text.loading import check_model_folder, damage_named
from cell2text.models import MINI
from cell2text.preparation.config import PrepareConfig
from cell2text.signatures.gene_sets import hallmark_gene_sets, read_gmt
from vocabulary_cell2text import GeneVocabulary


RESULTS = Path(__file__).resolve().parent / "results" / "fuzz.json"
SECONDS_PER_INPUT = 60
INPUTS_PER_CHILD = 100
MAX_EXAMPLES = 10
N_FILES = 11  # kinds of files, which share the inputs
EXTREME = (-1, -(2**31), 2**31 - 1, 2**62, 0, float("nan"), float("inf"), -float("inf"), 1e308)
HOSTILE_TEXTS = (
    "[" * 50_000, '{"a":' * 20_000, "\0", "\ud800", "9" * 5_000, "=cmd()", "<script>alert(1)</script>",
    "../../etc/passwd", "{{ 7*7 }}", "&a [*a, *a]", "!!python/object/apply:os.system [id]", "1e999", "\t" * 1000,
    "é" * 1000,
)  # fmt: skip

_PROCESSOR = None


def write_h5ad(folder: Path) -> Path:
    cells = cell2text.example_cells(unseen=True)[:5]
    small = cells[:, np.asarray(cells.X.sum(axis=0)).ravel().argsort()[::-1][:300]].copy()
    small.write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


def write_zarr(folder: Path, version: int = 2) -> Path:
    small = ad.read_h5ad(write_h5ad(folder))
    (folder / "cells.h5ad").unlink()
    with ad.settings.override(zarr_write_format=version), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small.write_zarr(folder / "cells.zarr")
    return folder / "cells.zarr"


def write_shards(folder: Path) -> Path:
    """Write a zarr store whose dense counts lie in two shards of compressed chunks."""
    path = write_zarr(folder, version=3)
    counts = ad.read_h5ad(write_h5ad(folder)).X.toarray()
    (folder / "cells.h5ad").unlink()
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    del root["X"]
    array = root.create_array("X", shape=counts.shape, chunks=(1, 100), shards=(3, 300), dtype=counts.dtype)
    array[:] = counts
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(path)
    return path


def write_10x(folder: Path) -> Path:
    small = ad.read_h5ad(write_h5ad(folder))
    (folder / "cells.h5ad").unlink()
    counts = small.X.T.tocsc()
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        matrix = file.create_group("matrix")
        for name, values in (
            ("data", counts.data.astype("i4")),
            ("indices", counts.indices),
            ("indptr", counts.indptr),
        ):
            matrix[name] = values
        matrix["shape"] = np.array(counts.shape, dtype="i4")
        matrix["barcodes"] = np.array(small.obs_names, dtype="S")
        features = matrix.create_group("features")
        for name in ("id", "name"):
            features[name] = np.array(small.var_names, dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * small.n_vars, dtype="S")
        features["genome"] = np.array(["GRCh38"] * small.n_vars, dtype="S")
    return folder / "filtered_feature_bc_matrix.h5"


def write_csv(folder: Path) -> Path:
    small = ad.read_h5ad(write_h5ad(folder))
    (folder / "cells.h5ad").unlink()
    small.to_df().astype(int).to_csv(folder / "counts.csv")
    return folder / "counts.csv"


def write_gene_lists(folder: Path) -> Path:
    rows = [{"cell_id": f"c{i}", "genes": ["CD3D", "CD3E", "IL7R", "TRAC", "LTB", "GNLY"][i:]} for i in range(4)]
    (folder / "lists.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "lists.jsonl"


def write_predictions(folder: Path) -> Path:
    text = "This cell is a B cell. It is most likely a naive B cell (0.62)."
    rows = [{"cell_id": f"c{i}", "prediction": text, "cell_type": "B cell", "type_probability": 0.9} for i in range(4)]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "predictions.jsonl"


def write_gmt(folder: Path) -> Path:
    sets = hallmark_gene_sets()
    lines = ["\t".join([name, "", *genes[:20]]) for name, genes in zip(sets.names[:10], sets.genes)]
    (folder / "sets.gmt").write_text("\n".join(lines) + "\n")
    return folder / "sets.gmt"


def write_yaml(folder: Path) -> Path:
    (folder / "config.yaml").write_text("max_genes: 128\nsplit: donor\nshares: {train: 0.8, test: 0.2}\nseed: 3\n")
    return folder / "config.yaml"


def write_vocabulary(folder: Path) -> Path:
    lines = (MINI / "gene_vocabulary.tsv").read_text().splitlines()[:400]
    (folder / "gene_vocabulary.tsv").write_text("\n".join(lines) + "\n")
    return folder / "gene_vocabulary.tsv"


def write_model(folder: Path) -> Path:
    for path in MINI.iterdir():
        if path.suffix in (".json", ".jinja", ".tsv"):
            shutil.copyfile(path, folder / path.name)
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    return folder / "config.json"


def read_cells(path: Path) -> None:
    options = DescribeOptions(allow_fractional=path.suffix != ".jsonl")
    with open_cells(locate_cells(path), options) as opened:
        reader = opened.reader(_PROCESSOR, options, None)
        reader.read(0, reader.n_cells)


def read_config(path: Path) -> None:
    from transformers import AutoConfig

    check_model_folder(path.parent)
    with damage_named(str(path.parent)):
        AutoConfig.from_pretrained(path.parent)


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "h5ad": (write_h5ad, read_cells),
    "zarr": (write_zarr, read_cells),
    "zarr in shards": (write_shards, read_cells),
    "10x": (write_10x, read_cells),
    "csv": (write_csv, read_cells),
    "gene lists": (write_gene_lists, read_cells),
    "predictions": (write_predictions, lambda path: check_rows(read_rows(path))),
    "gmt": (write_gmt, read_gmt),
    "yaml": (write_yaml, lambda path: PrepareConfig.from_yaml(path, inputs=["cells.h5ad"])),
    "vocabulary": (write_vocabulary, lambda path: GeneVocabulary.from_pretrained(path.parent)),
    "model": (write_model, read_config),
}


def write_sparse(folder: Path, *, columns: bool = False, zarr: bool = False) -> Path:
    """Write counts as CSR, or as CSC, in chunks without compression, so that each of their bytes can be changed."""
    small = ad.read_h5ad(write_h5ad(folder))
    (folder / "cells.h5ad").unlink()
    small.X = small.X.tocsc() if columns else small.X.tocsr()
    path = folder / f"cells.{'zarr' if zarr else 'h5ad'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (small.write_zarr if zarr else small.write_h5ad)(path)
    return path


def flip_structure(path: Path, rng: np.random.Generator) -> None:
    """Change one to three bytes of `indptr` or `indices`, or cut the array."""
    root = h5py.File(path, "r+") if path.suffix == ".h5ad" else zarr.open_group(path, mode="r+")
    name = f"X/{['indptr', 'indices'][rng.integers(2)]}"
    values = root[name][:]
    content = bytearray(values.tobytes())
    for _ in range(rng.integers(1, 4)):
        content[rng.integers(len(content))] = int(rng.integers(256))
    values = np.frombuffer(bytes(content), dtype=values.dtype)
    if rng.random() < 0.1:
        values = values[: rng.integers(len(values))]
        attributes = dict(root[name].attrs)
        del root[name]
        if path.suffix == ".h5ad":
            root[name] = values
        else:
            root.create_array(name, data=values)
        root[name].attrs.update(attributes)
    else:
        root[name][:] = values
    if path.suffix == ".h5ad":
        root.close()


def mutate(path: Path, rng: np.random.Generator) -> None:
    """Change a file, or a file of a folder, in one to four places."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        path = files[rng.integers(len(files))]
    if path.suffix in (".h5ad", ".h5") and rng.random() < 0.7:
        with suppress(OSError, KeyError, ValueError, TypeError, RuntimeError):  # an earlier mutation broke the file
            mutate_hdf5(path, rng)
        return
    content = bytearray(path.read_bytes())
    for _ in range(rng.integers(1, 5)):
        content = mutate_bytes(content, rng)
    path.write_bytes(bytes(content))


# Kinds whose structure arrays are attacked byte by byte.
STRUCTURES: dict[str, Callable[[Path], Path]] = {
    "CSR arrays": write_sparse,
    "CSC arrays": functools.partial(write_sparse, columns=True),
    "CSR arrays in zarr": functools.partial(write_sparse, zarr=True),
}
KINDS |= {name: (write, read_cells) for name, write in STRUCTURES.items()}


def declare(path: Path, rng: np.random.Generator) -> None:
    """Replace an array of an h5ad file by one that declares far more than it stores."""
    with h5py.File(path, "r+") as root:
        names: list[str] = []
        root.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        name = names[rng.integers(len(names))]
        attributes, rows = dict(root[name].attrs), [10**8, 2**29, 2**40, 2**55][rng.integers(4)]
        dtype = [root[name].dtype, "f8", "S20", h5py.string_dtype()][rng.integers(4)]
        shape = [(rows,), (rows, 3), (5, rows)][rng.integers(3)]
        chunks = [True, tuple(min(size, 2**29) for size in shape), tuple(min(size, 1000) for size in shape)]
        del root[name]
        with suppress(ValueError, TypeError):  # HDF5 limits chunks to 4 GiB; the array is missing then
            root.create_dataset(name, shape, dtype, chunks=chunks[rng.integers(3)], compression="gzip")
            root[name].attrs.update(attributes)


def exaggerate(path: Path, rng: np.random.Generator) -> None:
    """Replace one to three numbers of a model's configuration, or of its processor's."""
    path = path.with_name(["config.json", "processor_config.json"][rng.integers(2)])
    content = json.loads(path.read_text())
    for _ in range(rng.integers(1, 4)):
        places = list(_numbers(content))
        place, name = places[rng.integers(len(places))]
        place[name] = [10**7, 10**9, 10**13, -1, 2.5, *EXTREME][rng.integers(5 + len(EXTREME))]
    path.write_text(json.dumps(content))


def _numbers(content: dict | list) -> Iterator[tuple]:
    """Yield where each number is: a dictionary or list, and the key."""
    for name, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(value, (dict, list)):
            yield from _numbers(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield content, name


# Kinds whose sizes are exaggerated.
SIZES: dict[str, tuple] = {
    "declared sizes": (write_h5ad, read_cells, declare), "numbers of a model": (write_model, read_config, exaggerate),
}  # fmt: skip
NUMBERS = {name: number for number, name in enumerate([*sorted(KINDS), *SIZES])}
KINDS |= {name: (write, read) for name, (write, read, _) in SIZES.items()}


def mutate_bytes(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Return bytes with one change."""
    place = int(rng.integers(len(content) + 1)) if content else 0
    kind = rng.integers(7)
    if kind == 0 and content:
        content[min(place, len(content) - 1)] = int(rng.integers(256))
    elif kind == 1:
        del content[place : place + int(rng.integers(1, 64))]
    elif kind == 2:
        content[place:place] = rng.bytes(int(rng.integers(1, 64)))
    elif kind == 3:
        return content[:place]
    elif kind == 4:
        content[place:place] = content[place : place + int(rng.integers(1, 512))]
    elif kind == 5:
        text = HOSTILE_TEXTS[rng.integers(len(HOSTILE_TEXTS))]
        content[place:place] = text.encode("utf-8", "surrogatepass")
    else:
        digits = [i for i, byte in enumerate(content[:200_000]) if chr(byte).isdigit()]
        if digits:
            at = digits[rng.integers(len(digits))]
            content[at : at + 1] = str(EXTREME[rng.integers(len(EXTREME))]).encode()
    return content


def mutate_hdf5(path: Path, rng: np.random.Generator) -> None:
    """Replace values, shapes, types and attributes of an HDF5 file, or point it elsewhere."""
    with h5py.File(path, "r+") as root:
        names: list[str] = []
        root.visit(names.append)
        for _ in range(rng.integers(1, 4)):
            name = names[rng.integers(len(names))]
            if name not in root:
                continue
            element, kind = root[name], rng.integers(8)
            if kind == 0:
                del root[name]
            elif kind == 1:
                element.attrs[["encoding-type", "shape", "_index", "column-order"][rng.integers(4)]] = [
                    "array", "csr_matrix", -1, np.array([2**40, -3]), np.array(["x", ".."], dtype=object), b"\xff",
                ][rng.integers(6)]  # fmt: skip
            elif kind == 2:
                del root[name]
                root[name] = h5py.ExternalLink(str(path.parent.parent / "secret.h5"), "/obs")
                return  # a further mutation would write through the link
            elif kind == 3:
                del root[name]
                root[name] = h5py.SoftLink("/" + names[rng.integers(len(names))])
            elif isinstance(element, h5py.Dataset) and element.shape and element.dtype.kind in "iuf":
                values = element[()]
                flat = values.reshape(-1)
                if flat.size and kind in (4, 5):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        places = rng.integers(flat.size, size=int(rng.integers(1, 5)))
                        flat[places] = np.array(EXTREME)[rng.integers(len(EXTREME), size=len(places))].astype(
                            flat.dtype
                        )
                elif kind == 6:
                    values = flat[: int(rng.integers(flat.size + 1))]
                else:
                    values = rng.permutation(flat)
                del root[name]
                root[name] = values
            elif isinstance(element, h5py.Dataset):
                text = HOSTILE_TEXTS[rng.integers(len(HOSTILE_TEXTS))].encode("utf-8", "replace")[:30_000]
                del root[name]
                root[name] = [text.replace(b"\0", b"0"), 5, np.array([[1.5]])][rng.integers(3)]


def run_child(kind: str, numbers: list[int], seed: int, folder: str, valid: Path, reports) -> None:
    """Read inputs one after another and report each outcome."""
    warnings.simplefilter("ignore")
    read = KINDS[kind][1]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for number in numbers:
        place = Path(folder) / str(number)
        shutil.copytree(valid.parent, place)
        path = place / valid.name
        change = flip_structure if kind in STRUCTURES else SIZES[kind][2] if kind in SIZES else mutate
        change(path, np.random.default_rng([seed, NUMBERS[kind], number]))
        reports.put((number, "started", ""))
        outcome, words = "read", ""
        try:
            read(path)
        except Exception as error:
            outcome = "fault" if exit_code(error) is None else "refused"
            words = "".join(traceback.format_exception(error)[-3:])[-1500:] if outcome == "fault" else ""
        reports.put((number, outcome, words))
        shutil.rmtree(place, ignore_errors=True)


def fuzz(kind: str, n_inputs: int, seed: int) -> dict:
    """Return the outcomes of inputs of one kind, with examples of those that should not happen."""
    outcomes: Counter = Counter()
    examples: list[dict] = []
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "secret.h5"
        with h5py.File(secret, "w") as root:
            root["obs"] = [1, 2, 3]
        before, valid_folder = secret.read_bytes(), Path(folder) / "valid"
        valid_folder.mkdir()
        valid = KINDS[kind][0](valid_folder)
        KINDS[kind][1](valid)
        waiting = list(range(n_inputs))
        while waiting:
            batch = waiting[:INPUTS_PER_CHILD]
            reports = context.SimpleQueue()
            child = context.Process(target=run_child, args=(kind, batch, seed, folder, valid, reports))
            child.start()
            current, began = None, time.monotonic()
            while batch:
                if not reports.empty():
                    number, outcome, words = reports.get()
                    current, began = number, time.monotonic()
                    if outcome != "started":
                        batch.remove(number)
                        waiting.remove(number)
                        outcomes[outcome] += 1
                        if words and len(examples) < MAX_EXAMPLES:
                            examples.append({"input": number, "outcome": outcome, "words": words})
                    continue
                ended = not child.is_alive() and reports.empty()
                if ended or time.monotonic() - began > SECONDS_PER_INPUT + (30 if current is None else 0):
                    outcome = "signal" if ended else "slow"
                    lost = batch[0] if current is None or current not in batch else current
                    waiting.remove(lost)
                    outcomes[outcome] += 1
                    examples.append({"input": lost, "outcome": outcome, "words": f"exit code {child.exitcode}"})
                    child.kill()
                    break
                time.sleep(0.002)
            child.join()
        if secret.read_bytes() != before:
            outcomes["changed"] += 1
    return {"inputs": n_inputs, **dict(sorted(outcomes.items())), "examples": examples[:MAX_EXAMPLES]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--inputs", type=int, default=10_000, help="number of inputs of eleven kinds of files, and of all sparse arrays"
    )
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS), help="defaults to all")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the mutations")
    parser.add_argument("--out", type=Path, default=RESULTS, help="json file; kinds that it has already are kept")
    args = parser.parse_args()
    global _PROCESSOR
    _PROCESSOR = cell2text.load(device="cpu")[1]
    found = json.loads(args.out.read_text())["kinds"] if args.out.exists() else {}
    for kind in args.kinds:
        found[kind] = fuzz(kind, args.inputs // (len(STRUCTURES) if kind in STRUCTURES else N_FILES), args.seed)
        print(kind, {key: value for key, value in found[kind].items() if key != "examples"}, flush=True)
        for example in found[kind]["examples"][:3]:
            print("   ", example["input"], example["outcome"], example["words"][-600:], flush=True)
    total = Counter()
    for one in found.values():
        total.update({key: value for key, value in one.items() if key != "examples"})
    print(dict(total))
    write_atomically(args.out, json.dumps({"seed": args.seed, "total": dict(total), "kinds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

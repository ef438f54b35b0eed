"""A file is described a shard of rows at a time, by one process or many; what is done is kept, and merged at the end.

    INPUT -> shards of rows (OUT.describing/rows-*.parquet, each whole or not there) -> OUT

A process that is killed loses the shard it was at. The shards do not depend on how many processes there are, and so
neither do the texts.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path, PurePosixPath
from textwrap import fill

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from cell2text.describe.engine import ID, TEXT, Describer
from cell2text.describe.groups import describe_groups
from cell2text.describe.inputs import CellFile, check_second, find_file
from cell2text.describe.options import DescribeOptions
from cell2text.describe.provenance import provenance
from cell2text.describe.writers import TABLES, format_of, groups_path, read_shards, write_output
from cell2text.errors import UserError
from cell2text.files import check_output_folder, write_atomically
from cell2text.loading import default_device, load_model, model_name


SHARD = 1024  # rows: what a kill may lose, and what is sorted by length together
PLAN, WAIT = "plan.json", 0.2
SHOWN, WIDTH = 5, 100  # texts that are printed at the end, and their lines


def describe_file(
    source: str | os.PathLike, out: str | os.PathLike | None = None, *, model: str | None = None,
    options: DescribeOptions | None = None, overwrite: bool = False, device: str | None = None,
    progress: bool = True, shard_rows: int = SHARD,
) -> Path | None:  # fmt: skip
    """Describe every cell of a file.

    Parameters
    ----------
    source
        An h5ad file or zarr store with raw counts.
    out
        Where the result goes; its ending says how: h5ad and zarr (the input with what was said), jsonl, parquet, csv.
        A table of groups goes into the first two's `uns`, or into a file beside the others, `NAME.groups.ENDING`.
        `NAME.described.h5ad` (or zarr) in the current folder if left out.
    model
        Folder or Hub id of a Cell2Text model; the one that ships with the package if left out.
    options
        What is asked.
    overwrite
        Replace `out` and its table of groups, and forget what an earlier run with other options had done.
    device
        Such as `cuda:1`; the best there is if left out.
    progress
        Show how far it is, and at the end some of the texts.
    shard_rows
        Rows of a shard.

    Returns
    -------
    `out`, which is written whole or not at all; None on all processes but the first, which alone writes it.

    Raises
    ------
    ValueError
        If the input cannot be read or holds no counts of human genes, the output exists, lies inside the input or has
        another ending, the model is no Cell2Text model, or an unfinished run with other options left its shards.
    """
    if shard_rows < 1:
        raise UserError(f"shard_rows={shard_rows}: expected at least 1.")
    options = options or DescribeOptions()
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    found = find_file(str(source))
    out = described_path(found.url) if out is None else Path(out)
    # The first process may have finished already.
    check_output(found.url, out, overwrite=overwrite or rank > 0)
    loaded, processor = load_model(model, device or default_device())
    cells = CellFile(found, processor, options)
    if not cells.n_cells:
        cells.close()
        raise UserError(f"{source} holds no cell.")
    try:
        second = None
        if options.compare_to is not None:
            row = cells.find(options.compare_to)
            second = cells.read(row, row + 1).cells[0]
            check_second(second, processor, options)
        describer = Describer(loaded, processor, options, second)
        params = provenance(loaded, processor, describer.chat, options, model_name(model), cells.groups)
        plan = {"source": identity(found.url), "rows": cells.n_cells, "shard_rows": shard_rows, "params": params}
        folder = open_folder(out, plan, overwrite=overwrite, first=rank == 0)
        if folder is None:
            return None
        starts = range(0, cells.n_cells, shard_rows)
        with tqdm(total=cells.n_cells if ranks == 1 else None, unit=" cells", disable=not progress or rank > 0) as bar:
            for start in starts[rank::ranks]:
                stop = min(start + shard_rows, cells.n_cells)
                path = shard_path(folder, start)
                if not path.exists():
                    write_shard(describer(cells.read(start, stop)), path)
                bar.update(stop - start)
        if rank > 0:
            return None
        shards = [shard_path(folder, start) for start in starts]
        wait_for(shards)
        groups = None
        if cells.groups is not None:
            groups = describe_groups(cells.groups, read_shards(shards), describer(cells.pseudobulk(cells.groups)))
    finally:
        cells.close()
    write_output(found, out, shards, params, groups)
    shown = [] if options.fields_only or not progress else some_texts(shards[0])
    shutil.rmtree(folder)
    for head, text in shown:
        lines = f"{head}\n{fill(text, WIDTH, break_on_hyphens=False)}\n"
        encoding = sys.stdout.encoding or "utf-8"
        print(lines.encode(encoding, "replace").decode(encoding))
    return out


def some_texts(shard: Path) -> list[tuple[str, str]]:
    """Headings and texts of some of a shard's cells, so that one sees what was written."""
    table = pq.read_table(shard, columns=[ID, TEXT, "type_probability"])
    table = table.filter(table[TEXT].is_valid())
    rows = table.take(np.linspace(0, len(table) - 1, min(SHOWN, len(table))).astype(int)).to_pylist()
    return [(heading(row[ID], row["type_probability"]), row[TEXT]) for row in rows]


def heading(name: str, type_probability: float | None) -> str:
    """A cell's name, and how probable the model takes the type that it named, where it tells that."""
    return name if type_probability is None else f"{name} (type probability {type_probability:.2f})"


def described_path(url: str) -> Path:
    """Where the result goes if nothing is said: into the current folder, under the input's name."""
    name = PurePosixPath(url.rstrip("/")).name
    suffix = ".zarr" if name.endswith(".zarr") else ".h5ad"
    return Path(name.removesuffix(suffix) + ".described" + suffix)


def check_output(source: str, out: Path, *, overwrite: bool) -> None:
    """Refuse an output that would harm the input, or another file."""
    format_of(out)
    inside = Path(source.removeprefix("file://")).resolve()
    if out.resolve() == inside or inside in out.resolve().parents:
        raise UserError(f"--out {out} is the input or lies inside it, and the input is never changed: choose another.")
    goes_on = (shards_folder(out) / PLAN).exists()  # it may have ended between its two tables
    for path in (out, groups_path(out)) if out.suffix in TABLES and not goes_on else (out,):
        if path.exists() and not overwrite:
            raise UserError(f"--out {path} exists already: pass --overwrite, or choose another path.")
    check_output_folder(out)


def identity(url: str) -> dict:
    """What tells a file from another, or from itself after a change, without reading it."""
    path = Path(url.removeprefix("file://"))
    if not path.exists():
        return {"url": url}
    stat = path.stat()
    return {"url": url, "bytes": stat.st_size, "changed": stat.st_mtime_ns}


def shards_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.describing")


def open_folder(out: Path, plan: dict, *, overwrite: bool, first: bool) -> Path | None:
    """The folder of the shards beside the output; the first process makes it, the others wait for it.

    None for another process that comes when the first has found all shards, and is done.

    Raises
    ------
    ValueError
        If it belongs to a run with another input, model or options.
    """
    folder = shards_folder(out)
    path = folder / PLAN
    text = json.dumps(plan, indent=1, sort_keys=True) + "\n"
    if first:
        if path.exists() and path.read_text(encoding="utf-8") != text:
            if not overwrite:
                before = json.loads(path.read_text(encoding="utf-8"))
                raise UserError(
                    f"{folder} was left by a run with another {', another '.join(differing(before, plan))}: pass "
                    "--overwrite to forget it, or finish that run first."
                )
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        write_atomically(path, text)
    started = psutil.Process().create_time()
    while not first and not same_plan(path, text):
        if not folder.exists() and out.exists() and out.stat().st_mtime > started:
            return None
        time.sleep(WAIT)
    return folder


def same_plan(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except FileNotFoundError:  # not yet there, or there no more
        return False


def differing(before: dict, now: dict) -> list[str]:
    flat = [{**{k: v for k, v in plan.items() if k != "params"}, **plan["params"]} for plan in (before, now)]
    return sorted(name for name in {*flat[0], *flat[1]} if flat[0].get(name) != flat[1].get(name))


def shard_path(folder: Path, start: int) -> Path:
    return folder / f"rows-{start:010d}.parquet"


def write_shard(table: pa.Table, path: Path) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        pq.write_table(table, partial, compression="zstd")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def wait_for(shards: list[Path]) -> None:
    """Wait until the other processes have written their shards. Their launcher ends this one where one of them dies."""
    while not all(path.exists() for path in shards):
        time.sleep(WAIT)

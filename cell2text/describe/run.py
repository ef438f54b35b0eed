"""Describe a file shard by shard, with one process or many, and merge the shards into the output.

    INPUT -> shards of rows (OUT.describing/rows-*.parquet, each complete or absent) -> OUT

An interrupted run resumes with the shards it has. Shards do not depend on the number of processes, so texts do not
either. Processes find each other through the environment variables `RANK` and `WORLD_SIZE`, which `accelerate launch`
and `torchrun` set, and wait for each other through files, so describing does not need the `train` extra.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from tqdm import tqdm

from cell2text.describe.cell_files import default_output, locate_cells, open_cells
from cell2text.describe.engine import Describer
from cell2text.describe.gene_lists import GeneListReader
from cell2text.describe.group_summary import group_table
from cell2text.describe.inputs import CellReader
from cell2text.describe.options import DescribeOptions
from cell2text.describe.provenance import provenance
from cell2text.describe.shard_writing import CellProgress, ShardWriter, WorkerArguments, write_shards
from cell2text.describe.shards import ShardFolder, wait_for
from cell2text.describe.summary import speed_line, summarise, summary_for_uns, summary_line
from cell2text.describe.table import ID, TEXT
from cell2text.describe.thin_cells import thin_warnings
from cell2text.describe.writers import TABLES, format_of, groups_path, read_shards, write_output
from cell2text.errors import UserError
from cell2text.loading import default_device, load_model, model_name
from cell2text.paths import check_output
from cell2text.sources.discovery import ZARR_METADATA
from cell2text.sources.safety import check_unchanged, file_identity


logger = logging.getLogger(__name__)

ROWS_PER_SHARD = 1024  # an interrupted run recomputes at most this many; cells of a shard are sorted by length together
PRINTED_TEXTS, LINE_WIDTH = 5, 100


def describe_file(
    source: str | os.PathLike, out: str | os.PathLike | None = None, *, model: str | None = None,
    options: DescribeOptions | None = None, overwrite: bool = False, device: str | None = None,
    progress: bool = True, shard_rows: int = ROWS_PER_SHARD, on_progress: Callable[[int, int], object] | None = None,
    processes: int | None = 1,
) -> Path | None:  # fmt: skip
    """Describe every cell of a file and write the result to a new file.

    Parameters
    ----------
    source
        File with raw counts, such as h5ad or zarr, or file of ranked gene lists; see
        :func:`cell2text.describe.gene_list_files.read_gene_lists`. A path, or an address that fsspec can open.
    out
        Output. The format follows from the suffix: `.h5ad` and `.zarr` hold the input with the descriptions added,
        `.jsonl`, `.parquet` and `.csv` one row per cell. The table of groups is written to `uns` of the first two,
        and beside a plain table to `NAME.groups.SUFFIX`. Defaults to `NAME.described.h5ad` (or `.zarr`, or `.csv` for
        gene lists) in the current folder.
    model
        Folder or Hub id of a Cell2Text model. Defaults to the bundled model.
    options
        Prompt, counts, groups and text length. Defaults to `DescribeOptions()`.
    overwrite
        Replace `out` and its table of groups, and columns of the input that hold earlier descriptions; discard the
        shards of an interrupted run with other options.
    device
        Torch device, such as `cuda:1`. Defaults to a GPU if there is one, otherwise to the CPU.
    progress
        Show a progress bar, and print some of the texts at the end.
    shard_rows
        Cells per shard; an interrupted run recomputes at most this many. Texts do not depend on it.
    on_progress
        Called with the number of described cells and the number of all cells: before the first shard, and after each
        shard. None for no calls.
    processes
        Number of processes on a CPU; each describes shards on one thread. None starts one per core, fewer if memory is
        short. A GPU is always used by one process. Texts do not depend on it.

    Returns
    -------
    The path `out`. It is written completely or not at all, by the process of rank 0; other processes return None.

    Raises
    ------
    UserError
        If the input cannot be read or holds no counts of human genes; if the output exists, lies inside the input or
        has an unknown suffix; if the model is not a Cell2Text model; or if an interrupted run with other options left
        its shards.

    Examples
    --------
    >>> import tempfile
    >>> from cell2text.example import example_cells
    >>> folder = tempfile.mkdtemp()
    >>> example_cells()[:2].copy().write_h5ad(f"{folder}/cells.h5ad")
    >>> options = DescribeOptions(allow_fractional=True, max_new_tokens=8)
    >>> describe_file(f"{folder}/cells.h5ad", f"{folder}/texts.csv", options=options, progress=False).name
    'texts.csv'
    """
    for name, value in (("shard_rows", shard_rows), ("processes", processes)):
        if value is not None and value < 1:
            raise UserError(f"{name}={value}: expected at least 1.")
    options, started = options or DescribeOptions(), time.monotonic()
    rank, n_ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    found = locate_cells(source)
    out = default_output(found) if out is None else Path(out)
    _check_output(found.url, out, overwrite=overwrite or rank > 0)  # rank 0 may have finished already
    identity = file_identity(found.url)
    with open_cells(found, options) as opened:
        if not opened.n_cells:
            raise UserError(f"{source} holds no cells.")
        opened.check_output(out, overwrite=overwrite)
        loaded, processor = load_model(model, device or default_device(), bf16=options.bf16)
        cells = opened.reader(processor, options, loaded.config.concepts)
        for note in cells.reading()["notes"]:
            logger.warning(f"{found.name}: {note}")
        comparison = cells.comparison_cell()
        describer = Describer(loaded, processor, options, comparison)
        params = provenance(loaded, processor, describer.conversation, options, model_name(model), cells.groups)
        plan = {"source": identity, "rows": cells.n_cells, "shard_rows": shard_rows, "params": params}
        starts, folder = range(0, cells.n_cells, shard_rows), ShardFolder(out)
        progress_bar = tqdm(
            total=cells.n_cells if n_ranks == 1 else None, unit=" cells", disable=not progress or rank > 0
        )

        writer = ShardWriter(cells, describer, out, shard_rows)
        arguments = WorkerArguments(found, options, (loaded, processor), comparison, out, shard_rows)

        def describe_rows() -> None:
            with progress_bar:
                counted = CellProgress(cells.n_cells, on_progress, progress_bar)
                write_shards(writer, arguments, starts[rank::n_ranks], processes, counted)

        if rank > 0:
            if folder.join(plan):
                describe_rows()
            return None
        with folder.hold(plan, overwrite=overwrite):
            n_new = sum(min(shard_rows, cells.n_cells - start) for start in starts if not folder.shard(start).exists())
            describe_rows()
            shards = [folder.shard(start) for start in starts]
            wait_for(shards)
            groups = _describe_groups(describer, cells, shards)
            summary = summarise(cells.reading(), read_shards(shards), processor.min_genes)
            for text in thin_warnings(summary, processor.min_genes):
                logger.warning(f"{found.name}: {text}")
            added = {"params": params, "reading": summary_for_uns(summary)}
            write_output(
                found, folder, shards, added, groups, plain_csv=options.plain_csv,
                check=lambda: check_unchanged(identity, found.name),
            )  # fmt: skip
            texts = _example_texts(shards[0]) if progress and not options.fields_only else []
            folder.clear()
    encoding = sys.stdout.encoding or "utf-8"
    lines = [summary_line(summary), speed_line(n_new, time.monotonic() - started)] if progress else []
    for text in [*texts, *lines]:
        print(text.encode(encoding, "replace").decode(encoding))
    return out


def _describe_groups(
    describer: Describer, cells: CellReader | GeneListReader, shards: Sequence[Path]
) -> pd.DataFrame | None:
    """Return the table of groups, None without groups."""
    if isinstance(cells, GeneListReader) or cells.groups is None:
        return None
    return group_table(describer, cells, read_shards(shards))


def _example_texts(shard: Path) -> list[str]:
    """Return headings and wrapped texts of a few cells of a shard, evenly spaced."""
    table = pq.read_table(shard, columns=[ID, TEXT, "type_probability"])
    table = table.filter(table[TEXT].is_valid())
    rows = table.take(np.linspace(0, len(table) - 1, min(PRINTED_TEXTS, len(table))).astype(int)).to_pylist()
    return [
        f"{cell_heading(row[ID], row['type_probability'])}\n{fill(row[TEXT], LINE_WIDTH, break_on_hyphens=False)}\n"
        for row in rows
    ]


def cell_heading(name: str, type_probability: float | None) -> str:
    """Return a cell's name with its type probability, if the model provides one."""
    return name if type_probability is None else f"{name} (type probability {type_probability:.2f})"


def _check_output(source: str, out: Path, *, overwrite: bool) -> None:
    """Raise a `UserError` if writing the output would change the input or replace another file."""
    check_output(out, folder=format_of(out) == "zarr")
    inside = Path(source.removeprefix("file://")).resolve()
    written = (out, groups_path(out)) if out.suffix in TABLES else (out,)
    if any(path.resolve() == inside or inside in path.resolve().parents for path in written):
        raise UserError(
            f"out={str(out)!r} or its table of groups is the input or lies inside it, and the input is never changed. "
            "Choose another path."
        )
    resumes = ShardFolder(out).has_plan  # then the table of groups may exist before `out` does
    if out.is_dir() and not any((out / name).is_file() for name in ZARR_METADATA) and any(out.iterdir()):
        raise UserError(f"out={str(out)!r} is a folder of other files, not a zarr store. Choose another path.")
    for path in (out,) if resumes else written:
        if path.exists() and not overwrite:
            raise UserError(f"out={str(path)!r} exists. Pass overwrite=True to replace it, or choose another path.")

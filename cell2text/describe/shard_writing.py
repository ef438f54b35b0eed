"""Describe the shards of a file, in this process or in several. Shards do not depend on the number of processes."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
from tqdm import tqdm

from cell2text.describe.cell_files import open_cells
from cell2text.describe.engine import Describer
from cell2text.describe.gene_lists import GeneListReader
from cell2text.describe.inputs import CellReader
from cell2text.describe.options import DescribeOptions
from cell2text.describe.ranked_cells import RankedCells
from cell2text.describe.shards import ShardFolder, write_shard
from cell2text.processes import ForkedWorkers, available_cores, run_calls
from cell2text.sources.discovery import SourceLocation


BYTES_PER_WORKER = 2**30  # free memory that a process needs beside the shared weights, at most


@dataclass
class ShardWriter:
    """Writes shards of described cells.

    Parameters
    ----------
    cells
        Reader of the input.
    describer
        Describes ranked cells.
    out
        The output that the shards belong to.
    shard_rows
        Cells per shard.
    """

    cells: CellReader | GeneListReader
    describer: Describer
    out: Path
    shard_rows: int

    def write(self, start: int) -> int:
        """Write the shard whose first row is `start`, unless it exists; return its number of cells."""
        stop, path = min(start + self.shard_rows, self.cells.n_cells), ShardFolder(self.out).shard(start)
        if not path.exists():
            write_shard(self.describer(self.cells.read(start, stop)), path)
        return stop - start


@dataclass
class WorkerArguments:
    """What a worker process needs to open the input again and to describe it."""

    found: SourceLocation
    options: DescribeOptions
    loaded: tuple
    comparison: RankedCells | None
    out: Path
    shard_rows: int

    def open(self) -> ShardWriter:
        """Open the input in this process, for as long as the process runs."""
        opened, (model, processor) = _opened.enter_context(open_cells(self.found, self.options)), self.loaded
        cells = opened.reader(processor, self.options, model.config.concepts)
        describer = Describer(model, processor, self.options, self.comparison)
        return ShardWriter(cells, describer, self.out, self.shard_rows)


class CellProgress:
    """A progress bar, and a function that is called with the number of described cells and of all cells."""

    def __init__(self, total: int, on_progress: Callable[[int, int], object] | None, bar: tqdm):
        self.done, self.total, self.on_progress, self.bar = 0, total, on_progress, bar

    def update(self, n_cells: int) -> None:
        self.done += n_cells
        self.bar.update(n_cells)
        if self.on_progress is not None:
            self.on_progress(self.done, self.total)


def number_of_processes(processes: int | None, device_type: str, n_shards: int) -> int:
    """Return how many processes describe `n_shards` shards; see :func:`cell2text.describe.run.describe_file`."""
    if device_type != "cpu":
        return 1
    if processes is None:
        free_bytes = psutil.virtual_memory().available
        processes = min(available_cores(), free_bytes // BYTES_PER_WORKER) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(processes, n_shards))


def write_shards(
    writer: ShardWriter, arguments: WorkerArguments, starts: Sequence[int], processes: int | None,
    progress: CellProgress,
) -> None:  # fmt: skip
    """Write the shards that begin at `starts`.

    Parameters
    ----------
    writer
        Writes shards in this process.
    arguments
        The same for worker processes.
    processes
        See :func:`cell2text.describe.run.describe_file`.

    Raises
    ------
    RunStoppedError
        If a worker process is killed.
    """
    progress.update(0)
    missing = [start for start in starts if not ShardFolder(writer.out).shard(start).exists()]
    workers = number_of_processes(processes, writer.describer.model.device.type, len(missing))
    if workers == 1:
        for start in starts:
            progress.update(writer.write(start))
        return
    with ForkedWorkers(workers, _open_worker, arguments) as pool:
        run_calls(pool, [(_write_in_worker, start) for start in starts], progress.update, "with a smaller processes=")


_opened = ExitStack()
_writers: list[ShardWriter] = []  # that of this worker process


def _open_worker(arguments: WorkerArguments) -> None:
    _writers.append(arguments.open())


def _write_in_worker(start: int) -> int:
    return _writers[0].write(start)

"""The folder of an unfinished run, `OUT.describing`: its lock, its plan and the shards that are done.

    lock, holder.json        held while a run writes; names the process and the machine
    plan.json                input, model and options that the shards belong to
    rows-*.parquet           described cells, each file complete or absent
    output.*                 the output while it is written

    before.*                 the former output while a new one replaces it

Only these files, and temporary files of theirs, are ever removed. Depends on filelock, psutil and pyarrow.
"""

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from cell2text.errors import UserError
from cell2text.files import atomic_path, lock_folder, remove, write_atomically


PLAN_FILE = "plan.json"
POLL_SECONDS = 0.2
_OWN_FILE = re.compile(
    r"plan\.json|rows-\d{10}\.parquet|(output|before)(\.groups)?\.\w+|\.(plan\.json|holder\.json|rows-\d{10}\.parquet|output(\.groups)?\.\w+)\.\d+\.partial"
)


class ShardFolder:
    """The shards of one output.

    Parameters
    ----------
    out
        The output.
    """

    def __init__(self, out: Path):
        self.out, self.path = out, out.with_name(f"{out.name}.describing")
        self.unfinished, self.previous = self.path / f"output{out.suffix}", self.path / f"before{out.suffix}"

    @property
    def has_plan(self) -> bool:
        """Whether an interrupted run left a plan."""
        return (self.path / PLAN_FILE).exists()

    def shard(self, start: int) -> Path:
        """Return the path of the shard whose first row is `start`."""
        return self.path / f"rows-{start:010d}.parquet"

    @contextmanager
    def hold(self, plan: dict, *, overwrite: bool) -> Iterator[None]:
        """Hold the lock, and keep the shards of an interrupted run with the same plan, during the block.

        A run that is refused, or ends before its first shard, leaves nothing.

        Parameters
        ----------
        plan
            Input, model and options, ready for JSON.
        overwrite
            Discard the shards of a run with another plan.

        Raises
        ------
        BusyError
            If another run holds the lock.
        UserError
            If the folder belongs to a run with another plan.
        """
        with lock_folder(self.path, self.out):
            self._recover_output()
            self._check_plan(plan, overwrite=overwrite)
            write_atomically(self.path / PLAN_FILE, _as_text(plan))
            try:
                yield
            except UserError:  # the shards are of no use for the corrected input
                self.clear()
                raise
            finally:
                remove(self.unfinished)
                if not any(self.path.glob("rows-*.parquet")):
                    self.clear()

    def clear(self) -> None:
        """Remove the files of this run, and no others."""
        for path in sorted(self.path.iterdir()):
            if _OWN_FILE.fullmatch(path.name):
                remove(path)

    def join(self, plan: dict) -> bool:
        """Wait until the first process has written its plan; return False if it has finished already."""
        started, path, text = psutil.Process().create_time(), self.path / PLAN_FILE, _as_text(plan)
        while not _holds(path, text):
            if not self.path.exists() and self.out.exists() and self.out.stat().st_mtime > started:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _recover_output(self) -> None:
        """Put back the output that an interrupted run had moved aside to replace it."""
        if self.previous.exists() and not self.out.exists():
            self.previous.replace(self.out)

    def _check_plan(self, plan: dict, *, overwrite: bool) -> None:
        path = self.path / PLAN_FILE
        if not path.exists() or _holds(path, _as_text(plan)):
            return
        if not overwrite:
            before = json.loads(path.read_text(encoding="utf-8"))
            raise UserError(
                f"{self.path} was left by an interrupted run with different {', '.join(_differences(before, plan))}. "
                "Pass overwrite=True to discard it, or finish that run first."
            )
        self.clear()


def write_shard(table: pa.Table, path: Path) -> None:
    """Write a shard; other processes see the complete file or none."""
    with atomic_path(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def wait_for(shards: Sequence[Path]) -> None:
    """Wait until the other ranks have written their shards; if one dies, its launcher ends this process."""
    while not all(path.exists() for path in shards):
        time.sleep(POLL_SECONDS)


def _as_text(plan: dict) -> str:
    return json.dumps(plan, indent=1, sort_keys=True) + "\n"


def _holds(path: Path, text: str) -> bool:
    """Return whether a file exists and holds a text."""
    try:
        return path.read_text(encoding="utf-8") == text
    except FileNotFoundError:
        return False


def _differences(before: dict, now: dict) -> list[str]:
    """Return the names of the settings in which two plans differ."""
    flat = [{**{k: v for k, v in plan.items() if k != "params"}, **plan["params"]} for plan in (before, now)]
    return sorted(name for name in {*flat[0], *flat[1]} if flat[0].get(name) != flat[1].get(name))

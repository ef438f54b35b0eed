"""Kill, terminate and crowd runs of the commands, and let their disk run full; then compare what they finally write.

    PYTHONPATH=. python benchmarks/interruptions.py                 # benchmarks/results/interruptions.json
    PYTHONPATH=. python benchmarks/interruptions.py kill --times 10 --commands describe prepare

`kill`: SIGKILL at a random moment of a run; the same command then finishes, and every byte of its
output equals that of the undisturbed run. `terminate`: SIGTERM; afterwards no process, lock or temporary file is left,
and the command finishes to the same bytes. `crowd`: two runs into one output; one finishes, the other names the holder
of the lock. `disk`: a disk of random size runs full; the message is one line, no partial output file is left, and with
room the command finishes to the same bytes (needs root, to mount a small file system).

A run is a fork of this process, which has imported the libraries, and otherwise what the command line does.
"""

import argparse
import functools
import hashlib
import json
import multiprocessing.util
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import torch
import yaml

import cell2text
import cell2text.describe.run
import cell2text.training.sft  # forked runs need not import it
from cell2text import cli
from cell2text.errors import exit_on_sigterm, guard
from cell2text.files import write_atomically
from cell2text.preparation.run import prepare
from cell2text.training.arguments import Cell2TextArguments
from cell2text.training.launch import run_script
from train_sft import main as train
from train_sft import parse_arguments


RESULTS = Path(__file__).resolve().parent / "results" / "interruptions.json"
PROJECT = Path(__file__).resolve().parents[1]
TIMES = {"kill": 100, "terminate": 20, "crowd": 20, "disk": 20}
TRAINING = {
    "encoder_hidden_size": 16, "encoder_layers": 1, "encoder_heads": 2, "decoder_hidden_size": 16,
    "decoder_layers": 1, "decoder_heads": 2, "decoder_vocab_size": 400, "num_cell_tokens": 2, "max_genes": 32,
    "concept_pretraining_epochs": 0, "num_train_epochs": 1, "per_device_train_batch_size": 4, "max_new_tokens": 8,
    "report_to": "none", "bf16": False, "eval_strategy": "no", "cpu_threads": 1, "disable_tqdm": True,
    "describe_held_out": False, "max_steps": 8, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2,
    "resume_from_checkpoint": "true",
}  # fmt: skip
SECONDS_TO_END, POLL_SECONDS = 10, 0.002
N_GENES = 3_000  # of the inputs, the most expressed ones: reading the names of genes is most of a short preparation
LOCKS = ("lock", "holder.json")


def run_cli(*arguments: object) -> Callable[[], None]:
    def call() -> None:
        sys.argv = ["cell2text", *map(str, arguments)]
        cli.run()

    return call


def run_prepare(inputs: Path, out: Path) -> Callable[[], None]:
    """Prepare in shards that are smaller than the command line allows."""

    def call() -> None:
        exit_on_sigterm()
        files = [inputs / "a.h5ad", inputs / "b.h5ad"]
        prepared = functools.partial(prepare, files, out, workers=4, progress=False, split="random", cells_per_shard=20)
        raise SystemExit(guard("prepare", prepared, flags={}))

    return call


def run_training(inputs: Path, out: Path) -> Callable[[], None]:
    config = yaml.safe_load((PROJECT / "configs" / "default.yaml").read_text())
    config |= TRAINING | {"output_dir": str(out), "dataset": [str(inputs / "a.h5ad")]}
    path = out.parent / "config.yaml"

    def call() -> None:
        path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))
        os.chdir(out.parent)
        sys.argv = ["train_sft.py", "--config", str(path)]
        raise SystemExit(run_script("train_sft.py", "", train, parse_arguments, Cell2TextArguments))

    return call


def describe(inputs: Path, out: Path, processes: int) -> Callable[[], None]:
    options = ("--shard-rows", 16, "--processes", processes, "--device", "cpu", "--quiet")
    return run_cli("describe", inputs / "a.h5ad", "--out", out, *options)


COMMANDS: dict[str, tuple[str, Callable[[Path, Path], Callable[[], None]]]] = {
    "describe": ("out.h5ad", lambda inputs, out: describe(inputs, out, 1)),
    "describe_2": ("out.h5ad", lambda inputs, out: describe(inputs, out, 2)),
    "prepare": ("out", run_prepare),
    "train": ("out", run_training),
}


def start(call: Callable[[], None], log: Path) -> int:
    """Fork a process that calls a function, with its output in a file; return its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()  # its children can be found
        sys.modules["__main__"].__file__ = None  # workers of `prepare` need not import this script
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        call()
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        multiprocessing.util._exit_function()  # not all of `atexit`: the temporary folder is not ours
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(process: int) -> int:
    """Return the exit code of a forked process, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def members(session: int) -> list[psutil.Process]:
    """Return the living processes of a forked run's session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def left_after(session: int) -> int:
    """Return how many processes of a run's session live some seconds after the run."""
    deadline = time.monotonic() + SECONDS_TO_END
    while members(session) and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(members(session))


def digest(path: Path) -> str:
    """Hash the names and bytes of an output; of a training run, of the model that it leaves."""
    found = hashlib.sha256()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    if (path / "model.safetensors").exists():
        files = [path / "model.safetensors", path / "config.json"]
    for file in files:
        if file.is_file():
            found.update(str(file.relative_to(path.parent)).encode() + file.read_bytes())
    return found.hexdigest()


class Trial:
    """A command, its inputs, and what an undisturbed run of it writes."""

    def __init__(self, name: str, folder: Path):
        self.inputs, self.folder = folder / "inputs", folder / name
        self.file, self.command = COMMANDS[name]
        out = self.fresh("undisturbed") / self.file
        self.finish(out)
        started = time.monotonic()
        self.finish(self.fresh("timed") / self.file)
        self.seconds, self.expected = time.monotonic() - started, digest(out)
        self.size = sum(file.stat().st_size for file in out.parent.rglob("*") if file.is_file())

    def fresh(self, name: str) -> Path:
        """Return an empty folder."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).mkdir(parents=True)
        return self.folder / name

    def start(self, out: Path, log: str = "log") -> int:
        return start(self.command(self.inputs, out), out.parent.parent / log)

    def finish(self, out: Path) -> None:
        """Run the command to its end, unless its output is there already."""
        if out.is_file():
            return
        code = wait(self.start(out))
        if code:
            raise RuntimeError(f"Exit code {code}: {(out.parent.parent / 'log').read_text()[-2000:]}")

    def interrupt(self, name: str, number: int, lot: random.Random) -> tuple[Path, int, int]:
        """Send a signal to a run at a random moment; return its output, its id and its exit code.

        A run that ends before its moment is not counted: it is faster than the timed one, and is run again.
        """
        while True:
            out = self.fresh(name) / self.file
            started, moment = time.monotonic(), lot.uniform(0, self.seconds)
            process = self.start(out)
            while time.monotonic() < started + moment:
                ended, _ = os.waitpid(process, os.WNOHANG)
                if ended:
                    self.seconds = time.monotonic() - started
                    break
                time.sleep(POLL_SECONDS)
            else:
                os.kill(process, number)
                return out, process, wait(process)


def kill(trial: Trial, lot: random.Random) -> dict:
    out, process, code = trial.interrupt("killed", signal.SIGKILL, lot)
    left = left_after(process)
    trial.finish(out)
    return {"killed": code == -signal.SIGKILL, "processes_left": left, "equal": digest(out) == trial.expected}


def terminate(trial: Trial, lot: random.Random) -> dict:
    out, process, code = trial.interrupt("terminated", signal.SIGTERM, lot)
    alive = left_after(process)
    left = [file for file in out.parent.rglob("*") if file.name in LOCKS or file.name.endswith(".partial")]
    trial.finish(out)
    return {
        "terminated": code not in (0, 1), "processes_left": alive, "files_left": len(left),
        "equal": digest(out) == trial.expected,
    }  # fmt: skip


def crowd(trial: Trial, lot: random.Random) -> dict:
    out = trial.fresh("crowded") / trial.file
    first = trial.start(out, "first")
    time.sleep(lot.uniform(0, trial.seconds / 2))
    second = trial.start(out, "second")
    codes = {"first": wait(first), "second": wait(second)}
    refused = [name for name, code in codes.items() if code == 2]
    logs = {name: (trial.folder / name).read_text().strip() for name in codes}
    told = [name for name in refused if "process" in logs[name] and len(logs[name].splitlines()) == 1]
    return {
        "one_finished": sorted(codes.values()) == [0, 2], "told_who": len(told) == len(refused) == 1,
        "equal": digest(out) == trial.expected,
    }  # fmt: skip


@contextmanager
def small_disk(folder: Path, size: int):
    """Mount an empty file system of some bytes at a folder, for the block."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def disk(trial: Trial, lot: random.Random) -> dict:
    place = trial.fresh("disk")
    with small_disk(place, max(65_536, int(trial.size * lot.uniform(0.05, 0.9)))):
        out = place / trial.file
        code = wait(trial.start(out, "full"))
        log = (trial.folder / "full").read_text().strip().splitlines()
        partial = out.is_file() and digest(out) != trial.expected
        subprocess.run(["mount", "-o", "remount,size=1G", place], check=True)
        trial.finish(out)
        traced = any("Traceback" in line for line in log)
        return {
            "full": code == 1, "said_in_one_line": code == 1 and "disk is full" in log[-1] and not traced,
            "partial_output": partial, "equal": digest(out) == trial.expected,
        }  # fmt: skip


EXPERIMENTS = {
    "kill": (kill, ("describe", "describe_2", "prepare", "train")),
    "terminate": (terminate, ("describe", "describe_2", "prepare", "train")),
    "crowd": (crowd, ("describe",)),
    "disk": (disk, ("describe", "prepare", "train")),
}


def write_inputs(folder: Path) -> None:
    folder.mkdir()
    cells = cell2text.example_cells(unseen=True)
    cells = cells[:, np.asarray(cells.X.sum(axis=0)).ravel().argsort()[::-1][:N_GENES]]
    cells[:100].copy().write_h5ad(folder / "a.h5ad")
    cells[100:].copy().write_h5ad(folder / "b.h5ad")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", help=f"any of {', '.join(EXPERIMENTS)}; all if omitted")
    parser.add_argument("--times", type=int, help="repetitions per command; 100 kills and 20 of the others if omitted")
    parser.add_argument("--commands", nargs="*", help=f"any of {', '.join(COMMANDS)}; all if omitted")
    parser.add_argument("--add", action="store_true", help="add to the counts of an earlier run with another seed")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments and sizes; defaults to 0")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder / "inputs")
        for experiment in args.experiments or EXPERIMENTS:
            function, commands = EXPERIMENTS[experiment]
            for command in commands if args.commands is None else [one for one in commands if one in args.commands]:
                trial, lot, counts = Trial(command, folder), random.Random(args.seed), Counter()
                if args.add:
                    counts.update(results.get(experiment, {}).get(command, {}))
                times = args.times or TIMES[experiment]
                for number in range(times):
                    found = function(trial, lot)
                    counts.update({"times": 1, **found})
                    print(experiment, command, number, found, flush=True)
                    results.setdefault(experiment, {})[command] = dict(counts)
                    write_atomically(RESULTS, json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()

"""Measure start-up: how long help, version, imports and refusals take relative to `import typer`.

    python benchmarks/startup.py [--before REVISION] [--repetitions 5]

All commands run in turn, once per repetition, and medians are compared, so that a busy machine slows all alike.
`--before` measures an older revision in the same turns, from a temporary git worktree. Writes
`benchmarks/results/startup.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "startup.json"
BARE, TYPER = "bare Python", "import typer"
IMPORT = "import cell2text"
COMMANDS = {
    "cell2text --help": ["--help"],
    "cell2text --version": ["--version"],
    "cell2text describe --help": ["describe", "--help"],
    "mistyped path": ["describe", "nowhere.h5ad"],
    "wrong option": ["prepare", "nowhere.h5ad", "--split", "patient"],
}
TARGETS = {"ratio to import typer, at most": 3.0, "import cell2text over bare Python, seconds, at most": 0.5}


def processes() -> dict[str, list[str]]:
    """Return the arguments of Python for each measurement of one revision."""
    return {IMPORT: ["-c", "import cell2text"]} | {
        name: ["-m", "cell2text", *arguments] for name, arguments in COMMANDS.items()
    }


def seconds(arguments: list[str], folder: Path, cwd: str) -> float:
    """Return the wall-clock time of a Python process that sees the package in `folder` first."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, cwd=cwd, env=environment)
    return time.perf_counter() - start


def measure(folders: dict[str, Path], repetitions: int) -> dict[str, dict[str, float]]:
    """Return the median seconds of every process, by revision."""
    times: dict[str, dict[str, list[float]]] = {name: {} for name in ("reference", *folders)}
    with tempfile.TemporaryDirectory() as cwd:
        for repetition in range(-1, repetitions):  # the first turn fills caches and is not counted
            for name, code in ((BARE, "pass"), (TYPER, TYPER)):
                took = seconds(["-c", code], PROJECT, cwd)
                times["reference"].setdefault(name, []).extend([took] if repetition >= 0 else [])
            for revision, folder in folders.items():
                for name, arguments in processes().items():
                    took = seconds(arguments, folder, cwd)
                    times[revision].setdefault(name, []).extend([took] if repetition >= 0 else [])
    return {part: {name: median(values) for name, values in found.items()} for part, found in times.items()}


def summarise(medians: dict[str, dict[str, float]]) -> dict:
    """Return ratios to `import typer`, and the time of `import cell2text` beyond bare Python."""
    bare, typer = medians["reference"][BARE], medians["reference"][TYPER]
    return {
        revision: {
            "ratio_to_import_typer": {name: round(found[name] / typer, 2) for name in COMMANDS},
            "import_over_bare_python_seconds": round(found[IMPORT] - bare, 3),
            "import_ratio_to_bare_python": round(found[IMPORT] / bare, 2),
        }
        for revision, found in medians.items()
        if revision != "reference"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--before", help="git revision to compare with")
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    folders = {"now": PROJECT}
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder, "before")
        if arguments.before:
            command = ["git", "worktree", "add", "--detach", str(before), arguments.before]
            subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
            folders["before"] = before
        try:
            medians = measure(folders, arguments.repetitions)
        finally:
            if arguments.before:
                command = ["git", "worktree", "remove", "--force", str(before)]
                subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    content = {
        "measured": summarise(medians),
        "median_seconds": {part: {k: round(v, 3) for k, v in found.items()} for part, found in medians.items()},
        "settings": {"repetitions": arguments.repetitions, "before": arguments.before, "targets": TARGETS},
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content["measured"], indent=1))


if __name__ == "__main__":
    main()

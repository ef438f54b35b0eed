"""Kill `cell2text prepare` with four workers at ten random moments, resume it, and compare the output.

    python benchmarks/kill.py INPUT... [-- OPTION...]      # writes benchmarks/results/kill.json

A run is killed up to 0.2 s after a random number of shards exists, from none to all but one. Names and contents of all
files of every run must hash to the same value as those of an undisturbed run.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


RESULTS = Path(__file__).resolve().parent / "results" / "kill.json"


def start(inputs: list[str], out: Path, options: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "cell2text", "prepare", *inputs, "--out", str(out)]
    command += ["--workers", "4", "--quiet", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(inputs: list[str], out: Path, options: list[str]) -> None:
    process = start(inputs, out, options)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors[-2000:])


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--times", type=int, default=10, help="number of kills; defaults to 10")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments; defaults to 0")
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    args, options = parser.parse_args(arguments[:cut]), arguments[cut + 1 :]
    lot = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        finish(args.inputs, folder / "undisturbed", options)
        expected = digest(folder / "undisturbed")
        total = len(list((folder / "undisturbed" / "data").glob("*.parquet")))
        moments = []
        for number in range(args.times):
            out = folder / "killed"
            shutil.rmtree(out, ignore_errors=True)
            process = start(args.inputs, out, options)
            kill_after = lot.randrange(total)
            while process.poll() is None and len(list((out / "data").glob("*.parquet"))) < kill_after:
                time.sleep(0.001)
            time.sleep(lot.uniform(0.0, 0.2))
            os.kill(process.pid, signal.SIGKILL)
            killed = process.wait() == -signal.SIGKILL
            shards = len(list((out / "data").glob("*.parquet"))) if out.exists() else 0
            finish(args.inputs, out, options)
            moments.append({"killed": killed, "shards_left": shards, "shards": total, "equal": digest(out) == expected})
            print(number, moments[-1], flush=True)
    summary = {
        "killed": sum(moment["killed"] for moment in moments),
        "in_the_middle": sum(0 < moment["shards_left"] < total for moment in moments),
        "equal": sum(moment["equal"] for moment in moments),
        "moments": moments,
    }
    RESULTS.write_text(json.dumps(summary, indent=1) + "\n")
    print({name: value for name, value in summary.items() if name != "moments"})
    sys.exit(summary["equal"] != args.times)


if __name__ == "__main__":
    main()

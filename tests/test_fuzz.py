"""A short form of benchmarks/fuzz.py: damaged and hostile files of every kind are read or refused."""

import json
import os
import subprocess
import sys
from pathlib import Path


PROJECT = Path(__file__).resolve().parents[1]
INPUTS, SEED = 132, 11


def test_damaged_files_of_every_kind_are_read_or_refused(tmp_path):
    # A process of its own: its children are forked, which is only safe without threads.
    out = tmp_path / "fuzz.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, PROJECT / "benchmarks" / "fuzz.py", "--inputs", str(INPUTS), "--seed", str(SEED)]
    done = subprocess.run([*command, "--out", out], capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert set(found["total"]) == {"inputs", "read", "refused"}, done.stdout[-3000:]
    inputs = {name: kind["inputs"] for name, kind in found["kinds"].items()}
    assert inputs["h5ad"] == 12 and inputs["CSC arrays"] == 44
    # Most mutations of a zarr store hit a file that is not read.
    assert all(kind.get("refused") for name, kind in found["kinds"].items() if not name.startswith("zarr"))

"""A short form of benchmarks/fuzz.py: damaged and hostile files of every kind are read or refused."""

import importlib.util
from pathlib import Path

import pytest

import cell2text


PROJECT = Path(__file__).resolve().parents[1]
INPUTS_PER_KIND, SEED = 25, 11


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz", PROJECT / "benchmarks" / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module._PROCESSOR = cell2text.load(device="cpu")[1]
    return module


@pytest.mark.parametrize(
    "kind", ["h5ad", "zarr", "10x", "csv", "gene lists", "predictions", "gmt", "yaml", "vocabulary", "model"]
)
def test_damaged_files_are_read_or_refused(fuzz, kind):
    found = fuzz.fuzz(kind, INPUTS_PER_KIND, SEED)
    assert found.get("read", 0) + found.get("refused", 0) == INPUTS_PER_KIND, found["examples"]
    assert found.get("refused", 0) and "changed" not in found

"""The guide to `cell2text simulate`: its options exist, and its figures are those that the benchmark wrote."""

import json
import re
from pathlib import Path
from statistics import mean

from cell2text.options import flags_of_options
from cell2text.preparation import simulated_counts
from cell2text.preparation.profiles import REQUIRED, SCALES
from cell2text.preparation.real_cells import MAX_CELLS
from cell2text.preparation.simulation import UNLABELLED
from cell2text.preparation.simulation_config import SimulationConfig


PROJECT = Path(__file__).resolve().parents[1]
GUIDE = (PROJECT / "docs" / "guides" / "simulate.md").read_text(encoding="utf-8")
RESULTS = json.loads((PROJECT / "benchmarks" / "results" / "simulated_cells.json").read_text())
PROSE = " ".join(GUIDE.split())


def mean_over_types(comparison: str) -> float:
    pairs = RESULTS["measured"]["pairs"]
    types = {pair["type"] for pair in pairs if pair["comparison"] == "real, real"}
    return mean(
        mean(pair["auroc"] for pair in pairs if pair["type"] == name and pair["comparison"] == comparison)
        for name in sorted(types)
    )


def test_flags_of_the_guide_exist():
    flags = {*flags_of_options(SimulationConfig).values(), "--like", "--out"}
    assert set(re.findall(r"--[a-z][a-z-]+", GUIDE)) <= flags


def test_model_and_input_are_as_stated():
    assert all(f"`{name}`" in GUIDE or f'"{name}"' in GUIDE for name in (*REQUIRED, *SCALES, *simulated_counts.KINDS))
    assert f"{MAX_CELLS:,} cells per file" in GUIDE
    low, high = simulated_counts.DEPTHS
    assert f"log-uniform between {low:,} and {high:,} counts" in GUIDE
    one, other = simulated_counts.AMBIENT
    assert f"{100 * one / (one + other):.0f} % of the counts on average" in GUIDE
    assert "ambient droplets, doublets, shuffled and thinned cells" in SimulationConfig.__doc__
    unlabelled = re.findall(r"^\| `(\w+)` \|.*\| `unknown` \|$", GUIDE, re.M)
    assert tuple(unlabelled) == UNLABELLED


def test_unseen_studies_are_quoted():
    unseen, halves = RESULTS["measured"]["unseen"], RESULTS["measured"]["unseen_halves"]
    assert f"counts per cell: {unseen['simulated, real']:.3f}." in PROSE
    assert f"reach {unseen['real, real']:.3f} ({min(halves):.3f} to {max(halves):.3f})" in PROSE
    one, other = RESULTS["other_files"]
    assert f"The AUROC is {one:.3f} and {other:.3f}, which is above the mean of real studies" in PROSE
    assert min(one, other) > unseen["real, real"]
    assert max(unseen["simulated, real"], one, other) <= max(halves)


def test_seen_studies_are_quoted():
    simulated, real = mean_over_types("simulated, real"), mean_over_types("real, real")
    assert f"{simulated:.3f}, and {real:.3f} for two real studies" in PROSE
    assert simulated <= real


def test_variants_are_quoted():
    rows = dict(re.findall(r"^\| ([a-zA-Z ]+) \| (0\.\d{3}) \|$", GUIDE, re.M))
    assert rows == {name: f"{found['unseen']:.3f}" for name, found in RESULTS["variants"].items()}

"""Train the cell types with and without simulated cells, and count exact types of held-out donors.

    PYTHONPATH=. python benchmarks/exact_types.py DATA ATLAS WORK     # benchmarks/results/exact_types.json

DATA, ATLAS and WORK are the folders of `recipes/mini/build.py`, whose rows are used. The recipe of the packaged model
trains encoder and concepts on all training rows, and on the real cells and their thinned copies alone, with two seeds
each. The cells of the test donors are named the end of the most probable path down the ontology (`specific`), and the
same among the labels of the real training cells (`specific_real`), before any calibration.
"""

import argparse
import json
import sys
from pathlib import Path

import yaml
from datasets import load_dataset
from type_threshold import SPECIFIC, SPECIFIC_REAL, mean_of, named_types, real_types, score
from types_without_cells import parse_folders

from cell2text.files import write_atomically
from statements_cell2text import TYPES


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "exact_types.json"
SEEDS = (0, 1)
ROWS = {"all rows": None, "no simulated cells": "simulated"}


def measure(args: argparse.Namespace) -> dict:
    sys.path.insert(0, str(PROJECT / "recipes" / "mini"))
    import data
    import folds
    import scoring

    sources = yaml.safe_load((PROJECT / "recipes" / "mini" / "sources.yaml").read_text())
    folder = data.prepare_rows(args, sources)
    rows = load_dataset(str(folder), split="train")
    files = {name: data.source_file(args, name) for name in sources["train"]}
    studies = {name: scoring.test_cells(file, name, sources) for name, file in files.items()}
    studies = {name: cells for name, cells in studies.items() if cells is not None}
    found: dict[str, list[dict]] = {}
    for name, left_out in ROWS.items():
        for seed in SEEDS:
            learned = folds.without(rows, left_out, [])
            model, processor = folds.train_types(folder, learned, args.work / "exact_types", {"seed": seed})
            types = model.config.concept_groups[TYPES]
            real = real_types(files, sources, types)
            figures: dict = {"seed": seed, "types": len(types), "types_of_real_cells": len(real)}
            for key, among in ((SPECIFIC, types), (SPECIFIC_REAL, real)):
                scores = [score(cells, named_types(cells, model, processor, among)) for cells in studies.values()]
                figures[key] = mean_of(scores)
            found.setdefault(name, []).append(figures)
            print(name, json.dumps(figures), flush=True)
    return {"cells": sum(cells.n_obs for cells in studies.values()), "trainings": found}


def main() -> None:
    write_atomically(RESULTS, json.dumps(measure(parse_folders(__doc__)), indent=1) + "\n")


if __name__ == "__main__":
    main()

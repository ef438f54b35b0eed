"""Measure the evidence of the packaged model by deleting genes.

    PYTHONPATH=. python benchmarks/evidence.py DATA ATLAS      # benchmarks/results/evidence.json

DATA is the folder of the reference h5ad files, ATLAS the folder of further cells. The evidence genes of the named cell
type are deleted from held-out donors' cells and from cells of unseen studies, and so are random genes of similar rank.
The loss of the named type's probability is compared, and the share of known markers among the genes. The method was
chosen on cells of `heart_san` and `baron_pancreas` that trained the model.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import yaml

import cell2text
from cell2text.describe.faithfulness import evidence_metrics
from cell2text.describe.options import DescribeOptions
from cell2text.files import write_atomically


PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "recipes" / "mini"))
RESULTS = PROJECT / "benchmarks" / "results" / "evidence.json"
CELLS_PER_STUDY = 300
FIGURES = (
    "loss_without_5", "random_loss_5", "lead_5", "loss_without_10", "random_loss_10", "lead_10", "marker_share",
    "marker_share_of_similar_rank", "marker_share_by_chance",
)  # fmt: skip


def main() -> None:
    from data import source_file
    from scoring import part_of, test_cells

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference h5ad files")
    parser.add_argument("atlas", type=Path, help="folder of further cells")
    args = parser.parse_args()
    sources = yaml.safe_load((PROJECT / "recipes" / "mini" / "sources.yaml").read_text())
    model, studies = cell2text.load(device="cpu"), {}
    for name in (*sources["unseen"], *sources["validation"], *sources["train"]):
        adata = test_cells(source_file(args, name), name, sources)
        if adata is None:
            continue
        found = evidence_metrics(adata, model, n_cells=CELLS_PER_STUDY, options=DescribeOptions(allow_fractional=True))
        studies[name] = {"part": part_of(name, sources), **found}
        print(name, json.dumps(studies[name]), flush=True)
    mean = {
        part: {
            key: round(float(np.mean([one[key] for one in studies.values() if one["part"] == part])), 5)
            for key in FIGURES
        }
        for part in ("unseen", "donors")
    }
    for found in mean.values():
        found["marker_ratio"] = round(found["marker_share"] / found["marker_share_by_chance"], 2)
    write_atomically(RESULTS, json.dumps({"studies": studies, "mean": mean}, indent=1) + "\n")
    print(json.dumps(mean))


if __name__ == "__main__":
    main()

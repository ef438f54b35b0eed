"""Measure how often XIST and Y genes show the sex of a cell's donor, and how often they are right.

    python benchmarks/sex_genes.py DATA ATLAS    # benchmarks/results/sex_genes.json

DATA is the folder of the reference h5ad files, ATLAS the folder of further cells. The sex of a donor is the one that
the study states; otherwise the one that the summed counts of its cells show, with ten times as many counts of one kind
and at least `MIN_DONOR_COUNTS`, which is the same evidence aggregated. Cell lines, whose sex is that of the patient in
Cellosaurus, are measured apart: tumours can lose the Y chromosome or express XIST in male cells. `stated` is the share
of cells whose sex is read, `correct` the share of these that agree with the donor.
"""

import argparse
import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2text.files import write_atomically
from cell2text.signatures.sex import FEMALE, MALE, MIN_RATIO, SexGenes
from ranking_cell2text import CellRanker
from vocabulary_cell2text import GeneVocabulary


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "sex_genes.json"
MODEL = PROJECT / "cell2text" / "models" / "mini"
MIN_DONOR_COUNTS, MIN_DONOR_CELLS = 20, 10
CELL_LINES = {
    "A549": MALE, "BJ": MALE, "GM12878": FEMALE, "H1": MALE, "H1437": MALE, "HCT116": MALE, "HL60": FEMALE,
    "IMR90": FEMALE, "K562": FEMALE,
}  # fmt: skip


def read_cells(path: Path, vocabulary: GeneVocabulary) -> pd.DataFrame:
    """Return one row per cell: donor, stated sex, counts of XIST and Y genes, and the sex that they show."""
    adata = ad.read_h5ad(path)
    genes = SexGenes(adata.var, CellRanker(adata.var, vocabulary, max_genes=64))
    counts = genes.genes.collapse(sp.csr_matrix(adata.X))
    known = adata.obs["sex"].astype(str) if "sex" in adata.obs else pd.Series("unknown", index=adata.obs_names)
    return pd.DataFrame(
        {
            "study": path.stem,
            "donor": adata.obs["donor_id"].astype(str).to_numpy(),
            "known": known.where(known.isin([FEMALE, MALE])).to_numpy(),
            "xist": np.asarray(counts[:, genes.xist].sum(1)).ravel(),
            "y": np.asarray(counts[:, genes.y].sum(1)).ravel(),
            "read": genes.read(sp.csr_matrix(adata.X)),
        }
    )


def sex_of_donor(cells: pd.DataFrame) -> tuple[str | None, str]:
    """Return the sex of one donor's cells, and where it is from: the study, a cell line, or the summed counts."""
    donor, stated = cells["donor"].iloc[0], cells["known"].iloc[0]
    if donor == "unknown":  # several donors in one
        return None, "none"
    if donor in CELL_LINES:
        return CELL_LINES[donor], "cell lines"
    if isinstance(stated, str):
        return stated, "stated by the study"
    xist, y = cells["xist"].sum(), cells["y"].sum()
    enough = len(cells) >= MIN_DONOR_CELLS and max(xist, y) >= MIN_DONOR_COUNTS
    sex = FEMALE if xist >= MIN_RATIO * y else MALE if y >= MIN_RATIO * xist else None
    return (sex if enough else None), "summed counts of the donor"


def summarise(cells: pd.DataFrame) -> dict:
    """Return shares of cells whose sex is read, and of these that are right."""
    stated = cells[cells["read"].notna()]
    correct = round(float((stated["read"] == stated["sex"]).mean()), 4) if len(stated) else None
    return {
        "cells": len(cells), "donors": len(cells[["study", "donor"]].drop_duplicates()),
        "stated": round(len(stated) / len(cells), 4), "correct": correct,
    }  # fmt: skip


def mean_of_studies(by_study: dict, sex: str) -> dict:
    """Return the mean of both shares over the studies with donors of one sex."""
    rows = [entry[sex] for entry in by_study.values() if sex in entry]
    correct = [row["correct"] for row in rows if row["correct"] is not None]
    stated = float(np.mean([row["stated"] for row in rows]))
    return {"studies": len(rows), "stated": round(stated, 4), "correct": round(float(np.mean(correct)), 4)}


def measure(data: Path, atlas: Path) -> dict:
    """Measure all files."""
    vocabulary = GeneVocabulary.from_pretrained(MODEL)
    paths = [path for folder in (data, atlas) for path in sorted(folder.glob("*.h5ad")) if path.stem != "example_cells"]
    cells = pd.concat([read_cells(path, vocabulary) for path in paths], ignore_index=True)
    for _, members in cells.groupby(["study", "donor"]):
        cells.loc[members.index, ["sex", "truth"]] = sex_of_donor(members)
    usable, unclear = cells[cells["sex"].notna()], cells[cells["sex"].isna()]
    by_study = {
        study: {sex: summarise(part) for sex, part in rows.groupby("sex")}
        for study, rows in usable[usable["truth"] != "cell lines"].groupby("study")
    }
    return {
        "settings": {"min_donor_counts": MIN_DONOR_COUNTS, "min_donor_cells": MIN_DONOR_CELLS, "min_ratio": MIN_RATIO},
        "by_truth": {
            truth: {"all": summarise(rows), **{sex: summarise(part) for sex, part in rows.groupby("sex")}}
            for truth, rows in usable.groupby("truth")
        },
        "means_of_studies": {sex: mean_of_studies(by_study, sex) for sex in (FEMALE, MALE)},
        "by_study": by_study,
        "by_cell_line": {
            donor: {"sex": CELL_LINES[donor], **summarise(rows)}
            for donor, rows in usable[usable["truth"] == "cell lines"].groupby("donor")
        },
        "donors_of_unclear_sex": {"cells": len(unclear), "stated": int(unclear["read"].notna().sum())},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference h5ad files")
    parser.add_argument("atlas", type=Path, help="folder of further cells")
    args = parser.parse_args()
    write_atomically(RESULTS, json.dumps(measure(args.data, args.atlas), indent=1) + "\n")


if __name__ == "__main__":
    main()

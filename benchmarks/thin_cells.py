"""Choose the minimum number of genes of a cell: measure how a model's cell types degrade on thinned cells.

    python benchmarks/thin_cells.py OUT.json --part validation MODEL FILE.h5ad [--part KIND MODEL FILE.h5ad ...]

Each part is a file of labelled cells and a concept model that was not trained on it. Cells are thinned to fewer genes
(most variable genes, random genes, panels), to fewer counts (binomial thinning), and to both. The cell type is the most
probable one that the model has a concept for, and the stated probability is its probability. The minimum is chosen on
the parts of the kind `validation`; others are measured only. Intervals resample donors.

`benchmarks/results/thin_cells.json` is the record of the choice for the packaged model. It was measured with an earlier
packaged model, whose 48 cell types form no hierarchy and whose probabilities are not calibrated.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import cell2text
from cell2text.evaluation.bootstrap import Resampler, interval
from cell2text.evaluation.classification import label_claim
from cell2text.files import write_atomically
from cell2text.inference.batch_size import LengthSortedBatches
from cell2text.inference.cell_types import CellTypes
from cell2text.language.fields import Claim
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import clean_label
from generation_cell2text import encode_cells
from vocabulary_cell2text import SPECIAL_TOKENS


PANELS = Path(__file__).resolve().parent / "panels"
CELLS_PER_STUDY, SEED, MEAN_BINS = 150, 0, 20
GENES, COUNTS = (200, 500, 1000, 2000, 5000), (3, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
BOTH = ((500, 200), (500, 1000), (2000, 200), (2000, 1000))
EDGES = (1, 5, 10, 15, 20, 30, 40, 60, 80, 110, 150, 200, 300, 400, 600, 100_000)  # bins of expressed genes per cell
SURE, RESAMPLES = 0.9, 1000
MINIMUM_SHARE = 0.5  # share of the full cells' lenient accuracy that cells at the minimum must reach


@dataclass
class Part:
    """Cells of one study with a model that did not see them.

    Parameters
    ----------
    kind
        `validation`, or another name for parts on which nothing is chosen.
    study
        Name of the file.
    model
        Folder of the model.
    adata
        Counts of the sampled cells.
    variable
        Genes of the file, most variable first, computed on all cells of the file.
    """

    kind: str
    study: str
    model: str
    adata: ad.AnnData
    variable: np.ndarray


def variable_genes(counts: sp.csr_matrix) -> np.ndarray:
    """Return columns by normalised dispersion of log counts per 10,000, highest first, in bins of equal mean."""
    counts = sp.csr_matrix(counts, dtype=np.float64)
    totals = np.maximum(np.asarray(counts.sum(1)).ravel(), 1)
    scaled = sp.diags(1e4 / totals) @ counts
    mean = np.asarray(scaled.mean(0)).ravel()
    variance = np.asarray(scaled.multiply(scaled).mean(0)).ravel() - mean**2
    dispersion = np.log(np.maximum(variance, 1e-12) / np.maximum(mean, 1e-12))
    logged = np.log1p(mean)
    bins = np.digitize(logged, np.linspace(logged.min(), logged.max(), MEAN_BINS + 1)[1:-1])
    score = np.full(len(mean), -np.inf)
    for number in np.unique(bins):
        members = (bins == number) & (mean > 0)
        spread = dispersion[members].std() if members.sum() > 1 else 0.0
        score[members] = (dispersion[members] - dispersion[members].mean()) / spread if spread else 1.0
    return np.argsort(-score, kind="stable")


def thin_counts(counts: sp.csr_matrix, target: int, rng: np.random.Generator) -> sp.csr_matrix:
    """Keep each count with the probability that leaves `target` counts of a cell on average."""
    totals = np.maximum(np.asarray(counts.sum(1)).ravel(), 1)
    share = np.repeat(np.minimum(1.0, target / totals), np.diff(counts.indptr))
    thinned = counts.copy()
    thinned.data = rng.binomial(np.rint(counts.data).astype(np.int64), share).astype(np.float32)
    thinned.eliminate_zeros()
    return thinned


def conditions(part: Part, panels: dict[str, set[str]]) -> Iterator[tuple[str, np.ndarray, int | None]]:
    """Yield the name, the columns and the counts per cell (None: all) of each way to thin a study's cells."""
    rng, every = np.random.default_rng(SEED), np.arange(part.adata.n_vars)
    yield "full", every, None
    for number in GENES:
        yield f"variable genes: {number}", np.sort(part.variable[:number]), None
        yield f"random genes: {number}", np.sort(rng.choice(every, min(number, len(every)), replace=False)), None
    for name, genes in panels.items():
        found = part.adata.var_names.isin(genes) | part.adata.var["feature_name"].isin(genes).to_numpy()
        yield f"panel: {name}", np.flatnonzero(found), None
    for number in COUNTS:
        yield f"counts: {number}", every, number
    for genes, number in BOTH:
        yield f"variable genes: {genes}, counts: {number}", np.sort(part.variable[:genes]), number


def thin_cells(part: Part, columns: np.ndarray, target: int | None) -> ad.AnnData:
    """Return a study's cells with some genes only, and with `target` counts on these per cell."""
    counts = sp.csr_matrix(part.adata.X)[:, columns].astype(np.float32)
    if target is not None:
        counts = thin_counts(counts, target, np.random.default_rng(SEED))
    return ad.AnnData(counts, obs=part.adata.obs, var=part.adata.var.iloc[columns])


class TypeHead:
    """Predict cell types from the concept probabilities, without generating texts."""

    def __init__(self, model, processor):
        self.model, self.processor = model.eval(), processor
        self.types = CellTypes(model.config.concepts, model.config.uninformative_types)
        self.claims = {name: label_claim("cell_type", name, None) for name in self.types.names}
        self.genes = set(processor.gene_vocabulary.tokens) - set(SPECIAL_TOKENS)

    def __call__(self, cells: Sequence[np.ndarray]) -> tuple[list[Claim | None], np.ndarray]:
        """Return each cell's most probable type and its probability; None and NaN for a cell without genes."""
        claims: list[Claim | None] = [None] * len(cells)
        filled = np.array([i for i, cell in enumerate(cells) if not self.processor.is_empty(cell)], dtype=int)
        probability = np.full(len(cells), np.nan)
        probability[filled] = 0.0  # of cells for which no type is probable

        def predict(rows: np.ndarray, genes: int | None) -> np.ndarray:
            prompts = [[cells[filled[i]]] for i in rows]
            concepts = encode_cells(self.model, self.processor, prompts, genes).concepts[:, 0]
            return self.model.config.concepts.split(concepts)["cell_type"].numpy()

        for rows, found in LengthSortedBatches(64, 8192).run([cells[i] for i in filled], predict):
            for cell, likely in zip(filled[rows], self.types.candidates([None] * len(rows), found)):
                if likely:
                    claims[cell], probability[cell] = self.claims[likely[0][0]], likely[0][1]
        return claims, probability


def measure_part(part: Part, head: TypeHead, panels: dict[str, set[str]]) -> pd.DataFrame:
    """Return one row per cell and condition: genes, coverage, whether the type is right, and its probability."""
    graph, obs = load_graph("CL"), part.adata.obs
    truths = [label_claim("cell_type", *row) for row in zip(obs.cell_type, obs.cell_type_ontology_term_id)]
    tables = []
    for name, columns, target in conditions(part, panels):
        thinned = thin_cells(part, columns, target)
        coverage = len(head.genes.intersection(thinned.var_names)) / len(head.genes)
        if not coverage:
            continue
        cells, report = head.processor.rank_encode_with_report(thinned, allow_fractional=True)
        predicted, probability = head(cells)
        exact = np.array([truth.same_as(claim) for truth, claim in zip(truths, predicted)])
        terms = [(claim.term_id if claim else None, truth.term_id) for truth, claim in zip(truths, predicted)]
        related = np.array([graph.related(*pair) for pair in terms]) | exact
        table = {
            "kind": part.kind, "study": part.study, "condition": name, "donor": obs.donor_id.astype(str).to_numpy(),
            "n_genes": report.n_genes, "coverage": coverage, "exact": exact, "lenient": related, "stated": probability,
        }  # fmt: skip
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)


def summarise(cells: pd.DataFrame) -> dict:
    """Return shares over cells with the same weight for every study, and intervals over donors."""
    cells = cells[cells.n_genes > 0]
    weight = (1 / cells.groupby("study").study.transform("size")).to_numpy()
    sure = (cells.stated > SURE).to_numpy()
    values = {
        "exact": cells.exact, "lenient": cells.lenient, "stated": cells.stated, "sure": sure,
        "sure_and_wrong": sure & ~cells.lenient,
    }  # fmt: skip
    donors = (cells.study + " " + cells.donor).tolist()
    contributions = np.column_stack([*(weight * np.asarray(value, dtype=float) for value in values.values()), weight])
    sums = Resampler(donors, n_resamples=RESAMPLES, seed=SEED).sums(contributions, np.arange(len(cells)))
    means = {name: sums[:, i] / sums[:, -1] for i, name in enumerate(values)}
    return {
        "cells": len(cells), "studies": int(cells.study.nunique()), "median_genes": float(cells.n_genes.median()),
        "coverage": round(float(cells.groupby("study").coverage.mean().mean()), 4),
        **{name: round(float(value[0]), 4) for name, value in means.items()},
        **{f"{name}_interval": rounded(interval(means[name])) for name in ("lenient", "stated")},
    }  # fmt: skip


def rounded(values: Sequence[float] | None) -> list[float] | None:
    return values and [round(value, 4) for value in values]


def summarise_bins(cells: pd.DataFrame) -> list[dict]:
    """Summarise thinned cells by their number of expressed genes."""
    bins = pd.cut(cells.n_genes, EDGES, right=False, labels=False)
    return [
        {"from": EDGES[int(number)], "below": EDGES[int(number) + 1], **summarise(members)}
        for number, members in cells.groupby(bins)
    ]


def sample_part(kind: str, model: str, path: Path) -> Part:
    """Read a file and sample labelled cells."""
    adata = ad.read_h5ad(path)
    if "ensembl_id" in adata.var:  # files that are indexed by symbol
        adata.var["feature_name"] = adata.var_names
        adata.var_names = adata.var["ensembl_id"].astype(str).to_numpy()
        adata.var_names_make_unique()
    labelled = adata.obs.cell_type.map(lambda label: clean_label(label) is not None).to_numpy(dtype=bool)
    rng = np.random.default_rng(SEED)
    sampled = np.sort(rng.permutation(np.flatnonzero(labelled))[:CELLS_PER_STUDY])
    return Part(kind, path.stem, model, adata[sampled].copy(), variable_genes(adata.X))


def choose(cells: pd.DataFrame) -> dict:
    """Choose the minimum number of genes on validation cells.

    The minimum is the first bin of expressed genes from which the lenient accuracy stays at `MINIMUM_SHARE` of that of
    full cells or above.
    """
    full, bins = summarise(cells[cells.condition == "full"]), summarise_bins(cells[cells.condition != "full"])
    enough = [one["lenient"] >= MINIMUM_SHARE * full["lenient"] for one in bins]
    first = next(i for i in range(len(bins)) if all(enough[i:]))
    return {"minimum_share": MINIMUM_SHARE, "min_genes": bins[first]["from"], "full": full}


def read_panels(folders: Sequence[Path]) -> dict[str, set[str]]:
    """Read gene lists: one `NAME.txt` per panel, `#` opens a comment."""
    panels = {}
    for path in sorted(path for folder in folders for path in folder.glob("*.txt")):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        panels[path.stem] = set(" ".join(lines).replace(",", " ").split())
    return panels


def measure(parts: Sequence[Part], panels: dict[str, set[str]]) -> dict:
    """Measure all parts, choose on validation cells, and return the results."""
    heads = {model: TypeHead(*cell2text.load(model)) for model in {part.model for part in parts}}
    cells = pd.concat([measure_part(part, heads[part.model], panels) for part in parts], ignore_index=True)
    kinds = dict(iter(cells.groupby("kind")))
    return {
        "settings": {
            "cells_per_study": CELLS_PER_STUDY, "seed": SEED, "sure": SURE, "resamples": RESAMPLES,
            "parts": [
                {"kind": part.kind, "study": part.study, "model": Path(part.model).name, "cells": len(part.adata)}
                for part in parts
            ],
            "panels": {name: len(genes) for name, genes in panels.items()},
        },
        "chosen": choose(kinds["validation"]),
        "conditions": {
            kind: {name: summarise(rows) for name, rows in members.groupby("condition", sort=False)}
            for kind, members in kinds.items()
        },
        "genes": {kind: summarise_bins(rows[rows.condition != "full"]) for kind, rows in kinds.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--part", nargs=3, action="append", required=True, metavar=("KIND", "MODEL", "FILE"))
    parser.add_argument("--panels", type=Path, nargs="*", default=[], help="folders of further gene lists, *.txt")
    args = parser.parse_args()
    parts = [sample_part(kind, model, Path(path)) for kind, model, path in args.part]
    write_atomically(args.out, json.dumps(measure(parts, read_panels([PANELS, *args.panels])), indent=1) + "\n")


if __name__ == "__main__":
    main()

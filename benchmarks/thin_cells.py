"""Measure how the packaged model's cell types degrade on thin cells and small gene panels.

    python benchmarks/thin_cells.py DATA ATLAS --work runs/mini --panels FOLDER  # benchmarks/results/thin_cells.json
    python benchmarks/thin_cells.py --figure                                     # docs/thin_cells.svg from that file

DATA is the folder of the reference h5ad files, ATLAS the folder of further cells. `--work` holds the folds of
`recipes/mini/build.py --steps select --recipes concepts`. Each reference cell is thinned to fewer genes (most variable
genes, random genes, commercial panels), to fewer counts (binomial thinning), and to both. The cell type is the one with
the highest concept probability, and the stated probability is that probability, before any correction for thin cells.

The minimum number of genes and the curve of reliability are chosen on `validation`: whole studies that the measured
model was not trained on. These are the gut study, which no model was trained on, with the packaged model; and the
validation studies of the recipe whose fold is in `--work`, with the model of that fold and without test donors. Test
donors of the training studies (`donors`) and unseen studies (`studies`) are measured with the packaged model, and
nothing is chosen on them. Intervals resample donors. `--work` keeps the table of each study in `thin_cells`.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import yaml
from matplotlib import rc_context
from matplotlib.figure import Figure
from sklearn.isotonic import isotonic_regression

import cell2text
from cell2text.evaluation.bootstrap import Resampler, interval
from cell2text.evaluation.classification import label_claim
from cell2text.files import write_atomically
from cell2text.inference.batch_size import LengthSortedBatches
from cell2text.inference.generation import BatchedTextGenerator
from cell2text.inference.probabilities import reliability_factors, type_probabilities
from cell2text.language.fields import Claim
from cell2text.language.parsing import read_fields
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import clean_label
from generation_cell2text import encode_cells
from vocabulary_cell2text import SPECIAL_TOKENS


PROJECT = Path(__file__).resolve().parents[1]
RESULTS, FIGURE = PROJECT / "benchmarks" / "results" / "thin_cells.json", PROJECT / "docs" / "thin_cells.svg"
PANELS = PROJECT / "benchmarks" / "panels"
GUT = "gut_scp1884"
CELLS_PER_STUDY, SEED, MEAN_BINS = 150, 0, 20
GENES, COUNTS = (200, 500, 1000, 2000, 5000), (3, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
BOTH = ((500, 200), (500, 1000), (2000, 200), (2000, 1000))
EDGES = (1, 5, 10, 15, 20, 30, 40, 60, 80, 110, 150, 200, 300, 400, 600, 100_000)  # bins of expressed genes per cell
SURE, RESAMPLES = 0.9, 1000
MINIMUM_SHARE = 0.5  # share of the full cells' lenient accuracy that cells at the minimum must reach


@dataclass
class Part:
    """Cells of one study with the model that did not see them.

    Parameters
    ----------
    kind
        `validation`, `donors` or `studies`.
    study
        Name of the reference file.
    model
        Name of the model: `packaged`, or the fold that it was trained for.
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
        self.names = np.array(model.config.concept_groups["cell_type"])
        self.claims = [label_claim("cell_type", name, None) for name in self.names]
        self.genes = set(processor.gene_vocabulary.tokens) - set(SPECIAL_TOKENS)

    def __call__(self, cells: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the number and the probability of each cell's type; -1 and NaN for a cell without genes."""
        number, probability = np.full(len(cells), -1), np.full(len(cells), np.nan)
        filled = np.array([i for i, cell in enumerate(cells) if not self.processor.is_empty(cell)], dtype=int)

        def predict(rows: np.ndarray, genes: int | None) -> np.ndarray:
            return encode_cells(self.model, self.processor, [[cells[filled[i]]] for i in rows], genes).concepts[
                "cell_type"
            ]

        for rows, found in LengthSortedBatches(64, 8192).run([cells[i] for i in filled], predict):
            number[filled[rows]], probability[filled[rows]] = found.argmax(1), found.max(1)
        return number, probability


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
        number, probability = head(cells)
        predicted: list[Claim | None] = [head.claims[i] if i >= 0 else None for i in number]
        exact = np.array([truth.same_as(claim) for truth, claim in zip(truths, predicted)])
        terms = [(claim.term_id if claim else None, truth.term_id) for truth, claim in zip(truths, predicted)]
        related = np.array([graph.related(*pair) for pair in terms]) | exact
        table = {
            "kind": part.kind, "study": part.study, "condition": name, "donor": obs.donor_id.astype(str).to_numpy(),
            "n_genes": report.n_genes, "coverage": coverage, "exact": exact, "lenient": related, "stated": probability,
        }  # fmt: skip
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)


def measure_once(part: Part, packaged: tuple, panels: dict[str, set[str]], work: Path) -> pd.DataFrame:
    """Return the table of :func:`measure_part`, from `work` if it was measured before with the same panels."""
    path = work / "thin_cells" / f"{part.kind}_{part.study}_{'_'.join(panels)}.parquet"
    if not path.exists():
        loaded = packaged if part.model == "packaged" else cell2text.load(fold_model(work, part.model))
        path.parent.mkdir(parents=True, exist_ok=True)
        measure_part(part, TypeHead(*loaded), panels).to_parquet(path)
        print(part.kind, part.study, len(part.adata), flush=True)
    return pd.read_parquet(path)


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


def sample_part(kind: str, path: Path, model: str, keep: Callable[[pd.DataFrame], pd.Series]) -> Part:
    """Read a reference file and sample labelled cells that `keep` selects from its `obs`."""
    adata = ad.read_h5ad(path)
    if "ensembl_id" in adata.var:  # files of the atlas are indexed by symbol
        adata.var["feature_name"] = adata.var_names
        adata.var_names = adata.var["ensembl_id"].astype(str).to_numpy()
        adata.var_names_make_unique()
    labelled = adata.obs.cell_type.map(lambda label: clean_label(label) is not None).to_numpy(dtype=bool)
    rows = np.flatnonzero(labelled & keep(adata.obs).to_numpy(dtype=bool))
    rng = np.random.default_rng(SEED)
    sampled = np.sort(rng.permutation(rows)[:CELLS_PER_STUDY])
    return Part(kind, path.stem, model, adata[sampled].copy(), variable_genes(adata.X))


def fold_model(work: Path, study: str) -> Path:
    """Return the folder of the model that was trained without a validation study."""
    return work / f"concepts_{study}"


def find_parts(data: Path, atlas: Path, work: Path, sources: dict) -> list[Part]:
    """Return the validation and test parts; see the docstring of this file."""
    tested = sources["test_donors"]

    def held_out(obs: pd.DataFrame) -> pd.Series:
        return obs.donor_id.astype(str).isin(tested)

    def has_test_donors(study: str) -> bool:
        return held_out(ad.read_h5ad(data / f"{study}.h5ad", backed="r").obs).any()

    parts = [
        sample_part("validation", data / f"{study}.h5ad", study, lambda obs: ~held_out(obs))
        for study in sources["validation_studies"]
        if fold_model(work, study).exists()
    ]
    parts.append(sample_part("validation", atlas / f"{GUT}.h5ad", "packaged", lambda obs: obs.donor_id.notna()))
    for study in filter(has_test_donors, sources["train"]):
        parts.append(sample_part("donors", data / f"{study}.h5ad", "packaged", held_out))
    for study in sources["unseen"]:
        parts.append(sample_part("studies", data / f"{study}.h5ad", "packaged", lambda obs: obs.donor_id.notna()))
    return parts


def compare_with_texts(parts: Sequence[Part], model, processor) -> dict:
    """Return how often the text names the type with the highest concept probability, and the figures of both."""
    head, generate, graph = TypeHead(model, processor), BatchedTextGenerator(model, processor), load_graph("CL")
    rows = []
    for part in parts:
        for target in (None, 200):
            thinned = thin_cells(part, np.arange(part.adata.n_vars), target)[:: CELLS_PER_STUDY // 30]
            cells = processor.rank_encode(thinned, allow_fractional=True)
            generated, (number, probability) = generate(cells), head(cells)
            claims = [read_fields(text).cell_type for text in generated.texts]
            concepts = generated.concepts["cell_type"]
            stated = type_probabilities(claims, head.names.tolist(), concepts)
            for term, i, claim, *probabilities in zip(
                thinned.obs.cell_type_ontology_term_id, number, claims, probability, stated
            ):
                named = claim and claim.term_id
                lenient = graph.related(head.claims[i].term_id, term), graph.related(named, term)
                rows.append((head.claims[i].same_as(claim), *lenient, *probabilities))
    names = ("same_type", "lenient_head", "lenient_text", "stated_head", "stated_text")
    return {"cells": len(rows)} | dict(zip(names, np.nanmean(np.array(rows, dtype=float), axis=0).round(4).tolist()))


def choose(cells: pd.DataFrame) -> dict:
    """Choose the minimum number of genes and the curve of reliability on validation cells.

    The minimum is the first bin of expressed genes from which the lenient accuracy stays at `MINIMUM_SHARE` of that of
    full cells or above. The reliability of a bin is its ratio of lenient accuracy to stated probability, relative to
    that of full cells, at most 1 and made monotone by isotonic regression. A point of the curve is the median number
    of genes in a bin; the last one, with the factor 1, is the lower edge of the first bin that needs no correction.
    """
    full, bins = summarise(cells[cells.condition == "full"]), summarise_bins(cells[cells.condition != "full"])
    ratios = [one["lenient"] / one["stated"] * full["stated"] / full["lenient"] for one in bins]
    enough = [one["lenient"] >= MINIMUM_SHARE * full["lenient"] for one in bins]
    first = next(i for i in range(len(bins)) if all(enough[i:]))
    factors = isotonic_regression(ratios, y_max=1.0, sample_weight=[one["cells"] for one in bins])
    curve = [[round(one["median_genes"]), round(float(factor), 2)] for one, factor in zip(bins, factors)]
    ends = next((i for i in range(len(curve)) if curve[i][1] == 1), len(curve) - 1)
    curve[ends][0] = bins[ends]["from"]
    return {
        "minimum_share": MINIMUM_SHARE,
        "min_genes": bins[first]["from"],
        "ratios": [[one["median_genes"], round(ratio, 3)] for one, ratio in zip(bins, ratios)],
        "type_reliability": curve[first : ends + 1],
        "full": full,
    }


def corrected(cells: pd.DataFrame, chosen: dict) -> dict:
    """Summarise cells after the correction: no type under the minimum, and lowered probabilities above it."""
    named = cells[cells.n_genes >= chosen["min_genes"]]
    factors = reliability_factors(named.n_genes.to_numpy(), chosen["type_reliability"])
    no_type = 1 - len(named) / len(cells)
    if named.empty:
        return {"no_type": no_type}
    found = summarise(named.assign(stated=named.stated * factors))
    return {"no_type": round(no_type, 4), **{name: found[name] for name in ("lenient", "stated", "sure_and_wrong")}}


def read_panels(folders: Sequence[Path], atlas: Path) -> dict[str, set[str]]:
    """Read gene lists (one `NAME.txt` per panel, `#` opens a comment), and NanoString's safeTME markers."""
    panels = {}
    for path in sorted(path for folder in folders for path in folder.glob("*.txt")):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        panels[path.stem] = set(" ".join(lines).replace(",", " ").split())
    profiles = ad.read_h5ad(atlas.parent / "profiles" / "profiles_permissive.h5ad")
    marker = profiles[profiles.obs.dataset == "CPL_ImmuneTumor_safeTME"]
    panels["nanostring_safetme_markers"] = set(marker.var_names[np.isfinite(np.asarray(marker.X)).all(0)])
    return panels


def measure(args: argparse.Namespace) -> dict:
    """Measure all parts, choose on validation cells, and return the results."""
    sources = yaml.safe_load((PROJECT / "recipes" / "mini" / "sources.yaml").read_text())
    panels = read_panels([PANELS, *args.panels], args.atlas)
    parts = find_parts(args.data, args.atlas, args.work, sources)
    packaged = cell2text.load(device="cpu")
    tables = [measure_once(part, packaged, panels, args.work) for part in parts]
    cells = pd.concat(tables, ignore_index=True)
    kinds = dict(iter(cells.groupby("kind")))
    chosen = choose(kinds["validation"])
    thinned = {kind: members[members.condition != "full"] for kind, members in kinds.items()}
    return {
        "settings": {
            "cells_per_study": CELLS_PER_STUDY, "seed": SEED, "sure": SURE, "resamples": RESAMPLES,
            "parts": [
                {"kind": part.kind, "study": part.study, "model": part.model, "cells": len(part.adata)}
                for part in parts
            ],
            "panels": {name: len(genes) for name, genes in panels.items()},
        },
        "text": compare_with_texts([part for part in parts if part.kind != "validation"], *packaged),
        "chosen": chosen,
        "conditions": {
            kind: {name: summarise(rows) for name, rows in members.groupby("condition", sort=False)}
            for kind, members in kinds.items()
        },
        "corrected": {
            kind: {name: corrected(rows, chosen) for name, rows in members.groupby("condition", sort=False)}
            for kind, members in kinds.items()
        },
        "genes": {kind: summarise_bins(members) for kind, members in thinned.items()},
    }  # fmt: skip


def draw(results: dict) -> Figure:
    """Return lenient accuracy and stated probability by expressed genes and by counts per cell."""
    picture = Figure(figsize=(8, 3.2), layout="constrained")
    titles = {"donors": "held-out donors of the training studies", "studies": "unseen studies"}
    for axes, (kind, title) in zip(picture.subplots(1, 2, sharey=True), titles.items()):
        bins = results["genes"][kind]
        x = [one["median_genes"] for one in bins]
        for name, colour, label in (("stated", "#d62728", "stated probability"), ("lenient", "#1f77b4", "correct")):
            axes.plot(x, [one[name] for one in bins], color=colour, marker="o", markersize=3, label=label)
            low, high = zip(*(one[f"{name}_interval"] for one in bins))
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.axvline(results["chosen"]["min_genes"], color="grey", linestyle=":", label="minimum")
        axes.set(xscale="log", ylim=(0, 1), title=title, xlabel="expressed genes of the model per cell")
        axes.spines[["top", "right"]].set_visible(False)
    picture.axes[0].set_ylabel("share of cells, mean probability")
    picture.axes[0].legend(frameon=False)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of the reference h5ad files")
    parser.add_argument("atlas", type=Path, nargs="?", help="folder of further cells, with gut_scp1884.h5ad")
    parser.add_argument("--work", type=Path, default=Path("runs/mini"), help="folder of the folds' models")
    parser.add_argument("--panels", type=Path, nargs="*", default=[], help="folders of further gene lists, *.txt")
    parser.add_argument("--figure", action="store_true", help="only draw the figure from the results")
    args = parser.parse_args()
    if not args.figure:
        write_atomically(RESULTS, json.dumps(measure(args), indent=1) + "\n")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "thin cells"}):
        draw(json.loads(RESULTS.read_text())).savefig(FIGURE, metadata={"Date": None})


if __name__ == "__main__":
    main()

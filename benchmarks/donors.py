"""Compare `tl.donors` with pooling by the mean and with pseudobulk logistic regression, on the same folds of donors.

    python benchmarks/donors.py DATA ATLAS          # benchmarks/results/donors.json

DATA is the folder of the reference h5ad files, ATLAS the folder with further cells. The packaged model was trained on
kidney_immune, without these labels, and on none of the other studies. All samples of a donor are in the same fold.

- kang: interferon-beta against no treatment, blood of 8 patients with lupus, with many and with few cells per sample.
- kang, N % treated cells: all other cells of a positive sample are untreated cells of the same donor.
- zilionis: tumour against blood, 5 patients with lung cancer.
- kidney: transplant against tumour nephrectomy, 10 donors, by the names of the donors.
- gut: ileum against colon, 34 donors. A negative control: donor and tissue of this file contradict its counts, which
  `sex_genes_in_gut` of the result shows, so that nothing can be predicted.

Each seed samples other cells, assigns donors to other folds where there are more donors than folds, and fits anew.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cell2text
from cell2text.describe.inputs import CellReader
from cell2text.describe.options import DescribeOptions
from cell2text.donors.cross_validation import donor_folds, predict_donors
from cell2text.donors.discrimination import donor_metrics
from cell2text.donors.features import EMBEDDING, CellFeatures, read_features
from cell2text.donors.options import DonorOptions
from cell2text.donors.samples import Samples, find_samples
from cell2text.files import write_atomically
from cell2text.questions.reading import open_anndata


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "donors.json"
SEEDS = range(5)
CELLS_READ = 300  # of each donor and treatment of kang
N_VARIABLE_GENES = 2_000
MIN_SEX_CELLS = 5  # of a donor that express XIST or RPS4Y1
TREATED, UNTREATED = "IFN-beta 6h", "none"
MIXED = "mixed"
SYSTEMS = {
    "attention": {},
    "attention, embedding only": {"groups": [EMBEDDING]},
    "attention, concepts only": {"without": [EMBEDDING]},
    "mean": {"attention": False},
}
PSEUDOBULK = "pseudobulk logistic regression"


@dataclass(frozen=True)
class Study:
    """Cells of a study with their features."""

    cells: ad.AnnData
    features: CellFeatures

    def take(self, rows: np.ndarray) -> "Study":
        return Study(self.cells[rows], replace(self.features, values=self.features.values[rows]))


@dataclass(frozen=True)
class Task:
    """A target of a study, and how each seed chooses cells.

    Parameters
    ----------
    cells_per_sample
        Maximum number of cells of a sample; all cells if None.
    treated_share
        Share of treated cells in positive samples; None to use samples as they are.
    """

    study: str
    target: str
    cells_per_sample: int | None = None
    treated_share: float | None = None


TASKS = {
    "kang, 100 cells per sample": Task("kang", "treatment", 100),
    "kang, 10 cells per sample": Task("kang", "treatment", 10),
    "kang, 20 % treated cells": Task("kang", "treatment", 100, 0.2),
    "kang, 5 % treated cells": Task("kang", "treatment", 100, 0.05),
    "zilionis": Task("zilionis", "tissue"),
    "kidney": Task("kidney", "origin", 100),
    "gut": Task("gut", "tissue"),
}


def read_study(path: Path, target: str, model, processor, cells_per_sample: int | None = None) -> Study:
    cells = ad.read_h5ad(path)
    is_transplant = cells.obs["donor_id"].astype(str).str.contains("Tx")
    cells.obs["origin"] = np.where(is_transplant, "transplant", "tumour nephrectomy")  # of kidney_immune
    samples = cells.obs["donor_id"].astype(str) + cells.obs[target].astype(str)
    rows = np.concatenate(list(sampled(samples, cells_per_sample, np.random.default_rng(0))))
    cells = cells[np.sort(rows)].copy()
    reader = CellReader(open_anndata(cells), processor, DescribeOptions(pathways="model"), model.config.concepts)
    features = read_features(reader, model, processor, np.arange(cells.n_obs))
    usable = np.flatnonzero(features.usable)
    return Study(cells, features).take(usable)


def sampled(samples: pd.Series, n: int | None, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield at most `n` random rows of each sample."""
    for name in sorted(set(samples)):
        yield rng.permutation(np.flatnonzero(samples.to_numpy() == name))[:n]


def choose_cells(study: Study, task: Task, seed: int) -> tuple[Study, np.ndarray]:
    """Return the cells of a seed with the column `label`, and which cells are truly treated."""
    rng, obs = np.random.default_rng(seed), study.cells.obs
    if task.treated_share is None:
        names = obs["donor_id"].astype(str) + obs[task.target].astype(str)
        chosen = study.take(np.sort(np.concatenate(list(sampled(names, task.cells_per_sample, rng)))))
        chosen.cells.obs = chosen.cells.obs.assign(label=chosen.cells.obs[task.target].astype(str))
        return chosen, (chosen.cells.obs[task.target] == TREATED).to_numpy()
    n = int(task.cells_per_sample or 0)
    n_treated = round(n * task.treated_share)
    rows: list[np.ndarray] = []
    labels: list[str] = []
    for donor in sorted(set(obs["donor_id"])):
        of_donor = (obs["donor_id"] == donor).to_numpy()
        treated, untreated = (
            rng.permutation(np.flatnonzero(of_donor & (obs[task.target] == value).to_numpy()))
            for value in (TREATED, UNTREATED)
        )
        rows += [untreated[:n], untreated[n : 2 * n - n_treated], treated[:n_treated]]
        labels += [UNTREATED] * n + [MIXED] * n
    chosen = study.take(np.concatenate(rows))
    chosen.cells.obs = chosen.cells.obs.assign(label=labels)
    return chosen, (chosen.cells.obs[task.target] == TREATED).to_numpy()


def of_groups(
    features: CellFeatures, groups: list[str] | None = None, without: list[str] | None = None
) -> CellFeatures:
    """Return the features of some groups."""
    kept = np.ones(len(features.groups), dtype=bool) if groups is None else np.isin(features.groups, groups)
    kept &= ~np.isin(features.groups, without or [])
    return CellFeatures(features.values[:, kept], features.groups[kept], features.names[kept])


def pseudobulk_probabilities(cells: ad.AnnData, samples: Samples, folds: np.ndarray) -> np.ndarray:
    """Return out-of-fold probabilities of a logistic regression on the log counts of the summed cells."""
    members = sp.csr_matrix((np.ones(cells.n_obs), (samples.codes, np.arange(cells.n_obs))))
    sums = np.asarray((members @ sp.csr_matrix(cells.X)).todense(), dtype=np.float64)
    values = np.log1p(1e4 * sums / sums.sum(axis=1, keepdims=True))
    found = np.zeros(len(samples))
    for fold in range(folds.max() + 1):
        train, test = folds != fold, folds == fold
        genes = np.argsort(-values[train].var(axis=0), kind="stable")[:N_VARIABLE_GENES]
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
        model.fit(values[train][:, genes], samples.labels[train])
        found[test] = model.predict_proba(values[test][:, genes])[:, 1]
    return found


def run_seed(study: Study, task: Task, seed: int) -> dict[str, dict]:
    """Return the metrics of every system on the cells of a seed."""
    chosen, treated = choose_cells(study, task, seed)
    options = DonorOptions(target="label", sample="label", seed=seed)
    samples = find_samples(chosen.cells.obs, options)
    found: dict[str, dict] = {}
    for name, setting in SYSTEMS.items():
        features = of_groups(chosen.features, setting.get("groups"), setting.get("without"))
        prediction = predict_donors(features, samples, replace(options, attention=setting.get("attention", True)))
        found[name] = dict(prediction.metrics)
        if name == "attention":
            concepts = prediction.concepts[prediction.concepts["group"] != EMBEDDING]
            found[name]["concepts"] = concepts["concept"].head(3).tolist()
            mixed = (chosen.cells.obs["label"] == MIXED).to_numpy()
            if mixed.any():
                for score in ("attention", "contribution"):
                    values = getattr(prediction, score)[mixed]
                    found[name][f"treated_cells_by_{score}"] = float(roc_auc_score(treated[mixed], values))
    probabilities = pseudobulk_probabilities(chosen.cells, samples, donor_folds(samples, None, seed))
    classes = samples.donors_of(True), samples.donors_of(False)
    found[PSEUDOBULK] = donor_metrics(samples.labels, probabilities, *classes)
    return found


def summarise(runs: list[dict[str, dict]]) -> dict:
    """Return means over the seeds with the range, and the difference of attention from the other systems."""
    summary: dict = {}
    for name in runs[0]:
        by_seed = {key: [run[name][key] for run in runs] for key in ("auroc", "balanced_accuracy", "brier")}
        row: dict = {key: spread(values) for key, values in by_seed.items()}
        bounds = np.array([run[name]["auroc_interval"] for run in runs])
        row["auroc_interval"] = [round(float(bound), 4) for bound in bounds.mean(axis=0)]
        if name != "attention":
            gaps = np.array([run["attention"]["auroc"] for run in runs]) - by_seed["auroc"]
            row["attention_minus_this"] = spread(gaps.tolist())
        for key in runs[0][name]:
            if key.startswith("treated_cells_by_"):
                row[key] = spread([run[name][key] for run in runs])
        summary[name] = row
    top = pd.Series([concept for run in runs for concept in run["attention"]["concepts"]]).value_counts()
    summary["attention"]["concepts"] = {concept: int(n) for concept, n in top.items()}
    return summary


def spread(values: list[float]) -> list[float]:
    """Return mean, minimum and maximum over the seeds."""
    return [round(float(value), 4) for value in (np.mean(values), np.min(values), np.max(values))]


def sex_genes(cells: ad.AnnData) -> dict[str, int]:
    """Count donors whose cells express both XIST, of women, and the Y gene RPS4Y1, among those that express either."""
    expressed = pd.DataFrame({
        name: np.asarray((cells[:, name].X > 0).todense()).ravel() for name in ("XIST", "RPS4Y1")
    }).groupby(cells.obs["donor_id"].astype(str).to_numpy()).sum()  # fmt: skip
    several = expressed[expressed.sum(axis=1) >= MIN_SEX_CELLS]
    return {"donors": len(several), "donors_with_both": int((several > 0).all(axis=1).sum())}


def measure(args: argparse.Namespace) -> dict:
    model, processor = cell2text.load(device="cpu")
    studies = {
        "kang": read_study(args.data / "kang_pbmc_sle.h5ad", "treatment", model, processor, CELLS_READ),
        "zilionis": read_study(args.data / "zilionis_nsclc.h5ad", "tissue", model, processor),
        "kidney": read_study(args.data / "kidney_immune.h5ad", "origin", model, processor),
        "gut": read_study(args.atlas / "cells" / "gut_scp1884.h5ad", "tissue", model, processor),
    }
    found: dict = {}
    for name, task in TASKS.items():
        runs = []
        for seed in SEEDS:
            runs.append(run_seed(studies[task.study], task, seed))
            print(name, seed, {system: round(run["auroc"], 3) for system, run in runs[-1].items()}, flush=True)
        about = {key: runs[0]["attention"][key] for key in ("positive", "donors", "samples", "folds")}
        found[name] = about | {"systems": summarise(runs)}
    cells = {name: study.cells.n_obs for name, study in studies.items()}
    settings = {"seeds": len(SEEDS), "cells": cells}
    return {"settings": settings, "tasks": found, "sex_genes_in_gut": sex_genes(studies["gut"].cells)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference h5ad files")
    parser.add_argument("atlas", type=Path, help="folder with further cells")
    write_atomically(RESULTS, json.dumps(measure(parser.parse_args()), indent=1) + "\n")


if __name__ == "__main__":
    main()

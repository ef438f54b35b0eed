"""Measure how well a classifier separates simulated from real cells of the same type.

    python benchmarks/simulated_cells.py DATA PROFILES              # benchmarks/results/simulated_cells.json
    python benchmarks/simulated_cells.py DATA PROFILES --variants   # every variant of the model as well
    python benchmarks/simulated_cells.py DATA PROFILES --other-files  # only `other_files`

DATA is the folder of the reference h5ad files, PROFILES the file of mean profiles. A logistic regression on the ranked
genes that the packaged model reads separates two groups of cells of one type: simulated and real ones, real ones of two
studies, and simulated ones of two data sets of profiles. Cells of the two groups are paired at random and thinned to
equal depth, at most 100 counts, on the genes that both have. The AUROC is that of five-fold cross-validation; 0.5 means
that the classifier cannot separate the groups. The separation of two real studies is the reference, because simulated
cells differ from a study's cells at least by a study effect.

`unseen` trains one classifier on the cells of all types, without one real study and one study of profiles, and tests it
on these two. It measures what simulated cells have in common, without the effects of studies. The reference is the same
procedure on halves of the real studies, chosen at random. `other_files` tests on real files that the simulation has not
seen either: half of the files are `--like`, and the other half test.
"""

import argparse
import json
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

import cell2text
from cell2text.errors import UserError
from cell2text.evaluation.expression_features import rank_features
from cell2text.files import write_atomically
from cell2text.ontology.terms import ancestors
from cell2text.preparation import simulated_counts
from cell2text.preparation.profiles import Profiles, read_profiles
from cell2text.preparation.real_cells import (
    Dispersion,
    GeneKinds,
    RealStudy,
    fit_dispersion,
    gene_kinds,
    read_real_studies,
)
from cell2text.preparation.simulated_counts import CellSimulator
from cell2text.sources.containers import open_source
from cell2text.sources.discovery import find_sources
from cell2text.sources.gene_tables import approved_symbols


RESULTS = Path(__file__).resolve().parent / "results" / "simulated_cells.json"
TYPES = {
    "T cell": "CL:0000084",
    "B cell": "CL:0000236",
    "natural killer cell": "CL:0000623",
    "monocyte": "CL:0000576",
    "macrophage": "CL:0000235",
    "mast cell": "CL:0000097",
    "endothelial cell": "CL:0000115",
    "fibroblast": "CL:0000057",
    "type B pancreatic cell": "CL:0000169",
    "retinal rod cell": "CL:0000604",
}
COPIES = ("example_cells",)  # files whose cells are in other files
CELLS, MIN_CELLS, DATASETS, FOLDS, SEED = 120, 20, 3, 5, 0
PAIR_CELLS, PAIR_COUNTS = 60, 100  # per group and per cell; with more, any two studies are separable
HALVES = 5  # divisions of the real studies, for the reference of `unseen`
UNSEEN_COUNTS = 1000  # per cell, so that depth does not tell the sources apart
TECHNICAL = {"MT": r"MT-.+", "RPL and RPS": r"RP[LS]\d+.*", "MALAT1": "MALAT1"}


@dataclass
class Group:
    """Cells of one type from one source.

    Parameters
    ----------
    source
        Name of the file, or data set of the profiles.
    study
        Name of the file, or study of the profiles.
    counts
        Raw counts, CSR, shape (n_cells, n_genes).
    measured
        Genes that the source has, shape (n_genes,).
    """

    source: str
    study: str
    counts: sp.csr_matrix
    measured: np.ndarray


@dataclass
class Inputs:
    """Profiles, real studies and what the model of a variant learns from them."""

    profiles: Profiles
    studies: list[RealStudy]
    genes: np.ndarray
    kinds: GeneKinds
    dispersion: Dispersion


def without_technical_genes(inputs: Inputs) -> Inputs:
    none = np.zeros(len(inputs.genes), dtype=bool)
    for study in inputs.studies:
        study.types = [None] * len(study.types)
    return replace(inputs, kinds=GeneKinds(none, none, none, none))


def without_dispersion(inputs: Inputs) -> Inputs:
    return replace(inputs, dispersion=Dispersion(np.array([-6.0, -2.0]), np.log([1e-3, 1e-3]), 0.0))


def unchanged(inputs: Inputs) -> Inputs:
    return inputs


# Variants of the model: constants of `simulated_counts`, and changes of what it learns from real cells.
VARIANTS: dict[str, tuple[dict, Callable[[Inputs], Inputs]]] = {
    "model": ({}, unchanged),
    "without technical genes of real cells": ({}, without_technical_genes),
    "without overdispersion": ({}, without_dispersion),
    "housekeeping genes as in the profile": ({"LIKENESS": (1, 1e4)}, unchanged),
    "housekeeping genes as in the real file": ({"LIKENESS": (1e4, 1)}, unchanged),
    "without ambient RNA": ({"AMBIENT": (0.1, 1e4)}, unchanged),
    "without gene effects of donors": ({"DONOR_SD": 0.0, "PROFILE_SD": 0.0}, unchanged),
    "all genes of the profile": ({"PANELS": {"all": 1.0}}, unchanged),
    "genes of the real file": ({"PANELS": {"study": 1.0}}, unchanged),
}


def load(data: Path, profiles: Path) -> Inputs:
    """Read the profiles and the real files that hold integer counts."""
    paths = []
    for location in find_sources([str(data)]):
        try:
            open_source(location).close()
        except UserError as error:
            print("skipped", error)
            continue
        if location.name not in COPIES:
            paths.append(location.url)
    table = read_profiles(profiles)
    studies, genes = read_real_studies(paths, table.genes, allow_fractional=False, seed=SEED)
    return Inputs(table, studies, genes, gene_kinds(genes, studies, table), fit_dispersion(studies))


def real_groups(inputs: Inputs, term: str) -> list[Group]:
    """Return the cells of a type and of the types below it, one group per study with enough of them."""
    groups = []
    for study in inputs.studies:
        matching = np.array([term in ancestors(other or "") for other in study.types])
        rows = np.flatnonzero(matching[study.group] & (study.totals >= 200))
        if len(rows) >= MIN_CELLS:
            rows = np.random.default_rng(SEED).permutation(rows)[:CELLS]
            groups.append(Group(study.name, study.name, sp.csr_matrix(study.counts[rows]), study.measured))
    return groups


def simulated_groups(inputs: Inputs, simulator: CellSimulator, term: str) -> list[Group]:
    """Simulate the cells of a type, one group per data set of profiles; at most `DATASETS` groups."""
    obs = inputs.profiles.obs
    matching = obs["cell_type_ontology_term_id"].map(lambda other: term in ancestors(other))
    groups = []
    for dataset in np.random.default_rng(SEED).permutation(obs["dataset"][matching].unique())[:DATASETS]:
        rows = np.flatnonzero(matching & (obs["dataset"] == dataset))
        kinds = ["cell"] * -(-CELLS // len(rows))
        counts = sp.csr_matrix(sp.vstack([simulator.cells(row, kinds)[0] for row in rows]))
        counts = counts[np.random.default_rng(SEED).permutation(counts.shape[0])[:CELLS]]
        measured = np.zeros(len(inputs.genes), dtype=bool)
        measured[counts.indices] = True
        groups.append(Group(f"simulated {dataset}", f"simulated {obs['study'].iloc[rows[0]]}", counts, measured))
    return groups


def equal_depth(one: Group, two: Group, seed: int) -> tuple[sp.csr_matrix, sp.csr_matrix, np.ndarray]:
    """Pair the cells of two groups, thin each pair to equal depth, and return the genes that both have."""
    rng = np.random.default_rng(seed)
    common = np.flatnonzero(one.measured & two.measured)
    n = min(one.counts.shape[0], two.counts.shape[0], PAIR_CELLS)
    pair = [group.counts[rng.permutation(group.counts.shape[0])[:n]][:, common] for group in (one, two)]
    totals = [np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1) for counts in pair]
    depth = np.minimum(np.minimum(*totals), PAIR_COUNTS)
    return *(thin(counts, depth / total, rng) for counts, total in zip(pair, totals)), common


def thin(counts: sp.csr_matrix, share: np.ndarray, rng: np.random.Generator) -> sp.csr_matrix:
    """Keep each count of a cell with the cell's probability."""
    thinned = sp.csr_matrix(counts, copy=True)
    kept = rng.binomial(np.rint(thinned.data).astype(np.int64), np.repeat(share, np.diff(thinned.indptr)))
    thinned.data = kept.astype(np.float32)
    thinned.eliminate_zeros()
    return thinned


class Ranker:
    """Turn counts into the features of ranked genes, with the packaged model's processor."""

    def __init__(self, genes: np.ndarray):
        self.processor = cell2text.load()[1]
        self.genes = genes

    def __call__(self, counts: sp.csr_matrix, columns: np.ndarray) -> sp.csr_matrix:
        """Return features, shape (n_cells, n_tokens), of counts on the genes `columns`."""
        adata = ad.AnnData(counts, var=pd.DataFrame(index=self.genes[columns]))
        return rank_features(self.processor.rank_encode(adata), len(self.processor.gene_vocabulary))


def compare(one: Group, two: Group, rank: Ranker) -> float:
    """Return the AUROC of a classifier that separates two groups, by cross-validation."""
    first, second, common = equal_depth(one, two, SEED)
    features = sp.vstack([rank(first, common), rank(second, common)]).tocsr()
    labels = np.repeat([0, 1], [first.shape[0], second.shape[0]])
    scores = np.zeros(len(labels))
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(features, labels):
        scores[test] = fitted(features[train], labels[train]).decision_function(features[test])
    return float(roc_auc_score(labels, scores))


def fitted(features: sp.csr_matrix, labels: np.ndarray) -> LogisticRegression:
    return LogisticRegression(solver="liblinear", class_weight="balanced", random_state=SEED).fit(features, labels)


def pairs(real: list[Group], simulated: list[Group]) -> Iterator[tuple[str, Group, Group]]:
    """Yield the comparisons of one type."""
    yield from (("real, real", *pair) for pair in combinations(real, 2))
    yield from (("simulated, real", *pair) for pair in product(simulated, real))
    yield from (("simulated, simulated", *pair) for pair in combinations(simulated, 2))


def measure_types(real: dict[str, list[Group]], simulated: dict[str, list[Group]], rank: Ranker) -> dict:
    """Return the AUROC of each comparison, and medians by type and overall."""
    rows = [
        {
            "type": name,
            "comparison": kind,
            "one": one.source,
            "two": two.source,
            "auroc": round(compare(one, two, rank), 4),
        }
        for name in real
        for kind, one, two in pairs(real[name], simulated[name])
    ]
    table = pd.DataFrame(rows)
    by_type = table.groupby(["type", "comparison"]).auroc.median().round(4).unstack()
    return {
        "median": table.groupby("comparison").auroc.median().round(4).to_dict(),
        "by_type": {name: row.dropna().to_dict() for name, row in by_type.iterrows()},
        "pairs": rows,
    }


def measure_unseen(real: dict[str, list[Group]], simulated: dict[str, list[Group]], rank: Ranker) -> float:
    """Return the mean AUROC of simulated against real cells on studies that the classifier has not seen."""
    every = [(name, group) for groups in (real, simulated) for name in groups for group in groups[name]]
    positive = np.array([group.study.startswith("simulated ") for _, group in every])
    return _unseen_auroc(every, [shallow_features(group, rank) for _, group in every], positive)


def measure_unseen_reference(real: dict[str, list[Group]], rank: Ranker) -> list[float]:
    """Return the same AUROC of halves of the real studies, drawn `HALVES` times."""
    every = [(name, group) for name in real for group in real[name]]
    features = [shallow_features(group, rank) for _, group in every]
    names = np.array([group.study for _, group in every])
    studies, found = np.unique(names), []
    for seed in range(HALVES):
        half = np.random.default_rng(seed).permutation(studies)[: len(studies) // 2]
        found.append(_unseen_auroc(every, features, np.isin(names, half)))
    return found


def measure_other_files(inputs: Inputs, real: dict[str, list[Group]], rank: Ranker) -> list[float]:
    """Return the AUROC on real files that neither the classifier nor the simulation has seen, in two halves."""
    names, found = sorted(study.name for study in inputs.studies), []
    for first in (0, 1):
        others = set(names[first::2])
        studies = [study for study in inputs.studies if study.name not in others]
        kinds = gene_kinds(inputs.genes, studies, inputs.profiles)
        simulator = CellSimulator(inputs.profiles, studies, inputs.genes, kinds, fit_dispersion(studies), SEED)
        simulated = {kind: simulated_groups(inputs, simulator, term) for kind, term in TYPES.items()}
        every = [(name, group) for groups in (real, simulated) for name in groups for group in groups[name]]
        positive = np.array([group.study.startswith("simulated ") for _, group in every])
        present = sorted(others & {group.study for _, group in every})
        found.append(_unseen_auroc(every, [shallow_features(group, rank) for _, group in every], positive, present))
    return found


def shallow_features(group: Group, rank: Ranker) -> sp.csr_matrix:
    """Return the features of a group's cells, thinned to `UNSEEN_COUNTS` counts at most."""
    measured = np.flatnonzero(group.measured)
    totals = np.maximum(np.asarray(group.counts.sum(axis=1)).ravel(), 1)
    share = np.minimum(1.0, UNSEEN_COUNTS / totals)
    return rank(thin(group.counts[:, measured], share, np.random.default_rng(SEED)), measured)


def _unseen_auroc(
    every: Sequence[tuple[str, Group]],
    features: Sequence[sp.csr_matrix],
    positive: np.ndarray,
    test_studies: Collection[str] = (),
) -> float:
    """Return the mean AUROC over pairs of a positive and a negative study and their common types.

    The negative studies are `test_studies`, which do not train the classifier. If empty, each study is tested in turn.
    """
    names, types = np.array([group.study for _, group in every]), np.array([name for name, _ in every])
    unused = np.isin(names, list(test_studies))
    found = []
    for one, two in product(np.unique(names[positive]), test_studies or np.unique(names[~positive])):
        train = np.flatnonzero((names != one) & (names != two) & ~unused)
        shared = set(types[names == one]) & set(types[names == two])
        if not shared or len(set(positive[train])) < 2:
            continue
        classifier = fitted(*_stacked(train, features, positive))
        for name in sorted(shared):
            test, labels = _stacked(np.flatnonzero((types == name) & np.isin(names, [one, two])), features, positive)
            found.append(roc_auc_score(labels, classifier.decision_function(test)))
    return round(float(np.mean(found)), 4)


def _stacked(groups: np.ndarray, features: Sequence[sp.csr_matrix], positive: np.ndarray):
    parts = [features[i] for i in groups]
    return sp.vstack(parts).tocsr(), np.repeat(positive[groups], [part.shape[0] for part in parts])


def simple_statistics(groups: dict[str, list[Group]], genes: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the median over cells of simple statistics, with their 10 % and 90 % quantiles."""
    approved = approved_symbols()
    symbols = pd.Series([approved.get(gene, "") for gene in genes])
    masks = {name: symbols.str.fullmatch(pattern).to_numpy() for name, pattern in TECHNICAL.items()}
    tables = []
    for group in (group for members in groups.values() for group in members):
        counts = group.counts
        totals = np.asarray(counts.sum(axis=1)).ravel()
        expressed = np.maximum(np.diff(counts.indptr), 1)
        values: dict[str, np.ndarray] = {
            "counts": totals,
            "genes": expressed,
            "genes per count^0.75": expressed / totals**0.75,
            "singletons, share of genes": np.asarray((counts == 1).sum(axis=1)).ravel() / expressed,
            "highest gene, share of counts": counts.max(axis=1).toarray().ravel() / totals,
        }
        values |= {
            f"{n}, share of counts": np.asarray(counts[:, m].sum(axis=1)).ravel() / totals for n, m in masks.items()
        }
        tables.append(pd.DataFrame(values))
    table = pd.concat(tables)
    return {
        name: {f"{q:.0%}": round(float(table[name].quantile(q)), 4) for q in (0.1, 0.5, 0.9)} for name in table.columns
    }


def simulate_variant(inputs: Inputs, name: str) -> dict[str, list[Group]]:
    """Simulate the cells of all types with one variant of the model."""
    constants, change = VARIANTS[name]
    before = {constant: getattr(simulated_counts, constant) for constant in constants}
    types = [list(study.types) for study in inputs.studies]
    try:
        for constant, value in constants.items():
            setattr(simulated_counts, constant, value)
        changed = change(inputs)
        simulator = CellSimulator(
            changed.profiles, changed.studies, changed.genes, changed.kinds, changed.dispersion, SEED
        )
        return {kind: simulated_groups(changed, simulator, term) for kind, term in TYPES.items()}
    finally:
        for constant, value in before.items():
            setattr(simulated_counts, constant, value)
        for study, old in zip(inputs.studies, types):
            study.types = old


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("profiles", type=Path)
    parser.add_argument("--variants", action="store_true", help="Measure every variant of the model.")
    parser.add_argument("--other-files", action="store_true", help="Measure `other_files` only.")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    inputs = load(arguments.data, arguments.profiles)
    rank = Ranker(inputs.genes)
    real = {kind: real_groups(inputs, term) for kind, term in TYPES.items()}
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"variants": {}}
    if arguments.other_files:
        stored["other_files"] = measure_other_files(inputs, real, rank)
        print("other files", stored["other_files"])
        write_atomically(RESULTS, json.dumps(stored, indent=1) + "\n")
        return
    reference = measure_unseen_reference(real, rank)
    for name in VARIANTS if arguments.variants else ["model"]:
        simulated = simulate_variant(inputs, name)
        found = {"unseen": measure_unseen(real, simulated, rank)}
        stored["variants"][name] = found | {"median_genes": simple_statistics(simulated, inputs.genes)["genes"]["50%"]}
        print(name, stored["variants"][name], flush=True)
        if name == "model":
            stored["measured"] = {
                "unseen": {"simulated, real": found["unseen"], "real, real": round(float(np.mean(reference)), 4)},
                "unseen_halves": reference,
                **measure_types(real, simulated, rank),
                "statistics": {
                    "real": simple_statistics(real, inputs.genes),
                    "simulated": simple_statistics(simulated, inputs.genes),
                },
            }
            print(stored["measured"]["unseen"], stored["measured"]["median"], flush=True)
        write_atomically(RESULTS, json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()

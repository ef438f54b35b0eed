"""Evaluate the packaged model on held-out donors and unseen studies, and describe single cells for manual review."""

import json
import re
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
from comparisons import score_comparisons
from datasets import load_dataset

import cell2text
from cell2text.evaluation.predictions import prediction_values, read_rows
from cell2text.files import write_atomically
from cell2text.inference.embedding import embed_cells
from cell2text.language.tasks import INSTRUCTIONS
from cell2text.models import MINI
from cell2text.training.held_out import first_cells, predict_rows, write_predictions


RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
METRICS = {
    "cell_type": ("accuracy", "lenient_accuracy", "pagerank_similarity"),
    "tissue": ("accuracy",),
    "disease": ("accuracy",),
    "pathways": ("subset_accuracy", "jaccard"),
    "truthfulness": ("share_of_pathway_claims_true", "contradicts_itself"),
    "text": ("exact_match", "bleu4", "rougeL", "bertscore_f1"),
}
COMPARED_METRICS = {"cell_type": ("accuracy", "pagerank_similarity"), "pathways": ("jaccard",)}
BATCH_SIZE, N_CONFUSIONS = 64, 4
_REPEATED_PATHWAY = re.compile(r"pathways are (.+) and \1\.")
CELLS_PER_STUDY, GENES_PER_CELL, MIN_COUNTS = 5, 12, 3  # of the manual review
UNSPECIFIC_GENES = ("MT-", "MTRNR", "RPL", "RPS", "MALAT1")  # beginnings of symbols that indicate no cell type


def test(dataset: Path, files: list[str], sources: dict, work: Path) -> None:
    """Describe the test cells of a prepared data set and score the texts. Writes benchmarks/results/mini.json."""
    work.mkdir(parents=True, exist_ok=True)
    predictions, metrics = work / "predictions.jsonl", work / "evaluation" / "metrics.json"
    model, processor = cell2text.load(device="cpu")
    splits = load_dataset(str(dataset))
    rows, _ = predict_rows(model, processor, splits["test"], batch_size=BATCH_SIZE, max_new_tokens=160)
    trained_types = set(splits["train"]["cell_type"])
    for row in rows:
        row["held_out"] = "studies" if row["dataset_id"] in sources["unseen"] else "donors"
        kind = "types trained on" if row["cell_type"] in trained_types else "other types"
        row["types"] = f"{row['held_out']}: {kind}"
    before = read_rows(predictions) if predictions.exists() else []
    if [prediction_values(row) for row in before] != [prediction_values(row) for row in rows]:
        metrics.unlink(missing_ok=True)  # they score other texts
    write_predictions(rows, predictions)
    if not metrics.exists():
        embeddings = work / "embeddings.npz"
        np.savez(
            embeddings,
            cell_id=np.array([cell for part in splits.values() for cell in part["cell_id"]]),
            embedding=np.concatenate([embed_cells(model, processor, first_cells(part)) for part in splits.values()]),
        )
        evaluate(predictions, metrics.parent, dataset, embeddings, files)
    found = json.loads(metrics.read_text())
    held_out = np.array([row["held_out"] for row in rows])
    parts = {part: splits["test"].select(np.flatnonzero(held_out == part)) for part in ("donors", "studies")}
    results = {
        "model": {
            "parameters": model.num_parameters(),
            "megabytes": round(sum(path.stat().st_size for path in MINI.iterdir() if path.suffix != ".md") / 1e6, 1),
        },
        "training_cells": found["settings"]["training_cells"],
        "baselines_trained_on": found["settings"]["baselines_trained_on"],
        "settings": found["settings"]["hash"],
        "comparing": {part: score_comparisons(model, processor, cells) for part, cells in parts.items()},
        "comparing_by_instruction": {
            instruction: score_comparisons(model, processor, parts["donors"], instruction)
            for instruction in INSTRUCTIONS["compare"]
        },
        "texts_that_name_one_pathway_twice": sum(bool(_REPEATED_PATHWAY.search(row["prediction"])) for row in rows),
        **{part: summary(scores) for part, scores in found["by"]["held_out"].items()},
        "by_study": {name: summary(scores) for name, scores in found["by"]["dataset_id"].items()},
        "confusions": {
            name: found["by"]["dataset_id"][name]["confusions"]["cell_type"][:N_CONFUSIONS]
            for name in sources["unseen"]
        },
        "mean_over_studies": mean_over([found["by"]["dataset_id"][name] for name in sources["unseen"]]),
        "by_types": {name: summary(scores) for name, scores in found["by"]["types"].items()},
    }
    write_atomically(RESULTS / "mini.json", json.dumps(results, indent=1) + "\n")


def evaluate(predictions: Path, out: Path, dataset: Path, embeddings: Path, files: list[str]) -> None:
    """Run `cell2text evaluate`, with baselines trained on the training cells of a data set."""
    command = [sys.executable, "-m", "cell2text", "evaluate", predictions, "--out", out, "--baselines", dataset]
    command += ["--embeddings", embeddings, "--by", "held_out", "--by", "dataset_id", "--by", "types"]
    command += [part for file in files for part in ("--counts", file)]
    subprocess.run([str(part) for part in command], check=True)


def read(files: list[str], sources: dict) -> None:
    """Describe a few cells of every study for manual review. Writes benchmarks/results/mini_cells.json."""
    model = cell2text.load(device="cpu")
    cells = [cell for file in files for cell in cells_to_review(Path(file), model, sources)]
    write_atomically(RESULTS / "mini_cells.json", json.dumps(cells, indent=1, ensure_ascii=False) + "\n")


def summary(scores: dict) -> dict:
    """Select metrics of every system as value, lower and upper bound, and the model's difference to each system."""
    systems = {"cell2text": scores} | scores["systems"]
    return {
        "cells": scores["rows"],
        "resampled": scores["cell_type"]["resampled"],
        "calibration": {name: rounded(found) for name, found in scores["calibration"].items()},
        "systems": {name: figures_of(found) for name, found in systems.items()},
        "ahead_of": {
            name: {
                part: {
                    figure: [short(difference["difference"]), *map(short, difference["interval"] or ())]
                    for figure in figures
                    if (difference := found.get(part, {}).get(figure))
                }
                for part, figures in COMPARED_METRICS.items()
                if part in found
            }
            for name, found in scores["differences"].items()
        },
    }


def mean_over(parts: list[dict]) -> dict:
    """Average the cell-type metrics of each system over parts, with equal weights."""
    systems = [{"cell2text": scores} | scores["systems"] for scores in parts]
    return {
        name: {
            figure: short(float(np.mean([of[name]["cell_type"][figure] for of in systems])))
            for figure in METRICS["cell_type"]
        }
        for name, scores in systems[0].items()
        if "cell_type" in scores
    }


def figures_of(scores: dict) -> dict:
    """Select a system's metrics as value, lower and upper bound."""
    return {
        part: {"n": scores[part]["n"]}
        | {
            name: [short(scores[part][name]), *map(short, scores[part]["intervals"].get(name, ()))]
            for name in figures
            if scores[part].get(name) is not None
        }
        for part, figures in METRICS.items()
        if part in scores
    }


def rounded(calibration: dict) -> dict:
    """Round the figures of one confidence measure to four digits."""
    numbers = ("mean", "accuracy", "auroc")
    bins = [found | {"accuracy": short(found["accuracy"])} for found in calibration["bins"]]
    return calibration | {name: short(calibration[name]) for name in numbers} | {"bins": bins}


def short(value: float | None) -> float | None:
    """Round to four significant digits."""
    return None if value is None else float(f"{value:.4g}")


def cells_to_review(file: Path, model: tuple, sources: dict) -> list[dict]:
    """Describe a few cells of a study, of different types where possible, and list their leading genes.

    Cells come from test donors or unseen studies; from training cells if the study has neither.
    """
    adata = ad.read_h5ad(file)
    labelled = adata[(adata.obs["cell_type"].astype(str) != "unknown").to_numpy()]
    unseen = labelled.obs["donor_id"].isin(sources["test_donors"]).to_numpy() | (file.stem in sources["unseen"])
    pool = np.random.default_rng(0).permutation(np.flatnonzero(unseen) if unseen.any() else labelled.n_obs)
    types = labelled.obs["cell_type"].astype(str).to_numpy()[pool]
    first = np.sort(np.unique(types, return_index=True)[1])  # one cell per type, in sampled order
    sampled = [*first, *np.setdiff1d(np.arange(len(pool)), first)][:CELLS_PER_STUDY]
    chosen = labelled[pool[sampled]].copy()
    cell2text.tl.describe(chosen, model, allow_fractional=True)
    return [
        {
            "study": file.stem,
            "trained_on": not unseen.any(),
            "cell": str(name),
            "label": str(row["cell_type"]),
            "text": str(row["cell2text"]),
            "type_probability": round(float(row["cell2text_type_probability"]), 2),
            "genes": genes,
        }
        for (name, row), genes in zip(chosen.obs.iterrows(), leading_genes(chosen, model[1]))
    ]


def leading_genes(adata: ad.AnnData, processor) -> list[list[str]]:
    """List the highest-ranked genes with at least `MIN_COUNTS` counts per cell."""
    vocabulary, found = processor.gene_vocabulary, []
    place = {name: column for column, name in enumerate(adata.var_names)}
    for row, ranked in enumerate(processor.rank_encode(adata, allow_fractional=True)):
        counts = adata.X[row].toarray().ravel()
        genes = [token for token in ranked if vocabulary.tokens[token] in place]
        names = [
            str(vocabulary.symbols[token]) for token in genes if counts[place[vocabulary.tokens[token]]] >= MIN_COUNTS
        ]
        found.append([name for name in names if not name.startswith(UNSPECIFIC_GENES)][:GENES_PER_CELL])
    return found

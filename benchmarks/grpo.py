"""Compare reinforcement with verifiable rewards with supervised fine-tuning alone, on unseen studies.

    python benchmarks/grpo.py DATA --work FOLDER          # benchmarks/results/grpo.json

DATA is the folder of the reference h5ad files. A small model is fine-tuned on the studies in `FIRST` (arm `sft`). From
there, two arms train on the same cells of `SECOND`, a study that the first stage did not see, for the same number of
steps and texts per step, with several random seeds: `sft_longer` by `train_sft.py`, and `grpo` by `train_grpo.py`. All
arms describe the same cells of the studies in `UNSEEN`, greedily. Finished stages in FOLDER are kept, so that the
command can be repeated.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean

import anndata as ad
import numpy as np

from cell2text.files import write_atomically


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "grpo.json"
FIRST = ("baron_pancreas", "heart_san", "oligodendroglioma", "pbmc3k", "retina")
SECOND = ("kidney_immune",)
UNSEEN = ("breast", "kang_pbmc_sle", "zilionis_nsclc")
CELLS_PER_TYPE, FIRST_SEED, SEEDS = 50, 0, (0, 1)
PREPARATION = {
    "split": "named", "named": {"test": [f"dataset_id={name}" for name in UNSEEN]}, "gene_sets": "hallmark",
    "omit": ["tissue", "disease", "sex", "life_stage"], "system_prompt": "", "broader_types": 0.3, "max_genes": 512,
    "allow_fractional": True, "progress": False,
}  # fmt: skip
# Changes to configs/default.yaml for the model of the first stage.
MODEL = {
    "decoder_layers": 2, "num_train_epochs": 6, "encoder_learning_rate": 0, "eval_strategy": "no", "bf16": False,
    "max_genes": 512,
}  # fmt: skip
STEPS, TEXTS_PER_STEP = 40, 64
SECOND_STAGE = {
    "max_steps": STEPS, "per_device_train_batch_size": TEXTS_PER_STEP, "learning_rate": 1e-4,
    "encoder_learning_rate": 0, "lr_scheduler_type": "cosine", "warmup_steps": 0.1,
}  # fmt: skip
SHARED = {
    "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "cpu_threads": 1,
    "describe_held_out": False,
}  # fmt: skip


def sample_studies(data: Path, work: Path) -> None:
    """Write at most `CELLS_PER_TYPE` labelled cells per study and type, with the study as `dataset_id`."""
    for name in (*FIRST, *SECOND, *UNSEEN):
        target = work / "cells" / f"{name}.h5ad"
        if target.exists():
            continue
        adata = ad.read_h5ad(data / f"{name}.h5ad")
        random, types = np.random.default_rng(0), adata.obs["cell_type"].astype(str).to_numpy()
        rows = [random.permutation(np.flatnonzero(types == kind))[:CELLS_PER_TYPE] for kind in sorted({*types})]
        kept = adata[np.sort(np.concatenate([row for row in rows if types[row[0]] != "unknown"]))].to_memory()
        kept.obs["dataset_id"] = name
        target.parent.mkdir(parents=True, exist_ok=True)
        kept.write_h5ad(target)


def prepare_rows(work: Path) -> None:
    """Prepare the rows of both stages; the second uses the gene vocabulary of the first."""
    from cell2text.preparation.run import prepare

    for stage, studies in (("first", FIRST), ("second", SECOND)):
        if (work / stage / "report.json").exists():
            continue
        vocabulary = {} if stage == "first" else {"gene_vocab": str(work / "first" / "vocabulary")}
        files = [str(work / "cells" / f"{name}.h5ad") for name in (*studies, *UNSEEN)]
        prepare(files, work / stage, **PREPARATION, **vocabulary)


def train(script: str, config: str, folder: Path, **options) -> None:
    """Run a training script, unless its output folder holds a model."""
    if (folder / "README.md").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**SHARED, "output_dir": folder, **options}
    command = [sys.executable, str(PROJECT / script), "--config", str(PROJECT / "configs" / config)]
    command += [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    with (folder / "log.txt").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})


def train_arms(work: Path, seeds: list[int]) -> dict[str, list[Path]]:
    """Train all arms; return the folders of each."""
    first = work / "sft"
    train("train_sft.py", "default.yaml", first, dataset=work / "first", seed=FIRST_SEED, **MODEL)
    second = {"model_name_or_path": first, "dataset": work / "second", **SECOND_STAGE}
    unchanged = {"concept_pretraining_epochs": 0, "gene_embeddings": "random", "eval_strategy": "no", "bf16": False}
    folders: dict[str, list[Path]] = {"sft": [first], "sft_longer": [], "grpo": []}
    for seed in seeds:
        longer, reinforced = work / f"sft_longer_{seed}", work / f"grpo_{seed}"
        train("train_grpo.py", "grpo.yaml", reinforced, seed=seed, **second)
        train("train_sft.py", "default.yaml", longer, seed=seed, **second, **unchanged)
        folders["sft_longer"].append(longer)
        folders["grpo"].append(reinforced)
    return folders


def score_study(texts: list[str], rows: list[dict], names: list[str]) -> dict[str, float]:
    """Return what the texts of one study earn and get right; means over its cells."""
    from cell2text.ontology.graph import load_graph
    from cell2text.training.rewards import calibration_reward, pathway_reward, read_type_statement, type_reward

    above = load_graph("CL").ancestors
    labels = [row["cell_type_ontology_term_id"] for row in rows]
    statements = [read_type_statement(text) for text in texts]
    pairs = list(zip(statements, labels))
    stated = [(one.probability, float(one.subtype in above(label))) for one, label in pairs if one and one.subtype]
    active = [row["pathways_active"] for row in rows]
    earned = {
        "type_reward": [type_reward(*pair) for pair in zip(texts, labels)],
        "calibration_reward": [calibration_reward(*pair) for pair in zip(texts, labels)],
        "pathway_reward": [pathway_reward(text, sets, names) for text, sets in zip(texts, active)],
        "readable": [one is not None for one in statements],
        "named_label": [one is not None and one.named == label for one, label in pairs],
        "named_true": [one is not None and one.named in above(label) for one, label in pairs],
        "states_subtype": [one is not None and one.subtype is not None for one in statements],
        "subtype_probability": [probability for probability, _ in stated],
        "subtype_true": [true for _, true in stated],
        "subtype_brier": [(probability - true) ** 2 for probability, true in stated],
    }
    means = {name: [value for value in values if value is not None] for name, values in earned.items()}
    return {"cells": len(rows), **{name: mean(values) if values else None for name, values in means.items()}}


def score_run(work: Path, folder: Path) -> dict:
    """Describe the cells of the unseen studies greedily and score the texts of each study, once per folder."""
    path = folder / "scores.json"
    if path.exists():
        return json.loads(path.read_text())
    from datasets import load_dataset

    import cell2text
    from cell2text.inference.generation import BatchedTextGenerator

    rows = load_dataset(str(work / "second"), split="test", cache_dir=str(work / "cache")).to_list()
    names = sorted({name for row in rows for name in row["pathways_active"] or ()})
    model, processor = cell2text.load(folder, device="cpu")
    texts = BatchedTextGenerator(model, processor)([row["cells"][0] for row in rows]).texts
    studies = {}
    for study in UNSEEN:
        kept = [i for i, row in enumerate(rows) if row["dataset_id"] == study]
        studies[study] = score_study([texts[i] for i in kept], [rows[i] for i in kept], names)
    scores = {
        "mean_of_studies": mean_of(list(studies.values())),
        "studies": studies,
        "examples": texts[:: len(texts) // 4],
    }
    write_atomically(path, json.dumps(scores, indent=1) + "\n")
    return scores


def mean_of(parts: list[dict]) -> dict:
    """Return the mean of each figure over the parts that have it, rounded to four digits."""
    found = {name: [part[name] for part in parts if part[name] is not None] for name in parts[0] if name != "cells"}
    return {name: round(mean(values), 4) if values else None for name, values in found.items()}


def measure(args: argparse.Namespace) -> dict:
    """Train and score all arms."""
    sample_studies(args.data, args.work)
    prepare_rows(args.work)
    folders = train_arms(args.work, args.seeds)
    runs = {arm: [score_run(args.work, folder) for folder in own] for arm, own in folders.items()}
    settings = {
        "first": FIRST, "second": SECOND, "unseen": UNSEEN, "cells_per_type": CELLS_PER_TYPE,
        "preparation": PREPARATION, "model": MODEL, "second_stage": SECOND_STAGE, "seeds": args.seeds,
    }  # fmt: skip
    means = {arm: mean_of([run["mean_of_studies"] for run in own]) for arm, own in runs.items()}
    return {"settings": settings, "means": means, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference h5ad files")
    parser.add_argument("--work", type=Path, required=True, help="folder of the intermediate files")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="random seeds of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the JSON file to write")
    args = parser.parse_args()
    write_atomically(args.out, json.dumps(measure(args), indent=1) + "\n")


if __name__ == "__main__":
    main()

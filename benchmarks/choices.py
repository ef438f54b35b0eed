"""Ask multiple-choice questions in CellVerse's form about cells of unseen studies, and score the model's choices.

    python benchmarks/choices.py DATA ATLAS          # benchmarks/results/choices.json

DATA is the folder of the reference h5ad files, ATLAS the folder with further cells. A question gives the genes of a
cell by falling counts and ten cell types: the label and nine others. They are drawn from the labels of all studies of
the same part (`any`), or from those of the cell's own study (`own`), which has fewer than ten labels in some. Questions
list all expressed genes, or the first 100. Every file of questions is scored by `cell2text evaluate --format`.

The studies of the part `unseen` trained no model, and nothing is chosen on them. The exponent of
`cell2text.choices.expression_order` is the one with the best mean accuracy on the questions of the part `validation`.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
import yaml
from typer.testing import CliRunner

import cell2text
from cell2text.choices import expression_order
from cell2text.choices.run import evaluate_choices
from cell2text.cli import app
from cell2text.files import write_atomically


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "choices.json"
SOURCES = PROJECT / "recipes" / "mini" / "sources.yaml"
N_CANDIDATES, CELLS_PER_STUDY, SEED = 10, 200, 0
PARTS = {"unseen": ("any", "own"), "validation": ("own",)}  # whose labels the other candidates come from
LENGTHS = {"all genes": None, "100 genes": 100}
EXPONENTS = (0.0, 0.5, 0.75, 1.0, 1.5, 2.0)
DIGITS = 4
ROLE = "You are an expert in single-cell transcriptomics. Answer the question about the cell."
QUESTION = (
    "These are the {gene_names} that one cell expresses, from the highest to the lowest count. Which of the following "
    "is its cell type: {cell_types}? End your reply with 'Final Answer: ' and the name that you choose."
)


def read_cells(args: argparse.Namespace, part: str) -> dict[str, ad.AnnData]:
    """Return a random sample of the labelled cells of each study of a part."""
    found = {}
    for name in yaml.safe_load(SOURCES.read_text())[part]:
        path = args.data / f"{name}.h5ad"
        cells = ad.read_h5ad(path if path.exists() else args.atlas / "cells" / f"{name}.h5ad")
        labelled = np.flatnonzero(cells.obs["cell_type"].astype(str) != "unknown")
        rows = np.random.default_rng(SEED).permutation(labelled)[:CELLS_PER_STUDY]
        found[name] = cells[np.sort(rows)].copy()
    return found


def gene_lists(cells: ad.AnnData) -> Iterator[list[str]]:
    """Yield the expressed genes of each cell by falling counts, genes with equal counts by name."""
    column = cells.var["feature_name"] if "feature_name" in cells.var else cells.var_names.to_series()
    names = column.astype(str).to_numpy()
    counts = sp.csr_matrix(cells.X)
    for row in range(cells.n_obs):
        part = slice(counts.indptr[row], counts.indptr[row + 1])
        values, genes = counts.data[part], names[counts.indices[part]]
        yield genes[np.lexsort((genes, -values))][: int((values > 0).sum())].tolist()


def questions_about(studies: dict[str, ad.AnnData], pool: str, length: int | None) -> list[dict]:
    """Return questions about all cells in CellVerse's form, with their study and donor."""
    labels = {name: sorted(set(cells.obs["cell_type"].astype(str))) for name, cells in studies.items()}
    everywhere = sorted(set().union(*labels.values()))
    rng, questions = np.random.default_rng(SEED), []
    for name, cells in studies.items():
        for row, genes in enumerate(gene_lists(cells)):
            answer = str(cells.obs["cell_type"].iloc[row])
            candidates = draw_candidates(rng, answer, everywhere if pool == "any" else labels[name])
            parts = {"gene_names": " ".join(genes[:length]), "cell_types": ", ".join(map(repr, candidates)) + "."}
            text = "\n".join([QUESTION, *(f"{{{key}}}: {value}" for key, value in parts.items())])
            turns = {"system": ROLE, "user": text, "assistant": answer}
            questions.append(
                {
                    "messages": [{"role": role, "content": content} for role, content in turns.items()],
                    "id": f"{name}: {cells.obs_names[row]}",
                    "dataset": name,
                    "donor_id": f"{name}: {cells.obs['donor_id'].iloc[row]}",
                }
            )
    return questions


def draw_candidates(rng: np.random.Generator, answer: str, labels: Sequence[str]) -> list[str]:
    others = [label for label in labels if label != answer]
    drawn = rng.choice(others, min(N_CANDIDATES - 1, len(others)), replace=False).tolist()
    return rng.permutation([answer, *drawn]).tolist()


def ask(folder: Path, questions: list[dict], *options: str) -> dict:
    """Write questions to a file, run the command on it, and return its metrics."""
    path = folder / "questions.json"
    path.write_text(json.dumps(questions))
    arguments = ["evaluate", str(path), "--format", "cellverse", "--out", str(folder / "out"), *options]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    if done.exit_code:
        raise RuntimeError(done.output)
    print(" ".join(options), done.output, flush=True)
    return json.loads((folder / "out" / "metrics.json").read_text())


def figures(found: dict) -> dict:
    """Return the figures of a part that the docs quote."""
    low, high = found["intervals"]["accuracy"]
    return {
        "questions": found["n"], "answered": found["answered"], "accuracy": round(found["accuracy"], DIGITS),
        "interval": [round(low, DIGITS), round(high, DIGITS)], "resampled": found["resampled"],
        "probability": round(found["probability"], DIGITS), "chance": round(found["chance"], DIGITS),
    }  # fmt: skip


def measure(args: argparse.Namespace, folder: Path) -> dict:
    """Return the accuracy for each part, pool of candidates, length and order."""
    found: dict = {}
    for part, pools in PARTS.items():
        studies = read_cells(args, part)
        for pool in pools:
            for length, n_genes in LENGTHS.items():
                questions = questions_about(studies, pool, n_genes)
                for order in expression_order.GENE_ORDERS:
                    metrics = ask(folder, questions, "--gene-order", order)
                    place = found.setdefault(part, {}).setdefault(pool, {}).setdefault(length, {})
                    place[order] = {
                        "total": figures(metrics["total"]),
                        "studies": {name: figures(one) for name, one in metrics["datasets"].items()},
                        "candidates": metrics["input"]["median_candidates"], "labels": metrics["labels"],
                    }  # fmt: skip
    settings = {
        "candidates": N_CANDIDATES, "cells_per_study": CELLS_PER_STUDY, "seed": SEED,
        "exponent": expression_order.EXPONENT,
    }  # fmt: skip
    return {"settings": settings, "parts": found, "exponents": compare_exponents(args, folder)}


def compare_exponents(args: argparse.Namespace, folder: Path) -> dict:
    """Return the accuracy on validation questions for several exponents."""
    studies, model, path = read_cells(args, "validation"), cell2text.load(), folder / "questions.json"
    found: dict = {length: {} for length in LENGTHS}
    chosen = expression_order.EXPONENT
    for length, n_genes in LENGTHS.items():
        path.write_text(json.dumps(questions_about(studies, "own", n_genes)))
        for exponent in EXPONENTS:
            expression_order.EXPONENT = exponent
            accuracy = evaluate_choices(path, model=model, n_resamples=0)["total"]["accuracy"]
            found[length][str(exponent)] = round(accuracy, DIGITS)
            print(f"{length}, exponent {exponent}: {accuracy:.4f}", flush=True)
    expression_order.EXPONENT = chosen
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference h5ad files")
    parser.add_argument("atlas", type=Path, help="folder with further cells")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_atomically(RESULTS, json.dumps(measure(args, Path(folder)), indent=1) + "\n")


if __name__ == "__main__":
    main()

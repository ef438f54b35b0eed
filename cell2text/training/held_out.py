"""Describe the held-out cells after training, and compare what the texts say with baselines on the same cells."""

import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from cell2text.data.ontology import known
from cell2text.data.rows import METADATA_COLUMNS
from cell2text.evaluation.baselines import baseline_predictions
from cell2text.evaluation.fields import accuracy, read_cell_type
from cell2text.training.arguments import Cell2TextArguments
from cell2text.training.sources import TrainingRows
from pipeline_cell2text import CellToTextPipeline
from vocabulary_cell2text import write_atomically


EXAMPLES = 5


def describe_held_out(
    model, processor, training_rows: TrainingRows, args: Cell2TextArguments, output_dir: str, *, seed: int
) -> dict:
    """Write `predictions.jsonl` and `results.json`, print five texts and a table, and return the results.

    Parameters
    ----------
    training_rows
        All rows; baselines need those that were prepared here, whose counts can be read.
    """
    rows = training_rows.held_out
    describe = CellToTextPipeline(model=model.eval(), processor=processor, device=model.device)
    options = {"batch_size": args.generation_batch_size, "max_new_tokens": args.max_new_tokens, "do_sample": False}
    cells = [row[0] for row in rows["cells"]]
    texts, shuffled = (
        [result["generated_text"] for result in describe(chosen, **options)]
        for chosen in (cells, [cells[index] for index in derangement(len(cells), seed)])
    )
    references = [completion[0]["content"][0]["text"] for completion in rows["completion"]]
    labels = rows["cell_type"]
    labelled = [index for index, label in enumerate(labels) if known(label)]
    results: dict[str, float] = {"n": len(labelled)}
    for name, said in (("cell2text", texts), ("shuffled_cells", shuffled)):
        found = [read_cell_type(said[index]) for index in labelled]
        results[name] = accuracy(found, [labels[index] for index in labelled])
    results["exact_text"] = accuracy(texts, references)
    if args.baselines and training_rows.files:
        results |= baseline_accuracies(training_rows, args, seed=seed)
    predictions = [
        {"cell_id": row["cell_id"], "prediction": text, "reference": reference}
        | {name: row[name] for name in METADATA_COLUMNS}
        for row, text, reference in zip(rows.select_columns(["cell_id", *METADATA_COLUMNS]), texts, references)
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in predictions]
    write_atomically(Path(output_dir, "predictions.jsonl"), "\n".join(lines) + "\n")
    write_atomically(Path(output_dir, "results.json"), json.dumps(results, indent=2) + "\n")
    print_results(results, predictions)
    return results


def derangement(n: int, seed: int) -> np.ndarray:
    """A permutation that moves every index: a random cycle through all of them."""
    order = np.random.default_rng(seed).permutation(n)
    moved = np.empty(n, dtype=np.int64)
    moved[order] = np.roll(order, 1)
    return moved


def baseline_accuracies(rows: TrainingRows, args: Cell2TextArguments, *, seed: int) -> dict:
    """Accuracy of every baseline on the held-out cells whose type is known."""
    labelled = [
        part.select([index for index, label in enumerate(part["cell_type"]) if known(label)])
        for part in (rows.train, rows.held_out)
    ]
    labels, truth = (part["cell_type"][:] for part in labelled)
    train, test = (rows.counts(part, args.layer) for part in labelled)
    genes = train.var_names.intersection(test.var_names, sort=False)
    predictions = baseline_predictions(train[:, genes], labels, test[:, genes], seed=seed)
    return {name: accuracy(values, truth) for name, values in predictions.items()}


def print_results(results: dict, predictions: list[dict]) -> None:
    console = Console(width=120)
    step = max(1, len(predictions) // EXAMPLES)
    for row in predictions[::step][:EXAMPLES]:
        console.print(f"\n[bold]{row['cell_id']}[/bold]", highlight=False)
        console.print(f"  said:  {row['prediction']}", highlight=False, markup=False)
        console.print(f"  truth: {row['reference']}", highlight=False, markup=False)
    titles = {
        "cell2text": "Cell2Text, cell type read from the text",
        "shuffled_cells": "control: each cell's genes replaced by another cell's",
        "majority": "majority class",
        "knn": "kNN on counts",
        "logistic_regression": "logistic regression on counts",
    }
    table = Table(title=f"Cell type of {results['n']:,} held-out cells")
    table.add_column("method")
    table.add_column("accuracy", justify="right")
    for name, title in titles.items():
        if name in results:
            table.add_row(title, f"{results[name]:.1%}")
    console.print(table)

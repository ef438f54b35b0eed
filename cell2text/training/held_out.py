"""Describe the held-out cells after training, and evaluate the texts beside baselines."""

import json
from pathlib import Path

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.table import Table

from cell2text.evaluation.baseline_data import baseline_data
from cell2text.evaluation.evaluate import evaluate_predictions
from cell2text.evaluation.report import SYSTEM_NAMES
from cell2text.files import write_atomically
from cell2text.inference.embedding import embed_cells
from cell2text.inference.generation import BatchedTextGenerator
from cell2text.inference.probabilities import round_to_four_digits, type_probabilities
from cell2text.language.parsing import read_fields
from cell2text.preparation.rows import METADATA_COLUMNS
from cell2text.training.arguments import Cell2TextArguments, ReinforcementArguments
from cell2text.training.row_columns import column_values
from cell2text.training.rows import TrainingRows


PRINTED_TEXTS = 5
PREDICTIONS_FILE, EVALUATION_FOLDER = "predictions.jsonl", "evaluation"
LABEL_COLUMNS = ("cell_id", *METADATA_COLUMNS, "pathways", "pathways_active", "source", "source_row")


def describe_held_out(
    model, processor, training_rows: TrainingRows, args: Cell2TextArguments | ReinforcementArguments,
    output_dir: str, *, batch_size: int, seed: int,
) -> dict:  # fmt: skip
    """Write `predictions.jsonl` and the folder `evaluation`, print five texts and a table, and return the metrics.

    Parameters
    ----------
    training_rows
        Rows of the run; baselines learn from the training rows.
    batch_size
        Cells per batch.
    seed
        Random seed of the controls and the intervals.
    """
    rows, model = training_rows.held_out, model.eval()
    predictions, embeddings = predict_rows(
        model, processor, rows, batch_size=batch_size, max_new_tokens=args.max_new_tokens
    )
    write_predictions(predictions, Path(output_dir, PREDICTIONS_FILE))
    training = None
    if args.baselines:
        head = "linear_head" in args.baselines
        learned = embed_cells(model, processor, first_cells(training_rows.train)) if head else None
        training = baseline_data(
            training_rows.train,
            rows,
            counts=training_rows.files,
            layer=args.layer,
            methods=args.baselines,
            embeddings=None if learned is None else (learned, embeddings),
        )
    out = Path(output_dir, EVALUATION_FOLDER)
    metrics = evaluate_predictions(predictions, out, training=training, embeddings=embeddings, seed=seed)
    _print_results(metrics, predictions, out)
    return metrics


def predict_rows(
    model, processor, rows: Dataset, *, batch_size: int, max_new_tokens: int,
    concept_overrides: np.ndarray | None = None,
) -> tuple[list[dict], np.ndarray]:  # fmt: skip
    """Describe the first cell of each row.

    Parameters
    ----------
    rows
        Rows of a prepared data set, with `cells`, `completion` and the columns `LABEL_COLUMNS`.
    batch_size
        Cells per batch.
    max_new_tokens
        Maximum number of generated tokens per text.
    concept_overrides
        Concept values that replace the model's predictions, shape (n_cells, n_concepts); NaN keeps the prediction. By
        default all are kept, so that evaluation measures them, pathways included.

    Returns
    -------
    Rows as evaluation reads them, with prediction, type probability, reference and labels; and the cells'
    embeddings, float32, shape (n_cells, cell_hidden).
    """
    generator = BatchedTextGenerator(model, processor, batch_size=batch_size, max_new_tokens=max_new_tokens)
    generated = generator(first_cells(rows), concept_overrides)
    claims = [read_fields(text).cell_type for text in generated.texts]
    type_names = model.config.concept_groups.get("cell_type", [])
    concepts = generated.concepts["cell_type"] if type_names else np.empty((len(claims), 0))
    stated = type_probabilities(claims, type_names, concepts)
    outputs: list[dict] = [
        {"prediction": text, "type_probability": value if np.isfinite(value) else None}
        for text, value in zip(generated.texts, round_to_four_digits(stated))
    ]
    references = [completion[0]["content"][0]["text"] for completion in column_values(rows, "completion")]
    labels = rows.select_columns(list(LABEL_COLUMNS))
    predictions = [{**row, **output, "reference": text} for row, output, text in zip(labels, outputs, references)]
    return predictions, generated.embeddings


def write_predictions(predictions: list[dict], path: Path) -> None:
    """Write predictions as jsonl, one cell per line."""
    lines = [json.dumps(row, ensure_ascii=False) for row in predictions]
    write_atomically(path, "\n".join(lines) + "\n")


def first_cells(rows: Dataset) -> list[list[int]]:
    """Return the first ranked cell of each row."""
    return [cells[0] for cells in column_values(rows, "cells")]


def _print_results(metrics: dict, predictions: list[dict], out: Path) -> None:
    """Print some texts beside their references, and the cell-type metrics of every system."""
    console = Console(width=120)
    step = max(1, len(predictions) // PRINTED_TEXTS)
    for row in predictions[::step][:PRINTED_TEXTS]:
        console.print(f"\n[bold]{row['cell_id']}[/bold]", highlight=False)
        console.print(f"  predicted: {row['prediction']}", highlight=False, markup=False)
        console.print(f"  reference: {row['reference']}", highlight=False, markup=False)
    if "cell_type" in metrics:
        table = Table(title=f"Cell type of {metrics['cell_type']['n']:,} held-out cells")
        table.add_column("system")
        for column in ("accuracy", "lenient", "PageRank"):
            table.add_column(column, justify="right")
        systems = {"cell2text": metrics} | metrics["systems"]
        for name, scores in systems.items():
            if "cell_type" in scores:
                figures = [scores["cell_type"][key] for key in ("accuracy", "lenient_accuracy", "pagerank_similarity")]
                table.add_row(SYSTEM_NAMES[name], *(f"{figure:.1%}" for figure in figures))
        console.print(table)
    console.print(f"Report: {out / 'report.html'}", highlight=False)

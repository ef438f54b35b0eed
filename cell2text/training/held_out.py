"""Describe the held-out cells after training, and evaluate what the texts say."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.table import Table

from cell2text.evaluation.baseline_data import baseline_data
from cell2text.evaluation.calibration import four_digits, probability_of_types
from cell2text.evaluation.evaluate import evaluate_predictions
from cell2text.evaluation.report import SYSTEM_NAMES
from cell2text.files import write_atomically
from cell2text.language.parsing import read_fields
from cell2text.preparation.rows import METADATA_COLUMNS
from cell2text.training.arguments import Cell2TextArguments
from cell2text.training.rows import TrainingRows
from generation_cell2text import CellTextGenerator, encode_cells
from pipeline_cell2text import CellToTextPipeline


EXAMPLES = 5
PREDICTIONS, EVALUATION = "predictions.jsonl", "evaluation"
COPIED = ("cell_id", *METADATA_COLUMNS, "pathways", "pathways_active", "source", "source_row")


def describe_held_out(
    model, processor, training_rows: TrainingRows, args: Cell2TextArguments, output_dir: str, *, seed: int
) -> dict:
    """Write `predictions.jsonl` and the folder `evaluation`, print five texts and a table, and return the metrics."""
    rows, model = training_rows.held_out, model.eval()
    predictions, embeddings = predict_rows(
        model, processor, rows, batch_size=args.generation_batch_size, max_new_tokens=args.max_new_tokens
    )
    write_predictions(predictions, Path(output_dir, PREDICTIONS))
    training = None
    if args.baselines:
        head = "linear_head" in args.baselines
        learned = embed_cells(model, processor, training_rows.train, args.generation_batch_size) if head else None
        training = baseline_data(
            training_rows.train,
            rows,
            counts=training_rows.files,
            layer=args.layer,
            methods=args.baselines,
            embeddings=None if learned is None else (learned, embeddings),
        )
    out = Path(output_dir, EVALUATION)
    metrics = evaluate_predictions(predictions, out, training=training, embeddings=embeddings, seed=seed)
    print_results(metrics, predictions, out)
    return metrics


def predict_rows(
    model, processor, rows: Dataset, *, batch_size: int, max_new_tokens: int
) -> tuple[list[dict], np.ndarray]:
    """Rows as evaluation reads them, and the cells' embeddings, float32, shape (n_cells, cell_hidden).

    A row has what is said of its cell, how sure the model is of it, and what is true.
    """
    answer = CellTextGenerator(model, processor, max_new_tokens=max_new_tokens)
    answers = [answer(cells) for cells in batches_of(rows, batch_size)]
    texts = [text for found in answers for text in found.texts]
    claims = [read_fields(text).cell_type for text in texts]
    types = model.config.concept_groups.get("cell_type", [])
    told = [found.concepts["cell_type"] if types else np.empty((len(found.texts), 0)) for found in answers]
    sure = {
        "confidence": np.concatenate([found.confidence for found in answers]),
        "type_probability": probability_of_types(claims, types, np.concatenate(told)),
    }
    said: list[dict] = [{"prediction": text} for text in texts]
    for name, values in sure.items():
        for row, value in zip(said, four_digits(values)):
            row[name] = value if np.isfinite(value) else None
    references = [completion[0]["content"][0]["text"] for completion in rows["completion"]]
    truths = rows.select_columns(list(COPIED))
    predictions = [{**truth, **row, "reference": reference} for truth, row, reference in zip(truths, said, references)]
    return predictions, np.concatenate([found.embeddings for found in answers])


def write_predictions(predictions: list[dict], path: Path) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in predictions]
    write_atomically(path, "\n".join(lines) + "\n")


def describe_cells(model, processor, cells: list, **options) -> list[str]:
    """One text for each ranked cell."""
    describe = CellToTextPipeline(model=model, processor=processor, device=model.device)
    return [result["generated_text"] for result in describe(cells, **options)]


def embed_cells(model, processor, rows: Dataset, batch_size: int) -> np.ndarray:
    """The cell encoder's states, the mean over each cell's genes, float32, shape (n_cells, cell_hidden)."""
    return np.concatenate([encode_cells(model, processor, cells).embeddings for cells in batches_of(rows, batch_size)])


def batches_of(rows: Dataset, batch_size: int) -> Iterator[list[list]]:
    """The first cell of each row, some rows at a time."""
    for start in range(0, len(rows), batch_size):
        yield [[ranked[0]] for ranked in rows[start : start + batch_size]["cells"]]


def print_results(metrics: dict, predictions: list[dict], out: Path) -> None:
    console = Console(width=120)
    step = max(1, len(predictions) // EXAMPLES)
    for row in predictions[::step][:EXAMPLES]:
        console.print(f"\n[bold]{row['cell_id']}[/bold]", highlight=False)
        console.print(f"  said:  {row['prediction']}", highlight=False, markup=False)
        console.print(f"  truth: {row['reference']}", highlight=False, markup=False)
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
    console.print(f"The whole report: {out / 'report.html'}", highlight=False)

"""Evaluate a model on a file of multiple-choice questions: `cell2text evaluate --format`."""

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cell2text.choices.answering import ChoiceAnswer, ChoiceAnswerer
from cell2text.choices.expression_order import EXPRESSION, GENE_ORDERS
from cell2text.choices.question import ChoiceQuestion
from cell2text.choices.reading import read_questions
from cell2text.choices.scores import score_choices
from cell2text.choices.templates import read_labelled_cells
from cell2text.describe.cell_files import locate_cells, open_cells
from cell2text.describe.options import DescribeOptions
from cell2text.errors import UserError
from cell2text.evaluation.settings import settings_hash
from cell2text.files import write_atomically
from cell2text.loading import default_device, load_model, load_or_reuse, model_name
from cell2text.ontology.terms import ontology_versions
from cell2text.provenance import library_versions
from cell2text.questions.reading import read_selected


logger = logging.getLogger(__name__)

CELLVERSE, INSTRUCTCELL = "cellverse", "instructcell"
FORMATS = (CELLVERSE, INSTRUCTCELL)
METRICS_FILE, CHOICES_FILE = "metrics.json", "choices.jsonl"
DIGITS = 6  # of probabilities in the file of choices


def evaluate_choices(
    questions: str | os.PathLike, out: str | os.PathLike | None = None, model=None, *, format: str = CELLVERSE,
    cells: str | os.PathLike | None = None, gene_order: str = EXPRESSION, options: DescribeOptions | None = None,
    n_resamples: int = 1000, seed: int = 0, device: str | None = None,
) -> dict:  # fmt: skip
    """Answer the multiple-choice questions of a benchmark, and score the choices.

    Parameters
    ----------
    questions
        JSON file of questions; see :func:`cell2text.choices.reading.read_questions`.
    out
        Folder for `metrics.json` and `choices.jsonl`. If omitted, no file is written.
    model
        Folder or Hub id of a Cell2Text model, or a pair of a loaded model and its processor. Defaults to the packaged
        model.
    format
        `"cellverse"`: chats with the genes and the candidates in the question. `"instructcell"`: instructions, or
        templates of them, for cells in a file of counts.
    cells
        File of counts with the cells that the questions name, and for templates their labels in `cell_type` or
        `drug_response`. Not needed if the questions hold the genes.
    gene_order
        `"expression"`: questions order genes by their counts, as CellVerse does. `"relative"`: they are ordered by
        expression relative to each gene's median, as the model orders them.
    options
        How the file of counts and the names of genes are read. Defaults to `DescribeOptions()`.
    n_resamples
        Number of bootstrap replicates.
    seed
        Random seed of the bootstrap, and of the template that each cell gets.
    device
        Torch device for a model that is loaded here.

    Returns
    -------
    The content of `metrics.json`: the figures of :func:`cell2text.choices.scores.score_choices`, `own_tasks` (number of
    questions that each own task of the model answered), `labels` (number of different candidates by how they are mapped
    to the model), `input` and `settings`.

    Raises
    ------
    UserError
        If a file cannot be read, a question has no answer, or an option is not one of its choices.

    Examples
    --------
    >>> import tempfile
    >>> genes = "INS IAPP PCSK1 G6PC2 DLK1 ADCYAP1 HADH MAFA NPTX2 SCGN CPE TTR CHGA SCG5 PCSK1N SCG2 SCG3 GNAS "
    >>> genes += "PCSK2 CHGB UCN3 SLC30A8 ABCC8"
    >>> text = f"Genes: {genes}. Which cell type is it? Options: T cell, beta cell"
    >>> path = Path(tempfile.mkdtemp()) / "questions.json"
    >>> _ = path.write_text(json.dumps([{"question": text, "answer": "beta cell"}]))
    >>> evaluate_choices(path, n_resamples=0)["total"]["accuracy"]
    1.0
    """
    options = options or DescribeOptions()
    _check_choices(format=(format, FORMATS), gene_order=(gene_order, GENE_ORDERS))
    if format == CELLVERSE and cells is not None:
        raise UserError(f"cells='{cells}' is for format='instructcell': questions of CellVerse hold their genes.")
    labelled = None if cells is None else read_labelled_cells(cells, options)
    read = read_questions(questions, labelled, seed=seed)
    if isinstance(model, tuple):
        loaded, processor, name = load_or_reuse(model)
    else:
        loaded, processor = load_model(None if model is None else os.fspath(model), device or default_device())
        name = model_name(model)
    answerer = ChoiceAnswerer(loaded, processor, gene_order=gene_order, species=options.species)
    ranked = _read_cells(read, cells, loaded, processor, options)
    answers = answerer(read, ranked)
    metrics = {
        **score_choices(answers, n_resamples=n_resamples, seed=seed),
        "own_tasks": dict(Counter(one.task for one in answers if one.task is not None)),
        "labels": dict(Counter(label.route for label in answerer.labels(read))),
        "input": _input(questions, format, read),
        "settings": _settings(name, gene_order, options.species, n_resamples, seed),
    }
    if out is not None:
        _write(Path(out), metrics, answers)
    return metrics


def summary_lines(metrics: dict) -> list[str]:
    """Return the accuracy per kind of question and in total, one line each, and why questions were not answered."""
    lines = []
    for name, found in {**metrics["kinds"], "total": metrics["total"]}.items():
        low, high = found["intervals"]["accuracy"] or (float("nan"),) * 2
        line = f"{name}: {found['accuracy']:.1%} right ({low:.1%} to {high:.1%}) of {found['n']:,}"
        if found["answered"] < found["n"]:
            of_them = found["accuracy_answered"]
            line += f", {found['answered']:,} answered" + ("" if of_them is None else f" ({of_them:.1%} of them right)")
        lines.append(f"{line}; chance {found['chance']:.1%}")
    for kind, reasons in metrics["unanswered"].items():
        lines += [f"  {n:,} of kind {kind} not answered: {reason}" for reason, n in reasons.items()]
    lines += [f"  {n:,} answered by the own task {name} of the model" for name, n in metrics["own_tasks"].items()]
    without = metrics["input"]["answer_is_no_candidate"]
    if without:
        lines.append(f"  {without:,} questions do not list their right answer, and count as wrong")
    return lines


def _check_choices(**values: tuple[str, Sequence[str]]) -> None:
    for name, (value, expected) in values.items():
        if value not in expected:
            raise UserError(f"{name}={value!r}: expected one of {', '.join(expected)}.")


def _read_cells(
    questions: Sequence[ChoiceQuestion], cells: str | os.PathLike | None, model, processor, options: DescribeOptions
) -> dict[str, np.ndarray]:
    """Return the ranked cells that questions name."""
    names = list(dict.fromkeys(one.cell for one in questions if one.cell is not None))
    if not names:
        return {}
    if cells is None:
        raise UserError(
            f"{len(names):,} questions name a cell (first: {names[0]!r}). Pass its file: cells='FILE.h5ad'."
        )
    with open_cells(locate_cells(cells), options) as opened:
        reader = opened.reader(processor, options, model.config.concepts)
        for note in reader.reading()["notes"]:
            logger.warning(note)
        reader.own = None  # types do not depend on pathways and sex
        found = read_selected(reader, names)
    return dict(zip(map(str, found.names), found.cells))


def _input(path: str | os.PathLike, format: str, questions: Sequence[ChoiceQuestion]) -> dict:
    return {
        "file": Path(path).name,
        "format": format,
        "questions": len(questions),
        "without_listed_candidates": sum(not one.lists_candidates for one in questions),
        "answer_is_no_candidate": sum(bool(one.candidates) and not one.has_answer for one in questions),
        "median_genes": float(np.median([len(one.genes) for one in questions if one.genes] or [0])),
        "median_candidates": float(np.median([len(one.candidates) for one in questions])),
    }


def _settings(name: str, gene_order: str, species: str, n_resamples: int, seed: int) -> dict:
    settings = {
        "model": Path(name).name if Path(name).exists() else name,
        "gene_order": gene_order, "species": species, "resamples": n_resamples, "seed": seed,
        "ontologies": ontology_versions(),
        "libraries": library_versions(("cell2text", "cellxgene-ontology-guide", "numpy", "torch", "transformers")),
    }  # fmt: skip
    return {**settings, "hash": settings_hash(settings)}


def _write(folder: Path, metrics: dict, answers: Sequence[ChoiceAnswer]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(_row(one), ensure_ascii=False) + "\n" for one in answers)
    write_atomically(folder / CHOICES_FILE, "".join(lines))
    write_atomically(folder / METRICS_FILE, json.dumps(metrics, indent=1) + "\n")


def _row(found: ChoiceAnswer) -> dict:
    question = found.question
    probabilities = {name: round(value, DIGITS) for name, value in zip(question.candidates, found.probabilities)}
    return {
        "question_id": question.question_id, "kind": question.kind, "dataset": question.dataset,
        "answer": question.answer, "choice": found.choice, "right": found.is_right, "probability": found.probability,
        "probabilities": probabilities, "reason": found.reason, "own_task": found.task,
    }  # fmt: skip

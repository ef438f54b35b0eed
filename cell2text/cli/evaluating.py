"""The command `cell2text evaluate`."""

from importlib.util import find_spec
from typing import Annotated

import typer

from cell2text.cli.app import command
from cell2text.errors import UserError
from cell2text.paths import check_input, check_output


NEEDED = ("lightgbm", "nltk", "rouge_score", "sacrebleu")  # of the extra "eval"


@command()
def evaluate(
    predictions: Annotated[
        str,
        typer.Argument(
            help="What `cell2text describe` wrote, with --truth; a jsonl file of predictions: cell_id, prediction, and "
            "the reference text and labels; or questions of a benchmark, with --format."
        ),
    ],
    out: Annotated[str, typer.Option(help="Output folder.")] = "evaluation",
    truth: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of `obs` with your own labels of the described cells: names or ontology terms of cell types. "
            "FIELD=COLUMN for another field, such as tissue=organ. Repeatable."
        ),
    ] = None,
    references: Annotated[
        str | None,
        typer.Option(
            help="File with the labels, if the first lacks them: jsonl for predictions; h5ad, csv or tsv for --truth."
        ),
    ] = None,
    key: Annotated[
        str, typer.Option(help="Prefix of the described columns: `key_added` of cell2text.tl.describe.")
    ] = "cell2text",
    format: Annotated[
        str | None,
        typer.Option(
            help="Form of a benchmark's multiple-choice questions, which the model answers: cellverse or instructcell."
        ),
    ] = None,
    cells: Annotated[
        str | None,
        typer.Option(help="File of counts with the cells that the questions of --format instructcell name."),
    ] = None,
    gene_order: Annotated[
        str,
        typer.Option(
            help="Order of the genes in the questions: `expression`, by counts; or `relative` to each gene's median, "
            "as the model ranks them."
        ),
    ] = "expression",
    species: Annotated[str, typer.Option(help="Species of the cells in the questions: human or mouse.")] = "human",
    against: Annotated[
        str | None, typer.Option(help="jsonl file of another system's predictions for the same cells, to compare.")
    ] = None,
    baselines: Annotated[
        str | None, typer.Option(help="Prepared data set, a folder or Hub id, to train baselines on. None if omitted.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Baselines to train, separated by commas; all if omitted.")
    ] = None,
    counts: Annotated[
        list[str] | None,
        typer.Option(
            help="Files of counts that the data set was prepared from, to train baselines on; its ranked genes if "
            "omitted. Repeatable."
        ),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer of those files that holds the counts, or `raw`; X if omitted.")
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(help="npz file with the arrays cell_id and embedding, for the map and the linear baseline."),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Column or key of the rows, such as dataset_id, to also score separately by. Repeatable."),
    ] = None,
    evidence: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of cells to measure the evidence for cell types on, by deleting genes and predicting again; "
            "needs an h5ad file or zarr store with counts. Not measured if omitted.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model that answers questions, or whose evidence is measured: a folder or Hub id; the packaged one if "
            "omitted."
        ),
    ] = None,
    bertscore_model: Annotated[
        str,
        typer.Option(
            help="Model for BERTScore, a folder or Hub id; `auto` uses all-MiniLM-L6-v2 if it is installed, `none` "
            "skips BERTScore."
        ),
    ] = "auto",
    resamples: Annotated[int, typer.Option(help="Number of bootstrap replicates for the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Random seed for bootstrap, controls and baselines.")] = 0,
) -> None:
    """Score descriptions, or answers to a benchmark's questions, with intervals: fields, ontology, pathways, texts."""
    if format is not None:
        _check_only_questions(
            truth=truth, references=references, against=against, baselines=baselines, methods=methods, counts=counts,
            embeddings=embeddings, by=by, evidence=evidence,
        )  # fmt: skip
        options = {"layer": layer, "species": species}
        return _evaluate_questions(predictions, out, model, format, cells, gene_order, options, resamples, seed)
    lacking = [name for name in NEEDED if find_spec(name) is None]
    if lacking:
        raise UserError(f'The evaluation needs {", ".join(lacking)}: pip install "cell2text[eval]".')
    for path in (predictions, references, against, embeddings, *(counts or ())):
        if path is not None:
            check_input(path)
    check_output(out, folder=True, parents=True)
    from cell2text.evaluation.run import evaluate_file

    measured = None if evidence is None else _measure_evidence(predictions, model, evidence, seed)
    metrics = evaluate_file(
        predictions, out, truth=truth or (), key=key, references=references, against=against, baselines=baselines,
        methods=methods.split(",") if methods else None, counts=counts or (), layer=layer, embeddings=embeddings,
        by=by or (), bertscore_model=None if bertscore_model == "none" else bertscore_model, resamples=resamples,
        seed=seed, evidence=measured,
    )  # fmt: skip
    if measured is not None:
        from cell2text.evaluation.summary import evidence_line

        typer.echo(evidence_line(measured))
    if truth:
        from cell2text.evaluation.summary import summary_lines

        typer.echo("\n".join(summary_lines(metrics)))
    for field in () if truth else ("cell_type", "tissue", "disease", "sex", "life_stage"):
        if field in metrics:
            typer.echo(f"{field}: accuracy {metrics[field]['accuracy']:.1%} on {metrics[field]['n']:,} cells")
    if not truth and "named_types" in metrics:
        from cell2text.evaluation.summary import named_types_line

        typer.echo(named_types_line(metrics["named_types"]))
    typer.echo(f"Wrote {out}/report.html.")


def _check_only_questions(**options: object) -> None:
    """Raise for options that apply to descriptions alone."""
    given = [name for name, value in options.items() if value]
    if given:
        raise UserError(f"{given[0]}={options[given[0]]!r} applies to descriptions, and cannot be used with format=.")


def _evaluate_questions(
    questions: str, out: str, model: str | None, format: str, cells: str | None, gene_order: str, options: dict,
    resamples: int, seed: int,
) -> None:  # fmt: skip
    from cell2text.describe.options import DescribeOptions
    from cell2text.loading import check_model_folder

    chosen = DescribeOptions(**options)
    for path in (questions, *([] if cells is None else [cells])):
        check_input(path)
    check_output(out, folder=True, parents=True)
    check_model_folder(model)
    from cell2text.choices.run import evaluate_choices, summary_lines

    metrics = evaluate_choices(
        questions, out, model, format=format, cells=cells, gene_order=gene_order, options=chosen,
        n_resamples=resamples, seed=seed,
    )  # fmt: skip
    typer.echo("\n".join(summary_lines(metrics)))
    typer.echo(f"Wrote {out}/metrics.json and {out}/choices.jsonl.")


def _measure_evidence(source: str, model: str | None, n_cells: int, seed: int) -> dict:
    from cell2text.describe.faithfulness import evidence_metrics
    from cell2text.loading import check_model_folder

    check_model_folder(model)
    return evidence_metrics(source, model, n_cells=n_cells, seed=seed)

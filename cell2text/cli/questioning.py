"""The commands `cell2text ask`, `score` and `search`."""

import json
from typing import Annotated, Any

import typer

from cell2text.cli.app import command
from cell2text.cli.describing import Overwrite
from cell2text.describe.options import DescribeOptions
from cell2text.errors import UserError
from cell2text.paths import check_input, check_output


READING = ("layer", "gene_key", "allow_fractional", "species", "batch_size")

Source = Annotated[
    str, typer.Argument(metavar="INPUT", help="Raw counts, or ranked gene lists, as `cell2text describe` reads them.")
]
Model = Annotated[
    str | None, typer.Option(help="Folder or Hub id of a Cell2Text model; the packaged model if omitted.")
]
Device = Annotated[
    str | None, typer.Option(help="Device, such as cpu or cuda:1; the GPU if there is one, otherwise the CPU.")
]


@command(DescribeOptions, READING)
def ask(
    options: dict[str, Any],
    source: Source,
    question: Annotated[str, typer.Argument(help="A question about the cells, such as: Is this a T cell?")],
    cells: Annotated[
        list[str] | None,
        typer.Option(help="Name of a cell that the question is about; all cells if omitted. Repeatable."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN=VALUE of `obs` that the cells must have, such as leiden=3. Repeatable."),
    ] = None,
    compare_to: Annotated[
        list[str] | None, typer.Option(help="Name of a cell to compare with. Repeatable for a group.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the answer with its values and probabilities as JSON.")
    ] = False,
    model: Model = None,
    device: Device = None,
) -> None:
    """Answer a question about a cell, a group of cells, or two of them."""
    chosen, columns = DescribeOptions(**options), _pairs(where or [])
    _check(source, model)
    from cell2text.questions.run import ask as ask_cells

    answer = ask_cells(
        source, question, model, cells=cells or None, where=columns, compare_to=compare_to or None, options=chosen,
        device=device,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(answer.to_dict(), ensure_ascii=False, indent=1))
        return
    for text in (answer.text, *answer.notes):
        typer.echo(text)


@command(DescribeOptions, READING)
def score(
    options: dict[str, Any],
    source: Source,
    labels: Annotated[list[str], typer.Argument(help="Labels of cell types, or statements that end with a full stop.")],
    out: Annotated[
        str, typer.Option(help="Output file: csv, parquet or jsonl for a table, h5ad for a copy of the input.")
    ] = "scores.csv",
    overwrite: Overwrite = False,
    model: Model = None,
    device: Device = None,
) -> None:
    """Compute the probability of each of your own labels for every cell, and choose one per cell."""
    chosen = DescribeOptions(**options)
    check_output(out)
    _check(source, model)
    from cell2text.questions.run import check_scores_output, write_scores
    from cell2text.questions.run import score as score_cells

    check_scores_output(source, out, overwrite=overwrite)
    table, scores, params = score_cells(source, labels, model, options=chosen, device=device)
    typer.echo(scores.mapping().drop(columns="ignored").to_string())
    typer.echo(f"Wrote {write_scores(source, out, table, scores, params)}.")


@command(DescribeOptions, READING)
def search(
    options: dict[str, Any],
    source: Source,
    query: Annotated[str, typer.Argument(help="What to look for, such as: T cells with interferon response.")],
    n: Annotated[int, typer.Option(help="Number of cells to print.", min=1)] = 20,
    out: Annotated[
        str | None, typer.Option(help="csv file to write the cells to; they are printed if omitted.")
    ] = None,
    overwrite: Overwrite = False,
    model: Model = None,
    device: Device = None,
) -> None:
    """Rank the cells by how well they match a query in words."""
    chosen = DescribeOptions(**options)
    if out is not None:
        check_output(out)
    _check(source, model)
    from cell2text.files import write_atomically
    from cell2text.questions.run import check_scores_output
    from cell2text.questions.run import search as search_in
    from cell2text.spreadsheets import harmless

    if out is not None:
        if not out.endswith(".csv"):
            raise UserError(f"out={out!r}: expected a name that ends in .csv.")
        check_scores_output(source, out, overwrite=overwrite)
    table = search_in(source, query, model, n=n, options=chosen, device=device)
    if out is None:
        typer.echo(table.to_string(index=False))
        return
    write_atomically(out, table.map(harmless).to_csv(index=False))
    typer.echo(f"Wrote {out}.")


def _check(source: str, model: str | None) -> None:
    """Raise unless the input and the model exist."""
    check_input(source)
    from cell2text.loading import check_model_folder

    check_model_folder(model)


def _pairs(texts: list[str]) -> dict[str, str]:
    """Read `COLUMN=VALUE` texts."""
    found = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not (column.strip() and equals):
            raise UserError(f"where={text!r}: expected COLUMN=VALUE, such as leiden=3.")
        found[column.strip()] = value.strip()
    return found

"""The command `cell2text donors`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cell2text.cli.app import command
from cell2text.cli.describing import Overwrite
from cell2text.cli.questioning import READING, Device, Model
from cell2text.describe.options import DescribeOptions
from cell2text.donors.options import DonorOptions
from cell2text.errors import UserError
from cell2text.paths import check_input, check_output


SHOWN_CONCEPTS = 10


@command(DescribeOptions, tuple(name for name in READING if name != "batch_size"), more=DonorOptions)
def donors(
    options: dict[str, Any],
    more: dict[str, Any],
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="Raw counts of cells of several donors, as `cell2text describe` reads them."
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            help="Output file. csv, parquet or jsonl: a table of samples, and beside it tables of concepts and cells "
            "and the metrics. h5ad: a copy of the input."
        ),
    ] = "donors.csv",
    overwrite: Overwrite = False,
    model: Model = None,
    device: Device = None,
) -> None:
    """Predict a property of donors, such as their disease, from all of their cells, cross-validated by donor."""
    reading, chosen = DescribeOptions(**options), DonorOptions(**more)
    check_output(out)
    check_input(source)
    from cell2text.loading import check_model_folder

    check_model_folder(model)
    from cell2text.donors.run import donors as predict
    from cell2text.donors.run import output_paths, summary_text, write_donors
    from cell2text.questions.run import check_scores_output

    check_scores_output(source, out, overwrite=overwrite)
    for path in output_paths(out)[1:]:
        _check_beside(path, out, source, overwrite=overwrite)
    prediction, cells, params = predict(source, model, options=chosen, reading=reading, device=device)
    typer.echo(prediction.samples.drop(columns="log_odds").round(3).to_string(index=False))
    typer.echo(prediction.concepts.head(SHOWN_CONCEPTS).round(3).to_string(index=False))
    typer.echo(summary_text(prediction.metrics, chosen.target))
    for path in write_donors(source, out, prediction, cells, params):
        typer.echo(f"Wrote {path}.")


def _check_beside(path: Path, out: str, source: str, *, overwrite: bool) -> None:
    """Raise unless a file beside the output can be written, and is neither the input nor there already."""
    check_output(path)
    if path.resolve() == Path(source).resolve():
        raise UserError(f"out={out!r} would also write {path}, which is the input. Choose another path.")
    if path.exists() and not overwrite:
        raise UserError(
            f"out={out!r} would also write {path}, which exists. Pass overwrite=True, or choose another path."
        )

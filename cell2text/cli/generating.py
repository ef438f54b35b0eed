"""The command `cell2text generate`."""

from typing import Annotated

import typer

from cell2text.cli.app import command
from cell2text.cli.describing import Overwrite
from cell2text.paths import check_output


@command()
def generate(
    text: Annotated[
        str, typer.Argument(help="The cells: a type and its origin, such as: B cell from the lung of a healthy donor.")
    ],
    n: Annotated[int, typer.Option(help="Number of cells.", min=1)] = 500,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same cells.", min=0)] = 0,
    out: Annotated[str, typer.Option(help="h5ad file to write.")] = "generated.h5ad",
    overwrite: Overwrite = False,
) -> None:
    """Generate raw counts of cells that a text names."""
    check_output(out)
    from cell2text.generate.run import KEY, check_new_h5ad, generate_cells, write_cells

    check_new_h5ad(out, overwrite=overwrite)
    cells = generate_cells(text, n, seed=seed)
    typer.echo(f"Understood {cells.uns[KEY]['understood']}.")
    typer.echo(f"Wrote {write_cells(cells, out)}: {cells.n_obs:,} cells, {cells.n_vars:,} genes.")

"""The command `cell2text app`."""

from typing import Annotated, Any

import typer

from cell2text.app.options import AppOptions
from cell2text.cli.app import command
from cell2text.paths import check_input


@command(AppOptions)
def app(
    options: dict[str, Any],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="What `cell2text describe` wrote, or a file of counts, which is described first. If omitted, the page "
            "asks for an upload.",
        ),
    ] = None,
) -> None:
    """Look at a described experiment in a browser: map, cells, questions, comparisons and corrections. Offline."""
    chosen = AppOptions(**options)
    if source is not None:
        check_input(source)
    from cell2text.app.server import serve

    running = serve(source, chosen)
    typer.echo(f"The app runs at {running.url} (Ctrl+C ends it).")
    running.wait()

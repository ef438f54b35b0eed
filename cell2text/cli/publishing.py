"""The command `cell2text push`."""

from pathlib import Path
from typing import Annotated

import typer

from cell2text.cli.app import command
from cell2text.files import check_input


@command()
def push(
    folder: Annotated[str, typer.Argument(help="Folder of a trained model.")],
    repository: Annotated[str, typer.Argument(help="Model repository on the Hub, OWNER/NAME.")],
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Upload the LoRA adapter instead of the merged model.")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    tag: Annotated[str | None, typer.Option(help="Tag for this revision, such as v1.0.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files that would be uploaded, and upload nothing.")
    ] = False,
) -> None:
    """Publish a trained model on the Hub: weights, code, processor, gene vocabulary, card and results."""
    check_input(folder)
    from cell2text.publish import files_to_push
    from cell2text.publish import push as push_model

    for file in files_to_push(Path(folder), adapter=adapter):
        typer.echo(f"{file.size:>14,}  {file.name}")
    if not dry_run:
        typer.echo(push_model(Path(folder), repository, adapter=adapter, private=private, tag=tag))

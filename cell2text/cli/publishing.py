"""The command `cell2text push`."""

from pathlib import Path
from typing import Annotated

import typer

from cell2text.cli.app import command
from cell2text.errors import UserError
from cell2text.paths import check_input


MAX_SHOWN = 5  # names of files that are not uploaded


@command()
def push(
    folder: Annotated[
        str, typer.Argument(help="Folder of a trained model; with --space, a described h5ad file is possible too.")
    ],
    repository: Annotated[str, typer.Argument(help="Model repository or Space on the Hub, OWNER/NAME.")],
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Upload the LoRA adapter instead of the merged model.")
    ] = False,
    space: Annotated[
        bool,
        typer.Option("--space", help="Publish the app as a Space: with described cells, or with a model for uploads."),
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    tag: Annotated[str | None, typer.Option(help="Tag for this revision, such as v1.0.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files that would be uploaded, and upload nothing.")
    ] = False,
) -> None:
    """Publish a trained model on the Hub: weights, code, processor, gene vocabulary, card and results; or the app."""
    check_input(folder)
    if space:
        _push_app(folder, repository, adapter=adapter, private=private, tag=tag, dry_run=dry_run)
        return
    from cell2text.publish import files_to_push, left_out
    from cell2text.publish import push as push_model

    files = files_to_push(Path(folder), adapter=adapter)
    for file in files:
        typer.echo(f"{file.size:>14,}  {file.name}")
    others = left_out(folder, files)
    if others:
        shown = ", ".join(others[:MAX_SHOWN]) + (", ..." if len(others) > MAX_SHOWN else "")
        typer.echo(f"Not uploaded: {len(others):,} other files ({shown}).")
    if not dry_run:
        typer.echo(push_model(Path(folder), repository, adapter=adapter, private=private, tag=tag))


def _push_app(
    content: str, repository: str, *, adapter: bool, private: bool, tag: str | None, dry_run: bool
) -> None:  # fmt: skip
    """Publish the app as a Space."""
    if adapter or tag is not None:
        raise UserError("space=True excludes " + ("adapter=True." if adapter else f"tag={tag!r}."))
    from cell2text.app.space import space_files
    from cell2text.publish import push_space

    files = space_files(content, repository.rpartition("/")[2])
    for file in files:
        typer.echo(f"{file.size:>14,}  {file.name}")
    if not dry_run:
        typer.echo(push_space(files, repository, private=private))

"""The command `cell2text export`."""

from typing import Annotated

import typer

from cell2text.cli.app import command
from cell2text.cli.describing import Overwrite
from cell2text.paths import check_input, check_output


@command()
def export(
    source: Annotated[
        str, typer.Argument(metavar="DESCRIBED", help="h5ad file or zarr store that `cell2text describe` wrote.")
    ],
    out: Annotated[str, typer.Option(help="The file to write: .json for cas, .h5ad for cellxgene.")],
    format: Annotated[
        str,
        typer.Option(
            help="cas: Cell Annotation Schema JSON. cellxgene: a copy of the file with the columns of `obs` that "
            "CELLxGENE accepts."
        ),
    ] = "cas",
    key: Annotated[
        str, typer.Option(help="Prefix of the described columns: `key_added` of cell2text.tl.describe.")
    ] = "cell2text",
    title: Annotated[str | None, typer.Option(help="cas: title of the data set; the file name if omitted.")] = None,
    author: Annotated[str | None, typer.Option(help="cas: name of the primary author; Cell2Text if omitted.")] = None,
    version: Annotated[str | None, typer.Option(help="cas: version of the annotations; 1.0.0 if omitted.")] = None,
    url: Annotated[
        str | None, typer.Option(help="cas: persistent address of the annotations, which the CAP extension requires.")
    ] = None,
    algorithm_url: Annotated[
        str | None, typer.Option(help="cas: address of the repository of the model; states the algorithm.")
    ] = None,
    min_probability: Annotated[
        float, typer.Option(help="cellxgene: least type probability; cells below it are `unknown`.")
    ] = 0.0,
    replace: Annotated[
        bool, typer.Option("--replace", help="cellxgene: replace columns of your own. Otherwise they are an error.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Export the annotations of a described experiment for other tools."""
    check_input(source)
    check_output(out)
    from cell2text.exchange.export import export as export_annotations

    written = export_annotations(
        source, out, format=format, key=key, overwrite=overwrite, replace=replace, min_probability=min_probability,
        title=title, author=author, version=version, url=url, algorithm_url=algorithm_url,
    )  # fmt: skip
    typer.echo(f"Wrote {written}.")

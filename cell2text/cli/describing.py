"""The commands `cell2text example`, `describe` and `report`."""

from typing import Annotated, Any

import typer

from cell2text.cli.app import command
from cell2text.describe.options import DescribeOptions
from cell2text.errors import UserError
from cell2text.paths import check_input, check_output


Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an output that exists. Otherwise it is an error.")
]


@command()
def example(
    out: Annotated[str, typer.Option(help="The h5ad file to write.")] = "example.h5ad",
    overwrite: Overwrite = False,
) -> None:
    """Write 200 real cells to try the commands on, from donors that the packaged model was not trained on."""
    check_output(out)
    from cell2text.example import write_example

    typer.echo(f"Wrote {write_example(out, overwrite=overwrite)}.")


@command(DescribeOptions)
def describe(
    options: dict[str, Any],
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Raw counts: h5ad, zarr, 10x h5 or mtx, loom, h5mu, csv; or ranked gene lists: txt, csv, jsonl, gmt.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="Folder or Hub id of a Cell2Text model; the packaged model if omitted.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Output file; its ending sets the format: h5ad, zarr, jsonl, parquet or csv. NAME.described.h5ad (or "
            "zarr; csv for gene lists) in the current folder if omitted."
        ),
    ] = None,
    overwrite: Overwrite = False,
    shard_rows: Annotated[
        int,
        typer.Option(
            help="Cells per shard; an interrupted run recomputes at most this many. It does not change the texts."
        ),
    ] = 1024,
    device: Annotated[
        str | None, typer.Option(help="Device, such as cpu or cuda:1; the GPU if there is one, otherwise the CPU.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of processes on a CPU, each with one thread; one per core if omitted, fewer if memory is "
            "short. It does not change the texts.",
        ),
    ] = None,
    quiet: bool = False,
) -> None:
    """Describe every cell of an experiment: texts, ontology terms and embeddings, added to a copy of the input."""
    chosen = DescribeOptions(**options)
    check_input(source)
    if out is not None:
        check_output(out, folder=out.endswith(".zarr"))
    from cell2text.loading import check_model_folder

    check_model_folder(model)
    from cell2text.describe.gene_list_files import is_gene_list_file

    if not is_gene_list_file(source):
        from cell2text.sources.discovery import find_source

        find_source(source)
    from cell2text.describe.run import describe_file

    written = describe_file(
        source, out, model=model, options=chosen, overwrite=overwrite, device=device, progress=not quiet,
        shard_rows=shard_rows, processes=processes,
    )  # fmt: skip
    if written is not None:
        typer.echo(f"Wrote {written}.")


@command()
def report(
    source: Annotated[
        str, typer.Argument(metavar="DESCRIBED", help="h5ad file or zarr store that `cell2text describe` wrote.")
    ],
    out: Annotated[str, typer.Option(help="The html page to write.")] = "report.html",
    groupby: Annotated[
        str | None,
        typer.Option(
            help="Column of `obs` whose groups are summarised; the groups described, or the predicted cell types, if "
            "omitted."
        ),
    ] = None,
    key: Annotated[
        str, typer.Option(help="Prefix of the described columns: `key_added` of cell2text.tl.describe.")
    ] = "cell2text",
    max_cells: Annotated[
        int, typer.Option(help="Maximum number of cells on the map; a random sample if there are more.")
    ] = 20_000,
    seed: Annotated[int, typer.Option(help="Random seed for the sample of cells and for UMAP.")] = 0,
    overwrite: Overwrite = False,
    quiet: bool = False,
) -> None:
    """Write an html page about a described experiment: an interactive map, texts, groups, quality and provenance."""
    check_input(source)
    check_output(out)
    try:
        from cell2text.describe.report import write_report
    except ModuleNotFoundError as error:
        raise UserError(f'The report needs {error.name}: pip install "cell2text[report]".') from error

    written = write_report(
        source, out, groupby=groupby, key=key, max_cells=max_cells, seed=seed, overwrite=overwrite, progress=not quiet
    )
    typer.echo(f"Wrote {written}.")

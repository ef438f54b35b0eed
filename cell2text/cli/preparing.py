"""The commands `cell2text prepare`, `vocab` and `simulate`."""

from typing import Annotated, Any

import typer

from cell2text.cli.app import Inputs, Workers, command
from cell2text.paths import check_input, check_output
from cell2text.preparation.config import PrepareConfig
from cell2text.preparation.simulation_config import SimulationConfig


VOCABULARY_OPTIONS = ("layer", "gene_key", "species", "max_genes", "allow_fractional")


@command(PrepareConfig)
def prepare(
    options: dict[str, Any],
    inputs: Inputs = None,
    out: Annotated[str, typer.Option(help="Output folder: new, or that of an interrupted run to resume.")] = "prepared",
    config: Annotated[
        str | None, typer.Option(help="yaml file of options. Options on the command line replace what it sets.")
    ] = None,
    test_cells: Annotated[
        list[str] | None,
        typer.Option(help="Cells assigned to the test split for `--split named`: dataset_id=pbmc3k. Repeatable."),
    ] = None,
    validation_cells: Annotated[
        list[str] | None,
        typer.Option(help="Cells assigned to the validation split for `--split named`: donor_id=human2. Repeatable."),
    ] = None,
    workers: Workers = 1,
    dask_scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler whose workers do the work; replaces --workers.")
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(help="Dataset repository on the Hub to upload the result to.")
    ] = None,
    quiet: bool = False,
) -> None:
    """Prepare a training data set from counts: ranked genes, prompts and completions, splits, a card and a report."""
    named = {name: texts for name, texts in (("test", test_cells), ("validation", validation_cells)) if texts}
    if named:
        options["named"] = named
    if inputs:
        options["inputs"] = inputs
    chosen = PrepareConfig.from_yaml(config, **options) if config else PrepareConfig(**options)
    _check_paths(chosen.inputs, out)
    from cell2text.preparation.run import prepare as prepare_data

    report = prepare_data(out=out, config=chosen, workers=workers, dask_scheduler=dask_scheduler, progress=not quiet)
    for line in _summary(report):
        typer.echo(line)
    typer.echo(f"Wrote {out}. Load it with datasets.load_dataset({out!r}); see {out}/report.html.")
    if push_to_hub:
        from pathlib import Path

        from cell2text.preparation.dataset_card import push_to_hub as push

        typer.echo(push(Path(out), push_to_hub))


@command(PrepareConfig, only=VOCABULARY_OPTIONS)
def vocab(
    options: dict[str, Any],
    inputs: Inputs = None,
    out: Annotated[str, typer.Option(help="Output folder.")] = "vocabulary",
    min_cells: Annotated[
        int, typer.Option(help="Minimum number of cells that express a gene; rarer genes are excluded.")
    ] = 3,
    workers: Workers = 1,
    quiet: bool = False,
) -> None:
    """Fit the median of each gene to counts, and save the genes as a vocabulary."""
    chosen = PrepareConfig(inputs=inputs or [], min_cells=min_cells, **options)
    _check_paths(chosen.inputs, out)
    from cell2text.preparation.run import fit_vocabulary_from_files

    vocabulary = fit_vocabulary_from_files(
        chosen.inputs, out, workers=workers, progress=not quiet, min_cells=min_cells, **options
    )
    typer.echo(f"Wrote {out}: a vocabulary of {len(vocabulary):,} tokens.")


@command(SimulationConfig)
def simulate(
    options: dict[str, Any],
    profiles: Annotated[str, typer.Argument(help="h5ad file of mean expression profiles.")],
    like: Annotated[
        list[str] | None,
        typer.Option(help="File of real cells that sets depth, noise and technical genes. Repeatable."),
    ] = None,
    out: Annotated[str, typer.Option(help="h5ad file to write. It must not exist.")] = "simulated.h5ad",
    quiet: bool = False,
) -> None:
    """Simulate cells around mean expression profiles: raw counts for `prepare`, outliers included."""
    config = SimulationConfig(**options)
    for path in (profiles, *(like or ())):
        check_input(path)
    check_output(out)
    from cell2text.preparation.simulation import simulate as simulate_cells

    summary = simulate_cells(profiles, out, like=like or [], config=config, progress=not quiet)
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in summary["kinds"].items())
    typer.echo(f"{summary['cells']:,} cells of {summary['cell_types']:,} types from {summary['profiles']:,} profiles.")
    typer.echo(f"Kinds: {kinds}. Real cells: {', '.join(summary['like'])}.")
    for reason, number in summary["skipped"].items():
        typer.echo(f"  skipped {number:,} profiles: {reason}")
    typer.echo(f"Wrote {out}. Prepare it with your files: cell2text prepare {out} FILES --out FOLDER")


def _check_paths(inputs: list[str], out: str) -> None:
    for path in inputs:
        check_input(path)
    check_output(out, folder=True)
    if inputs:
        from cell2text.sources.discovery import find_sources

        find_sources(inputs)


def _summary(report: dict) -> list[str]:
    """Return the lines to print of a report: rows per split, split, excluded cells, lost counts, skipped files."""
    from cell2text.preparation.own_columns import describe_own_tasks
    from cell2text.preparation.report import describe_split

    splits = ", ".join(f"{name} {entry['rows']:,}" for name, entry in report["splits"].items())
    lines = [f"{report['rows']:,} rows ({splits}).", describe_split(report)]
    lines += [text for text in [describe_own_tasks(report)] if text]
    for name, entry in report["files"].items():
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in entry["dropped"].items())
        lost = sum(entry["counts_by_route"].get(route, 0) for route in ("unmapped", "other_species"))
        same = entry.get("same_name_other_counts", 0)
        lines.append(
            f"  {name}: {entry['rows']:,} of {entry['cells']:,} cells, counts from {entry['counts']}, "
            f"{entry['genes_found']:,} of {entry['genes']:,} genes found in {entry['gene_column']}, "
            f"{100 * (1 - lost):.1f} % of the counts used"
            + (f"; dropped {dropped}" if dropped else "")
            + (f"; {same:,} have the name of a cell in another file, but other counts" if same else "")
        )
        lines += [f"    {note}" for note in entry.get("notes", ())]
    return lines + [f"  skipped {name}: {reason}" for name, reason in report["skipped"].items()]

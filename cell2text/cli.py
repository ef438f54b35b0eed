"""The command line: `cell2text example`, `describe`, `report`, `prepare`, `vocab`, `evaluate`, `push`.

Options become a call of the function that a Python user has; nothing is decided here. Exit codes: 0 done, 2 wrong usage
or wrong input (one line on standard error), 1 a fault of ours or of the machine.
"""

import errno
import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from cell2text.errors import UserError


app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__.split("\n")[0]
)

Inputs = Annotated[
    list[str] | None, typer.Argument(help="h5ad files, zarr stores, folders, globs, or fsspec addresses of them.")
]
Workers = Annotated[int, typer.Option(help="Processes on this machine. The output does not depend on it.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


@app.callback()
def main() -> None:
    """Cell2Text: single-cell expression profiles to text that a biologist can check."""


@app.command()
def prepare(
    inputs: Inputs = None,
    out: Annotated[str, typer.Option(help="Output folder: new, or that of a run that was interrupted.")] = "prepared",
    config: Annotated[
        str | None, typer.Option(help="yaml file with any of the options; the command line wins.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="`files` or `census`.")] = None,
    census_version: Annotated[str | None, typer.Option(help="Release of the CELLxGENE Census.")] = None,
    census_uri: Annotated[str | None, typer.Option(help="Address of a SOMA of the Census's layout.")] = None,
    value_filter: Annotated[str | None, typer.Option(help="Cells of the Census, such as \"tissue == 'lung'\".")] = None,
    gene_vocab: Annotated[
        str | None,
        typer.Option(help="Gene vocabulary: Geneformer or a saved one. Fitted to training cells if left out."),
    ] = None,
    max_genes: Annotated[int | None, typer.Option(help="Longest ranked cell.")] = None,
    gene_sets: Annotated[str | None, typer.Option(help="GMT file, or `hallmark` to download it.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer with the counts, or `raw`.")] = None,
    gene_key: Annotated[str | None, typer.Option(help="Column of var with the gene names; found by itself.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option(help="Our column and the file's, such as cell_type=CellType. Repeatable.")
    ] = None,
    allow_fractional: Annotated[
        bool | None, typer.Option(help="Accept expected counts, which are no integers.")
    ] = None,
    skip_bad_files: Annotated[
        bool | None, typer.Option(help="Leave out files that cannot be used, and report.")
    ] = None,
    sampling: Annotated[str | None, typer.Option(help="all, random, balanced or published.")] = None,
    n_cells: Annotated[int | None, typer.Option(help="Size of the sample.")] = None,
    split: Annotated[str | None, typer.Option(help="donor, dataset, tissue, cell_type, random or named.")] = None,
    test_cells: Annotated[
        list[str] | None, typer.Option(help="Cells that test in a named split: dataset_id=pbmc3k. Repeatable.")
    ] = None,
    validation_cells: Annotated[
        list[str] | None, typer.Option(help="Cells that validate in a named split: donor_id=human2. Repeatable.")
    ] = None,
    shares: Annotated[str | None, typer.Option(help="Such as train=0.8,validation=0.1,test=0.1.")] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Weights in training, such as describe=4,annotate=1,ask=2,pathways=1,compare=1.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Governs sampling, splits, tasks and wordings.")] = None,
    workers: Workers = 1,
    dask_scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler to work on instead.")] = None,
    push_to_hub: Annotated[str | None, typer.Option(help="Dataset repository to upload the result to.")] = None,
    quiet: Quiet = False,
) -> None:
    """Prepare a data set from counts: ranked genes, questions and answers, splits, a card and a report."""
    from cell2text.preparation.config import PrepareConfig
    from cell2text.preparation.dataset_card import push_to_hub as push
    from cell2text.preparation.run import prepare as run

    held_out = {"test": test_cells, "validation": validation_cells}
    chosen: dict[str, Any] = {
        "named": {name: texts for name, texts in held_out.items() if texts} or None,
        "source": source, "census_version": census_version, "census_uri": census_uri, "value_filter": value_filter,
        "gene_vocab": gene_vocab, "max_genes": max_genes, "gene_sets": gene_sets, "layer": layer, "gene_key": gene_key,
        "columns": pairs(columns, str, "--columns"), "allow_fractional": allow_fractional,
        "skip_bad_files": skip_bad_files, "sampling": sampling, "n_cells": n_cells, "split": split,
        "shares": pairs(shares and shares.split(","), float, "--shares"),
        "tasks": pairs(tasks and tasks.split(","), float, "--tasks"), "seed": seed, "inputs": inputs or None,
    }  # fmt: skip
    chosen = {name: value for name, value in chosen.items() if value is not None}
    options = PrepareConfig.from_yaml(config, **chosen) if config else PrepareConfig(**chosen)
    report = run(out=out, config=options, workers=workers, dask_scheduler=dask_scheduler, progress=not quiet)
    for line in summary(report):
        typer.echo(line)
    typer.echo(f"{out}: load it with datasets.load_dataset({out!r}), read {out}/report.html.")
    if push_to_hub:
        typer.echo(push(Path(out), push_to_hub))


@app.command()
def vocab(
    inputs: Inputs = None,
    out: Annotated[str, typer.Option(help="Output folder.")] = "vocabulary",
    layer: Annotated[str | None, typer.Option(help="Layer with the counts, or `raw`.")] = None,
    max_genes: Annotated[int, typer.Option(help="Longest ranked cell.")] = 2048,
    min_cells: Annotated[int, typer.Option(help="Leave out genes seen in fewer cells.")] = 3,
    allow_fractional: Annotated[bool, typer.Option(help="Accept expected counts, which are no integers.")] = False,
    workers: Workers = 1,
    quiet: Quiet = False,
) -> None:
    """Fit gene medians to counts and save them as a gene vocabulary."""
    from cell2text.preparation.run import fit_vocabulary_from_files

    vocabulary = fit_vocabulary_from_files(
        inputs or [], out, workers=workers, progress=not quiet, layer=layer, max_genes=max_genes, min_cells=min_cells,
        allow_fractional=allow_fractional,
    )  # fmt: skip
    typer.echo(f"{out}: {len(vocabulary):,} tokens.")


@app.command()
def evaluate(
    predictions: Annotated[str, typer.Argument(help="jsonl file: cell_id, prediction, reference, what is true.")],
    out: Annotated[str, typer.Option(help="Output folder.")] = "evaluation",
    references: Annotated[
        str | None, typer.Option(help="jsonl file with what is true, where the predictions do not say it.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="Another system's predictions for the same cells.")] = None,
    baselines: Annotated[
        str | None, typer.Option(help="Prepared data set, folder or Hub id, on which baselines are trained.")
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Which baselines, joined by commas; all if left out.")] = None,
    counts: Annotated[
        list[str] | None, typer.Option(help="Files that the data set was prepared from; else its ranked genes serve.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of those files with the counts, or `raw`.")] = None,
    embeddings: Annotated[
        str | None, typer.Option(help="npz file with `cell_id` and `embedding`, for the map and the linear head.")
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Key of the rows, such as dataset_id, to score by as well. Repeatable.")
    ] = None,
    bertscore_model: Annotated[
        str, typer.Option(help="Path or Hub id; `auto` for all-MiniLM-L6-v2 if installed, `none` for no BERTScore.")
    ] = "auto",
    resamples: Annotated[int, typer.Option(help="Bootstrap replicates.")] = 1000,
    seed: Annotated[int, typer.Option(help="Governs bootstrap, control and baselines.")] = 0,
) -> None:
    """Score descriptions: fields, ontology similarity, pathways, texts, with baselines, controls and intervals."""
    from cell2text.evaluation.baseline_data import load_baseline_data, read_embeddings
    from cell2text.evaluation.baselines import METHODS
    from cell2text.evaluation.evaluate import evaluate_predictions
    from cell2text.evaluation.predictions import read_rows

    lacking = [name for name in ("lightgbm", "nltk", "rouge_score", "sacrebleu") if find_spec(name) is None]
    if lacking:
        raise UserError(f'The evaluation needs {", ".join(lacking)}: pip install "cell2text[eval]".')
    rows = read_rows(predictions)
    training, found = None, None
    ids = [str(row.get("cell_id")) for row in rows]
    kept = read_embeddings(embeddings) if embeddings else None
    if kept is not None:
        found = kept.of(ids)
    if baselines:
        training = load_baseline_data(
            baselines, ids, counts=counts or (), layer=layer, embeddings=kept,
            methods=methods.split(",") if methods else METHODS,
        )  # fmt: skip
    metrics = evaluate_predictions(
        rows, out, references=references, against=against, training=training, embeddings=found, by=by or (),
        bertscore_model=None if bertscore_model == "none" else bertscore_model, n_resamples=resamples, seed=seed,
    )  # fmt: skip
    for part in ("cell_type", "tissue", "disease", "sex", "life_stage"):
        if part in metrics:
            typer.echo(f"{part}: {metrics[part]['accuracy']:.1%} of {metrics[part]['n']:,} cells right")
    typer.echo(f"{out}/report.html")


@app.command()
def example(
    out: Annotated[str, typer.Option(help="The h5ad file.")] = "example.h5ad",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write 200 real cells to try things on: of donors that the model of this package was not trained on."""
    from cell2text.example import write_example

    typer.echo(f"{write_example(out, overwrite=overwrite)} is written.")


@app.command()
def describe(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="h5ad file or zarr store with raw counts.")],
    model: Annotated[
        str | None, typer.Option(help="Folder or Hub id of a Cell2Text model; the one of this package if left out.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="h5ad, zarr, jsonl, parquet or csv, by its ending; NAME.described.h5ad (or zarr) here if left out."
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="A question, a task (annotate, ask:tissue, ...), or a JSON file with a chat.")
    ] = None,
    compare_to: Annotated[str | None, typer.Option(help="Name of the cell that every cell is compared to.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer with the counts, or `raw`.")] = None,
    gene_key: Annotated[str | None, typer.Option(help="Column of `var` with the gene names.")] = None,
    allow_fractional: Annotated[bool, typer.Option(help="Accept expected counts, which are no integers.")] = False,
    batch_size: Annotated[
        int | None, typer.Option(help="Cells at a time; found by itself. The texts do not depend on it.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest text, in tokens.")] = 160,
    groupby: Annotated[
        str | None, typer.Option(help="Column of `obs`, such as leiden, whose groups are described as a whole too.")
    ] = None,
    cells_per_group: Annotated[
        int | None, typer.Option(help="Cells of each group that get a text; all if left out.")
    ] = None,
    fields: Annotated[bool, typer.Option("--fields", help="What the texts say, without the texts.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")] = False,
    shard_rows: Annotated[int, typer.Option(help="Cells that a kill may lose. The texts do not depend on it.")] = 1024,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:1; the best there is if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Of the cells drawn from a group.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar, and no texts at the end.")] = False,
) -> None:
    """Describe every cell of an experiment: texts, ontology terms and embeddings, added to a copy of it."""
    from cell2text.describe import DescribeOptions, describe_file

    options = DescribeOptions(
        prompt=prompt, compare_to=compare_to, layer=layer, gene_key=gene_key, allow_fractional=allow_fractional,
        batch_size=batch_size, max_new_tokens=max_new_tokens, fields_only=fields, groupby=groupby,
        cells_per_group=cells_per_group, seed=seed,
    )  # fmt: skip
    written = describe_file(
        source, out, model=model, options=options, overwrite=overwrite, device=device, progress=not quiet,
        shard_rows=shard_rows,
    )  # fmt: skip
    if written is not None:
        typer.echo(f"{written} is written.")


@app.command()
def report(
    source: Annotated[str, typer.Argument(metavar="DESCRIBED", help="h5ad or zarr that `cell2text describe` wrote.")],
    out: Annotated[str, typer.Option(help="The page, an html file.")] = "report.html",
    groupby: Annotated[
        str | None, typer.Option(help="Column of `obs` to sum up by; the groups or cell types described if left out.")
    ] = None,
    key: Annotated[str, typer.Option(help="Name under which the cells were described.")] = "cell2text",
    max_cells: Annotated[int, typer.Option(help="Cells on the map, drawn by the seed if there are more.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of the cells on the map, and of UMAP.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a page that is there.")] = False,
) -> None:
    """Write a page of a described experiment: a map to look around in, texts, groups, losses, provenance."""
    try:
        from cell2text.describe.report import write_report
    except ModuleNotFoundError as error:
        raise UserError(f'The report needs {error.name}: pip install "cell2text[report]".') from error

    typer.echo(write_report(source, out, groupby=groupby, key=key, max_cells=max_cells, seed=seed, overwrite=overwrite))


@app.command()
def push(
    folder: Annotated[str, typer.Argument(help="Folder of a trained model.")],
    repository: Annotated[str, typer.Argument(help="Repository on the Hub, OWNER/NAME.")],
    adapter: Annotated[bool, typer.Option("--adapter", help="The LoRA adapter instead of the merged model.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    tag: Annotated[str | None, typer.Option(help="Tag of this revision, such as v1.0.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be uploaded, and upload nothing.")
    ] = False,
) -> None:
    """Publish a trained model: weights, code, processor, genes and card, so that others load it by name."""
    from cell2text.publish import files_to_push
    from cell2text.publish import push as upload

    for file in files_to_push(Path(folder), adapter=adapter):
        typer.echo(f"{file.size:>14,}  {file.name}")
    if not dry_run:
        typer.echo(upload(Path(folder), repository, adapter=adapter, private=private, tag=tag))


def summary(report: dict) -> list[str]:
    """What a user should see of a report at once: rows, losses, drops, files left out."""
    splits = ", ".join(f"{name} {entry['rows']:,}" for name, entry in report["splits"].items())
    lines = [f"{report['rows']:,} rows ({splits})."]
    for name, entry in report["files"].items():
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in entry["dropped"].items())
        lost = entry["counts_by_route"]["unmapped"]
        lines.append(
            f"  {name}: {entry['rows']:,} of {entry['cells']:,} cells, {lost:.1%} of the counts lost"
            + (f"; dropped {dropped}" if dropped else "")
        )
    lines += [f"  left out {name}: {reason}" for name, reason in report["skipped"].items()]
    return lines


def pairs(texts, kind, option: str) -> dict | None:
    """`name=value` texts as a dictionary, None where there are none."""
    if not texts:
        return None
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            found[name.strip()] = kind(value.strip())
        except ValueError:
            equals = ""
        if not (name and equals):
            raise UserError(f"{option} {text!r}: expected name=value.")
    return found


def run() -> None:
    """Entry point: our own complaints as one line."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        app()
    except UserError as error:
        fail(str(error), 2)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            fail(f"The disk is full ({error}). Free some space and start again: the run goes on where it stopped.", 1)
        if type(error) is OSError and error.errno is None:
            fail(str(error), 1)
        raise


def fail(message: str, code: int) -> None:
    print(f"cell2text: {message}", file=sys.stderr)
    sys.exit(code)

"""The plan of a `prepare` run: every source's metadata is read and checked, cells are chosen and split, jobs are cut.

Only metadata is held here, as categories, a few bytes a cell; counts are looked at in the first cells of each source.
"""

import hashlib
import importlib.metadata
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.api.types import union_categoricals

from cell2text.data.census import find_census
from cell2text.data.config import PrepareConfig
from cell2text.data.jobs import PLAN, WORK, check_counts, open_reader, write_text
from cell2text.data.ontology import (
    FIELD_ONTOLOGIES,
    known,
    life_stage,
    ontology_versions,
    resolve,
    term_definition,
)
from cell2text.data.pathways import GeneSets, match_columns
from cell2text.data.rows import METADATA_COLUMNS
from cell2text.data.sampling import diversity, sample_cells
from cell2text.data.sources import BadFileError, Source, find_sources
from cell2text.data.splits import SPLITS, split_cells
from cell2text.data.vocabulary import gene_numbers
from counts_cell2text import find_flaw
from ranking_cell2text import CellRanker
from vocabulary_cell2text import GeneVocabulary


LIBRARIES = ("anndata", "cellxgene_ontology_guide", "numba", "numpy", "pyarrow", "scipy")
PLAIN_COLUMNS = ("assay", "donor_id", "dataset_id")
PROBE = 256  # cells of each source whose counts are checked before any job starts


@dataclass
class Survey:
    """A source after its metadata was read.

    Parameters
    ----------
    source
        The file.
    fingerprint
        SHA-256 of its contents.
    cells
        One row a cell: `row`, `key` (a hash of data set, donor and name), `primary`, the metadata columns.
    report
        What the report tells of it.
    """

    source: Source
    fingerprint: str
    cells: pd.DataFrame
    report: dict


def find_all(config: PrepareConfig) -> list[Source]:
    if config.source == "census":
        return [find_census(config.census_version, config.census_uri, config.value_filter)]
    return find_sources(config.inputs)


def survey_sources(
    config: PrepareConfig, vocabulary: GeneVocabulary | None, gene_sets: GeneSets | None, *, skipped: dict[str, str]
) -> list[Survey]:
    """Read and check the metadata of every source; `skipped` gains those that cannot be used, if they may be left out.

    Raises
    ------
    BadFileError
        At the first source that cannot be used, unless `skip_bad_files` is set.
    ValueError
        If no source is left.
    """
    surveys = []
    for source in find_all(config):
        if source.name in skipped:
            continue
        try:
            surveys.append(survey_source(source, config, vocabulary, gene_sets))
        except BadFileError as error:
            if not config.skip_bad_files:
                advice = "Mend it, leave it out, or pass --skip-bad-files to go on without such files."
                raise BadFileError(source.name, f"{error.message} {advice}") from error
            skipped[source.name] = error.message
    if not surveys:
        raise ValueError(f"No file can be used: {skipped}.")
    return surveys


def survey_source(
    source: Source, config: PrepareConfig, vocabulary: GeneVocabulary | None, gene_sets: GeneSets | None
) -> Survey:
    with open_reader(source, config) as reader:
        if not reader.n_cells:
            raise BadFileError(source.name, "holds no cell.")
        genes = survey_genes(reader, config, vocabulary, gene_sets)
        cells, resolution = survey_metadata(reader, config)
        if source.format != "soma":  # the Census holds raw counts, of which only the chosen cells' are fetched
            probe_counts(reader, cells["row"].to_numpy()[:PROBE], config)
        report = {"cells": len(cells), "counts": reader.counts_name, **genes, "labels": resolution}
        if reader.note:
            report["note"] = reader.note
        return Survey(source, reader.fingerprint(), cells, report)


def survey_genes(reader, config: PrepareConfig, vocabulary: GeneVocabulary | None, gene_sets: GeneSets | None) -> dict:
    """How many genes are found, and by which way. A file of another species is refused here."""
    name, var = reader.source.name, reader.var()
    if not len(var):
        raise BadFileError(name, "lists no gene.")
    try:
        if vocabulary is None:
            gene_numbers(var.index)
            return {"genes": len(var), "gene_names": "index", "genes_by_route": {"ensembl_id": len(var)}}
        ranker = CellRanker(var, vocabulary, gene_key=config.gene_key, max_genes=vocabulary.max_genes)
    except (ValueError, KeyError) as error:
        raise BadFileError(name, str(error.args[0])) from error
    report = {
        "genes": len(var),
        "gene_names": ranker.gene_names,
        "genes_by_route": ranker.genes_by_route(),
        "merged_genes": ranker.merged_genes,
    }
    if gene_sets:
        columns = match_columns(gene_sets, var, ranker)
        report["gene_set_coverage"] = [
            round(len(found) / len(genes), 4) for found, genes in zip(columns, gene_sets.genes)
        ]
    return report


def probe_counts(reader, rows: np.ndarray, config: PrepareConfig) -> None:
    """Check the first cells' counts, and where they are none look whether a layer holds some."""
    block = reader.counts_of(rows)
    try:
        check_counts(reader, rows, block, config.allow_fractional)
    except BadFileError as error:
        kind, _ = find_flaw(block, allow_fractional=config.allow_fractional) or ("", 0)
        layer = next((layer for layer in reader.layers() if reader.holds_counts(layer, rows)), None)
        hint = f" Found integers in {layer!r}: pass --layer {layer}." if layer else ""
        if not layer and kind == "normalised":
            hint = " If they are expected counts, pass --allow-fractional."
        raise BadFileError(reader.source.name, error.message + hint) from error


def survey_metadata(reader, config: PrepareConfig) -> tuple[pd.DataFrame, dict]:
    """The metadata columns under our names, labels resolved to terms, and how they were resolved."""
    name, present = reader.source.name, reader.obs_columns()
    ours_all = (*METADATA_COLUMNS, "sex_ontology_term_id", "is_primary_data")
    theirs = {ours: config.columns.get(ours, ours) for ours in ours_all}
    mapped = [column for column in config.columns.values() if column not in present]
    if mapped:
        raise BadFileError(name, f"has no column {mapped[0]!r} in obs, which --columns names; it has {present}.")
    if not any(theirs[ours] in present for ours in ("cell_type", "tissue", "disease")):
        raise BadFileError(
            name,
            f"has no column cell_type, tissue or disease in obs; it has {present}. Name them with --columns, such as "
            "--columns cell_type=CellType.",
        )
    obs = reader.obs([column for column in theirs.values() if column in present])
    cells = pd.DataFrame({"row": obs.index.to_numpy(dtype=np.int64)})
    resolution = {}
    for field in FIELD_ONTOLOGIES:
        label, term = (obs.get(theirs[column]) for column in (field, f"{field}_ontology_term_id"))
        cells[field], cells[f"{field}_ontology_term_id"], resolution[field] = resolve_column(
            field, label, term, len(obs)
        )
    stages = cells["development_stage_ontology_term_id"]
    cells["life_stage"] = recoded(stages, {term: life_stage(term) for term in stages.cat.categories})
    for column in PLAIN_COLUMNS:
        values = obs.get(theirs[column])
        cells[column] = (
            empty(len(obs)) if values is None else recoded(values, {v: known(v) for v in values.cat.categories})
        )
    cells["dataset_id"] = pd.Series(categorical(cells["dataset_id"].astype(object).fillna(name)))
    primary = obs.get(theirs["is_primary_data"])
    cells["primary"] = True if primary is None else (primary.astype(object) == "True").to_numpy()
    cells["key"] = identity_keys(reader, cells)
    return cells, resolution


def resolve_column(field: str, label, term, n_cells: int) -> tuple[pd.Series, pd.Series, dict]:
    """Labels and term ids of a field, and of the cells how each was found; unresolved labels are listed."""
    label, term = (empty(n_cells) if column is None else column.reset_index(drop=True) for column in (label, term))
    n_terms = len(term.cat.categories) + 1
    pairs, codes = np.unique(
        (label.cat.codes.to_numpy(dtype=np.int64) + 1) * n_terms + term.cat.codes.to_numpy() + 1, return_inverse=True
    )
    sizes = np.bincount(codes)
    labels_of, terms_of = ([None, *column.cat.categories] for column in (label, term))
    found = [resolve(field, labels_of[pair // n_terms], terms_of[pair % n_terms]) for pair in pairs.tolist()]
    routes: Counter = Counter()
    unresolved: Counter = Counter()
    for term_found, size in zip(found, sizes.tolist()):
        routes[term_found.route] += size
        if term_found.route == "unresolved":
            unresolved[str(term_found.label)] += size
    labels, ids = (categorical([getattr(term, name) for term in found]) for name in ("label", "term_id"))
    report = {"routes": dict(sorted(routes.items())), "unresolved": dict(unresolved.most_common(50))}
    return (
        pd.Series(pd.Categorical.from_codes(labels.codes[codes], labels.categories)),
        pd.Series(pd.Categorical.from_codes(ids.codes[codes], ids.categories)),
        report,
    )


def recoded(column: pd.Series, new_names: dict) -> pd.Series:
    """A categorical column with its categories renamed, some to the same name or to nothing."""
    names = categorical([new_names[name] for name in column.cat.categories])
    new_codes = np.append(names.codes, -1)  # an unknown value, code -1, takes the last
    return pd.Series(pd.Categorical.from_codes(new_codes[column.cat.codes.to_numpy()], names.categories))


def categorical(values) -> pd.Categorical:
    """Values as categories of one type, so that those of all sources can be joined."""
    return pd.Categorical(values, categories=pd.Index(sorted({v for v in values if v is not None}), dtype=object))


def empty(n_cells: int) -> pd.Series:
    return pd.Series(categorical([None] * n_cells))


def identity_keys(reader, cells: pd.DataFrame) -> np.ndarray:
    """A hash of every cell's data set, donor and name: what tells a cell from its copy in another file."""
    names = pd.Series(reader.cell_names(cells["row"].to_numpy()))
    dataset, donor = (cells[column].astype(object).fillna("") for column in ("dataset_id", "donor_id"))
    bare = [text.removeprefix(f"{prefix}:") for text, prefix in zip(names, dataset)]
    return pd.util.hash_pandas_object(pd.DataFrame({"d": dataset, "o": donor, "n": bare}), index=False).to_numpy()


def join(surveys: list[Survey]) -> pd.DataFrame:
    """Cells of all sources in their order, as one table with the columns `source` and `donor` added."""
    columns = {}
    for name in surveys[0].cells.columns:
        parts = [survey.cells[name] for survey in surveys]
        categorical = isinstance(parts[0].dtype, pd.CategoricalDtype)
        columns[name] = union_categoricals(parts, sort_categories=True) if categorical else np.concatenate(parts)
    cells = pd.DataFrame(columns)
    names = [survey.source.name for survey in surveys]
    cells["source"] = pd.Categorical.from_codes(
        np.repeat(np.arange(len(names)), [len(s.cells) for s in surveys]), names
    )
    # Cells of an unnamed donor are one group a data set: they may be of one person.
    nameless = "unknown donor of " + cells["dataset_id"].astype(object)
    cells["donor"] = pd.Categorical(cells["donor_id"].astype(object).fillna(nameless))
    return cells


def copies(cells: pd.DataFrame) -> pd.Series:
    """Cells that stand in another file too; kept is the one of the file with the most cells of their data set."""
    sizes = cells.groupby(["source", "dataset_id"], observed=True)["row"].transform("size")
    return cells["key"].iloc[np.argsort(-sizes.to_numpy(), kind="stable")].duplicated().sort_index()


def drop_cells(cells: pd.DataFrame, config: PrepareConfig) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """The cells that may be used, and of each source how many were dropped, by the first reason that holds."""
    fields = cells[["cell_type", "tissue", "disease"]]
    reasons = {"copy of a cell of another file": copies(cells)}
    if config.primary_only:
        reasons["not primary data"] = ~cells["primary"]
    if config.exclude_assays:
        excluded = tuple(name.lower() for name in config.exclude_assays)
        reasons["excluded assay"] = cells["assay"].astype(object).fillna("").str.lower().str.startswith(excluded)
    if config.exclude_datasets:
        reasons["excluded data set"] = cells["dataset_id"].isin(config.exclude_datasets)
    for column in config.require:
        reasons[f"{column} unknown"] = cells[column].isna()
    reasons["nothing known about it"] = fields.isna().all(axis=1)
    if config.split in ("tissue", "cell_type"):
        reasons[f"{config.split} unknown, so that it fits no split"] = cells[config.split].isna()
    dropped: dict[str, dict[str, int]] = {name: {} for name in cells["source"].cat.categories}
    left = np.ones(len(cells), dtype=bool)
    for reason, holds in reasons.items():
        now = left & holds.to_numpy(dtype=bool)
        for name, count in cells["source"][now].value_counts().items():
            if count:
                dropped[str(name)][reason] = int(count)
        left &= ~now
    return cells[left].reset_index(drop=True), dropped


def make_plan(
    config: PrepareConfig,
    folder: Path,
    surveys: list[Survey],
    gene_sets: GeneSets | None,
    *,
    identity: str,
    provenance: dict,
) -> None:
    """Choose and split the cells, and write what the jobs and the report need; the plan itself comes last."""
    cells, dropped = drop_cells(join(surveys), config)
    if not len(cells):
        raise ValueError(f"No cell is left of {sum(len(s.cells) for s in surveys):,}: dropped {dropped}.")
    before = diversity(cells)
    chosen, parts = sample_cells(
        cells, config.sampling, n_cells=config.n_cells, balance=config.balance, seed=config.seed
    )
    cells = cells.iloc[chosen].reset_index(drop=True)
    cells["split"] = split_cells(
        cells, config.split, shares=config.shares, stratify=tuple(config.stratify), seed=config.seed
    )
    jobs = write_jobs(cells, folder, config.cells_per_shard)
    types = cells["cell_type_ontology_term_id"].dropna().unique()
    plan = {
        "identity": identity,
        "provenance": provenance,
        "config": config.to_dict(),
        "sources": [survey.source.to_json() for survey in surveys],
        "jobs": jobs,
        "gene_sets": asdict(gene_sets) if gene_sets else None,
        "definitions": {term: text for term in sorted(types) if (text := term_definition(term))},
        "report": {
            "files": {
                survey.source.name: {
                    "sha256": survey.fingerprint, **survey.report, "dropped": dropped[survey.source.name],
                }
                for survey in surveys
            },
            "sampling": parts,
            "diversity": {"before": before, "after": diversity(cells)},
            "groups": {
                split: int(cells["donor"][cells["split"] == i].nunique()) for i, split in enumerate(SPLITS)
            },
        },
    }  # fmt: skip
    write_text(folder / PLAN, json.dumps(plan, indent=1, sort_keys=True) + "\n")


def write_jobs(cells: pd.DataFrame, folder: Path, cells_per_shard: int) -> list[dict]:
    """Cut each source's chosen cells into jobs, in the order of the source, and write one table a job."""
    jobs: list[dict] = []
    (folder / WORK / "plan").mkdir(parents=True, exist_ok=True)
    for name, of_source in cells.groupby("source", observed=True, sort=True):
        of_source = of_source.sort_values("row")
        for start in range(0, len(of_source), cells_per_shard):
            part = of_source.iloc[start : start + cells_per_shard]
            columns = {"row": part["row"].to_numpy(), "split": part["split"].to_numpy()}
            columns |= {
                column: part[column].astype(object).where(part[column].notna(), None) for column in METADATA_COLUMNS
            }
            schema = pa.schema(
                [("row", pa.int64()), ("split", pa.int8())]
                + [(column, pa.dictionary(pa.int32(), pa.string())) for column in METADATA_COLUMNS]
            )
            arrays = [pa.array(values, type=field.type) for field, values in zip(schema, columns.values())]
            path = folder / WORK / "plan" / f"{len(jobs):05d}.parquet"
            pq.write_table(pa.table(arrays, schema=schema), path)
            jobs.append({"source": str(name), "cells": len(part)})
    return jobs


def run_identity(
    config: PrepareConfig, surveys: list[Survey], vocabulary: GeneVocabulary | None, gene_sets: GeneSets | None, skipped
) -> tuple[str, dict]:
    """A hash of all that the output depends on, and what went into it."""
    provenance = {
        "config": config.to_dict(),
        "files": {survey.source.name: survey.fingerprint for survey in surveys},
        "skipped": skipped,
        "vocabulary": vocabulary.fingerprint if vocabulary else "fitted to the training cells",
        "gene_sets": hashlib.sha256(json.dumps(asdict(gene_sets)).encode()).hexdigest() if gene_sets else None,
        "ontologies": ontology_versions(),
        "libraries": {name: importlib.metadata.version(name) for name in (*LIBRARIES, "cell2text")},
    }
    return hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest(), provenance

"""Plan a run: filter, sample and split the cells, divide them into jobs, and write all decisions to disk.

Jobs depend on the plan alone, so a run with the same plan gives the same files. Depends on `survey` for the metadata.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.api.types import union_categoricals

from cell2text.errors import UserError
from cell2text.files import write_atomically
from cell2text.ontology.broader_terms import broader_types
from cell2text.ontology.definitions import term_definition
from cell2text.ontology.terms import ontology_versions
from cell2text.preparation.config import PrepareConfig
from cell2text.preparation.duplicates import find_copies
from cell2text.preparation.names import PROFILES_WITHOUT_TYPE
from cell2text.preparation.output_folder import job_cells_path, plan_path, read_plan
from cell2text.preparation.own_columns import report_own_tasks
from cell2text.preparation.rows import METADATA_COLUMNS
from cell2text.preparation.sampling import diversity, sample_cells
from cell2text.preparation.splits import SPLITS, choose_method, split_cells
from cell2text.preparation.survey import Survey
from cell2text.provenance import library_versions
from cell2text.signatures.gene_sets import GeneSets
from cell2text.sources.discovery import SourceLocation
from vocabulary_cell2text import GeneVocabulary


# A plan records its sources, not the inputs that named them, but `PrepareConfig` requires inputs.
PLACEHOLDER_INPUTS: dict[str, dict] = {"files": {"inputs": ["plan"]}, "census": {}}
RECORDED_LIBRARIES = ("anndata", "cellxgene_ontology_guide", "numba", "numpy", "pyarrow", "scipy", "cell2text")
FITTED = "fitted to the training cells"
JOB_COLUMNS = [("row", pa.int64()), ("split", pa.int8())]


@dataclass(frozen=True)
class Plan:
    """The part of a plan that jobs read.

    Parameters
    ----------
    folder
        Output folder.
    identity
        Hash of the inputs, options and versions of the run.
    config
        Options of the run.
    sources
        Locations by name.
    jobs
        `source` and number of `cells` of each job.
    gene_sets
        Gene sets to score; None for no pathways.
    definitions
        Definition of each cell type that a text can name, by ontology term id.
    """

    folder: Path
    identity: str
    config: PrepareConfig
    sources: dict[str, SourceLocation]
    jobs: list[dict]
    gene_sets: GeneSets | None
    definitions: dict[str, str]

    def read_cells(self, number: int) -> pa.Table:
        """Read the cells of a job, one row per cell: row in the source, split, metadata."""
        return pq.read_table(job_cells_path(self.folder, number))


@lru_cache(maxsize=2)
def load_plan(folder: str, identity: str) -> Plan:
    """Load the plan of an output folder.

    Raises
    ------
    RuntimeError
        If the folder has the plan of a run with another identity.
    """
    content = read_plan(Path(folder))
    if content["identity"] != identity:
        raise RuntimeError(f"{folder} contains the plan of another run.")
    sets, options = content["gene_sets"], content["config"]
    return Plan(
        folder=Path(folder),
        identity=identity,
        config=PrepareConfig(**options, **PLACEHOLDER_INPUTS[options["source"]], gene_sets="plan" if sets else None),
        sources={source["name"]: SourceLocation(**source) for source in content["sources"]},
        jobs=content["jobs"],
        gene_sets=GeneSets(**sets) if sets else None,
        definitions=content["definitions"],
    )


def write_plan(
    config: PrepareConfig,
    folder: Path,
    surveys: list[Survey],
    gene_sets: GeneSets | None,
    *,
    vocabulary: GeneVocabulary | None,
    identity: str,
    provenance: dict,
) -> None:
    """Choose and split the cells, and write everything that jobs and report need; the plan itself is written last.

    Raises
    ------
    UserError
        If no cell remains, or the cells cannot be split as requested.
    """
    cells = join_surveys(surveys)
    copies = find_copies(cells, surveys, config, vocabulary)
    cells, dropped = _filter_cells(cells, copies.dropped, config)
    if not len(cells):
        raise UserError(f"No cell remains of {sum(len(s.cells) for s in surveys):,}: dropped {dropped}.")
    before = diversity(cells)
    sampled, strata = sample_cells(
        cells, config.sampling, n_cells=config.n_cells, balance=config.balance, seed=config.seed
    )
    cells = cells.iloc[sampled].reset_index(drop=True)
    choice = choose_method(cells, config.split, shares=config.shares, seed=config.seed)
    cells["split"] = split_cells(
        cells, choice.method, shares=config.shares, stratify=tuple(config.stratify), named=config.named,
        seed=config.seed,
    )  # fmt: skip
    types = set(cells["cell_type_ontology_term_id"].dropna())
    if config.broader_types:
        types |= {term for label in types for term in broader_types(label)}
    donors = {split: int(cells["donor"][cells["split"] == i].nunique()) for i, split in enumerate(SPLITS)}
    plan = {
        "identity": identity,
        "provenance": provenance,
        "config": config.to_dict(),
        "sources": [survey.source.to_json() for survey in surveys],
        "jobs": _write_jobs(cells, folder, config),
        "gene_sets": asdict(gene_sets) if gene_sets else None,
        "definitions": {term: text for term in sorted(types) if (text := term_definition(term))},
        "report": {
            "files": {
                survey.source.name: {
                    "sha256": survey.fingerprint, **survey.report, "dropped": dropped[survey.source.name],
                    "same_name_other_counts": copies.same_name[survey.source.name],
                }
                for survey in surveys
            },
            "sampling": strata,
            "diversity": {"before": before, "after": diversity(cells)},
            "groups": donors,
            "split": choice.to_json(),
            **({"own_tasks": report_own_tasks(cells, surveys, config)} if config.own_tasks else {}),
        },
    }  # fmt: skip
    write_atomically(plan_path(folder), json.dumps(plan, indent=1, sort_keys=True) + "\n")


def join_surveys(surveys: list[Survey]) -> pd.DataFrame:
    """Return the cells of all sources as one table, with the columns `source` and `donor` added."""
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
    # Cells of unknown donors may come from one person, so those of a data set form one group.
    unknown = "unknown donor of " + cells["dataset_id"].astype(object)
    cells["donor"] = pd.Categorical(cells["donor_id"].astype(object).fillna(unknown))
    return cells


def _filter_cells(
    cells: pd.DataFrame, copies: np.ndarray, config: PrepareConfig
) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """Return the cells that may be used, and for each source the number dropped by each reason.

    A cell counts towards the first reason that applies.
    """
    dropped: dict[str, dict[str, int]] = {name: {} for name in cells["source"].cat.categories}
    kept = np.ones(len(cells), dtype=bool)
    for reason, applies in _reasons_to_drop(cells, copies, config).items():
        drop = kept & applies.to_numpy(dtype=bool)
        for name, count in cells["source"][drop].value_counts().items():
            if count:
                dropped[str(name)][reason] = int(count)
        kept &= ~drop
    return cells[kept].reset_index(drop=True), dropped


def _reasons_to_drop(cells: pd.DataFrame, copies: np.ndarray, config: PrepareConfig) -> Mapping[str, pd.Series]:
    """Return for each reason, as the report names it, a boolean per cell."""
    reasons = {"duplicate of a cell in another file": pd.Series(copies)}
    if config.primary_only:
        reasons["not primary data"] = ~cells["primary"]
    if config.exclude_assays:
        excluded = tuple(name.lower() for name in config.exclude_assays)
        reasons["excluded assay"] = cells["assay"].astype(object).fillna("").str.lower().str.startswith(excluded)
    if config.exclude_datasets:
        reasons["excluded data set"] = cells["dataset_id"].isin(config.exclude_datasets)
    for column in config.require:
        reasons[f"{column} unknown"] = cells[column].isna()
    if config.labelled:
        unknown = cells[["cell_type", "tissue", "disease"]].isna().all(axis=1)
        unknown &= ~cells["profile"].isin(PROFILES_WITHOUT_TYPE)
        for name in config.own_tasks:
            unknown &= cells[name].isna()
        reasons["cell type, tissue and disease unknown"] = unknown
    if config.split in ("tissue", "cell_type"):
        reasons[f"{config.split} unknown, which the split needs"] = cells[config.split].isna()
    return reasons


def _write_jobs(cells: pd.DataFrame, folder: Path, config: PrepareConfig) -> list[dict]:
    """Divide each source's cells into jobs, in the order of the source, and write one table per job."""
    jobs: list[dict] = []
    texts, cells_per_shard = (*METADATA_COLUMNS, *config.own_tasks), config.cells_per_shard
    schema = pa.schema([*JOB_COLUMNS, *((column, pa.dictionary(pa.int32(), pa.string())) for column in texts)])
    for name, of_source in cells.groupby("source", observed=True, sort=True):
        of_source = of_source.sort_values("row")
        for start in range(0, len(of_source), cells_per_shard):
            part = of_source.iloc[start : start + cells_per_shard]
            columns = [part["row"].to_numpy(), part["split"].to_numpy()]
            columns += [part[column].astype(object).where(part[column].notna(), None) for column in texts]
            arrays = [pa.array(values, type=field.type) for field, values in zip(schema, columns)]
            path = job_cells_path(folder, len(jobs))
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(arrays, schema=schema), path)
            jobs.append({"source": str(name), "cells": len(part)})
    return jobs


def collect_provenance(
    config: PrepareConfig,
    surveys: list[Survey],
    vocabulary: GeneVocabulary | None,
    gene_sets: GeneSets | None,
    skipped: Mapping[str, str],
) -> dict:
    """Return everything that the output depends on: options, hashes of inputs, and versions."""
    return {
        "config": config.to_dict(),
        "files": {survey.source.name: survey.fingerprint for survey in surveys},
        "skipped": dict(skipped),
        "vocabulary": vocabulary.fingerprint if vocabulary else FITTED,
        "gene_sets": _hash_gene_sets(gene_sets) if gene_sets else None,
        "ontologies": ontology_versions(),
        "libraries": library_versions(RECORDED_LIBRARIES),
    }


def _hash_gene_sets(gene_sets: GeneSets) -> str:
    # Names before genes, not sorted by key as in `content_hash`, so that hashes of earlier data sets stay comparable.
    return hashlib.sha256(json.dumps(asdict(gene_sets)).encode()).hexdigest()

"""The plan of a run: cells are chosen and split, jobs are cut, and all of it is written before the first job starts."""

import hashlib
import importlib.metadata
import json
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
from cell2text.ontology.definitions import term_definition
from cell2text.ontology.terms import ontology_versions
from cell2text.preparation.aucell import GeneSets
from cell2text.preparation.config import PrepareConfig
from cell2text.preparation.rows import METADATA_COLUMNS
from cell2text.preparation.sampling import diversity, sample_cells
from cell2text.preparation.splits import SPLITS, split_cells
from cell2text.preparation.survey import Survey
from cell2text.sources.files import Source
from vocabulary_cell2text import GeneVocabulary


WORK = ".prepare"  # folder of a run that is not finished
PLAN = f"{WORK}/plan.json"
PLANNED: dict[str, dict] = {"files": {"inputs": ["plan"]}, "census": {}}  # a plan has its sources, not its inputs
LIBRARIES = ("anndata", "cellxgene_ontology_guide", "numba", "numpy", "pyarrow", "scipy")


@dataclass(frozen=True)
class Plan:
    """What the jobs need to know, as it is written in the output folder."""

    folder: Path
    identity: str
    config: PrepareConfig
    sources: dict[str, Source]
    jobs: list[dict]  # of each its source and number of cells
    gene_sets: GeneSets | None
    definitions: dict[str, str]

    def rows(self, number: int) -> pa.Table:
        """Chosen cells of a job: row in the source, split, metadata."""
        return pq.read_table(self.folder / WORK / "plan" / f"{number:05d}.parquet")


@lru_cache(maxsize=2)
def load_plan(folder: str, identity: str) -> Plan:
    content = json.loads(Path(folder, PLAN).read_text(encoding="utf-8"))
    if content["identity"] != identity:
        raise RuntimeError(f"{folder} holds the plan of another run.")
    sets = content["gene_sets"]
    return Plan(
        folder=Path(folder),
        identity=identity,
        config=PrepareConfig(
            **content["config"], **PLANNED[content["config"]["source"]], gene_sets="plan" if sets else None
        ),
        sources={source["name"]: Source(**source) for source in content["sources"]},
        jobs=content["jobs"],
        gene_sets=GeneSets(**sets) if sets else None,
        definitions=content["definitions"],
    )


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
    order = np.argsort(-sizes.to_numpy(), kind="stable")
    by_size = cells[["key", "source"]].iloc[order]
    first = by_size.groupby("key", sort=False)["source"].transform("first")
    return (by_size["source"].astype(object) != first.astype(object)).sort_index()


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
        raise UserError(f"No cell is left of {sum(len(s.cells) for s in surveys):,}: dropped {dropped}.")
    before = diversity(cells)
    chosen, parts = sample_cells(
        cells, config.sampling, n_cells=config.n_cells, balance=config.balance, seed=config.seed
    )
    cells = cells.iloc[chosen].reset_index(drop=True)
    cells["split"] = split_cells(
        cells, config.split, shares=config.shares, stratify=tuple(config.stratify), named=config.named,
        seed=config.seed,
    )  # fmt: skip
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
    write_atomically(folder / PLAN, json.dumps(plan, indent=1, sort_keys=True) + "\n")


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
    return identity_of(provenance), provenance


def identity_of(provenance: dict) -> str:
    return hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()

"""The jobs of `prepare`: each turns a range of one source's cells into one shard per split.

A job reads the plan from the output folder and writes its files there atomically, its report last: a job whose report
exists is done. Jobs share nothing, so any number of processes on any machines that see the folder give the same files.
"""

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from cell2text.files import atomic_path, write_atomically
from cell2text.language.tasks import hashed_uniform
from cell2text.preparation.medians import GeneColumns, MedianAccumulator
from cell2text.preparation.output_folder import VOCABULARY_FOLDER, job_medians_path, job_report_path, shard_path
from cell2text.preparation.plan import Plan, load_plan
from cell2text.preparation.rows import (
    METADATA_COLUMNS,
    TEXT_FIELDS,
    TaskSampler,
    cells_array,
    completion_array,
    dataset_schema,
    ranked_cells_array,
)
from cell2text.preparation.shards import write_table
from cell2text.preparation.splits import SPLITS
from cell2text.preparation.stated_types import StatedTypes, choose_stated_types
from cell2text.preparation.survey import open_planned
from cell2text.signatures.pathways import PathwayScorer, top_pathways
from ranking_cell2text import CellRanker
from vocabulary_cell2text import GeneVocabulary


COUNTED_COLUMNS = ("cell_type", "tissue", "disease", "sex", "life_stage")
COUNTED_LISTS = ("pathways", "pathways_active")


def write_shards(folder: str, identity: str, number: int) -> int:
    """Write the shards and the report of a job, and return the number of cells read; do nothing if it is done."""
    plan = load_plan(folder, identity)
    job = plan.jobs[number]
    report_path = job_report_path(plan.folder, number)
    if report_path.exists():
        return job["cells"]
    source = _open_planned_source(folder, identity, job["source"])
    table = plan.read_cells(number)
    cells = source.read_cells(table)
    report = {
        "source": job["source"],
        "cells": table.num_rows,
        "empty": int((cells.n_genes == 0).sum()),
        "truncated": int((cells.n_genes > source.ranker.max_ranked).sum()),
        "counts_by_route": source.ranker.counts_by_route(),
        "splits": {},
    }
    config = plan.config
    system_prompt = config.system_prompt or ""  # a plan always records it
    sampler = TaskSampler(
        config.task_weights(), system_prompt, seed=config.seed, definitions=plan.definitions,
        own_tasks=config.questions(),
    )  # fmt: skip
    split_of_row = table["split"].to_numpy()
    for index, split in enumerate(SPLITS):
        kept = np.flatnonzero((split_of_row == index) & (cells.n_genes > 0))
        if len(kept):
            shares = {"broader_types": config.broader_types, "pathway_share": config.pathway_share}
            rows, tasks = cells.to_table(kept, sampler, training=split == "train", **shares)
            write_table(rows, shard_path(plan.folder, split, number))
            report["splits"][split] = _count_rows(rows, tasks)
    report_path.parent.mkdir(exist_ok=True)
    write_atomically(report_path, json.dumps(report, indent=1, sort_keys=True) + "\n")
    return job["cells"]


def count_gene_values(folder: str, identity: str, number: int) -> int:
    """Count expression values of a job's training cells to fit a vocabulary, and return the job's number of cells."""
    plan = load_plan(folder, identity)
    job = plan.jobs[number]
    path = job_medians_path(plan.folder, number)
    if path.exists():
        return job["cells"]
    config, source = plan.config, plan.sources[job["source"]]
    accumulator = MedianAccumulator()
    with open_planned(source, config) as reader:
        genes = GeneColumns(reader, gene_key=config.gene_key, species=config.species)
        table = plan.read_cells(number)
        rows = table["row"].to_numpy()[table["split"].to_numpy() == SPLITS.index("train")]
        if len(rows):
            for _, block in reader.blocks(rows):
                accumulator.add_counts(genes.numbers, genes.collapse(block))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial, open(partial, "wb") as file:
        np.savez(file, keys=accumulator.keys, counts=accumulator.counts)
    return job["cells"]


class PlannedSource:
    """A source opened for the jobs of one process, with its genes mapped to the vocabulary and to the gene sets."""

    def __init__(self, plan: Plan, name: str, vocabulary: GeneVocabulary):
        config = plan.config
        self.reader = open_planned(plan.sources[name], config)
        self.config, self.name = config, name
        var = self.reader.read_var()
        self.ranker = CellRanker.of_source(
            self.reader, vocabulary, gene_key=config.gene_key, max_genes=config.max_genes or vocabulary.max_genes,
            species=config.species,
        )  # fmt: skip
        sets, ties, seed = plan.gene_sets, config.ties, config.ties_seed
        self.scorer = None if sets is None else PathwayScorer(sets, var, self.ranker, ties=ties, seed=seed)

    def read_cells(self, table: pa.Table) -> "JobCells":
        """Rank and score the cells of a job; the route totals of `ranker` then count these cells alone."""
        rows = table["row"].to_numpy()
        self.ranker.route_totals[:] = 0
        ranked: list[tuple[np.ndarray, ...]] = []
        scores: list[np.ndarray] = []
        for _, block in self.reader.blocks(rows):
            ranked.append(self.ranker.rank(block))
            scores.append(self._score(block))
        tokens, lengths, n_genes, mapped = (np.concatenate(parts) for parts in zip(*ranked))
        return JobCells(
            table, tokens, lengths, n_genes, mapped, np.concatenate(scores), self.reader.read_cell_names(rows),
            source=self.name, set_names=self.scorer.gene_sets.names if self.scorer else [],
            nameable=self.scorer.nameable if self.scorer else np.zeros(0, dtype=bool),
        )  # fmt: skip

    def _score(self, block: sp.csr_matrix) -> np.ndarray:
        return self.scorer.score(block) if self.scorer else np.zeros((block.shape[0], 0), dtype=np.float32)


@lru_cache(maxsize=1)
def _open_planned_source(folder: str, identity: str, name: str) -> PlannedSource:
    return PlannedSource(load_plan(folder, identity), name, _load_vocabulary(folder, identity))


def close_sources() -> None:
    """Close the source that this process read last, so that its owner can write it."""
    _open_planned_source.cache_clear()


@lru_cache(maxsize=1)
def _load_vocabulary(folder: str, identity: str) -> GeneVocabulary:
    return GeneVocabulary.from_pretrained(Path(folder, VOCABULARY_FOLDER))


@dataclass
class JobCells:
    """The ranked and scored cells of one job.

    Parameters
    ----------
    table
        Planned cells: row, split, metadata.
    tokens, lengths
        Ranked gene tokens of all cells end to end, and the number of tokens per cell.
    n_genes, mapped
        Expressed genes of the vocabulary and mapped share of the counts, per cell.
    scores
        AUCell scores, shape (n_cells, n_sets).
    names
        Cell names in the source.
    source
        Name of the source.
    set_names
        Names of the gene sets.
    nameable
        Whether enough genes of a set are in the file to name it in a text, shape (n_sets,).
    """

    table: pa.Table
    tokens: np.ndarray
    lengths: np.ndarray
    n_genes: np.ndarray
    mapped: np.ndarray
    scores: np.ndarray
    names: np.ndarray
    source: str
    set_names: list[str]
    nameable: np.ndarray

    @cached_property
    def _ranked(self) -> pa.ListArray:
        return ranked_cells_array(self.tokens, self.lengths)

    def to_table(
        self, kept: np.ndarray, sampler: TaskSampler, *, training: bool, broader_types: float, pathway_share: float
    ) -> tuple[pa.Table, list[str]]:
        """Return the rows of the cells at the positions `kept`, and the task of each."""
        plan = self.table.take(pa.array(kept))
        numbers = plan["row"].to_numpy()
        scores = self.scores[kept]
        top, active = top_pathways(scores, self.set_names, self.nameable)
        if training and pathway_share < 1:
            silent = hashed_uniform(sampler.seed, "pathways", self.source, numbers) >= pathway_share
            silent &= plan["cell_type"].is_valid().to_numpy()  # other texts state nothing else
            top = [() if leave_out else names for names, leave_out in zip(top, silent)]
        stated = self._stated_types(plan, sampler.seed, share=broader_types if training else 0.0)
        texts_from = {name: plan[name].to_pylist() for name in TEXT_FIELDS if name in plan.column_names} | vars(stated)
        own = {name: plan[name].to_pylist() for name in sampler.own_tasks}
        fields = list(zip(*(texts_from[name] for name in TEXT_FIELDS), top, *own.values()))
        tasks, texts, prompts, second = sampler.compose(fields, self.source, numbers, training=training)
        ids = np.array([_cell_id(self.source, name) for name in self.names[kept]], dtype=object)
        columns = {
            "cell_id": pa.array(ids, pa.string()),
            "cells": cells_array(self._ranked, kept, second),
            "prompt": sampler.prompt_array().take(pa.array(prompts)),
            "completion": completion_array(texts),
            "task": pa.array(tasks, pa.string()),
            **{name: plan[name].cast(pa.string()).combine_chunks() for name in METADATA_COLUMNS},
            **{name: pa.array(values, pa.string()) for name, values in {**stated.columns(), **own}.items()},
            "pathways": pa.array(top, pa.list_(pa.string())),
            "pathways_active": pa.array(active, pa.list_(pa.string())),
            "pathway_scores": _score_array(scores),
            "n_genes": pa.array(self.n_genes[kept].astype(np.int32)),
            "mapped_fraction": pa.array(self.mapped[kept].astype(np.float32)),
            "second_cell_id": pa.array([ids[i] if i >= 0 else None for i in second], pa.string()),
            "source": pa.array([self.source] * len(kept), pa.string()),
            "source_row": pa.array(numbers),
        }
        return pa.table(columns, schema=dataset_schema(self.tokens.dtype, list(own))), tasks

    def _stated_types(self, plan: pa.Table, seed: int, *, share: float) -> StatedTypes:
        labels, terms = (plan[name].to_pylist() for name in ("cell_type", "cell_type_ontology_term_id"))
        return choose_stated_types(labels, terms, self.source, plan["row"].to_numpy(), share=share, seed=seed)


def _cell_id(source: str, name: str) -> str:
    """Return a name that is unique in the data set: prefixed with the source, unless it already is."""
    return name if name.startswith(f"{source}:") else f"{source}:{name}"


def _score_array(scores: np.ndarray) -> pa.Array:
    offsets = np.arange(len(scores) + 1, dtype=np.int32) * scores.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(scores.ravel()))


def _count_rows(table: pa.Table, tasks: list[str]) -> dict:
    """Count the rows of a shard by task, label, stated type and pathway."""
    labels = {}
    for column in COUNTED_COLUMNS:
        counted = table[column].value_counts().to_pylist()
        labels[column] = {str(entry["values"]): entry["counts"] for entry in counted if entry["values"] is not None}
    for column in COUNTED_LISTS:
        counted = table[column].combine_chunks().flatten().value_counts().to_pylist()
        labels[column] = {entry["values"]: entry["counts"] for entry in counted}
    by_task = {task: tasks.count(task) for task in sorted(set(tasks))}
    broader = pc.sum(pc.not_equal(table["cell_type"], table["stated_cell_type"])).as_py() or 0
    subtypes = table.num_rows - table["likely_subtype"].null_count
    stated = {"broader_types": broader, "likely_subtypes": subtypes}
    return {"rows": table.num_rows, "tasks": by_task, "labels": labels, **stated}

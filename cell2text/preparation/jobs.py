"""The work of `prepare`, cut into jobs: a range of chosen cells of one source becomes one shard of each split.

A job reads the plan from the output folder and writes its files there, each by an atomic rename, its report last: a job
whose report is there is done. Jobs share nothing, so that any number of processes on any number of machines that see
the folder give the same files.
"""

import json
import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from cell2text.files import write_atomically
from cell2text.preparation.aucell import MIN_COVERAGE, aucell, match_columns
from cell2text.preparation.medians import MedianAccumulator, gene_numbers
from cell2text.preparation.plan import WORK, Plan, load_plan
from cell2text.preparation.rows import (
    METADATA_COLUMNS,
    TEXT_FIELDS,
    TaskSampler,
    cells_array,
    completion_array,
    named_pathways,
    ranked_cells,
    row_schema,
)
from cell2text.preparation.shards import shard_path, write_table
from cell2text.preparation.splits import SPLITS
from cell2text.sources.reading import checked_blocks, open_reader
from ranking_cell2text import CellRanker
from vocabulary_cell2text import GeneVocabulary


VOCABULARY = "vocabulary"


class SourceWorker:
    """A source opened for the jobs of one process: its reader, its genes in the vocabulary, its gene sets' columns."""

    def __init__(self, plan: Plan, name: str, vocabulary: GeneVocabulary):
        config = plan.config
        self.reader = open_reader(plan.sources[name], config)
        self.config, self.name = config, name
        self.var = self.reader.var()
        self.ranker = CellRanker(
            self.var, vocabulary, gene_key=config.gene_key, max_genes=config.max_genes or vocabulary.max_genes
        )
        self.gene_sets = plan.gene_sets
        self.set_columns = match_columns(plan.gene_sets, self.var, self.ranker) if plan.gene_sets else []

    @property
    def coverage(self) -> np.ndarray:
        """Share of each set's genes that the file has."""
        sizes = [len(genes) for genes in self.gene_sets.genes] if self.gene_sets else []
        return np.array([len(columns) / size for columns, size in zip(self.set_columns, sizes)])

    def score(self, block: sp.csr_matrix) -> np.ndarray:
        if not self.gene_sets:
            return np.zeros((block.shape[0], 0), dtype=np.float32)
        counts, ties, seed = self.ranker.collapse(block), self.config.ties, self.config.ties_seed
        return aucell(counts, self.set_columns, ties=ties, seed=seed).astype(np.float32)


@lru_cache(maxsize=1)
def open_worker(folder: str, identity: str, name: str) -> SourceWorker:
    plan = load_plan(folder, identity)
    return SourceWorker(plan, name, load_vocabulary(folder, identity))


def close_sources() -> None:
    """Let go of the file that this process read last, so that its owner may write it."""
    open_worker.cache_clear()


@lru_cache(maxsize=1)
def load_vocabulary(folder: str, identity: str) -> GeneVocabulary:
    return GeneVocabulary.from_pretrained(Path(folder, VOCABULARY))


def shard_job(folder: str, identity: str, number: int) -> int:
    """Write the shards of one job and its report; returns the number of cells read."""
    plan = load_plan(folder, identity)
    job = plan.jobs[number]
    report_path = plan.folder / WORK / "jobs" / f"{number:05d}.json"
    if report_path.exists():
        return job["cells"]
    worker = open_worker(folder, identity, job["source"])
    table = plan.rows(number)
    rows = table["row"].to_numpy()
    worker.ranker.route_totals[:] = 0
    ranked: list[tuple[np.ndarray, ...]] = []
    scores: list[np.ndarray] = []
    for _, block in checked_blocks(worker.reader, rows, plan.config.allow_fractional):
        ranked.append(worker.ranker.rank(block))
        scores.append(worker.score(block))
    tokens, lengths, n_genes, mapped = (np.concatenate(parts) for parts in zip(*ranked))
    ranked.clear()
    names = worker.reader.cell_names(rows)
    cells = ShardCells(table, tokens, lengths, n_genes, mapped, np.concatenate(scores), names, job["source"])
    report = {
        "source": job["source"],
        "cells": len(rows),
        "empty": int((cells.n_genes == 0).sum()),
        "truncated": int((cells.n_genes > worker.ranker.max_ranked).sum()),
        "counts_by_route": worker.ranker.counts_by_route(),
        "splits": {},
    }
    chat = TaskSampler(
        plan.config.tasks, plan.config.system_prompt, seed=plan.config.seed, definitions=plan.definitions
    )
    eligible = worker.coverage >= MIN_COVERAGE
    split_of_row = table["split"].to_numpy()
    for index, split in enumerate(SPLITS):
        kept = np.flatnonzero((split_of_row == index) & (cells.n_genes > 0))
        if len(kept):
            rows_table, tasks = cells.to_table(kept, chat, plan.gene_sets, eligible, training=split == "train")
            write_table(rows_table, shard_path(plan.folder, split, number))
            report["splits"][split] = split_report(rows_table, tasks)
    report_path.parent.mkdir(exist_ok=True)
    write_atomically(report_path, json.dumps(report, indent=1, sort_keys=True) + "\n")
    return job["cells"]


@dataclass
class ShardCells:
    """The cells of one job after reading: plan, tokens end to end, and one entry a cell of everything else."""

    table: pa.Table
    tokens: np.ndarray
    lengths: np.ndarray
    n_genes: np.ndarray
    mapped: np.ndarray
    scores: np.ndarray
    names: np.ndarray
    source: str

    @cached_property
    def ranked(self) -> pa.ListArray:
        return ranked_cells(self.tokens, self.lengths)

    def to_table(
        self, kept: np.ndarray, chat: TaskSampler, gene_sets, eligible, *, training: bool
    ) -> tuple[pa.Table, list[str]]:
        """Rows of some of the cells, and the task of each."""
        plan = self.table.take(pa.array(kept))
        numbers = plan["row"].to_numpy()
        set_names = gene_sets.names if gene_sets else []
        scores = self.scores[kept]
        top, active = named_pathways(scores, set_names, eligible)
        fields = list(zip(*(plan[name].to_pylist() for name in TEXT_FIELDS), top))
        tasks, texts, prompts, partners = chat.compose(fields, self.source, numbers, training=training)
        ids = np.array([cell_id(self.source, name) for name in self.names[kept]], dtype=object)
        columns = {
            "cell_id": pa.array(ids, pa.string()),
            "cells": cells_array(self.ranked, kept, partners),
            "prompt": chat.prompt_array().take(pa.array(prompts)),
            "completion": completion_array(texts),
            "task": pa.array(tasks, pa.string()),
            **{name: plan[name].cast(pa.string()).combine_chunks() for name in METADATA_COLUMNS},
            "pathways": pa.array(top, pa.list_(pa.string())),
            "pathways_active": pa.array(active, pa.list_(pa.string())),
            "pathway_scores": score_array(scores),
            "n_genes": pa.array(self.n_genes[kept].astype(np.int32)),
            "mapped_fraction": pa.array(self.mapped[kept].astype(np.float32)),
            "second_cell_id": pa.array([ids[i] if i >= 0 else None for i in partners], pa.string()),
            "source": pa.array([self.source] * len(kept), pa.string()),
            "source_row": pa.array(numbers),
        }
        return pa.table(columns, schema=row_schema(self.tokens.dtype)), tasks


def cell_id(source: str, name: str) -> str:
    """A cell's name, unique in the data set: the source's name before it, unless it stands there already."""
    return name if name.startswith(f"{source}:") else f"{source}:{name}"


def score_array(scores: np.ndarray) -> pa.Array:
    offsets = np.arange(len(scores) + 1, dtype=np.int32) * scores.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(scores.ravel()))


def split_report(table: pa.Table, tasks: list[str]) -> dict:
    """Counts of a shard's rows by task, label and pathway."""
    labels = {}
    for column in ("cell_type", "tissue", "disease", "sex", "life_stage"):
        counted = table[column].value_counts().to_pylist()
        labels[column] = {str(entry["values"]): entry["counts"] for entry in counted if entry["values"] is not None}
    for column in ("pathways", "pathways_active"):
        counted = table[column].combine_chunks().flatten().value_counts().to_pylist()
        labels[column] = {entry["values"]: entry["counts"] for entry in counted}
    by_task = {task: tasks.count(task) for task in sorted(set(tasks))}
    return {"rows": table.num_rows, "tasks": by_task, "labels": labels}


def median_job(folder: str, identity: str, number: int) -> int:
    """Count the training cells of one job for a vocabulary; returns the number of cells read."""
    plan = load_plan(folder, identity)
    job = plan.jobs[number]
    path = plan.folder / WORK / "medians" / f"{number:05d}.npz"
    if path.exists():
        return job["cells"]
    with open_reader(plan.sources[job["source"]], plan.config) as reader:
        genes = gene_numbers(reader.var().index)
        table = plan.rows(number)
        rows = table["row"].to_numpy()[table["split"].to_numpy() == 0]
        accumulator = MedianAccumulator()
        for _, block in checked_blocks(reader, rows, plan.config.allow_fractional) if len(rows) else ():
            accumulator.add_counts(genes, block)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with open(partial, "wb") as file:
        np.savez(file, keys=accumulator.keys, counts=accumulator.counts)
    os.replace(partial, path)
    return job["cells"]

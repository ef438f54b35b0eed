"""Ranked cells and their metadata to dataset rows, as Arrow tables built without a Python object a token.

A row holds `cells` (ranked genes), `prompt` and `completion` (chat messages), and the metadata columns.
"""

from bisect import bisect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
import pyarrow as pa

from cell2text.language.fields import FIELDS
from cell2text.language.tasks import (
    available_tasks,
    default_instruction,
    hashed_uniform,
    task_completion,
    task_instructions,
)
from processing_cell2text import conversation_of


# Columns of a file that rows carry, null where unknown.
METADATA_COLUMNS = (
    "cell_type",
    "cell_type_ontology_term_id",
    "tissue",
    "tissue_ontology_term_id",
    "disease",
    "disease_ontology_term_id",
    "sex",
    "development_stage",
    "development_stage_ontology_term_id",
    "life_stage",
    "assay",
    "donor_id",
    "dataset_id",
)
TEXT_BLOCK = pa.struct([("type", pa.string()), ("text", pa.string())])
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(TEXT_BLOCK))]))


def row_schema(token_type: np.dtype) -> pa.Schema:
    """Types of the rows' columns."""
    return pa.schema(
        [
            ("cell_id", pa.string()),
            ("cells", pa.list_(pa.list_(pa.from_numpy_dtype(token_type)))),
            ("prompt", MESSAGES),
            ("completion", MESSAGES),
            ("task", pa.string()),
            *((name, pa.string()) for name in METADATA_COLUMNS),
            ("pathways", pa.list_(pa.string())),
            ("pathways_active", pa.list_(pa.string())),
            ("pathway_scores", pa.list_(pa.float32())),
            ("n_genes", pa.int32()),
            ("mapped_fraction", pa.float32()),
            ("second_cell_id", pa.string()),
            ("source", pa.string()),
            ("source_row", pa.int64()),
        ]
    )


class TaskSampler:
    """Prompts and answers of cells: which task each gets, in which words, decided by seed, source and row alone."""

    def __init__(self, tasks: Mapping[str, float], system_prompt: str, *, seed: int, definitions: Mapping[str, str]):
        self.tasks, self.system_prompt, self.seed, self.definitions = tasks, system_prompt, seed, definitions
        self._answer = lru_cache(maxsize=100_000)(self._compose)
        self._options = lru_cache(maxsize=100_000)(self._answerable)
        self._prompts: dict[tuple[int, str], int] = {}

    def compose(
        self, rows: Sequence[tuple], source: str, numbers: np.ndarray, *, training: bool
    ) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
        """Tasks, answers, index of each prompt in `prompts`, and the partner's position for `compare`, else -1.

        Parameters
        ----------
        rows
            Of each cell its fields in the order of `TEXT_FIELDS`, and a tuple of pathways last.
        numbers
            Rows of the cells in their source.
        training
            Draw a task and a wording; otherwise every cell is described, by the fixed instruction.
        """
        n = len(rows)
        partners = (
            find_partners(rows, self.seed, source, numbers)
            if training and self.tasks.get("compare")
            else np.full(n, -1)
        )
        task_lots, field_lots, wording_lots = (
            hashed_uniform(self.seed, stream, source, numbers).tolist() for stream in ("task", "field", "wording")
        )
        tasks, texts, prompts = [], [], np.zeros(n, dtype=np.int64)
        for i, row in enumerate(rows):
            if training:
                second = rows[partners[i]] if partners[i] >= 0 else None
                task, field = self._choose(row, second is not None, task_lots[i], field_lots[i])
                options = task_instructions(task, field)
                instruction = options[int(wording_lots[i] * len(options))]
            else:
                task, field, second = "describe", None, None
                instruction = default_instruction(task)
            if task != "compare":
                partners[i], second = -1, None
            tasks.append(task)
            texts.append(self._answer(task, row, field, second))
            key = (1 + (task == "compare"), instruction)
            prompts[i] = self._prompts.setdefault(key, len(self._prompts))
        return tasks, texts, prompts, partners

    def _choose(self, row: tuple, partner: bool, task_lot: float, field_lot: float) -> tuple[str, str | None]:
        tasks, bounds, fields = self._options(row, partner)
        task = tasks[bisect(bounds, task_lot * bounds[-1], hi=len(tasks) - 1)]
        return task, fields[int(field_lot * len(fields))] if task == "ask" else None

    def _answerable(self, row: tuple, partner: bool) -> tuple[list[str], list[float], list[str]]:
        """Tasks that a row can have, the running sum of their weights, and the fields that can be asked for."""
        possible, fields = available_tasks(self.as_row(row), has_partner=partner)
        wanted = [task for task in possible if self.tasks.get(task)] or ["describe"]
        return wanted, list(accumulate(self.tasks.get(task, 1.0) for task in wanted)), fields

    def _compose(self, task: str, row: tuple, field: str | None, second: tuple | None) -> str:
        other = None if second is None else self.as_row(second)
        text = task_completion(task, self.as_row(row), field=field, comparison_cell=other)
        if text is None:
            raise RuntimeError(f"The task {task!r} has no answer in {row}.")
        return text

    def as_row(self, values: tuple) -> dict:
        row = dict(zip((*TEXT_FIELDS, "pathways"), values))
        row["cell_type_definition"] = self.definitions.get(row["cell_type_ontology_term_id"])
        return row

    def prompt_array(self) -> pa.Array:
        """All prompts met so far; rows take theirs from it by index."""
        messages = [conversation_of(instruction, self.system_prompt, n_cells=n) for n, instruction in self._prompts]
        return pa.array([[with_text(message) for message in prompt] for prompt in messages], MESSAGES)


TEXT_FIELDS = (*FIELDS, "cell_type_ontology_term_id")


def find_partners(rows: Sequence[tuple], seed: int, source: str, numbers: np.ndarray) -> np.ndarray:
    """A second cell of the same shard and split for every cell whose type is known; -1 where there is none."""
    partners = np.full(len(rows), -1)
    typed = np.array([i for i, row in enumerate(rows) if row[0] is not None], dtype=np.int64)
    if len(typed) > 1:
        steps = 1 + (hashed_uniform(seed, "partner", source, numbers[typed]) * (len(typed) - 1)).astype(np.int64)
        partners[typed] = typed[(np.arange(len(typed)) + steps) % len(typed)]
    return partners


def with_text(message: dict) -> dict:
    """Arrow wants every block of one shape: a cell block carries no text."""
    return {**message, "content": [{"type": block["type"], "text": block.get("text")} for block in message["content"]]}


def completion_array(texts: Sequence[str]) -> pa.Array:
    """Each text as the one message of an assistant."""
    n, each = len(texts), pa.array(np.arange(len(texts) + 1, dtype=np.int32))
    blocks = pa.StructArray.from_arrays([constant("text", n), pa.array(texts, pa.string())], fields=list(TEXT_BLOCK))
    content = pa.ListArray.from_arrays(each, blocks)
    messages = pa.StructArray.from_arrays([constant("assistant", n), content], fields=list(MESSAGES.value_type))
    return pa.ListArray.from_arrays(each, messages).cast(MESSAGES)


def constant(text: str, n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, dtype=np.int32)), [text]).cast(pa.string())


def ranked_cells(tokens: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    """Cells whose tokens stand end to end, as a list array over them."""
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(tokens))


def cells_array(ranked: pa.ListArray, kept: np.ndarray, partners: np.ndarray) -> pa.Array:
    """`cells` of some cells: each one's own ranked genes, then its partner's where it has one.

    Parameters
    ----------
    ranked
        All cells.
    kept
        Positions of the rows' cells in `ranked`.
    partners
        For each row the position in `kept` of its partner, -1 for none.
    """
    paired = partners >= 0
    offsets = np.concatenate([[0], np.cumsum(1 + paired)]).astype(np.int32)
    order = np.empty(offsets[-1], dtype=np.int64)
    order[offsets[:-1]] = kept
    order[offsets[:-1][paired] + 1] = kept[partners[paired]]
    return pa.ListArray.from_arrays(pa.array(offsets), gathered(ranked, order))


def gathered(ranked: pa.ListArray, order: np.ndarray) -> pa.ListArray:
    """`ranked.take(order)`, several times faster where cells stand in runs."""
    ends, tokens = ranked.offsets.to_numpy(), ranked.values.to_numpy()
    lengths = np.diff(ends)[order]
    breaks = np.flatnonzero(np.diff(order) != 1) + 1
    firsts, lasts = order[np.append(0, breaks)], order[np.append(breaks - 1, len(order) - 1)]
    parts = [tokens[ends[first] : ends[last + 1]] for first, last in zip(firsts, lasts)]
    return ranked_cells(parts[0] if len(parts) == 1 else np.concatenate(parts), lengths)


def named_pathways(
    scores: np.ndarray, names: Sequence[str], eligible: np.ndarray, *, top_share: float = 0.05
) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Of each cell the two highest pathways, and all that stand at or above its 95th percentile.

    Only sets that are eligible and score above zero count; equal scores go by the order of the sets.
    """
    if not len(names):
        return [()] * len(scores), [()] * len(scores)
    masked = np.where(eligible & (scores > 0), scores, 0.0)
    n_active = max(2, int(np.ceil(top_share * len(names))))
    order = np.argsort(-masked, axis=1, kind="stable")[:, :n_active]
    found = np.take_along_axis(masked, order, axis=1) > 0
    name_of = np.asarray(names, dtype=object)
    active = [tuple(name_of[columns[there]]) for columns, there in zip(order, found)]
    return [cell[:2] for cell in active], active

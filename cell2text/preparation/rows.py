"""Turn ranked cells and their metadata into dataset rows: Arrow tables, without a Python object per gene token.

A row holds `cells` (ranked genes), `prompt` and `completion` (chat messages) and the metadata columns. Depends on
`language` for tasks and texts, and on the processor for the form of a conversation.
"""

from bisect import bisect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
import pyarrow as pa

from cell2text.language.fields import FIELDS
from cell2text.language.own_tasks import OwnTask
from cell2text.language.tasks import (
    available_tasks,
    default_instruction,
    hashed_uniform,
    task_completion,
    task_instructions,
)
from cell2text.preparation.names import METADATA_COLUMNS
from cell2text.preparation.stated_types import STATED_COLUMNS
from declining_cell2text import declined_text
from prompts_cell2text import conversation_of


# What texts are written from. The cell type is the one that the text names: the label, or a broader term.
TEXT_FIELDS = (*FIELDS, "cell_type_ontology_term_id", "likely_subtype", "likely_subtype_probability")
CELL_TYPE = TEXT_FIELDS.index("cell_type")
COMPOSED_TEXTS = 100_000  # cached texts: cells with equal metadata and pathways share them
TEXT_BLOCK = pa.struct([("type", pa.string()), ("text", pa.string())])
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(TEXT_BLOCK))]))


def dataset_schema(token_type: np.dtype, own_tasks: Sequence[str] = ()) -> pa.Schema:
    """Return the columns of a dataset row and their types.

    Parameters
    ----------
    token_type
        Type of gene tokens: uint16 for vocabularies of at most 65,536 tokens.
    own_tasks
        Names of the user's own tasks, each a column with the cell's answer.
    """
    return pa.schema(
        [
            ("cell_id", pa.string()),
            ("cells", pa.list_(pa.list_(pa.from_numpy_dtype(token_type)))),
            ("prompt", MESSAGES),
            ("completion", MESSAGES),
            ("task", pa.string()),
            *((name, pa.string()) for name in (*METADATA_COLUMNS, *STATED_COLUMNS, *own_tasks)),
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
    """Sample a task for each cell and compose its prompt and completion.

    The choice depends on seed, source and row alone, so neither the size of a shard nor the other cells change it. Only
    comparisons depend on the other cells of the shard.

    Parameters
    ----------
    tasks
        Sampling weight of each task.
    system_prompt
        System message; empty for none.
    seed
        Random seed.
    definitions
        Definition of each cell type that a text can name, by ontology term id.
    own_tasks
        The user's own tasks by name.
    """

    def __init__(
        self, tasks: Mapping[str, float], system_prompt: str, *, seed: int, definitions: Mapping[str, str],
        own_tasks: Mapping[str, OwnTask] | None = None,
    ):  # fmt: skip
        self.tasks, self.system_prompt, self.seed, self.definitions = tasks, system_prompt, seed, definitions
        self.own_tasks = dict(own_tasks or {})
        self._cached_completion = lru_cache(maxsize=COMPOSED_TEXTS)(self._completion)
        self._cached_options = lru_cache(maxsize=COMPOSED_TEXTS)(self._options)
        self._prompts: dict[tuple[int, str], int] = {}

    def compose(
        self, rows: Sequence[tuple], source: str, numbers: np.ndarray, *, training: bool
    ) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
        """Compose prompts and completions.

        Parameters
        ----------
        rows
            For each cell its fields in the order of `TEXT_FIELDS`, then a tuple of pathways, then its answer to each
            own task, None where unknown.
        source
            Name of the cells' source.
        numbers
            Row of each cell in its source.
        training
            Sample a task and a wording. Otherwise every cell gets the task `describe` in its fixed wording.

        Returns
        -------
        tasks
            Task of each cell.
        completions
            Text of each cell.
        prompts
            Index of each cell's prompt in `prompt_array`, shape (n_cells,).
        comparison_cells
            For the task `compare` the position of the second cell in `rows`, otherwise -1, shape (n_cells,).
        """
        n = len(rows)
        tasks, texts = ["describe"] * n, []
        prompts, comparison_cells = np.zeros(n, dtype=np.int64), np.full(n, -1)
        if training and self.tasks.get("compare"):
            comparison_cells = choose_comparison_cells(rows, self.seed, source, numbers)
        task_draws, field_draws, wording_draws = (
            hashed_uniform(self.seed, stream, source, numbers).tolist() for stream in ("task", "field", "wording")
        )
        description = default_instruction("describe")
        for i, row in enumerate(rows):
            field, instruction = None, description
            if training:
                comparable = bool(comparison_cells[i] >= 0)
                tasks[i], field = self._sample_task(row, comparable, task_draws[i], field_draws[i])
                options = self._instructions(tasks[i], field)
                instruction = options[int(wording_draws[i] * len(options))]
            if tasks[i] != "compare":
                comparison_cells[i] = -1
            second = rows[comparison_cells[i]] if comparison_cells[i] >= 0 else None
            texts.append(self._cached_completion(tasks[i], row, field, second))
            key = (1 if second is None else 2, instruction)
            prompts[i] = self._prompts.setdefault(key, len(self._prompts))
        return tasks, texts, prompts, comparison_cells

    def _sample_task(self, row: tuple, comparable: bool, task_draw: float, field_draw: float) -> tuple[str, str | None]:
        tasks, bounds, fields = self._cached_options(row, comparable)
        task = tasks[bisect(bounds, task_draw * bounds[-1], hi=len(tasks) - 1)]
        return task, fields[int(field_draw * len(fields))] if task == "ask" else None

    def _instructions(self, task: str, field: str | None) -> Sequence[str]:
        return (self.own_tasks[task].question,) if task in self.own_tasks else task_instructions(task, field)

    def _options(self, row: tuple, comparable: bool) -> tuple[list[str], list[float], list[str]]:
        """Return the tasks that a row supports, the cumulative sum of their weights, and the fields for `ask`."""
        values = self._as_mapping(row)
        supported, fields = available_tasks(values, has_partner=comparable)
        supported += [name for name in self.own_tasks if values[name] is not None]
        tasks = [task for task in supported if self.tasks.get(task)] or ["describe"]
        return tasks, list(accumulate(self.tasks.get(task, 1.0) for task in tasks)), fields

    def _completion(self, task: str, row: tuple, field: str | None, second: tuple | None) -> str:
        if task in self.own_tasks:
            return self.own_tasks[task].completion(self._as_mapping(row)[task])
        other = None if second is None else self._as_mapping(second)
        text = task_completion(task, self._as_mapping(row), field=field, comparison_cell=other)
        if text is None and task == "describe":  # a profile with neither a type nor other metadata
            return declined_text("unknown_type")
        if text is None:
            raise RuntimeError(f"The task {task!r} has no completion for {row}.")
        return text

    def _as_mapping(self, values: tuple) -> dict:
        row = dict(zip((*TEXT_FIELDS, "pathways", *self.own_tasks), values))
        row["cell_type_definition"] = self.definitions.get(row["cell_type_ontology_term_id"])
        return row

    def prompt_array(self) -> pa.Array:
        """Return all prompts composed so far, which rows select by index."""
        prompts = [conversation_of(instruction, self.system_prompt, n_cells=n) for n, instruction in self._prompts]
        return pa.array([[message_for_arrow(message) for message in prompt] for prompt in prompts], MESSAGES)


def choose_comparison_cells(rows: Sequence[tuple], seed: int, source: str, numbers: np.ndarray) -> np.ndarray:
    """Choose a second cell of the same shard and split for every cell whose cell type is known.

    Returns
    -------
    Position of the second cell in `rows`, or -1 if there is none, shape (n_cells,).
    """
    second = np.full(len(rows), -1)
    typed = np.array([i for i, row in enumerate(rows) if row[CELL_TYPE] is not None], dtype=np.int64)
    if len(typed) > 1:
        steps = 1 + (hashed_uniform(seed, "partner", source, numbers[typed]) * (len(typed) - 1)).astype(np.int64)
        second[typed] = typed[(np.arange(len(typed)) + steps) % len(typed)]
    return second


def message_for_arrow(message: dict) -> dict:
    """Return a chat message in which every block has a key `text`, None for cells: Arrow needs equal fields."""
    return {**message, "content": [{"type": block["type"], "text": block.get("text")} for block in message["content"]]}


def completion_array(texts: Sequence[str]) -> pa.Array:
    """Return each text as a conversation of one assistant message."""
    n, each = len(texts), pa.array(np.arange(len(texts) + 1, dtype=np.int32))
    blocks = pa.StructArray.from_arrays(
        [_constant_array("text", n), pa.array(texts, pa.string())], fields=list(TEXT_BLOCK)
    )
    content = pa.ListArray.from_arrays(each, blocks)
    messages = pa.StructArray.from_arrays([_constant_array("assistant", n), content], fields=list(MESSAGES.value_type))
    return pa.ListArray.from_arrays(each, messages).cast(MESSAGES)


def _constant_array(text: str, n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, dtype=np.int32)), [text]).cast(pa.string())


def ranked_cells_array(tokens: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    """Return one list of tokens per cell, from tokens that are stored end to end and the number per cell."""
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(tokens))


def cells_array(ranked: pa.ListArray, kept: np.ndarray, comparison_cells: np.ndarray) -> pa.Array:
    """Return the column `cells`: each row's own ranked genes, then those of its comparison cell if it has one.

    Parameters
    ----------
    ranked
        Ranked genes of all cells.
    kept
        Position of each row's cell in `ranked`.
    comparison_cells
        Position in `kept` of each row's comparison cell, -1 for none.
    """
    paired = comparison_cells >= 0
    offsets = np.concatenate([[0], np.cumsum(1 + paired)]).astype(np.int32)
    order = np.empty(offsets[-1], dtype=np.int64)
    order[offsets[:-1]] = kept
    order[offsets[:-1][paired] + 1] = kept[comparison_cells[paired]]
    return pa.ListArray.from_arrays(pa.array(offsets), _take_cells(ranked, order))


def _take_cells(ranked: pa.ListArray, order: np.ndarray) -> pa.ListArray:
    """Return `ranked.take(order)`, several times faster where `order` contains runs of consecutive cells."""
    ends, tokens = ranked.offsets.to_numpy(), ranked.values.to_numpy()
    lengths = np.diff(ends)[order]
    breaks = np.flatnonzero(np.diff(order) != 1) + 1
    firsts, lasts = order[np.append(0, breaks)], order[np.append(breaks - 1, len(order) - 1)]
    parts = [tokens[ends[first] : ends[last + 1]] for first, last in zip(firsts, lasts)]
    return ranked_cells_array(parts[0] if len(parts) == 1 else np.concatenate(parts), lengths)

"""More questions about the same training cells.

A prepared row asks one, and a language model that meets a cell with one question alone learns the answer by heart.
"""

from functools import partial
from importlib.metadata import version

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import Hasher

from cell2text.data.ontology import term_definition
from cell2text.data.rows import FIELDS, Chat, cells_array, completion_array
from cell2text.training.sources import TrainingRows


CELLS_AT_ONCE = 4096  # of these a cell of `compare` finds its second one


def ask_more(rows: TrainingRows, questions_per_cell: int) -> Dataset:
    """Training rows so many times over, all but the first time with a task, a wording and a second cell drawn anew.

    Tasks are drawn by the weights that the data set was prepared with, its seed raised by one each time.

    Raises
    ------
    ValueError
        If the data set does not say what its tasks are, or holds other columns than `cell2text prepare` writes.
    """
    if questions_per_cell == 1:
        return rows.train
    missing = sorted({*FIELDS, "pathways", "cell_id", "source", "source_row"} - set(rows.train.column_names))
    if rows.report is None or missing:
        lacks = f"the columns {missing}" if missing else "report.json"
        raise ValueError(
            f"questions_per_cell={questions_per_cell} needs rows of `cell2text prepare`, but these lack {lacks}: "
            "leave it at 1."
        )
    options = rows.report["provenance"]["config"]
    definitions = {
        term: text
        for term in sorted(filter(None, rows.train.unique("cell_type_ontology_term_id")))
        if (text := term_definition(term))
    }
    parts = [rows.train]
    for number in range(1, questions_per_cell):
        chat = Chat(options["tasks"], options["system_prompt"], seed=options["seed"] + number, definitions=definitions)
        asked = rows.train.with_format("arrow").map(
            partial(with_other_questions, chat=chat),
            batched=True,
            batch_size=CELLS_AT_ONCE,
            features=rows.train.features,
            new_fingerprint=Hasher.hash([rows.train._fingerprint, options, number, version("cell2text")]),
        )
        parts.append(asked.with_format(None))
    return concatenate_datasets(parts)


def with_other_questions(rows: pa.Table, chat: Chat) -> pa.Table:
    """The same cells with questions and answers of another chat; a second cell comes from the same source."""
    listed = rows["cells"].combine_chunks()
    own_cells = listed.flatten().take(pc.subtract(listed.offsets[:-1], listed.offsets[0]))
    fields = [(*values, tuple(named or ())) for *values, named in columns_of(rows, (*FIELDS, "pathways"))]
    sources, numbers = np.asarray(rows["source"]), rows["source_row"].to_numpy()
    n = rows.num_rows
    tasks, texts = [""] * n, [""] * n
    prompts, partners = np.empty(n, dtype=np.int64), np.full(n, -1)
    for source in dict.fromkeys(sources):
        chosen = np.flatnonzero(sources == source)
        found = chat.compose([fields[i] for i in chosen], source, numbers[chosen], training=True)
        for i, task, text in zip(chosen, *found[:2]):
            tasks[i], texts[i] = task, text
        prompts[chosen] = found[2]
        partners[chosen] = np.where(found[3] >= 0, chosen[found[3]], -1)
    ids = rows["cell_id"].to_pylist()
    replaced = {
        "cells": cells_array(own_cells, np.arange(n), partners),
        "prompt": chat.prompt_array().take(pa.array(prompts)),
        "completion": completion_array(texts),
        "task": pa.array(tasks, pa.string()),
        "second_cell_id": pa.array([ids[i] if i >= 0 else None for i in partners], pa.string()),
    }
    for name, values in replaced.items():
        position = rows.schema.get_field_index(name)
        rows = rows.set_column(position, rows.schema.field(position), values.cast(rows.schema.field(position).type))
    return rows


def columns_of(rows: pa.Table, names: tuple[str, ...]) -> zip:
    return zip(*(rows[name].to_pylist() for name in names))

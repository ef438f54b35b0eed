"""Tasks that a model learns: their instructions, and the completion that is correct for a row.

`describe` (every known field), `annotate` (the cell type only), `ask` (one field), `pathways`, and `compare` (two
cells). Training samples one of several instructions per task; outside training each task has one fixed instruction.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from cell2text.errors import UserError
from cell2text.language.fields import FIELDS
from cell2text.language.names import TASKS
from cell2text.language.writing import (
    cell_type_sentences,
    compare_cells,
    describe_row,
    donor_phrase,
    origin_sentence,
    pathway_sentence,
)
from cell2text.ontology.terms import clean_label


_COMPARE_INSTRUCTION = "Describe the differences and similarities of these two cells."
INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "describe": (
        "Describe this cell.",
        "What can you say about this cell?",
        "Give a description of this cell.",
        "Tell me what this cell is and where it comes from.",
        "Summarise the identity and origin of this cell.",
        "Write a short report on this cell.",
        "Read this expression profile and describe the cell.",
        "Explain in plain sentences what kind of cell this is.",
        "What do its expressed genes tell about this cell?",
    ),
    "annotate": (
        "Name the cell type of this cell. Answer with the name alone.",
        "Which cell type is this? Give only its name.",
        "Annotate this cell with its cell type, nothing else.",
        "Reply with the Cell Ontology label of this cell.",
        "Assign a cell type to this profile. Name only.",
        "State the cell type. No sentence is needed.",
        "Label this cell with its type.",
        "Cell type of this cell, as a bare label:",
        "Give the cell type label for these ranked genes.",
    ),
    "pathways": (
        "Which pathways are most active in this cell?",
        "Name the two most active pathways of this cell.",
        "What biological programmes does this cell express most strongly?",
        "List the hallmark pathways with the highest activity here.",
        "Which gene sets score highest in this cell?",
        "Tell me the leading pathways of this expression profile.",
        "What are the dominant pathways in this cell?",
        "Report the top pathways of this cell.",
        "Which processes are most active in this cell?",
    ),
    "compare": (
        "Compare these two cells.",
        "What do these two cells have in common, and where do they differ?",
        "How does the first cell differ from the second?",
        "Are these two cells of the same type and origin?",
        "Contrast the first cell with the second cell.",
        _COMPARE_INSTRUCTION,
        "Look at both cells and compare their types and origins.",
        "Set these two cells side by side: what is alike, what is not?",
        "Tell me how these two cells relate to each other.",
    ),
}
QUESTIONS: dict[str, tuple[str, ...]] = {
    "cell_type": (
        "What type of cell is this?",
        "Which cell type does this profile belong to?",
        "Can you identify the type of this cell?",
        "What kind of cell am I looking at?",
        "What is this cell?",
        "Which type of cell expresses its genes in this order?",
        "Please identify this cell.",
        "To which cell type does this cell belong?",
        "What would you call this cell?",
    ),
    "tissue": (
        "Which tissue is this cell from?",
        "Where in the body does this cell come from?",
        "What is the tissue of origin of this cell?",
        "From which tissue was this cell taken?",
        "Name the organ or tissue of this cell.",
        "In which tissue was this cell found?",
        "What tissue does this profile point to?",
        "Where was this cell sampled?",
        "Can you tell the tissue this cell belongs to?",
    ),
    "disease": (
        "Is the donor of this cell healthy or ill?",
        "Which disease does the donor of this cell have, if any?",
        "What is the disease state of this sample?",
        "Does this cell come from a patient, and with which disease?",
        "What is known about the health of the donor?",
        "Healthy or diseased: where does this cell come from?",
        "Name the donor's disease, or say that the donor is healthy.",
        "Which condition was this sample taken in?",
        "Was the donor of this cell affected by a disease?",
    ),
    "sex": (
        "What is the sex of the donor?",
        "Is the donor of this cell male or female?",
        "Was this cell taken from a man or a woman?",
        "Which sex does this donor have?",
        "Tell the donor's sex.",
        "Male or female: who is the donor of this cell?",
        "From a donor of which sex is this cell?",
        "Can you tell the sex of this cell's donor?",
        "State the sex of the person this cell comes from.",
    ),
    "life_stage": (
        "At which stage of life was the donor?",
        "How old, roughly, was the donor of this cell?",
        "Which life stage does this cell come from?",
        "Is this cell from a child, an adult, or from before birth?",
        "What is the donor's stage of development?",
        "In which stage of life was this cell taken?",
        "Name the life stage of the donor.",
        "Does this cell stem from prenatal, young or adult tissue?",
        "What can be said about the age of the donor?",
    ),
}


def task_completion(
    task: str, row: Mapping, *, field: str | None = None, comparison_cell: Mapping | None = None
) -> str | None:
    """Write the correct completion of a task.

    Parameters
    ----------
    task
        One of `TASKS`.
    row
        Metadata of the cell, see :mod:`cell2text.language.writing`.
    field
        Field that `ask` asks for, one of `FIELDS`.
    comparison_cell
        Metadata of the second cell, for `compare`.

    Returns
    -------
    The text; None if the row lacks the metadata for it.

    Raises
    ------
    UserError
        If the task or the field does not exist.

    Examples
    --------
    >>> task_completion("ask", {"cell_type": "B cell", "sex": "female"}, field="sex")
    'This cell comes from a female donor.'
    """
    if task == "describe":
        return describe_row(row)
    if task == "annotate":
        return clean_label(row.get("cell_type"))
    if task == "pathways":
        return pathway_sentence(row)
    if task == "compare":
        return None if comparison_cell is None else compare_cells(row, comparison_cell)
    if task != "ask":
        raise UserError(f"task={task!r} does not exist: expected one of {TASKS}.")
    if field not in FIELDS:
        raise UserError(f"field={field!r} cannot be asked for: expected one of {FIELDS}.")
    if not clean_label(row.get(field)):
        return None
    if field == "cell_type":
        return cell_type_sentences({**row, "cell_type_definition": None})
    if field == "tissue":
        return origin_sentence({"tissue": row["tissue"]})
    return f"This cell comes from {donor_phrase({field: row[field]})}."


def available_tasks(row: Mapping, *, has_partner: bool) -> tuple[list[str], list[str]]:
    """List the tasks that a row has the metadata for.

    Parameters
    ----------
    row
        Metadata of the cell.
    has_partner
        Whether there is a second cell for `compare`.

    Returns
    -------
    Names of tasks, and the fields that `ask` can ask for.
    """
    fields = [field for field in FIELDS if clean_label(row.get(field))]
    has_type, has_pathways = "cell_type" in fields, bool(row.get("pathways"))
    available = {
        "describe": bool(fields) or has_pathways,
        "annotate": has_type,
        "ask": bool(fields),
        "pathways": has_pathways,
        "compare": has_type and has_partner,
    }
    return [task for task in TASKS if available[task]], fields


def task_instructions(task: str, field: str | None = None) -> Sequence[str]:
    """Return the instructions of a task from which training samples; `field` is required for `ask`."""
    return QUESTIONS[str(field)] if task == "ask" else INSTRUCTIONS[task]


def default_instruction(task: str, field: str | None = None) -> str:
    """Return the instruction of a task outside training.

    It is the first one, except for `compare`: a small model locates the two cells by their distance from the end of the
    prompt, and mixes them up behind an instruction that is shorter than most of those in training.
    """
    return _COMPARE_INSTRUCTION if task == "compare" else task_instructions(task, field)[0]


def hashed_uniform(seed: int, stream: str, source: str, rows: np.ndarray) -> np.ndarray:
    """Compute a uniform number in [0, 1) per row of a source by hashing, independent of all other rows.

    Parameters
    ----------
    seed
        Random seed.
    stream
        Name of the purpose; two streams are independent.
    source
        Name of the file or data set that holds the rows.
    rows
        Row numbers in the source, shape (n_rows,).

    Returns
    -------
    SplitMix64 hashes scaled to [0, 1), float64, shape (n_rows,).
    """
    start = int.from_bytes(hashlib.sha256(f"{seed}|{stream}|{source}".encode()).digest()[:8], "little")
    with np.errstate(over="ignore"):
        value = np.asarray(rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return ((value ^ (value >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2**53

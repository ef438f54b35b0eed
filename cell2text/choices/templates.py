"""InstructCell's form: instructions with placeholders, and a file of labelled cells that fill them.

The cells stand for `{input}`, the labels of their data set for `{choices}`, and `obs` has the answers. Depends on
`describe.cell_files`, which opens files of counts.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cell2text.choices.question import CELL_TYPE, DRUG_RESPONSE, GENERATION, ChoiceQuestion
from cell2text.describe.cell_files import CountsFile, locate_cells, open_cells
from cell2text.describe.options import DescribeOptions
from cell2text.errors import UserError
from cell2text.language.tasks import hashed_uniform
from cell2text.ontology.terms import clean_label


PLACEHOLDER = re.compile(r"\{(input|choices|drug|cell_type|species|tissue|sequencing_method)\}")
LABEL_COLUMNS = {CELL_TYPE: "cell_type", DRUG_RESPONSE: "drug_response"}


@dataclass(frozen=True)
class LabelledCells:
    """Names and labels of the cells of a file.

    Parameters
    ----------
    name
        Name of the file in messages.
    cells
        Name of each cell.
    labels
        For each kind of question, the label of each cell, None where unknown. Kinds without a column are absent.
    donors
        Donor of each cell; None if the file has no column `donor_id`.
    """

    name: str
    cells: list[str]
    labels: dict[str, list[str | None]]
    donors: list[str | None] | None = None


def read_labelled_cells(path: str | os.PathLike, options: DescribeOptions) -> LabelledCells:
    """Read the names and labels of the cells of a file of counts.

    Raises
    ------
    UserError
        If the file holds no counts, or has neither a column `cell_type` nor `drug_response`.
    """
    with open_cells(locate_cells(path), options) as opened:
        if not isinstance(opened, CountsFile):
            raise UserError(f"cells='{path}' holds gene lists without labels. Expected a file of counts, such as h5ad.")
        columns = opened.source.obs_columns()
        wanted = [name for name in (*LABEL_COLUMNS.values(), "donor_id") if name in columns]
        values = opened.source.read_obs(wanted) if wanted else {}
        names = list(map(str, opened.source.read_cell_names(np.arange(opened.n_cells))))
    cleaned = {name: [clean_label(value) for value in values[name]] for name in wanted}
    labels = {kind: cleaned[column] for kind, column in LABEL_COLUMNS.items() if column in cleaned}
    if not labels:
        raise UserError(
            f"cells='{path}' has no column {' or '.join(LABEL_COLUMNS.values())} in obs; it has {list(columns)}. "
            "Add one of them with the right answers."
        )
    return LabelledCells(str(path), names, labels, cleaned.get("donor_id"))


def questions_from_templates(
    templates: Sequence[Mapping], cells: LabelledCells, *, seed: int = 0
) -> list[ChoiceQuestion]:  # fmt: skip
    """Ask about every labelled cell with one of the templates.

    Parameters
    ----------
    templates
        Objects with an `instruction` that holds placeholders.
    cells
        The cells and their labels. Cells without a label are left out.
    seed
        Random seed that chooses each cell's template.

    Raises
    ------
    UserError
        If the templates ask for labels that the file lacks.
    """
    kinds = [template_kind(str(template["instruction"])) for template in templates]
    labels_of = [DRUG_RESPONSE if kind == DRUG_RESPONSE else CELL_TYPE for kind in kinds]
    for missing in sorted(set(labels_of) - set(cells.labels)):
        raise UserError(
            f"The templates ask for {missing}, but {cells.name} has no column {LABEL_COLUMNS[missing]} in obs. Add the "
            "column, or remove these templates."
        )
    candidates = {name: tuple(sorted({one for one in cells.labels[name] if one is not None})) for name in labels_of}
    drawn = (hashed_uniform(seed, "template", "", np.arange(len(cells.cells))) * len(templates)).astype(int)
    return [
        ChoiceQuestion(
            question_id=name, kind=kinds[place],
            candidates=() if kinds[place] == GENERATION else candidates[labels_of[place]], answer=label,
            cell=None if kinds[place] == GENERATION else name,
            donor=cells.donors[row] if cells.donors else None,
            lists_candidates="{choices}" in str(templates[place]["instruction"]),
        )
        for row, (name, place) in enumerate(zip(cells.cells, drawn))
        if (label := cells.labels[labels_of[place]][row]) is not None
    ]  # fmt: skip


def template_kind(instruction: str) -> str:
    """Return what a template asks for, by its placeholders.

    Examples
    --------
    >>> template_kind("What is the type of {input}?"), template_kind("How does {input} respond to {drug}?")
    ('cell_type', 'drug_response')
    >>> template_kind("Make a {cell_type} of the {tissue}.")
    'generation'
    """
    names = set(PLACEHOLDER.findall(instruction))
    if "drug" in names:
        return DRUG_RESPONSE
    return CELL_TYPE if "input" in names else GENERATION

"""Choose the cell type that the text of a training cell names: its label, or a broader term.

A model that learns broader terms can name the level of the Cell Ontology that it is sure of. Depends on `language` for
reproducible random numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cell2text.language.tasks import hashed_uniform
from cell2text.ontology.broader_terms import broader_types
from cell2text.ontology.terms import label_of
from declining_cell2text import MIN_SUBTYPE_PROBABILITY, TYPE_THRESHOLD


WITHOUT_SUBTYPE = 1 / 3  # share of the broader terms whose text names no likely subtype
# Probabilities of likely subtypes: a type at the threshold would be named itself.
LOWEST_PERCENT = round(100 * MIN_SUBTYPE_PROBABILITY)
N_PERCENTS = round(100 * TYPE_THRESHOLD) - LOWEST_PERCENT
STATED_COLUMNS = (
    "stated_cell_type", "stated_cell_type_ontology_term_id", "likely_subtype", "likely_subtype_probability",
)  # fmt: skip


@dataclass(frozen=True)
class StatedTypes:
    """What the text of each cell says of its type, one entry per cell, None where it says nothing.

    Parameters
    ----------
    cell_type, cell_type_ontology_term_id
        The named type: the label, or a broader term.
    likely_subtype
        The label, if the named type is a broader term and the text names a likely subtype.
    likely_subtype_probability
        Probability of the likely subtype as the text writes it, such as "0.62".
    """

    cell_type: list[str | None]
    cell_type_ontology_term_id: list[str | None]
    likely_subtype: list[str | None]
    likely_subtype_probability: list[str | None]

    def columns(self) -> dict[str, list[str | None]]:
        """Return the columns of dataset rows."""
        return dict(zip(STATED_COLUMNS, vars(self).values()))


def choose_stated_types(
    labels: Sequence[str | None], term_ids: Sequence[str | None], source: str, rows: np.ndarray, *, share: float,
    seed: int,
) -> StatedTypes:  # fmt: skip
    """Choose the type that each cell's text names.

    The choice depends on seed, source and row alone. A cell whose label has no broader term keeps its label.

    Parameters
    ----------
    labels, term_ids
        Cell type of each cell and its Cell Ontology term, None where unknown.
    source
        Name of the cells' source.
    rows
        Row of each cell in its source, shape (n_cells,).
    share
        Share of the cells whose text names a broader term, from 0 to 1.
    seed
        Random seed.

    Examples
    --------
    >>> stated = choose_stated_types(["T cell"], ["CL:0000084"], "file", np.arange(1), share=1.0, seed=0)
    >>> stated.cell_type, stated.likely_subtype, stated.likely_subtype_probability
    (['lymphocyte'], ['T cell'], ['0.22'])
    """
    stated = StatedTypes(list(labels), list(term_ids), [None] * len(labels), [None] * len(labels))
    if not share:
        return stated
    is_broader = hashed_uniform(seed, "broader type", source, rows) < share
    terms, subtypes, probabilities = (
        hashed_uniform(seed, stream, source, rows) for stream in ("broader term", "subtype", "subtype probability")
    )
    for i in np.flatnonzero(is_broader).tolist():
        above = broader_types(term_ids[i])
        if not above:
            continue
        term = above[int(terms[i] * len(above))]
        stated.cell_type[i], stated.cell_type_ontology_term_id[i] = label_of(term), term
        if subtypes[i] >= WITHOUT_SUBTYPE:
            stated.likely_subtype[i] = labels[i]
            stated.likely_subtype_probability[i] = f"0.{LOWEST_PERCENT + int(probabilities[i] * N_PERCENTS)}"
    return stated

"""Broader terms of a cell type that a text can name: ancestors in the Cell Ontology that say what the cell is.

Depends on the ontologies of :mod:`cell2text.ontology.terms`.
"""

from functools import cache

from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import label_of


# Terms that hold for cells of nearly every kind, or that group cells by one property of little interest.
UNINFORMATIVE_TYPES = frozenset(
    {
        "cell", "native cell", "somatic cell", "animal cell", "eukaryotic cell", "abnormal cell",
        "nucleate cell", "single nucleate cell", "binucleate cell", "multinucleate cell", "anucleate cell",
        "motile cell", "stuff accumulating cell", "neuron associated cell",
        "electrically active cell", "electrically responsive cell", "electrically signaling cell",
        "seromucus secreting cell", "protein secreting cell", "biogenic amine secreting cell",
    }
)  # fmt: skip
_OTHER_SPECIES = ("(sensu ", "(metazoa)", "(Mmus)", "(Primate)")  # terms of one taxon, in brackets after the name


def is_informative(term_id: str) -> bool:
    """Return whether a term of the Cell Ontology says what a human cell is.

    Examples
    --------
    >>> is_informative("CL:0000084"), is_informative("CL:0000255")  # T cell, eukaryotic cell
    (True, False)
    """
    label = label_of(term_id)
    return label not in UNINFORMATIVE_TYPES and not any(mark in label for mark in _OTHER_SPECIES)


@cache
def broader_types(term_id: str | None) -> tuple[str, ...]:
    """Return the informative terms above a cell type, sorted by id; none for a term outside the Cell Ontology.

    Examples
    --------
    >>> [label_of(term) for term in broader_types("CL:0000084")]
    ['lymphocyte', 'leukocyte', 'mononuclear leukocyte', 'hematopoietic cell']
    """
    graph = load_graph("CL")
    if term_id not in graph:
        return ()
    return tuple(sorted(term for term in graph.ancestors(str(term_id)) if term != term_id and is_informative(term)))

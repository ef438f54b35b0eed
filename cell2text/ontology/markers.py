"""Known marker genes of Cell Ontology terms, from a table that ships with the package.

`markers.md` beside the table states its sources and their terms; `recipes/markers/build.py` builds it. The table is
read when it is first used.
"""

import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cell2text.ontology.broader_terms import is_informative
from cell2text.ontology.graph import load_graph


MARKERS_FILE = Path(__file__).with_name("markers.tsv.gz")
COLUMNS = ("cell_type_ontology_term_id", "ensembl_id", "n_sources")


@dataclass(frozen=True)
class MarkerGenes:
    """Known marker genes of a cell type.

    Parameters
    ----------
    term_id
        Cell Ontology term that the markers belong to: the requested one, or the nearest broader term with markers.
    genes
        Ensembl ids, the marker that most sources name first.
    """

    term_id: str
    genes: tuple[str, ...]


@cache
def marker_genes(term_id: str) -> MarkerGenes | None:
    """Return the known marker genes of a Cell Ontology term.

    A term without markers gets those of the nearest broader term that has some; of several equally near terms, the one
    with most markers.

    Parameters
    ----------
    term_id
        A term of the Cell Ontology, such as `"CL:0000084"`.

    Returns
    -------
    The markers, or None if neither the term nor an informative broader term has any.

    Examples
    --------
    >>> marker_genes("CL:0000084").genes[:3]  # CD3D, CD3E and CD3G
    ('ENSG00000167286', 'ENSG00000198851', 'ENSG00000160654')
    """
    table, graph = _read_markers(), load_graph("CL")
    if term_id in table:
        return MarkerGenes(term_id, table[term_id])
    if term_id not in graph:
        return None
    broader = [
        (steps, -len(table[term]), term)
        for term, steps in graph.ancestors(term_id).items()
        if term in table and is_informative(term)
    ]
    if not broader:
        return None
    nearest = min(broader)[-1]
    return MarkerGenes(nearest, table[nearest])


@cache
def _read_markers() -> dict[str, tuple[str, ...]]:
    genes: dict[str, list[str]] = {}
    with gzip.open(MARKERS_FILE, "rt", encoding="utf-8") as file:
        next(file)
        for line in file:
            term, gene, _ = line.split("\t")
            genes.setdefault(term, []).append(gene)
    return {term: tuple(names) for term, names in genes.items()}

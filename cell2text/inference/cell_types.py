"""Cell types that a model has concepts for, and the most probable ones below a named type.

Depends on `statements_cell2text.py`, which decides what a text states.
"""

from collections.abc import Sequence

import numpy as np
import torch

from cell2text.inference.probabilities import columns_of
from cell2text.language.fields import Claim
from cell2text.ontology.broader_terms import is_informative
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import resolve
from concepts_cell2text import ConceptNames
from statements_cell2text import TYPES, TypeHierarchy


LEAST_ALTERNATIVE = 0.01  # probability of a type that is listed beside the named one


class CellTypes:
    """Cell types of a model, with their hierarchy.

    Parameters
    ----------
    concepts
        Concepts of a model. Cell types under `multiclass`, of models saved before types formed a hierarchy, get that of
        the Cell Ontology.
    uninformative
        Types that are never stated, `uninformative_types` of a model whose types form a hierarchy.

    Attributes
    ----------
    names
        Names of the types in the order of the model's columns; empty for a model without cell types.
    """

    def __init__(self, concepts: ConceptNames, uninformative: list[str] | None = None):
        self.names = concepts.groups.get(TYPES, [])
        if self.names and TYPES not in concepts.hierarchical:
            parents, uninformative = _of_ontology(self.names)
            concepts = ConceptNames(hierarchical={TYPES: parents})
        self._hierarchy = TypeHierarchy(concepts, TYPES, uninformative) if self.names else None

    def candidates(self, claims: Sequence[Claim | None], probabilities: np.ndarray) -> list[list[tuple[str, float]]]:
        """Return the most probable types below each named one, or of all types if the text names none.

        Parameters
        ----------
        claims
            Cell type that each text names, None if it names none.
        probabilities
            Probabilities of `names`, shape (n_cells, n_types). NaN for cells that the model has not seen.

        Returns
        -------
        Up to three names with their probabilities per cell, the most probable first, as
        :meth:`statements_cell2text.TypeHierarchy.candidates` chooses them.

        Examples
        --------
        >>> names = ["T cell", "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell", "B cell"]
        >>> types = CellTypes(ConceptNames({"cell_type": names}))
        >>> probabilities = np.array([[0.93, 0.31, 0.62, 0.07]])
        >>> types.candidates([Claim("T cell", "CL:0000084")], probabilities)
        [[('CD8-positive, alpha-beta T cell', 0.62), ('CD4-positive, alpha-beta T cell', 0.31)]]
        >>> types.candidates([None], probabilities)[0][0]
        ('CD8-positive, alpha-beta T cell', 0.62)
        """
        if self._hierarchy is None:
            return [[] for _ in claims]
        columns = columns_of(claims, self._hierarchy.names)
        named = torch.tensor([-1 if column is None else column for column in columns], dtype=torch.long)
        order = np.argsort(self.names)  # names of a hierarchy are sorted
        found = self._hierarchy.candidates(torch.as_tensor(np.asarray(probabilities)[:, order]), named)
        for row, claim in enumerate(claims):
            if claim is not None and columns[row] is None:  # the model has no concept for the named type
                found[row] = []
        return found

    def alternatives(self, claims: Sequence[Claim | None], probabilities: np.ndarray) -> list[list[tuple[str, float]]]:
        """Return the most probable types that are neither above nor below each named one.

        Parameters
        ----------
        claims, probabilities
            As for :meth:`candidates`.

        Returns
        -------
        Up to three names with their probabilities, of at least `LEAST_ALTERNATIVE`, per cell; none for cells without a
        named type.

        Examples
        --------
        >>> types = CellTypes(ConceptNames({"cell_type": ["T cell", "CD4-positive, alpha-beta T cell", "B cell"]}))
        >>> types.alternatives([Claim("T cell", "CL:0000084")], np.array([[0.90, 0.31, 0.07]]))
        [[('B cell', 0.07)]]
        """
        if self._hierarchy is None:
            return [[] for _ in claims]
        order, above = np.argsort(self.names), self._hierarchy.above.cpu().numpy()
        columns = columns_of(claims, self._hierarchy.names)
        others = np.asarray(probabilities)[:, order].copy()
        for row, column in enumerate(columns):
            others[row, slice(None) if column is None else above[column] | above[:, column]] = 0.0
        none = torch.full((len(others),), -1, dtype=torch.long)
        return self._hierarchy.candidates(torch.as_tensor(others), none, least=LEAST_ALTERNATIVE)


def _of_ontology(names: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the names above each name in the Cell Ontology, and the uninformative ones."""
    graph = load_graph("CL")
    terms = {name: str(term) for name in names if (term := resolve(TYPES, name).term_id) in graph}
    above: dict[str, list[str]] = {name: [] for name in names}
    for name, term in terms.items():
        wider = graph.ancestors(term)
        above[name] = [other for other, found in terms.items() if found != term and found in wider]
    return above, [name for name, term in terms.items() if not is_informative(term)]

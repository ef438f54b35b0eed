"""Map the names of cell types to the types that a model has a concept for, and read their probabilities.

A term that the model has is read directly. Otherwise the model's types below the term are joined, and without such
types the nearest type above it stands in. Depends on the Cell Ontology's graph.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cell2text.inference.cell_types import CellTypes
from cell2text.language.parsing import read_fields
from cell2text.ontology.broader_terms import is_informative
from cell2text.ontology.common_names import resolve_label
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import label_of, resolve
from cell2text.questions.type_names import find_cell_types, term_of_name
from cell2text.questions.words import NEGATIONS, words_of
from statements_cell2text import TYPES


# How a label is mapped to a model.
EXACT, SYNONYM, NARROWER, BROADER, TEXT = "exact", "synonym", "narrower", "broader", "text"
ROUTES = (EXACT, SYNONYM, NARROWER, BROADER, TEXT)


@dataclass(frozen=True)
class MappedLabel:
    """A label, and the cell types of a model that its probability is read from.

    Parameters
    ----------
    label
        The label as the user wrote it.
    route
        `"exact"`: the name of a type of the model. `"synonym"`: another name of one. `"narrower"`: the model lacks the
        term; its types below the term are joined. `"broader"`: the model lacks the term and all types below it; the
        nearest type above stands in, whose probability is an upper bound. `"text"`: no cell type that the model has;
        the likelihood of the words is used.
    term_id
        Its term in the Cell Ontology; None if the label names none.
    types
        Types of the model that the probability is read from; empty for `"text"`.
    ignored
        Words of the label that the probability does not depend on, such as "tissue-resident".
    """

    label: str
    route: str
    term_id: str | None = None
    types: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Label of the term; the user's label without a term."""
        return label_of(self.term_id) if self.term_id else self.label


class ModelTypes:
    """The cell types of a model, with their terms and hierarchy.

    Parameters
    ----------
    config
        Configuration of a Cell2Text model.

    Attributes
    ----------
    names
        Names of the types, in the order of the model's columns; empty for a model without concepts of cell types.
    candidates
        :class:`cell2text.inference.cell_types.CellTypes` of the model.

    Examples
    --------
    >>> import cell2text
    >>> model, _ = cell2text.load()
    >>> types = ModelTypes(model.config)
    >>> [types.map_label(label).route for label in ("T cell", "NK", "dividing T cell", "my favourite cells")]
    ['exact', 'synonym', 'broader', 'text']
    """

    def __init__(self, config):
        self.candidates = CellTypes(config.concepts, config.uninformative_types)
        self.names = list(self.candidates.names)
        self._columns = {name.casefold(): column for column, name in enumerate(self.names)}
        self._terms = [resolve(TYPES, name).term_id for name in self.names]
        self._names_of = {term: name for term, name in zip(self._terms, self.names) if term}
        self._above = None if TYPES in config.concepts.hierarchical or not self.names else self._closure()

    def map_label(self, label: str) -> MappedLabel:
        """Map a label, or a statement such as "This cell is a B cell.", to types of the model."""
        name = label.strip()
        column = self._columns.get(name.casefold())
        if column is not None:
            return MappedLabel(label, EXACT, self._terms[column], (self.names[column],))
        claim = read_fields(name).cell_type if name.endswith(".") else None
        words = words_of(name)
        term = claim.term_id if claim else resolve_label(TYPES, name).term_id
        if claim is None and (term is None or "(" in label_of(term)):  # terms of one species: "(Mmus)"
            term = term_of_name(" ".join(words)) or term
        if term is None and claim is None and self.names:
            return self._map_last_words(label, words)
        return self.map_term(term, label)

    def _map_last_words(self, label: str, words: list[str]) -> MappedLabel:
        """Map a label by the cell type at its end: "tissue-resident memory T cell" is at most a memory T cell."""
        mentions = find_cell_types(words)
        if not mentions or mentions[-1].stop < len(words) or len(mentions) > 1 or not NEGATIONS.isdisjoint(words):
            return MappedLabel(label, TEXT)
        ignored = tuple(word for word in words[: mentions[0].start] if word not in ("a", "an", "the"))
        found = self.map_term(mentions[0].term_id, label)
        return replace(found, route=BROADER, term_id=None, ignored=ignored) if found.types and ignored else found

    def map_term(self, term_id: str | None, label: str | None = None) -> MappedLabel:
        """Map a term of the Cell Ontology to types of the model."""
        label = label or (label_of(term_id) if term_id else "")
        graph = load_graph("CL")
        if term_id in self._names_of:
            name = self._names_of[term_id]
            return MappedLabel(label, EXACT if name.casefold() == label.casefold() else SYNONYM, term_id, (name,))
        if term_id not in graph:
            return MappedLabel(label, TEXT, term_id)
        below = [other for other in self._names_of if other in graph and term_id in graph.ancestors(other)]
        if below:
            return MappedLabel(label, NARROWER, term_id, self._named(_highest(below)))
        above = [other for other in self.modelled_above(term_id) if is_informative(other)]
        if above:
            return MappedLabel(label, BROADER, term_id, self._named(_lowest(above)))
        return MappedLabel(label, TEXT, term_id)

    def modelled_above(self, term_id: str | None) -> list[str]:
        """Return the terms above a term that the model has."""
        graph = load_graph("CL")
        if term_id not in graph:
            return []
        return [other for other in graph.ancestors(str(term_id)) if other in self._names_of and other != term_id]

    def probability(self, mapped: MappedLabel, probabilities: np.ndarray) -> np.ndarray:
        """Return the probability of a mapped label per cell, shape (n_cells,).

        Types that are joined add up, to at most the probability of the nearest type above them. The lowest of several
        nearest broader types is an upper bound.

        Parameters
        ----------
        mapped
            A label that is not mapped to text.
        probabilities
            Probabilities of all types, as :meth:`at_or_below` returns them.
        """
        columns = [self._columns[name.casefold()] for name in mapped.types]
        values = probabilities[:, columns]
        if mapped.route != NARROWER:
            return values.min(axis=1)
        above = [self._columns[self._names_of[term].casefold()] for term in self.modelled_above(mapped.term_id)]
        highest = probabilities[:, above].min(axis=1) if above else 1.0
        return np.maximum(np.minimum(values.sum(axis=1), highest), values.max(axis=1))

    def at_or_below(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the probability that a cell is of each type or of one below it, shape (n_cells, n_types).

        Hierarchical models predict it; the types of a multi-class model are summed up the ontology.
        """
        return probabilities if self._above is None else np.minimum(probabilities @ self._above.T, 1.0)

    def is_a(self, name: str, term_id: str | None) -> bool:
        """Return whether a type is a term, or below it in the Cell Ontology."""
        own, graph = resolve(TYPES, name).term_id, load_graph("CL")
        return own == term_id or (own in graph and term_id in graph.ancestors(str(own)))

    def _closure(self) -> np.ndarray:
        graph = load_graph("CL")
        above = [graph.ancestors(term) if term in graph else {term: 0} for term in self._terms]
        return np.array([[float(term in lower) for lower in above] for term in self._terms], dtype=np.float32)

    def _named(self, terms: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(self._names_of[term] for term in terms))


def nested_labels(labels: Sequence[MappedLabel]) -> np.ndarray:
    """Return which labels are above which, boolean, shape (n_labels, n_labels): `[i, j]` if label j is a kind of i."""
    graph, nested = load_graph("CL"), np.zeros((len(labels), len(labels)), dtype=bool)
    terms = [_term_for_nesting(label) for label in labels]
    for i, upper in enumerate(terms):
        for j, lower in enumerate(terms):
            if upper and lower in graph and upper != lower:
                nested[i, j] = upper in graph.ancestors(str(lower))
    return nested


def _term_for_nesting(label: MappedLabel) -> str | None:
    """Return the term of a label, or of the type that stands in for a label with words that are left out."""
    if label.term_id is None and len(label.types) == 1:
        return resolve(TYPES, label.types[0]).term_id
    return label.term_id


def _highest(terms: Sequence[str]) -> list[str]:
    """Return the terms that are not below another one of them."""
    graph = load_graph("CL")
    return [term for term in terms if not any(o != term and o in graph.ancestors(term) for o in terms)]


def _lowest(terms: Sequence[str]) -> list[str]:
    """Return the terms that are not above another one of them."""
    graph = load_graph("CL")
    return [term for term in terms if not any(o != term and term in graph.ancestors(o) for o in terms)]

"""Probabilities reported beside a text. Depends on the claims of `language.fields`."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from cell2text.language.fields import Claim
from cell2text.ontology.broader_terms import is_informative
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import label_of, resolve


MAX_CANDIDATES = 3
MIN_CANDIDATE_PROBABILITY = 0.05
SPECIFIC_SHARE = 0.5  # a term gives way to a narrower one with this share of its probability


def type_probabilities(
    claims: Sequence[Claim | None], type_names: Sequence[str], concept_probabilities: np.ndarray
) -> np.ndarray:
    """Return the probability the model assigns to each text's named cell type.

    Parameters
    ----------
    claims
        Cell type that each text names, None if it names none.
    type_names
        Cell types that the model has a concept for.
    concept_probabilities
        Their probabilities, shape (n_cells, n_types).

    Returns
    -------
    Probabilities, float32, shape (n_cells,); NaN if the text names no type or the model has no concept for it.

    Examples
    --------
    >>> type_probabilities([Claim("T cell"), None], ["B cell", "T cell"], np.array([[0.25, 0.75], [0.5, 0.5]])).tolist()
    [0.75, nan]
    """
    found = np.full(len(claims), np.nan, dtype=np.float32)
    columns = {name.casefold(): column for column, name in enumerate(type_names)}
    for row, claim in enumerate(claims):
        names = (claim.name, claim.label) if claim else ()
        column = next((columns[name.casefold()] for name in names if name.casefold() in columns), None)
        if column is not None:
            found[row] = concept_probabilities[row, column]
    return found


def type_candidates(
    claims: Sequence[Claim | None], type_names: Sequence[str], concept_probabilities: np.ndarray
) -> list[str | None]:
    """Return the most probable cell types below each named one, or of all cell types if the text names none.

    A term gives way to a narrower one that has at least half of its probability. Terms that fit nearly every cell, such
    as "eukaryotic cell", are left out.

    Parameters
    ----------
    claims
        Cell type that each text names, None if it names none.
    type_names
        Cell types that the model has a concept for.
    concept_probabilities
        Their probabilities, shape (n_cells, n_types). NaN for cells that the model has not seen.

    Returns
    -------
    Up to `MAX_CANDIDATES` names with probabilities of at least `MIN_CANDIDATE_PROBABILITY` per cell, the most probable
    first, in the form of the example; None for a cell without candidates.

    Examples
    --------
    >>> names = ["T cell", "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell", "B cell"]
    >>> probabilities = np.array([[0.93, 0.31, 0.62, 0.07], [0.5, 0.1, 0.1, 0.45]])
    >>> type_candidates([Claim("T cell", "CL:0000084"), None], names, probabilities)
    ['CD8-positive, alpha-beta T cell (0.62); CD4-positive, alpha-beta T cell (0.31)', 'T cell (0.50); B cell (0.45); \
CD4-positive, alpha-beta T cell (0.10)']
    """
    if not len(type_names):
        return [None] * len(claims)
    terms, below, informative = _concept_hierarchy(tuple(type_names))
    found: list[str | None] = []
    for claim, probabilities in zip(claims, np.asarray(concept_probabilities, dtype=np.float64)):
        allowed = informative if claim is None else _is_below(terms, claim.term_id)
        possible = np.flatnonzero(allowed & (probabilities >= MIN_CANDIDATE_PROBABILITY))
        narrower = below[np.ix_(possible, possible)] * probabilities[possible]
        kept = possible[narrower.max(axis=1, initial=0.0) < SPECIFIC_SHARE * probabilities[possible]]
        order = kept[np.argsort(-probabilities[kept], kind="stable")][:MAX_CANDIDATES]
        found.append("; ".join(f"{_name(type_names[i], terms[i])} ({probabilities[i]:.2f})" for i in order) or None)
    return found


def _name(name: str, term_id: str | None) -> str:
    return label_of(term_id) if term_id else name


@lru_cache(maxsize=8)
def _concept_hierarchy(type_names: tuple[str, ...]) -> tuple[tuple[str | None, ...], np.ndarray, np.ndarray]:
    """Return the term of each cell type, which types are below which, and which ones are informative.

    Returns
    -------
    terms
        Cell Ontology terms, None for names without one.
    below
        Whether type j lies below type i, shape (n_types, n_types).
    informative
        Shape (n_types,).
    """
    terms = tuple(resolve("cell_type", name).term_id for name in type_names)
    below = np.array([_is_below(terms, term) for term in terms]).reshape(len(terms), len(terms))
    informative = np.array([term is None or is_informative(term) for term in terms], dtype=bool)
    return terms, below, informative


@lru_cache(maxsize=4096)
def _is_below(terms: tuple[str | None, ...], term_id: str | None) -> np.ndarray:
    """Return which terms lie below a term in the Cell Ontology, shape (n_terms,)."""
    graph = load_graph("CL")
    if term_id not in graph:
        return np.zeros(len(terms), dtype=bool)
    return np.array([term != term_id and term in graph and term_id in graph.ancestors(str(term)) for term in terms])


def reliability_factors(n_genes: np.ndarray, points: Sequence[Sequence[float]] | None) -> np.ndarray:
    """Return the factors that lower the stated type probability of cells with few genes.

    Parameters
    ----------
    n_genes
        Number of expressed genes of the model per cell, shape (n_cells,).
    points
        Points `[n_genes, factor]`, the model's `type_reliability`. Without points, every factor is 1.

    Returns
    -------
    Factors from 0 to 1, shape (n_cells,), interpolated over the logarithm of the genes. Beyond the first and the last
    point, the factor is that of the point.

    Examples
    --------
    >>> reliability_factors(np.array([5, 10, 100, 5000]), [[10, 0.5], [1000, 1.0]]).tolist()
    [0.5, 0.5, 0.75, 1.0]
    """
    if not points:
        return np.ones(len(n_genes))
    genes, factors = np.array(points, dtype=np.float64).T
    return np.interp(np.log(np.maximum(n_genes, 1)), np.log(genes), factors)


def round_to_four_digits(values: Iterable[float]) -> list[float]:
    """Round to four significant digits: further digits depend on which cells share a batch.

    Examples
    --------
    >>> round_to_four_digits([0.123456, 1.0])
    [0.1235, 1.0]
    """
    return [float(f"{value:.4g}") for value in values]

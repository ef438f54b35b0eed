"""Probabilities reported beside a text. Depends on the claims of `language.fields`."""

from collections.abc import Iterable, Sequence

import numpy as np

from cell2text.language.fields import Claim


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

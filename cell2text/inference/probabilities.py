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
    for row, column in enumerate(columns_of(claims, type_names)):
        if column is not None:
            found[row] = concept_probabilities[row, column]
    return found


def columns_of(claims: Sequence[Claim | None], type_names: Sequence[str]) -> list[int | None]:
    """Return the column of each claim's concept; None without a claim or a concept."""
    columns = {name.casefold(): column for column, name in enumerate(type_names)}
    names_of = [(claim.name, claim.label) if claim else () for claim in claims]
    return [
        next((columns[name.casefold()] for name in names if name.casefold() in columns), None) for names in names_of
    ]


def round_to_four_digits(values: Iterable[float]) -> list[float]:
    """Round to four significant digits: further digits depend on which cells share a batch.

    Examples
    --------
    >>> round_to_four_digits([0.123456, 1.0])
    [0.1235, 1.0]
    """
    return [float(f"{value:.4g}") for value in values]

"""Rank cells by how well they match a query in words.

The score of a cell is the product of its parts: calibrated probabilities of cell types, the rank of gene set scores
among the cells searched, the sex, and values of `obs`. Depends on `claims`, `predictions` and AUCell.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from cell2text.describe.inputs import CellReader
from cell2text.errors import UserError
from cell2text.inference.concepts import predict_concepts
from cell2text.inference.probabilities import round_to_four_digits
from cell2text.questions.claims import COLUMN, PATHWAY, SEX, TYPE, SearchClaim, SearchQuery, read_query
from cell2text.questions.model_types import ModelTypes
from cell2text.questions.scoring import parts_of
from cell2text.questions.words import words_of
from cell2text.signatures.gene_sets import GeneSets, hallmark_gene_sets
from cell2text.signatures.pathways import PathwayScorer
from grammar_cell2text import pathway_words
from source_cell2text import CellSource
from statements_cell2text import SEX_GROUP, TYPES


logger = logging.getLogger(__name__)

MAX_VALUES = 200  # columns with more values hold names or numbers, not groups
CELL, SCORE = "cell", "score"


def search_cells(
    reader: CellReader, model, processor, query: str, n: int | None = 20, *, gene_sets: GeneSets | None = None
) -> pd.DataFrame:
    """Rank the cells of a reader by how well they match a query; see :func:`cell2text.tl.search`.

    Raises
    ------
    UserError
        If no part of the query can be evaluated, or `n` is below 1.
    """
    if n is not None and (not isinstance(n, int) or isinstance(n, bool) or n < 1):
        raise UserError(f"n={n!r}: expected a number of cells of at least 1, or None for all cells.")
    types, sets = ModelTypes(model.config), gene_sets or hallmark_gene_sets()
    source, groups = reader.source, model.config.concept_groups
    scorer = PathwayScorer(sets, source.read_var(), reader.ranker)
    names = [name for name, found in zip(sets.names, scorer.nameable) if found] if scorer.has_enough_genes else []
    found = read_query(query, types, names, obs_values(source), has_sex=SEX_GROUP in groups)
    _check(found, types, names)
    evaluator = _Evaluator(reader, model, processor, types, scorer)
    parts = {claim.title: evaluator(claim) for claim in found.claims}
    scores = np.prod([*parts.values()], axis=0)
    if not np.nanmax(scores, initial=0.0) > 0:
        logger.warning("No cell matches the query: all scores are 0.")
    return _table(reader, found, parts, scores, n)


class _Evaluator:
    """Evaluate the claims of a query for all cells of a reader; each pass over the cells runs at most once."""

    def __init__(self, reader: CellReader, model, processor, types: ModelTypes, scorer: PathwayScorer):
        self.reader, self.model, self.processor, self.types, self.scorer = reader, model, processor, types, scorer
        self._concepts: dict[str, np.ndarray] | None = None
        self._pathways: np.ndarray | None = None

    def __call__(self, claim: SearchClaim) -> np.ndarray:
        """Return how well each cell has a property, from 0 to 1, shape (n_cells,); NaN for cells without a result."""
        evaluate = {TYPE: self._type, PATHWAY: self._pathway, SEX: self._sex, COLUMN: self._column}[claim.kind]
        values = evaluate(claim)
        return 1 - values if claim.is_negated else values

    def _type(self, claim: SearchClaim) -> np.ndarray:
        types = self.types.at_or_below(self.concepts()[TYPES])
        values = [self.types.probability(label, types) for label in claim.labels]
        return np.minimum(np.sum(values, axis=0), 1.0) if len(values) > 1 else values[0]

    def _sex(self, claim: SearchClaim) -> np.ndarray:
        names = self.model.config.concept_groups[SEX_GROUP]
        return self.concepts()[SEX_GROUP][:, names.index(claim.names[0])]

    def _pathway(self, claim: SearchClaim) -> np.ndarray:
        """Return the share of cells with a lower score, of the best of the gene sets; ties share their ranks."""
        scores = self.pathways()[:, [self.scorer.gene_sets.names.index(name) for name in claim.names]]
        ranks = [(rankdata(column) - 0.5) / len(column) for column in scores.T]
        return np.max(ranks, axis=0)

    def _column(self, claim: SearchClaim) -> np.ndarray:
        values = self.reader.source.read_obs([str(claim.column)])[str(claim.column)].astype(str)
        return (values.to_numpy() == claim.names[0]).astype(float)

    def concepts(self) -> dict[str, np.ndarray]:
        """Return the concept probabilities of all cells."""
        if self._concepts is None:
            found = [
                predict_concepts(self.model, self.processor, cells.cells, cells.concept_overrides)
                for cells in parts_of(self.reader)
            ]
            self._concepts = {group: np.concatenate([part[group] for part in found]) for group in found[0]}
        return self._concepts

    def pathways(self) -> np.ndarray:
        """Return the AUCell scores of all cells, shape (n_cells, n_sets)."""
        if self._pathways is None:
            self._pathways = np.concatenate([self.scorer.score(block) for _, block in self.reader.source.blocks()])
        return self._pathways


def obs_values(source: CellSource) -> dict[str, dict[str, str]]:
    """Return the values of columns of `obs` with words, by column and by the value's words.

    Columns with more than `MAX_VALUES` values, of numbers, or that cell2text wrote are left out.
    """
    found: dict[str, dict[str, str]] = {}
    for column in source.obs_columns():
        if column.startswith("cell2text"):
            continue
        values = source.read_obs([column])[column]
        if not (isinstance(values.dtype, pd.CategoricalDtype) or pd.api.types.is_string_dtype(values.dtype)):
            continue
        names = sorted({str(value) for value in values.dropna().unique()})
        if len(names) <= MAX_VALUES:
            words = {" ".join(words_of(name)): name for name in names if any(map(str.isalpha, name))}
            found[column] = {phrase: name for phrase, name in words.items() if phrase}
    return found


def _check(found: SearchQuery, types: ModelTypes, names: Sequence[str]) -> None:
    """Report what is not evaluated, and raise a `UserError` if that is everything."""
    if not found.claims:
        raise UserError(
            f"query={found.text[:80]!r}: no part of it can be evaluated. Expected cell types ({len(types.names):,} of "
            f"this model), pathways ({', '.join(map(pathway_words, names[:3])) or 'none for these genes'}, ...), "
            "female or male, or values of columns of obs."
        )
    if found.not_evaluated:
        logger.warning(f"Not evaluated: {', '.join(repr(word[:40]) for word in found.not_evaluated)}.")
    for note in found.notes:
        logger.warning(note)


def _table(
    reader: CellReader, found: SearchQuery, parts: Mapping[str, np.ndarray], scores: np.ndarray, n: int | None
) -> pd.DataFrame:
    names = np.asarray(reader.source.read_cell_names(np.arange(reader.n_cells)), dtype=str)
    order = np.argsort(-np.nan_to_num(scores, nan=-1.0), kind="stable")[:n]
    table = pd.DataFrame({CELL: names[order], SCORE: round_to_four_digits(scores[order])})
    for title, values in parts.items():
        table[title] = round_to_four_digits(values[order])
    table.attrs = {
        "query": found.text, "claims": list(parts), "not_evaluated": list(found.not_evaluated),
        "notes": list(found.notes), "cells_without_score": int(np.isnan(scores).sum()), "cells": reader.n_cells,
    }  # fmt: skip
    return table

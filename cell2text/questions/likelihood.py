"""Likelihood of a statement about a cell, relative to the same statement without a cell.

The pointwise mutual information of a statement and a cell is the log-probability of the statement's tokens given the
cell, minus that given no cell: common words then count no more than rare ones. Depends on
`inference.completions`.
"""

from collections.abc import Sequence

import numpy as np
import torch

from cell2text.inference.completions import CompletionScorer
from generation_cell2text import encode_cells
from grammar_cell2text import SUBJECT, TYPE_VERB, with_article
from statements_cell2text import ONE_CELL, PROFILE_GROUP


UNKNOWN = "unknown"  # the name of a multi-class group that states nothing


def statement_of(label: str) -> str:
    """Return a label as a statement about a cell; a label that ends with a full stop is one already.

    Examples
    --------
    >>> statement_of("plasma cell"), statement_of("It comes from a male donor.")
    ('This cell is a plasma cell.', 'It comes from a male donor.')
    """
    return label if label.endswith(".") else f"{SUBJECT} {TYPE_VERB} {with_article(label)}."


class StatementScorer:
    """Score statements about cells by pointwise mutual information.

    Parameters
    ----------
    model, processor
        A Cell2Text model on its device, and its processor.
    statements
        Sentences about a cell.

    Examples
    --------
    >>> import cell2text
    >>> model, processor = cell2text.load()
    >>> cells = processor.rank_encode(cell2text.example_cells(unseen=True)[:1])
    >>> scorer = StatementScorer(model, processor, ["This cell is a pancreatic A cell.", "This cell is a T cell."])
    >>> first, second = scorer(cells)[0]
    >>> bool(first > 0 > second)
    True
    """

    def __init__(self, model, processor, statements: Sequence[str]):
        self.model, self.processor = model, processor
        self._completions = CompletionScorer(model, processor, statements)
        self.without_cell = self._completions.of_features(self._neutral_features())[0]

    def __call__(self, cells: Sequence, concept_overrides: np.ndarray | None = None) -> np.ndarray:
        """Return the pointwise mutual information of cells and statements in nats, shape (n_cells, n_statements).

        NaN for cells that cannot be described.

        Parameters
        ----------
        cells
            Ranked cells: gene token ids, one sequence per cell.
        concept_overrides
            Values that replace predicted concepts, float32, shape (n_cells, n_concepts); NaN keeps the prediction.
        """
        return self._completions(cells, concept_overrides) - self.without_cell

    def _neutral_features(self) -> torch.Tensor:
        """Return the features of a cell without genes and, for a model of concepts, without any concept."""
        vocabulary = self.processor.gene_vocabulary
        empty = np.asarray(vocabulary.frame_token_ids, dtype=np.int64)
        names, overrides = self.model.config.concepts, None
        if names.n_concepts:
            stated = [
                float(name == UNKNOWN or (group == PROFILE_GROUP and name == ONE_CELL))
                for group, of_group in names.groups.items()
                for name in of_group
            ]
            overrides = np.array([[stated]], dtype=np.float32)
        return encode_cells(self.model, self.processor, [[empty]], None, overrides).features


def as_probability(information: np.ndarray) -> np.ndarray:
    """Return the probability that a statement is about this cell rather than about none, at even odds.

    Examples
    --------
    >>> as_probability(np.array([0.0, 3.0])).round(2).tolist()
    [0.5, 0.95]
    """
    return 1 / (1 + np.exp(-np.clip(information, -50, 50)))

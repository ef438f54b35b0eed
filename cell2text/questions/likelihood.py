"""Likelihood of a statement about a cell, relative to the same statement without a cell.

The pointwise mutual information of a statement and a cell is the log-probability of the statement's tokens given the
cell, minus that given no cell: common words then count no more than rare ones. Depends on torch and on
`generation_cell2text.py`.
"""

from collections.abc import Sequence

import numpy as np
import torch

from cell2text.inference.batch_size import LengthSortedBatches, free_memory, gene_tokens_that_fit
from cell2text.inference.prompts import build_conversation
from generation_cell2text import encode_cells
from grammar_cell2text import SUBJECT, TYPE_VERB, with_article
from statements_cell2text import ONE_CELL, PROFILE_GROUP


CELLS_PER_BATCH = 32
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
        conversation = build_conversation(processor, None)
        prompt = processor.apply_chat_template([conversation], tokenize=True, add_generation_prompt=True)[0]
        tokenizer = processor.tokenizer
        self._prompt_length = len(prompt)
        self._ids = [
            torch.tensor([*prompt, *tokenizer(text, add_special_tokens=False)["input_ids"]], device=model.device)
            for text in statements
        ]
        self.without_cell = self._log_probabilities(self._neutral_features())[0]

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
        values = np.full((len(cells), len(self._ids)), np.nan)
        rows = np.array([i for i, c in enumerate(cells) if self.processor.reason_not_described(c) is None], dtype=int)
        described = [cells[i] for i in rows]
        gene_tokens = gene_tokens_that_fit(self.model, self.processor.max_genes, free_memory(self.model.device))

        def score(indices: np.ndarray, limit: int | None) -> np.ndarray:
            chosen = None if concept_overrides is None else concept_overrides[rows[indices]][:, None]
            prompts = [[described[i]] for i in indices]
            return self._log_probabilities(encode_cells(self.model, self.processor, prompts, limit, chosen).features)

        for indices, found in LengthSortedBatches(CELLS_PER_BATCH, gene_tokens).run(described, score):
            values[rows[indices]] = found - self.without_cell
        return values

    @torch.inference_mode()
    def _log_probabilities(self, features: torch.Tensor) -> np.ndarray:
        """Return the log-probability of each statement given the features of cells, shape (n_cells, n_statements)."""
        columns = []
        for ids in self._ids:
            batch = ids.expand(len(features), -1)
            logits = self.model(input_ids=batch, cell_embeds=features).logits[:, self._prompt_length - 1 : -1]
            targets = batch[:, self._prompt_length :, None]
            columns.append(logits.float().log_softmax(-1).gather(-1, targets)[..., 0].sum(-1).double().cpu().numpy())
        return np.stack(columns, axis=1)

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

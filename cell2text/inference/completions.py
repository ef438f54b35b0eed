"""Log-probability of given texts after a prompt about a cell. Depends on torch and on `generation_cell2text.py`."""

from collections.abc import Sequence

import numpy as np
import torch

from cell2text.inference.batch_size import LengthSortedBatches, free_memory, gene_tokens_that_fit
from cell2text.inference.prompts import build_conversation
from generation_cell2text import encode_cells


CELLS_PER_BATCH = 32


class CompletionScorer:
    """Score completions of a prompt about one cell by their log-probability.

    Parameters
    ----------
    model, processor
        A Cell2Text model on its device, and its processor.
    completions
        Texts to score.
    prompt
        Question or task, as in :func:`cell2text.inference.prompts.build_conversation`. Defaults to the processor's own.

    Examples
    --------
    >>> import cell2text
    >>> model, processor = cell2text.load()
    >>> cells = processor.rank_encode(cell2text.example_cells(unseen=True)[:1])
    >>> scorer = CompletionScorer(model, processor, ["This cell is a pancreatic A cell.", "This cell is a T cell."])
    >>> first, second = scorer(cells)[0]
    >>> bool(first > second)
    True
    """

    def __init__(self, model, processor, completions: Sequence[str], prompt: str | None = None):
        self.model, self.processor = model, processor
        conversation = build_conversation(processor, prompt)
        tokens = processor.apply_chat_template([conversation], tokenize=True, add_generation_prompt=True)[0]
        tokenizer = processor.tokenizer
        self._prompt_length = len(tokens)
        self._ids = [
            torch.tensor([*tokens, *tokenizer(text, add_special_tokens=False)["input_ids"]], device=model.device)
            for text in completions
        ]

    def __call__(self, cells: Sequence, concept_overrides: np.ndarray | None = None) -> np.ndarray:
        """Return the log-probability of each completion in nats, shape (n_cells, n_completions).

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
            return self.of_features(encode_cells(self.model, self.processor, prompts, limit, chosen).features)

        for indices, found in LengthSortedBatches(CELLS_PER_BATCH, gene_tokens).run(described, score):
            values[rows[indices]] = found
        return values

    @torch.inference_mode()
    def of_features(self, features: torch.Tensor) -> np.ndarray:
        """Return the log-probability of each completion given the features of cells, shape (n_cells, n_completions)."""
        columns = []
        for ids in self._ids:
            batch = ids.expand(len(features), -1)
            logits = self.model(input_ids=batch, cell_embeds=features).logits[:, self._prompt_length - 1 : -1]
            targets = batch[:, self._prompt_length :, None]
            columns.append(logits.float().log_softmax(-1).gather(-1, targets)[..., 0].sum(-1).double().cpu().numpy())
        return np.stack(columns, axis=1)

"""Attribute what a model states to the genes of a cell, by gradients with respect to the encoder's gene states.

The contribution of a gene is the inner product of the gradient of a score with the difference between the gene's state
and the mean state of the cell, weighted by the size of the gradient. For a model that pools gene states, this is the
first-order loss of the score when the gene is removed. Depends on torch and the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cell2text.inference.batch_size import LengthSortedBatches
from generation_cell2text import CellTextGenerator


ITEMS_PER_BATCH = 16  # fixed, so that contributions do not depend on the batch size of the texts


@dataclass(frozen=True)
class ConceptScore:
    """The log-odds of a concept in a cell.

    Parameters
    ----------
    group, name
        Group and name of the concept, such as `"cell_type"` and `"T cell"`.
    """

    group: str
    name: str


@dataclass(frozen=True)
class TextScore:
    """The log-probability of some words of a text about a cell.

    Parameters
    ----------
    text
        The text.
    start, stop
        Characters of the words.
    """

    text: str
    start: int
    stop: int


class GeneAttribution:
    """Compute contributions of genes to scores of a model.

    Parameters
    ----------
    model, processor
        A Cell2Text model on its device, and its processor.
    conversation
        The prompt of the texts, with one cell. Defaults to the processor's own prompt.

    Examples
    --------
    >>> import cell2text
    >>> model, processor = cell2text.load()
    >>> cells = processor.rank_encode(cell2text.example_cells()[:1], allow_fractional=True)
    >>> attribution = GeneAttribution(model, processor)
    >>> contributions = attribution.of_concepts(cells, [ConceptScore("cell_type", "pancreatic A cell")])[0]
    >>> processor.gene_vocabulary.symbols[cells[0][contributions.argmax()]]
    'GCG'
    """

    def __init__(self, model, processor, conversation: list[dict] | None = None):
        self.model, self.processor = model.eval(), processor
        self.prompt = CellTextGenerator(model, processor, conversation).prompt

    def of_concepts(self, cells: Sequence[np.ndarray], scores: Sequence[ConceptScore]) -> list[np.ndarray]:
        """Return the contribution of each gene token of a cell to the log-odds of a concept, before calibration.

        Parameters
        ----------
        cells
            Ranked cells: gene token ids, one sequence per score. A cell may occur several times.
        scores
            A concept per cell.

        Returns
        -------
        One float32 array per cell, of its length; zero for special tokens.
        """
        found: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * len(cells)
        groups, names = self.model.config.concept_groups, [score.group for score in scores]
        for group in sorted(set(names)):
            rows = [i for i, name in enumerate(names) if name == group]
            columns = [groups[group].index(scores[i].name) for i in rows]

            def log_odds(batch, states, gene_mask, positions, group=group, columns=columns):
                chosen = torch.tensor([columns[i] for i in positions], device=states.device)
                return self.model.model.projector.concept_log_odds(states[:, 0], gene_mask[:, 0], group, chosen)

            for row, values in zip(rows, self._contributions([cells[i] for i in rows], log_odds)):
                found[row] = values
        return found

    def of_texts(self, cells: Sequence[np.ndarray], scores: Sequence[TextScore]) -> list[np.ndarray]:
        """Return the contribution of each gene token of a cell to the log-probability of words of its text.

        Parameters
        ----------
        cells
            See :meth:`of_concepts`.
        scores
            Words of a text per cell.
        """
        tokenized = [self._tokens(score) for score in scores]

        def log_probability(batch, states, gene_mask, positions):
            return self._log_probability(batch, states, [tokenized[i] for i in positions])

        return self._contributions(cells, log_probability)

    def probabilities(self, cells: Sequence[np.ndarray], scores: Sequence[ConceptScore | TextScore]) -> np.ndarray:
        """Return the calibrated probability of a concept per cell, or of the words of a text, shape (n_cells,).

        Parameters
        ----------
        cells
            See :meth:`of_concepts`.
        scores
            A concept per cell, or words of a text per cell.
        """
        found = np.zeros(len(cells))

        def compute(indices: np.ndarray, _) -> np.ndarray:
            batch = self.processor.pad_cells([[cells[i]] for i in indices], return_tensors="pt")
            batch = {name: value.to(self.model.device) for name, value in batch.items()}
            chosen = [scores[i] for i in indices]
            with torch.inference_mode():
                if isinstance(chosen[0], TextScore):
                    states, _mask, _outputs = self.model.model.encode_cells(**batch)
                    values = self._log_probability(batch, states, [self._tokens(score) for score in chosen]).exp()
                else:
                    concepts = self.model.get_cell_concepts(**batch)
                    groups = self.model.config.concept_groups
                    values = torch.stack(
                        [
                            concepts[one.group][row, 0, groups[one.group].index(one.name)]
                            for row, one in enumerate(chosen)
                        ]
                    )
            return values.float().cpu().numpy()

        for indices, values in LengthSortedBatches(ITEMS_PER_BATCH).run(cells, compute):
            found[indices] = values
        return found

    def _contributions(self, cells: Sequence[np.ndarray], score: Callable) -> list[np.ndarray]:
        """Return contributions to a score, which is called with a batch, its states, mask of genes and indices."""
        found: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * len(cells)

        def attribute(indices: np.ndarray, _) -> np.ndarray:
            batch = self.processor.pad_cells([[cells[i]] for i in indices], return_tensors="pt")
            batch = {name: value.to(self.model.device) for name, value in batch.items()}
            with torch.no_grad():
                states, gene_mask, _outputs = self.model.model.encode_cells(**batch)
            with torch.enable_grad():
                states = states.detach().float().requires_grad_()
                inputs = states.to(next(self.model.model.projector.parameters()).dtype)
                (gradient,) = torch.autograd.grad(score(batch, inputs, gene_mask, indices).sum(), states)
            return removal_effects(states.detach()[:, 0], gradient[:, 0], gene_mask[:, 0]).cpu().numpy()

        for indices, values in LengthSortedBatches(ITEMS_PER_BATCH).run(cells, attribute):
            for i, row in zip(indices, values):
                found[i] = row[: len(cells[i])].astype(np.float32)
        return found

    def _tokens(self, score: TextScore) -> tuple[list[int], list[int]]:
        """Return the tokens of a text, and the positions of those that belong to the words of a score."""
        encoded = self.processor.tokenizer(score.text, add_special_tokens=False, return_offsets_mapping=True)
        chosen = [
            i
            for i, (start, stop) in enumerate(encoded["offset_mapping"])
            if start < score.stop and stop > score.start and stop > start
        ]
        return encoded["input_ids"], chosen

    def _log_probability(self, batch: dict, states: torch.Tensor, tokenized: list) -> torch.Tensor:
        """Return the log-probability of the chosen tokens of each text, shape (n,)."""
        length = max(len(tokens) for tokens, _ in tokenized)
        completions = torch.zeros(len(tokenized), length, dtype=torch.long, device=states.device)
        chosen = torch.zeros(len(tokenized), length, dtype=torch.bool, device=states.device)
        filled = torch.zeros_like(chosen)
        for row, (tokens, positions) in enumerate(tokenized):
            completions[row, : len(tokens)] = torch.tensor(tokens, device=states.device)
            filled[row, : len(tokens)], chosen[row, positions] = True, True
        prompt = self.prompt.expand(len(tokenized), -1)
        mask = torch.cat([torch.ones_like(prompt), filled.long()], dim=1)
        logits = self.model(
            input_ids=torch.cat([prompt, completions], dim=1), attention_mask=mask, cell_states=states,
            logits_to_keep=length + 1, **batch,
        ).logits  # fmt: skip
        log_probabilities = logits[:, :-1].float().log_softmax(-1).gather(-1, completions[..., None])[..., 0]
        return (log_probabilities * chosen).sum(-1)


def removal_effects(states: torch.Tensor, gradient: torch.Tensor, gene_mask: torch.Tensor) -> torch.Tensor:
    """Return the first-order loss of a score when each gene is removed.

    Parameters
    ----------
    states
        States of a cell's genes, shape (n_cells, n_genes, cell_hidden).
    gradient
        Gradient of each cell's score with respect to them, of the same shape.
    gene_mask
        True for genes, shape (n_cells, n_genes).

    Returns
    -------
    Shape (n_cells, n_genes); zero for tokens that are not genes.

    Examples
    --------
    A score that is the mean of two states of 3 and 1:

    >>> states = torch.tensor([[[3.0], [1.0]]])
    >>> removal_effects(states, torch.full_like(states, 0.5), torch.ones(1, 2, dtype=torch.bool)).tolist()
    [[0.5, -0.5]]
    """
    size = gradient.norm(dim=-1, keepdim=True) * gene_mask[..., None]
    mean = (size * states).sum(1, keepdim=True) / size.sum(1, keepdim=True).clamp(min=1e-12)
    return ((gradient * (states - mean)).sum(-1)).masked_fill(~gene_mask, 0.0)

"""Generate texts for many ranked cells. Depends on `generation_cell2text.py` for one batch, and on `batch_size`."""

from collections.abc import Sequence

import numpy as np

from cell2text.errors import UserError
from cell2text.inference.batch_size import LengthSortedBatches, free_memory, gene_tokens_that_fit, prompts_that_fit
from generation_cell2text import CellTextGenerator, GeneratedTexts


CELLS_AT_ONCE = 1_024  # cells whose texts are decoded together, once each, if cells share texts


class BatchedTextGenerator:
    """Generate one text per cell with greedy decoding, for any number of cells.

    Cells are sorted by length, and a batch that runs out of GPU memory is halved. Neither changes a text.

    Parameters
    ----------
    model, processor
        A Cell2Text model on its device, and its processor.
    conversation
        Prompt as chat messages, with one cell block, or with two if there is a `comparison_cell`. Defaults to the
        processor's own prompt.
    comparison_cell
        Ranked cell that fills the second cell block of every prompt. None for prompts with one cell.
    comparison_overrides
        Concept overrides of the comparison cell, shape (n_concepts,); see `__call__`.
    batch_size
        Texts that are decoded together. Chosen from the free memory if None.
    max_new_tokens
        Maximum number of generated tokens per text.
    compiled
        Whether to compile the decoding step; see :class:`decoding_cell2text.CompiledDecoder`.

    Attributes
    ----------
    batches
        Batch size and number of gene tokens per pass, lowered when memory runs out.

    Examples
    --------
    >>> import cell2text
    >>> model, processor = cell2text.load()
    >>> cells = processor.rank_encode(cell2text.example_cells()[:2], allow_fractional=True)
    >>> generated = BatchedTextGenerator(model, processor, max_new_tokens=8)(cells)
    >>> len(generated.texts), generated.embeddings.shape
    (2, (2, 256))
    """

    def __init__(
        self, model, processor, conversation: list[dict] | None = None, *, comparison_cell: np.ndarray | None = None,
        comparison_overrides: np.ndarray | None = None, batch_size: int | None = None, max_new_tokens: int = 160,
        compiled: bool = False,
    ):  # fmt: skip
        free_bytes = free_memory(model.device)
        gene_tokens = gene_tokens_that_fit(model, processor.max_genes, free_bytes)
        self.generator = CellTextGenerator(
            model, processor, conversation, gene_tokens, compiled=compiled, max_new_tokens=max_new_tokens
        )
        if batch_size is None:
            batch_size = prompts_that_fit(model, len(self.generator.prompt) + max_new_tokens, free_bytes)
        self.texts_at_once = batch_size
        cells_at_once = max(batch_size, CELLS_AT_ONCE) if self.generator.shares_texts else batch_size
        self.batches = LengthSortedBatches(cells_at_once, gene_tokens)
        self.comparison_cell, self.comparison_overrides = comparison_cell, comparison_overrides

    def __call__(self, cells: Sequence, concept_overrides: np.ndarray | None = None) -> GeneratedTexts:
        """Generate texts for ranked cells, in their order.

        Parameters
        ----------
        cells
            Gene token ids, one sequence per cell. A cell that cannot be described gets the reason instead; see
            :meth:`Cell2TextProcessor.reason_not_described`.
        concept_overrides
            Values that replace the predicted concept probabilities, float32, shape (n_cells, n_concepts); NaN keeps
            the prediction. None to keep all predictions.

        Raises
        ------
        UserError
            If `concept_overrides` has another shape.
        """
        n, config = len(cells), self.generator.model.config
        total = GeneratedTexts(
            texts=[""] * n,
            embeddings=np.zeros((n, config.cell_config.hidden_size), dtype=np.float32),
            confidence=np.full(n, np.nan, dtype=np.float32),
            steps=0,
            useful=0,
            concepts={
                group: np.full((n, len(names)), np.nan, dtype=np.float32)
                for group, names in config.concept_groups.items()
            },
        )
        second = [] if self.comparison_cell is None else [self.comparison_cell]
        overrides = self._overrides_of_prompts(concept_overrides, n)

        def generate(indices: np.ndarray, gene_tokens: int | None) -> GeneratedTexts:
            self.generator.genes_at_once = gene_tokens
            self.generator.texts_at_once = min(self.texts_at_once, self.batches.batch_size)
            chosen = None if overrides is None else overrides[indices]
            return self.generator([[cells[i], *second] for i in indices], chosen)

        for indices, batch in self.batches.run(cells, generate):
            for i, text in zip(indices, batch.texts):
                total.texts[i] = text
            total.confidence[indices], total.embeddings[indices] = batch.confidence, batch.embeddings
            for group, probabilities in batch.concepts.items():
                total.concepts[group][indices] = probabilities
            total.steps, total.useful = total.steps + batch.steps, total.useful + batch.useful
        return total

    def _overrides_of_prompts(self, concept_overrides: np.ndarray | None, n: int) -> np.ndarray | None:
        """Return the overrides of all cells of the prompts, shape (n, cells per prompt, n_concepts), or None."""
        if concept_overrides is None and self.comparison_overrides is None:
            return None
        n_concepts = self.generator.model.config.concepts.n_concepts
        unchanged = np.full(n_concepts, np.nan, dtype=np.float32)
        own = np.tile(unchanged, (n, 1)) if concept_overrides is None else np.asarray(concept_overrides, np.float32)
        if own.shape != (n, n_concepts):
            raise UserError(
                f"concept_overrides has the shape {own.shape}: expected (cells, concepts), {n, n_concepts}."
            )
        if self.comparison_cell is None:
            return own[:, None]
        second = unchanged if self.comparison_overrides is None else self.comparison_overrides
        return np.stack([own, np.broadcast_to(second, own.shape)], axis=1)


def generate_with_sharded_model(
    model, processor, cells: Sequence, *, batch_size: int, max_new_tokens: int
) -> list[str]:
    """Generate one text per ranked cell with a model whose weights are sharded over ranks, such as with FSDP.

    :class:`BatchedTextGenerator` cannot run such a model: every forward pass gathers weights from all ranks, so all
    ranks must make the same number of passes, while its decoding loop ends as soon as this rank's texts have ended.
    `generate` keeps ranks in step. All ranks must call this function, with the same number of cells.
    """
    texts = []
    for start in range(0, len(cells), batch_size):
        batch = cells[start : start + batch_size]
        inputs = processor.apply_chat_template(
            [processor.conversation()] * len(batch), tokenize=True, return_dict=True, return_tensors="pt",
            add_generation_prompt=True, processor_kwargs={"cells": [[cell] for cell in batch]},
        ).to(model.device)  # fmt: skip
        ids = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        completions = ids[:, inputs["input_ids"].shape[1] :]
        decoded = processor.tokenizer.batch_decode(completions, skip_special_tokens=True)
        texts += [processor.reason_not_described(cell) or text.strip() for cell, text in zip(batch, decoded)]
    return texts

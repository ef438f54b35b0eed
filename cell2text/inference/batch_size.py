"""Choose batch sizes from free memory, and halve them when memory runs out. Depends on torch and psutil only."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import psutil
import torch


MEMORY_SHARE = 0.4  # of the free memory; the rest is left for short-lived tensors
MAX_PROMPTS = {"cpu": 32, "cuda": 256}  # larger batches are not faster
MAX_GENE_TOKENS = {"cpu": 8_192, "cuda": 262_144}
MAX_LOOKUPS = 262_144  # gene tokens of an encoder that looks genes up in a table, which needs no states of genes
BYTES_PER_LOOKUP = 64

Result = TypeVar("Result")


class LengthSortedBatches:
    """Run a function over cells in batches of similar length, with smaller batches after an out-of-memory error.

    Sorting by length keeps padding small. The limits stay lowered for later calls.

    Parameters
    ----------
    batch_size
        Largest number of cells per batch.
    gene_tokens
        Largest number of gene tokens, padding included, per pass through the encoder. None for the default of
        :func:`generation_cell2text.encode_cells`.
    """

    def __init__(self, batch_size: int, gene_tokens: int | None = None):
        self.batch_size, self.gene_tokens = batch_size, gene_tokens

    def run(
        self, cells: Sequence, function: Callable[[np.ndarray, int | None], Result]
    ) -> Iterator[tuple[np.ndarray, Result]]:
        """Yield the indices of each batch of cells with the result of `function(indices, gene_tokens)`.

        Parameters
        ----------
        cells
            Ranked cells.
        function
            Computes the result of a batch. It is called again for a smaller batch if it runs out of GPU memory.

        Raises
        ------
        torch.OutOfMemoryError
            If memory is too small for a single cell.

        Examples
        --------
        >>> batches = LengthSortedBatches(batch_size=2)
        >>> cells = [[5, 6, 7], [5], [5, 6]]
        >>> [(indices.tolist(), total) for indices, total in batches.run(cells, lambda indices, _: len(indices))]
        [([1, 2], 2), ([0], 1)]
        """
        order, start = _shortest_first(cells), 0
        while start < len(order):
            indices = order[start : start + self.batch_size]
            try:
                result = function(indices, self.gene_tokens)
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
            else:
                yield indices, result
                start += len(indices)
                continue
            # Outside of the `except` block: the traceback would keep the failed batch's tensors alive.
            self.batch_size //= 2
            self.gene_tokens = self.gene_tokens and max(1, self.gene_tokens // 2)
            torch.cuda.empty_cache()


def free_memory(device: torch.device) -> int:
    """Return the bytes this process can still allocate; processes on one machine share its main memory equally."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def prompts_that_fit(model, n_tokens: int, free_bytes: int) -> int:
    """Return how many texts can be generated per batch, a power of two.

    Parameters
    ----------
    n_tokens
        Tokens of the prompt and of the longest text.
    free_bytes
        See :func:`free_memory`.
    """
    config, size = model.config.text_config, model.get_input_embeddings().weight.element_size()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # Keys and values count twice, since growing them copies them. The rest: activations of one layer, float32 logits.
    cache = 2 * 2 * n_tokens * config.num_hidden_layers * heads * width * size
    activations = n_tokens * (8 * config.hidden_size + 3 * config.intermediate_size) * size
    prompts = int(MEMORY_SHARE * free_bytes) // (cache + activations + 4 * 4 * config.vocab_size)
    return _largest_power_of_two(min(prompts, MAX_PROMPTS.get(model.device.type, 32)))


def gene_tokens_that_fit(model, max_genes: int, free_bytes: int) -> int:
    """Return how many gene tokens can pass through the encoder together.

    Parameters
    ----------
    max_genes
        Length of the longest ranked cell; an attention mask has as many columns.
    free_bytes
        See :func:`free_memory`.
    """
    config, size = model.config.cell_config, next(model.model.cell_encoder.parameters()).element_size()
    bytes_per_gene = (12 * config.hidden_size + 3 * config.intermediate_size) * size + 4 * max_genes
    most = MAX_GENE_TOKENS.get(model.device.type, 8_192)
    if model.looks_genes_up:
        bytes_per_gene, most = BYTES_PER_LOOKUP, MAX_LOOKUPS
    return max(1, min(int(MEMORY_SHARE * free_bytes) // bytes_per_gene, most))


def _shortest_first(cells: Sequence) -> np.ndarray:
    """Return the indices of cells, shortest cell first."""
    return np.argsort(np.array([len(cell) for cell in cells], dtype=np.int64), kind="stable")


def _largest_power_of_two(number: int) -> int:
    """Return the largest power of two up to a number, at least 1."""
    return 1 << max(0, number.bit_length() - 1)

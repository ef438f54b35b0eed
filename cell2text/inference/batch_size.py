"""How many cells go together: as many as the memory that is free holds, and no more than what makes it faster."""

import os

import psutil
import torch


SHARE = 0.4  # of the free memory; the rest is for what is only there for a moment
MOST_ROWS = {"cpu": 32, "cuda": 256}  # more are no faster
MOST_GENES = {"cpu": 8_192, "cuda": 262_144}


def free_bytes(device: torch.device) -> int:
    """Memory that this process may still take, its share where processes share a machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def rows_that_fit(model, n_tokens: int, free: int) -> int:
    """Texts that are written together, a power of two.

    Parameters
    ----------
    n_tokens
        Of the question and the longest answer.
    free
        Bytes; see :func:`free_bytes`.
    """
    config, size = model.config.text_config, model.get_input_embeddings().weight.element_size()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # Keys and values, twice, since they are copied when they grow; activations of one layer; scores in float32.
    cache = 2 * 2 * n_tokens * config.num_hidden_layers * heads * width * size
    activations = n_tokens * (8 * config.hidden_size + 3 * config.intermediate_size) * size
    rows = int(SHARE * free) // (cache + activations + 4 * 4 * config.vocab_size)
    return largest_power(min(rows, MOST_ROWS.get(model.device.type, 32)))


def genes_that_fit(model, longest: int, free: int) -> int:
    """Gene tokens that go through the encoder together; attention masks are as wide as the `longest` cell."""
    config, size = model.config.cell_config, next(model.model.cell_encoder.parameters()).element_size()
    of_a_gene = (12 * config.hidden_size + 3 * config.intermediate_size) * size + 4 * longest
    genes = int(SHARE * free) // of_a_gene
    return max(1, min(genes, MOST_GENES.get(model.device.type, 8_192)))


def largest_power(number: int) -> int:
    """The largest power of two that is not above a number, at least 1."""
    return 1 << max(0, number.bit_length() - 1)

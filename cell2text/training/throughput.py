"""How fast training goes: cells and text tokens a second, and the share of the device's peak that this is."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from cell2text.training.memory import ORIGINAL
from modeling_cell2text import Cell2TextForConditionalGeneration


# Dense bfloat16 peaks in TFLOP/s, from the makers' data sheets; the first name that is a word of the device's is taken.
PEAKS = {
    "H200": 989, "H100 PCIe": 756, "H100": 989, "GH200": 989, "B200": 2250, "A100": 312, "A800": 312, "L40S": 362,
    "L4": 121, "A10": 125, "RTX 4090": 165, "MI300X": 1307, "MI250X": 383,
}  # fmt: skip


def batch_sizes(batch: dict) -> dict[str, int]:
    """What a step has to work through, counted on the CPU before the batch is sent to the device.

    Parameters
    ----------
    batch
        A collator's output. Padding does not count.
    """
    texts = batch["attention_mask"].sum(-1)
    genes = batch["cell_attention_mask"].flatten(0, 1).sum(-1)
    encoded = genes if "cell_states" not in batch else torch.zeros_like(genes)
    return {
        "cells": int((genes > 0).sum()),
        "tokens": int(texts.sum()),
        "token_pairs": int((texts**2).sum()) // 2,  # attention is causal
        "answer_tokens": int((batch["labels"] != -100).sum()),
        "genes": int(encoded.sum()),
        "gene_pairs": int((encoded**2).sum()),
    }


class FlopCounter:
    """Floating-point operations that a batch calls for; recomputation and the projector, under 1 %, are left out.

    Two for every weight and token forward, two more for the gradient of its input where anything before it trains, two
    for its own gradient where it trains itself; attention three times what it takes forward.
    """

    def __init__(self, model: Cell2TextForConditionalGeneration):
        config, parts = model.config, model.model
        self.text, self.text_trained = matrix_weights(parts.language_model)
        self.encoder, self.encoder_trained = matrix_weights(parts.cell_encoder)
        self.head = model.get_output_embeddings().weight.numel()
        self.head_trained = self.head * model.get_output_embeddings().weight.requires_grad
        self.text_attention = attention_flops(config.text_config)
        self.encoder_attention = attention_flops(config.cell_config)

    def __call__(self, sizes: Counter) -> float:
        text = (4 * self.text + 2 * self.text_trained) * sizes["tokens"]
        text += 3 * self.text_attention * sizes["token_pairs"]
        head = (4 * self.head + 2 * self.head_trained) * sizes["answer_tokens"]
        share = self.encoder_trained / max(1, self.encoder)  # its last layers: gradients go no further
        encoder = (2 + 4 * share) * self.encoder * sizes["genes"]
        encoder += (1 + 2 * share) * self.encoder_attention * sizes["gene_pairs"]
        return text + head + encoder


def attention_flops(config) -> int:
    """Of a pair of tokens, forward: scores and their sum, in all layers."""
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    return 4 * config.num_hidden_layers * width


def matrix_weights(module: torch.nn.Module) -> tuple[int, int]:
    """Weights of a module's matrix products, and how many of them train; embedding tables are looked up."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding)}
    weights = [
        weight
        for name, weight in module.named_parameters()
        if weight.ndim > 1 and id(weight) not in tables and ORIGINAL not in f".{name}"
    ]
    return sum(w.numel() for w in weights), sum(w.numel() for w in weights if w.requires_grad)


def peak_flops(device: torch.device) -> float | None:
    """The device's peak in FLOP/s; None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for part, peak in PEAKS.items() if re.search(rf"\b{part}\b", name)), None)


class Throughput:
    """Counts what the steps since the last log worked through, and the time they took.

    Parameters
    ----------
    count_flops
        Operations of so many tokens and genes; see :class:`FlopCounter`.
    peak
        Of one device, in FLOP/s; None leaves the share out.
    """

    def __init__(self, count_flops: Callable[[Counter], float], peak: float | None):
        self.count_flops, self.peak = count_flops, peak
        self.sizes: Counter = Counter()
        self.start()

    def start(self) -> None:
        self.sizes.clear()
        self.since, self.not_counted = time.perf_counter(), 0.0

    def add(self, sizes: dict[str, int]) -> None:
        self.sizes.update(sizes)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in here is no training: evaluating, saving."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.not_counted += time.perf_counter() - began

    def figures(self, ranks: int = 1) -> dict[str, float]:
        """Of all ranks, taking each to do as much as this one; and a new start."""
        seconds = max(time.perf_counter() - self.since - self.not_counted, 1e-9)
        found = {f"{name}_per_second": self.sizes[name] * ranks / seconds for name in ("cells", "tokens")}
        if self.peak is not None:
            found["share_of_peak_flops"] = self.count_flops(self.sizes) / seconds / self.peak
        self.start()
        return {name: round(value, 4) for name, value in found.items()}

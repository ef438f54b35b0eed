"""Measure the speed of training: cells and text tokens per second, and the share of the GPU's peak."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from cell2text.training.memory import UNTRAINED_COPY
from modeling_cell2text import Cell2TextForConditionalGeneration


# Dense bfloat16 peaks in TFLOP/s, from the vendors' data sheets. The first key that is a word of the GPU's name counts.
PEAK_TFLOPS = {
    "H200": 989, "H100 PCIe": 756, "H100": 989, "GH200": 989, "B200": 2250, "A100": 312, "A800": 312, "L40S": 362,
    "L4": 121, "A10": 125, "RTX 4090": 165, "MI300X": 1307, "MI250X": 383,
}  # fmt: skip


def batch_sizes(batch: dict) -> dict[str, int]:
    """Count the cells, tokens and pairs of a batch, on the CPU before it moves to the GPU.

    Parameters
    ----------
    batch
        Output of the data collator. Padding is not counted.
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
    """Count the floating-point operations of a batch, without recomputation and the projector (under 1 %).

    A weight takes two operations per token in the forward pass, two for the gradient of its input if anything before it
    trains, and two for its own gradient if it trains. Attention takes three times its forward pass.
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
        share = self.encoder_trained / max(1, self.encoder)  # gradients stop above the frozen layers
        encoder = (2 + 4 * share) * self.encoder * sizes["genes"]
        encoder += (1 + 2 * share) * self.encoder_attention * sizes["gene_pairs"]
        return text + head + encoder


def attention_flops(config) -> int:
    """Return the operations per pair of tokens in the forward pass of all layers: scores and their weighted sum."""
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    return 4 * config.num_hidden_layers * width


def matrix_weights(module: torch.nn.Module) -> tuple[int, int]:
    """Return the number of weights in matrix products, and how many of them train. Embedding tables do not count."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding)}
    weights = [
        weight
        for name, weight in module.named_parameters()
        if weight.ndim > 1 and id(weight) not in tables and UNTRAINED_COPY not in f".{name}"
    ]
    return sum(w.numel() for w in weights), sum(w.numel() for w in weights if w.requires_grad)


def peak_flops(device: torch.device) -> float | None:
    """Return the peak of a GPU in FLOP/s, None if it is unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for part, peak in PEAK_TFLOPS.items() if re.search(rf"\b{part}\b", name)), None)


class Throughput:
    """Count the work of the steps since the last log, and their time.

    Parameters
    ----------
    count_flops
        Function from counted sizes to operations; see :class:`FlopCounter`.
    peak
        Peak of one GPU in FLOP/s; None omits the share.
    """

    def __init__(self, count_flops: Callable[[Counter], float], peak: float | None):
        self.count_flops, self.peak = count_flops, peak
        self.sizes: Counter = Counter()
        self.start()

    def start(self) -> None:
        self.sizes.clear()
        self.since, self.excluded_seconds = time.perf_counter(), 0.0

    def add(self, sizes: dict[str, int]) -> None:
        self.sizes.update(sizes)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of a block, such as evaluation and saving."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.excluded_seconds += time.perf_counter() - began

    def figures(self, ranks: int = 1) -> dict[str, float]:
        """Return the figures of all ranks, assuming equal work, and start anew."""
        seconds = max(time.perf_counter() - self.since - self.excluded_seconds, 1e-9)
        found = {f"{name}_per_second": self.sizes[name] * ranks / seconds for name in ("cells", "tokens")}
        if self.peak is not None:
            found["share_of_peak_flops"] = self.count_flops(self.sizes) / seconds / self.peak
        self.start()
        return {name: round(value, 4) for name, value in found.items()}

"""Hashes of weights and rows: what tells whether something kept from before still holds."""

import hashlib

import numpy as np
import torch
from datasets import Dataset


ROWS_AT_ONCE = 1000


def weights_fingerprint(module: torch.nn.Module) -> str:
    """SHA-256 over the names, types and values of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def data_fingerprint(dataset: Dataset) -> str:
    """SHA-256 over the ranked genes of all rows, in their order."""
    digest = hashlib.sha256()
    for start in range(0, len(dataset), ROWS_AT_ONCE):
        for cells in dataset[start : start + ROWS_AT_ONCE]["cells"]:
            for cell in cells:
                digest.update(np.asarray(cell, dtype=np.uint32).tobytes() + b"|")
            digest.update(b"\n")
    return digest.hexdigest()

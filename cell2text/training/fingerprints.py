"""Hash weights and rows, to detect whether stored results are still valid."""

import hashlib

import numpy as np
import torch
from datasets import Dataset


HASHED_ROWS = 1000  # rows read at a time


def weights_fingerprint(module: torch.nn.Module) -> str:
    """Return the SHA-256 of the names, types and values of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def data_fingerprint(dataset: Dataset) -> str:
    """Return the SHA-256 of the ranked genes of all rows, in order."""
    digest = hashlib.sha256()
    for start in range(0, len(dataset), HASHED_ROWS):
        for cells in dataset[start : start + HASHED_ROWS]["cells"]:
            for cell in cells:
                digest.update(np.asarray(cell, dtype=np.uint32).tobytes() + b"|")
            digest.update(b"\n")
    return digest.hexdigest()

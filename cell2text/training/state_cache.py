"""Store the states of a frozen encoder on disk, so that it runs once and not in every step.

Only the states that an `mlp` projector reads are stored. A cache folder holds:

    states.bin    states of all cells, shape (n_cells, positions, width), memory-mapped
    cells.npy     number of the first cell of each row
    cache.json    what the states depend on; written last, so an interrupted build leaves no valid cache

A cache is valid for one set of encoder weights, data and layer. Any other use raises an error.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm

from cell2text.errors import UserError
from cell2text.files import write_atomically
from cell2text.training.arguments import Cell2TextArguments
from cell2text.training.fingerprints import data_fingerprint, weights_fingerprint
from cell2text.training.rows import TrainingRows
from cell2text.training.saving import FullDiskError
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor


STATE_DTYPES = {"float32": (torch.float32, np.float32), "bfloat16": (torch.bfloat16, np.uint16)}
SORTED_BATCHES = 64  # batches whose cells are sorted by length together, which reduces padding


class CellStateCache:
    """Stored encoder states of a data set's cells.

    Parameters
    ----------
    folder
        Folder that :func:`open_or_build` filled.
    key
        What the states must depend on; see :func:`cache_key`.

    Raises
    ------
    UserError
        If the folder holds no complete cache, or one of other weights, data or another layer.
    """

    def __init__(self, folder: Path, key: dict):
        path = folder / "cache.json"
        if not path.is_file():
            raise UserError(f"{folder} holds no cache of cell states.")
        content = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(name for name in key if content["key"].get(name) != key[name])
        if other:
            raise UserError(
                f"The cache of cell states in {folder} is stale: it was made of another {', another '.join(other)}. "
                "Delete it, or pass another folder as cell_state_cache='...'."
            )
        self.positions, width, n_cells = key["positions"], content["width"], content["cells"]
        self._dtype, stored = STATE_DTYPES[key["dtype"]]
        size = n_cells * self.positions * width * np.dtype(stored).itemsize
        if (folder / "states.bin").stat().st_size != size:
            raise UserError(f"{folder / 'states.bin'} is damaged: expected {size:,} bytes. Delete the folder.")
        self._states = np.memmap(folder / "states.bin", dtype=stored, mode="r", shape=(n_cells, self.positions, width))
        self._first = np.load(folder / "cells.npy", allow_pickle=False)

    def batch(self, rows: list[int], n_cells: int, positions: int) -> torch.Tensor:
        """Return the states of rows, shape (len(rows), n_cells, positions, width); zeros for missing cells."""
        states = np.zeros((len(rows), n_cells, positions, self._states.shape[-1]), dtype=self._states.dtype)
        for i, row in enumerate(rows):
            first, last = self._first[row], self._first[row + 1]
            states[i, : last - first] = self._states[first:last, :positions]
        tensor = torch.from_numpy(states)
        return tensor.view(self._dtype) if self._dtype == torch.bfloat16 else tensor


def _positions_of(model: Cell2TextForConditionalGeneration) -> int:
    """Return the number of leading positions of a cell that the projector reads.

    Raises
    ------
    UserError
        If the encoder trains, or the projector reads all genes.
    """
    config = model.config
    if not config.freeze_cell_encoder:
        raise UserError("cache_cell_states needs a frozen encoder: pass freeze_cell_encoder=true.")
    if config.projector_type != "mlp":
        raise UserError(
            f"cache_cell_states needs the mlp projector, which reads {config.num_cell_tokens} genes per cell; the "
            f"{config.projector_type} projector reads all of them."
        )
    return model.model.projector.first_gene + config.num_cell_tokens


def cache_key(model: Cell2TextForConditionalGeneration, dataset: Dataset) -> dict:
    """Return what the stored states depend on.

    Raises
    ------
    UserError
        If the model's states cannot be stored: a trained encoder, or a projector that reads all genes.
    """
    return {
        "encoder": weights_fingerprint(model.model.cell_encoder),
        "data": data_fingerprint(dataset),
        "layer": model.config.cell_feature_layer,
        "positions": _positions_of(model),
        "dtype": str(next(model.model.cell_encoder.parameters()).dtype).removeprefix("torch."),
    }


def cache_cell_states(
    model: Cell2TextForConditionalGeneration, processor: Cell2TextProcessor, rows: TrainingRows,
    args: Cell2TextArguments, output_dir: str, *, builds: bool,
) -> dict[str, CellStateCache]:  # fmt: skip
    """Return the caches of all splits, and add to each row the columns `cache` and `cache_row` that locate its states.

    Parameters
    ----------
    builds
        Whether this process builds missing caches.
    """
    folder = Path(args.cell_state_cache or Path(output_dir, "cell_states"))
    caches = {}
    same = rows.validation is rows.held_out
    for name in ("train", "held_out", "validation"):
        split: Dataset | None = getattr(rows, name)
        if split is None or (same and name == "validation"):
            continue
        caches[name] = open_or_build(
            folder / name, model, processor, split, batch_size=args.generation_batch_size, builds=builds
        )
        split = split.add_column("cache", [name] * len(split)).add_column("cache_row", list(range(len(split))))
        setattr(rows, name, split)
    if same:
        rows.validation = rows.held_out
    return caches


def open_or_build(
    folder: Path, model: Cell2TextForConditionalGeneration, processor: Cell2TextProcessor, dataset: Dataset,
    *, batch_size: int, builds: bool = True,
) -> CellStateCache:  # fmt: skip
    """Return the cache of a data set, and build it first if there is none and this process `builds`.

    Raises
    ------
    UserError
        If the encoder computes in a type other than float32 and bfloat16, or the cache is stale.
    FullDiskError
        If the disk has no room for the cache.
    """
    key = cache_key(model, dataset)
    if key["dtype"] not in STATE_DTYPES:
        raise UserError(f"cache_cell_states stores float32 or bfloat16 states, but the encoder has {key['dtype']}.")
    if builds and not (folder / "cache.json").is_file():
        _build_cache(folder, key, model, processor, dataset, batch_size=batch_size)
    return CellStateCache(folder, key)


@torch.inference_mode()
def _build_cache(folder: Path, key: dict, model, processor, dataset: Dataset, *, batch_size: int) -> None:
    """Encode every cell once, in a streaming pass, and store its leading states."""
    folder.mkdir(parents=True, exist_ok=True)
    cells_per_row = np.array([len(cells) for cells in dataset["cells"]], dtype=np.int64)
    first = np.concatenate([[0], np.cumsum(cells_per_row)])
    n_cells, positions, width = int(first[-1]), key["positions"], model.config.cell_config.hidden_size
    stored = STATE_DTYPES[key["dtype"]][1]
    _check_space(folder, n_cells * positions * width * np.dtype(stored).itemsize)
    partial = folder / "states.bin.partial"
    states = np.memmap(partial, dtype=stored, mode="w+", shape=(max(1, n_cells), positions, width))
    training, device = model.training, model.device
    model.eval()
    step = batch_size * SORTED_BATCHES
    with tqdm(total=n_cells, unit=" cells encoded") as bar:
        for start in range(0, len(dataset), step):
            cells = [cell for row in dataset[start : start + step]["cells"] for cell in row]
            order = np.argsort([len(cell) for cell in cells], kind="stable")
            for low in range(0, len(order), batch_size):
                chosen = order[low : low + batch_size]
                batch = processor.pad_cells([[cells[i]] for i in chosen], return_tensors="pt")
                batch = {name: value.to(device) for name, value in batch.items()}
                encoded = model.get_cell_features(**batch).last_hidden_state[:, 0, :positions].cpu()
                values = encoded.view(torch.uint16).numpy() if encoded.dtype == torch.bfloat16 else encoded.numpy()
                states[first[start] + chosen, : values.shape[1]] = values
                bar.update(len(chosen))
    model.train(training)
    states.flush()
    del states
    os.replace(partial, folder / "states.bin")
    np.save(folder / "cells.npy", first)
    content = {"key": key, "cells": max(1, n_cells), "width": width}
    write_atomically(folder / "cache.json", json.dumps(content, indent=1) + "\n")


def _check_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise FullDiskError(
            f"The cache of cell states needs {size / 2**30:.1f} GiB in {folder}, where {free / 2**30:.1f} are free: "
            "lower num_cell_tokens, pass another folder as cell_state_cache='...', or omit cache_cell_states."
        )

"""The frozen encoder's states, computed once and kept on disk: what an MLP projector reads of them, and no more.

    states.bin    all cells end to end, each `positions` x `width`, memory-mapped
    cells.npy     number of the first cell of each row
    cache.json    what the states depend on; written last, so that a build that was killed is no cache

A cache is keyed by the encoder's weights, the data and the layer. One that belongs to anything else is refused.
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


DTYPES = {"float32": (torch.float32, np.float32), "bfloat16": (torch.bfloat16, np.uint16)}
SORTED_AT_ONCE = 64  # batches whose cells are sorted by length together, so that little is padded


class CellStateCache:
    """Kept states of a data set's cells.

    Parameters
    ----------
    folder
        A folder that :func:`build_cache` filled.
    key
        What the states have to depend on; see :func:`cache_key`.

    Raises
    ------
    ValueError
        If the folder holds no whole cache, or one of other weights, data or layer.
    """

    def __init__(self, folder: Path, key: dict):
        path = folder / "cache.json"
        if not path.is_file():
            raise UserError(f"{folder} holds no cache of cell states.")
        kept = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(name for name in key if kept["key"].get(name) != key[name])
        if other:
            raise UserError(
                f"The cache of cell states in {folder} is stale: it was made of another {', another '.join(other)}. "
                "Delete it, or name another folder."
            )
        self.positions, width, n_cells = key["positions"], kept["width"], kept["cells"]
        self._dtype, stored = DTYPES[key["dtype"]]
        size = n_cells * self.positions * width * np.dtype(stored).itemsize
        if (folder / "states.bin").stat().st_size != size:
            raise UserError(f"{folder / 'states.bin'} is damaged: expected {size:,} bytes. Delete the folder.")
        self._states = np.memmap(folder / "states.bin", dtype=stored, mode="r", shape=(n_cells, self.positions, width))
        self._first = np.load(folder / "cells.npy", allow_pickle=False)

    def batch(self, rows: list[int], n_cells: int, positions: int) -> torch.Tensor:
        """States of some rows' cells, shape (len(rows), n_cells, positions, width); zeros where there is no cell."""
        found = np.zeros((len(rows), n_cells, positions, self._states.shape[-1]), dtype=self._states.dtype)
        for i, row in enumerate(rows):
            first, last = self._first[row], self._first[row + 1]
            found[i, : last - first] = self._states[first:last, :positions]
        return torch.from_numpy(found).view(self._dtype) if self._dtype == torch.bfloat16 else torch.from_numpy(found)


def positions_of(model: Cell2TextForConditionalGeneration) -> int:
    """Leading positions of a cell that the projector reads.

    Raises
    ------
    ValueError
        If the encoder trains, or the projector reads all genes: then there is nothing worth keeping.
    """
    config = model.config
    if not config.freeze_cell_encoder:
        raise UserError("cache_cell_states needs a frozen encoder: pass --freeze_cell_encoder true.")
    if config.projector_type != "mlp":
        raise UserError(
            f"cache_cell_states needs the mlp projector, which reads {config.num_cell_tokens} genes of a cell; the "
            f"{config.projector_type} projector reads them all."
        )
    return model.model.projector.first_gene + config.num_cell_tokens


def cache_key(model: Cell2TextForConditionalGeneration, dataset: Dataset) -> dict:
    """What kept states depend on."""
    return {
        "encoder": weights_fingerprint(model.model.cell_encoder),
        "data": data_fingerprint(dataset),
        "layer": model.config.cell_feature_layer,
        "positions": positions_of(model),
        "dtype": str(next(model.model.cell_encoder.parameters()).dtype).removeprefix("torch."),
    }


def keep_cell_states(
    model: Cell2TextForConditionalGeneration, processor: Cell2TextProcessor, rows: TrainingRows,
    args: Cell2TextArguments, output_dir: str, *, builds: bool,
) -> dict[str, CellStateCache]:  # fmt: skip
    """Caches of all rows, which learn from two further columns where their states are."""
    folder = Path(args.cell_state_cache or Path(output_dir, "cell_states"))
    caches = {}
    same = rows.validation is rows.held_out
    for name in ("train", "held_out", "validation"):
        part: Dataset | None = getattr(rows, name)
        if part is None or (same and name == "validation"):
            continue
        caches[name] = open_or_build(
            folder / name, model, processor, part, batch_size=args.generation_batch_size, builds=builds
        )
        part = part.add_column("cache", [name] * len(part)).add_column("cache_row", list(range(len(part))))
        setattr(rows, name, part)
    if same:
        rows.validation = rows.held_out
    return caches


def open_or_build(
    folder: Path, model: Cell2TextForConditionalGeneration, processor: Cell2TextProcessor, dataset: Dataset,
    *, batch_size: int, builds: bool = True,
) -> CellStateCache:  # fmt: skip
    """The cache of a data set, built by the process that `builds` where there is none yet."""
    key = cache_key(model, dataset)
    if key["dtype"] not in DTYPES:
        raise UserError(f"cache_cell_states keeps float32 or bfloat16 states, the encoder has {key['dtype']}.")
    if builds and not (folder / "cache.json").is_file():
        build_cache(folder, key, model, processor, dataset, batch_size=batch_size)
    return CellStateCache(folder, key)


@torch.inference_mode()
def build_cache(folder: Path, key: dict, model, processor, dataset: Dataset, *, batch_size: int) -> None:
    """Encode every cell once, in a streaming pass, and keep its leading states.

    Raises
    ------
    FullDiskError
        If the disk has no room for it, with the bytes that it needs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cells_of_rows = np.array([len(cells) for cells in dataset["cells"]], dtype=np.int64)
    first = np.concatenate([[0], np.cumsum(cells_of_rows)])
    positions, width = key["positions"], model.config.cell_config.hidden_size
    stored = DTYPES[key["dtype"]][1]
    size = int(first[-1]) * positions * width * np.dtype(stored).itemsize
    free = shutil.disk_usage(folder).free
    if size > free:
        raise FullDiskError(
            f"The cache of cell states needs {size / 2**30:.1f} GiB in {folder}, where {free / 2**30:.1f} are free: "
            "lower num_cell_tokens, name another folder, or train without cache_cell_states."
        )
    partial = folder / "states.bin.partial"
    states = np.memmap(partial, dtype=stored, mode="w+", shape=(max(1, int(first[-1])), positions, width))
    training, device = model.training, model.device
    model.eval()
    step = batch_size * SORTED_AT_ONCE
    with tqdm(total=int(first[-1]), unit=" cells encoded") as bar:
        for start in range(0, len(dataset), step):
            cells = [cell for row in dataset[start : start + step]["cells"] for cell in row]
            order = np.argsort([len(cell) for cell in cells], kind="stable")
            for low in range(0, len(order), batch_size):
                chosen = order[low : low + batch_size]
                batch = processor.pad_cells([[cells[i]] for i in chosen], return_tensors="pt")
                batch = {name: value.to(device) for name, value in batch.items()}
                found = model.get_cell_features(**batch).last_hidden_state[:, 0, :positions].cpu()
                values = found.view(torch.uint16).numpy() if found.dtype == torch.bfloat16 else found.numpy()
                states[first[start] + chosen, : values.shape[1]] = values
                bar.update(len(chosen))
    model.train(training)
    states.flush()
    del states
    os.replace(partial, folder / "states.bin")
    np.save(folder / "cells.npy", first)
    content = {"key": key, "cells": max(1, int(first[-1])), "width": width}
    write_atomically(folder / "cache.json", json.dumps(content, indent=1) + "\n")

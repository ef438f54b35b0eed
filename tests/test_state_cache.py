"""Cached states of a frozen encoder: equal features, and errors for stale or incomplete caches."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from cell2text.training import state_cache
from cell2text.training.saving import FullDiskError
from cell2text.training.state_cache import CellStateCache, cache_key, open_or_build
from cell2text.training.trainer import TrainingCollator, add_lengths

from .tiny import make_adata, make_model, make_processor


@pytest.fixture(scope="module")
def world():
    """Return a model with a frozen encoder, its processor, and rows of one and two cells of mixed lengths, one without genes."""
    processor = make_processor(num_cell_tokens=5)
    model = make_model(processor=processor)
    ranked = [cell.tolist() for cell in processor.rank_encode(make_adata(12))]
    ranked = [cell[: 4 + 3 * i] for i, cell in enumerate(ranked)]
    cells = [[ranked[0]], [ranked[1], ranked[2]], [ranked[11]], [[]], [ranked[5], ranked[4]], [ranked[7]]]
    return model, processor, Dataset.from_dict({"cells": cells})


def cached(model, processor, dataset, folder, rows):
    """Return a batch without and with cached states."""
    cache = open_or_build(folder, model, processor, dataset, batch_size=2)
    whole = processor.pad_cells([dataset[i]["cells"] for i in rows], return_tensors="pt")
    cut = {name: value[..., : cache.positions] for name, value in whole.items()}
    return whole, {**cut, "cell_states": cache.batch(rows, *cut["cell_input_ids"].shape[1:])}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_from_cached_states_equal_the_encoders(world, tmp_path, dtype):
    model, processor, dataset = world
    model = make_model(processor=processor).to(dtype)
    whole, kept = cached(model, processor, dataset, tmp_path / "cache", [4, 0, 3, 2])
    with torch.no_grad():
        expected, found = (model.get_cell_features(**batch).pooler_output for batch in (whole, kept))
    real = whole["cell_attention_mask"].any(-1)
    assert kept["cell_states"].dtype == dtype and kept["cell_states"].shape[:3] == (4, 2, 6)
    torch.testing.assert_close(found[real], expected[real], atol=1e-5 if dtype == torch.float32 else 0.05, rtol=1e-4)


def test_loss_and_gradients_equal_those_without_cache(world, tmp_path):
    model, processor, dataset = world
    texts = processor.tokenizer(["This cell is a B cell."] * 2, return_tensors="pt")["input_ids"]
    placeholders = torch.full((2, 2 * processor.num_cell_tokens), model.config.cell_token_id)
    placeholders[1, processor.num_cell_tokens :] = texts[0, 0]
    ids = torch.cat([placeholders, texts], dim=1)
    found = []
    for batch in cached(model, processor, dataset, tmp_path / "cache", [1, 5]):
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids, **batch).loss
        loss.backward()
        gradients = [p.grad.clone() for p in model.model.projector.parameters()]
        found.append((loss.detach(), gradients))
    (loss, gradients), (expected_loss, expected_gradients) = found
    torch.testing.assert_close(loss, expected_loss, atol=1e-6, rtol=1e-4)
    for gradient, expected in zip(gradients, expected_gradients):
        # Rounding follows the sums behind a gradient, so an element near zero is held to the scale of its matrix.
        torch.testing.assert_close(gradient, expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-4)


def test_collator_adds_the_states_of_its_rows(world, tmp_path):
    model, processor, dataset = world
    cache = open_or_build(tmp_path / "cache", model, processor, dataset, batch_size=2)
    collator = TrainingCollator(processor, caches={"train": cache})
    examples = []
    for i in (5, 1):
        cells = dataset[i]["cells"]
        ids = [processor.cell_token_id] * processor.num_cell_tokens * len(cells)
        examples.append({"input_ids": ids, "labels": ids, "cells": cells, "cache": "train", "cache_row": i})
    batch = collator(examples)
    _, expected = cached(model, processor, dataset, tmp_path / "cache", [5, 1])
    assert batch["cell_input_ids"].shape[-1] == cache.positions == 6
    assert torch.equal(batch["cell_states"], expected["cell_states"])


def test_stale_or_damaged_cache_raises(world, tmp_path):
    model, processor, dataset = world
    folder = tmp_path / "cache"
    open_or_build(folder, model, processor, dataset, batch_size=4)
    open_or_build(folder, model, processor, dataset, batch_size=1)  # the batch size does not matter
    with pytest.raises(ValueError, match="is stale: it was made of another data"):
        open_or_build(folder, model, processor, dataset.select([1, 0, 2, 3, 4, 5]), batch_size=4)
    other = make_model(processor=processor)
    with torch.no_grad():
        other.model.cell_encoder.embeddings.word_embeddings.weight[7, 0] += 1
    with pytest.raises(ValueError, match="another encoder"):
        open_or_build(folder, other, processor, dataset, batch_size=4)
    other = make_model(processor=processor, cell_feature_layer=-1)
    with pytest.raises(ValueError, match="another layer"):
        open_or_build(folder, other, processor, dataset, batch_size=4)
    with open(folder / "states.bin", "r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match="is damaged: expected"):
        open_or_build(folder, model, processor, dataset, batch_size=4)


def test_interrupted_build_is_no_cache(world, tmp_path, monkeypatch):
    model, processor, dataset = world
    folder = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(state_cache.np, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            open_or_build(folder, model, processor, dataset, batch_size=4)
    key = cache_key(model, dataset)
    with pytest.raises(ValueError, match="holds no cache"):
        CellStateCache(folder, key)
    open_or_build(folder, model, processor, dataset, batch_size=4)
    whole = open_or_build(tmp_path / "other", model, processor, dataset, batch_size=3)
    assert np.allclose(CellStateCache(folder, key)._states, whole._states, atol=1e-5)


def test_full_disk_raises_with_sizes(world, tmp_path, monkeypatch):
    model, processor, dataset = world
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(FullDiskError, match="needs 0.0 GiB in .*, where 0.0 are free: lower num_cell_tokens"):
        open_or_build(tmp_path / "cache", model, processor, dataset, batch_size=4)
    assert not (tmp_path / "cache" / "cache.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"projector": "pooled"}, "needs the mlp projector"), ({"freeze_cell_encoder": False}, "needs a frozen encoder")],
)
def test_models_without_cacheable_states_raise(world, changes, message):
    _, processor, dataset = world
    with pytest.raises(ValueError, match=message):
        cache_key(make_model(processor=processor, **changes), dataset)


def test_length_column_orders_by_genes_first(world):
    _, _, dataset = world
    dataset = dataset.add_column("input_ids", [[0] * n for n in (3, 1, 2, 5, 4, 6)])
    lengths = add_lengths(dataset, "length")["length"][:]
    order = sorted(range(6), key=lambda i: lengths[i])
    assert order[0] == 3 and order[-1] == 2  # no gene first, the longest cell last
    assert lengths[0] - lengths[3] == 4 * 100_000 + 3 - 5

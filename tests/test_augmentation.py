"""Augmentation of training cells and concepts, and class balance."""

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset

from cell2text.example import example_cells
from cell2text.preparation.medians import fit_vocabulary
from cell2text.training.arguments import Cell2TextArguments
from cell2text.training.augmentation import (
    MIN_GENES,
    CellAugmentation,
    cell_augmentation,
    gene_panels,
    install_gene_hooks,
    install_projector_hooks,
    noisy,
    outside_nuclei,
)
from cell2text.training.class_balance import BalancedSampler, row_weights
from cell2text.training.gene_embeddings import MEMBERSHIP
from vocabulary_cell2text import GeneVocabulary

from .test_modeling import batch_of
from .tiny import make_model
from .training_runs import PROJECT, TINY, run, weights


N_TOKENS = 300


def ranked(n_cells=200, n_genes=200):
    """Return padded cells of at least two genes between the special tokens 2 and 3."""
    torch.manual_seed(0)
    ids = torch.stack([torch.randperm(N_TOKENS - 4)[:n_genes] + 4 for _ in range(n_cells)])
    lengths = torch.randint(4, n_genes + 1, (n_cells,))
    mask = torch.arange(n_genes) < lengths[:, None]
    ids[:, 0] = 2
    ids[torch.arange(n_cells), lengths - 1] = 3
    return ids.where(mask, 0), mask


def cells_of(ids, mask):
    return [row[there].tolist() for row, there in zip(ids, mask)]


def panels():
    found = torch.zeros(2, N_TOKENS, dtype=torch.bool)
    found[0, 4:100] = found[1, 90:] = True
    return found


def test_remaining_genes_keep_order_and_special_tokens():
    ids, mask = ranked()
    augment = CellAugmentation(panels(), panel_share=0.5, depth_loss=0.8, rank_cut=0.8, kept=(2, 3))
    new_ids, new_mask = augment(ids, mask)
    assert new_ids.shape == ids.shape and (new_mask.int().diff(dim=1) <= 0).all()  # no gap
    shorter = 0
    for before, after in zip(cells_of(ids, mask), cells_of(new_ids, new_mask)):
        assert after[0] == 2 and after[-1] == 3 and len(after) > 2  # never without a gene
        places = [before.index(token) for token in after]
        assert places == sorted(places)
        shorter += len(after) < len(before)
    assert shorter > 150


def test_panel_restricts_cells_to_one_data_set():
    ids, mask = ranked()
    new = cells_of(*CellAugmentation(panels(), panel_share=1.0, kept=(2, 3))(ids, mask))
    kept = panels()
    fits = [any(all(kept[i, token] for token in cell[1:-1]) for i in (0, 1)) for cell in new]
    whole = [before == after for before, after in zip(cells_of(ids, mask), new)]
    assert all(fit or same for fit, same in zip(fits, whole)) and sum(fits) > 180
    untouched = cells_of(*CellAugmentation(panels(), panel_share=0.0)(ids, mask))
    assert untouched == cells_of(ids, mask)


def test_depth_loss_removes_low_ranks_and_rank_cut_the_end():
    ids = torch.stack([torch.randperm(N_TOKENS - 4)[:180] + 4 for _ in range(100)])
    mask = torch.ones_like(ids, dtype=torch.bool)
    shallow = CellAugmentation(panels(), depth_loss=0.5)(ids, mask)
    lost = np.zeros(180)
    for before, after in zip(cells_of(ids, mask), cells_of(*shallow)):
        lost += ~np.isin(before, after)
    assert lost[:45].sum() * 3 < lost[-45:].sum() and lost.sum() > 0.1 * mask.sum()
    for before, after in zip(cells_of(ids, mask), cells_of(*CellAugmentation(panels(), rank_cut=1.0)(ids, mask))):
        assert after == before[: len(after)] and len(after) >= MIN_GENES


def test_nuclei_lose_only_mitochondrial_and_ribosomal_genes():
    ids, mask = ranked()
    outside = torch.arange(N_TOKENS) % 5 == 4
    options = {"outside_nuclei": outside, "kept": (2, 3)}
    before = cells_of(ids, mask)
    nuclei = cells_of(*CellAugmentation(panels(), nuclei_share=1.0, **options)(ids, mask))
    expected = [[token for token in cell if not outside[token]] for cell in before]
    assert nuclei == [left if len(left) > 2 else cell for cell, left in zip(before, expected)]
    half = cells_of(*CellAugmentation(panels(), nuclei_share=0.5, **options)(ids, mask))
    shown = [cell != whole for cell, whole in zip(half, before)]
    assert all(cell == nucleus for cell, nucleus, changed in zip(half, nuclei, shown) if changed)
    assert 60 < sum(shown) < 140
    with pytest.raises(ValueError, match="nuclei_share=0.5 needs outside_nuclei"):
        CellAugmentation(panels(), nuclei_share=0.5)


def test_genes_outside_nuclei_by_symbol():
    vocabulary = fit_vocabulary(example_cells(), allow_fractional=True)
    outside = outside_nuclei(vocabulary)
    hidden = {symbol for symbol, out in zip(vocabulary.symbols, outside) if out}
    assert hidden and all(symbol.startswith(("MT-", "RPL", "RPS")) for symbol in hidden)
    symbols = ["MT-CO1", "RPL3", "RPS4X", "RPLP0", "RPSA", "RPS6KA1", "RPS19BP1", "MTOR", "MALAT1", "RPA1", ""]
    assert outside_nuclei(vocabulary_of(symbols)).tolist() == [False] * 2 + [True] * 5 + [False] * 6
    augment = cell_augmentation(Cell2TextArguments(nuclei_share=1.0), None, vocabulary_of(symbols))
    ids = torch.arange(2, 13).unsqueeze(0)
    assert cells_of(*augment(ids, torch.ones_like(ids, dtype=torch.bool))) == [[7, 8, 9, 10, 11, 12]]
    with pytest.raises(ValueError, match="the gene vocabulary has none: omit it, or fit a vocabulary"):
        outside_nuclei(vocabulary_of([""] * 4))


def vocabulary_of(symbols):
    tokens = ["<pad>", "<mask>", *(f"ENSG{index:011d}" for index in range(len(symbols)))]
    medians = np.array([np.nan, np.nan, *[1.0] * len(symbols)])
    return GeneVocabulary(tokens, medians, ["", "", *symbols], {}, max_genes=8)


@pytest.mark.parametrize(
    ("name", "value"),
    [("nuclei_share", 1.5), ("gene_dropout", 1.0), ("gene_dropout", -0.1), ("cell_feature_noise", -1.0)],
)
def test_options_out_of_range_raise(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}: expected"):
        Cell2TextArguments(**{name: value})


def test_cells_are_changed_in_training_of_a_trained_encoder_alone(tiny_processor):
    model = make_model("pooled", processor=tiny_processor, freeze_cell_encoder=False)
    args = Cell2TextArguments(rank_cut=1.0, depth_loss=1.0)
    install_gene_hooks(model, cell_augmentation(args, None, tiny_processor.gene_vocabulary))
    inputs = batch_of(tiny_processor, [[np.arange(4, 60)]])
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    model.train()
    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)
    model.model.freeze_cell_encoder()
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    assert cell_augmentation(Cell2TextArguments(), None, tiny_processor.gene_vocabulary) is None


def test_gene_dropout_acts_in_training_alone(tiny_processor):
    model = make_model("pooled", processor=tiny_processor, freeze_cell_encoder=False, gene_dropout=0.9)
    install_gene_hooks(model)
    inputs = batch_of(tiny_processor, [[np.arange(4, 60)]])
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    model.train()
    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)
    model.model.freeze_cell_encoder()
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("projector", ["pooled", "concepts"])
def test_feature_noise_acts_in_training_alone(projector, tiny_processor):
    """It applies to a frozen encoder as well."""
    model = make_model(projector, processor=tiny_processor, cell_feature_noise=0.5)
    install_projector_hooks(model)
    inputs = batch_of(tiny_processor, [[np.arange(4, 60)], [np.arange(9, 30)]])
    quiet = model(**inputs)
    assert torch.equal(quiet.logits, model(**inputs).logits)
    model.train()
    noise = model(**inputs)
    assert not torch.equal(noise.logits, model(**inputs).logits)
    assert not torch.equal(noise.cell_hidden_states, quiet.cell_hidden_states)


def test_feature_noise_is_relative_to_the_features():
    torch.manual_seed(0)
    features = torch.randn(2, 5, 48)
    many = torch.cat([features, 100 * features]).repeat(500, 1, 1)
    relative = (noisy(many, 0.5) - many).std((1, 2)) / many.square().mean((1, 2)).sqrt()
    assert relative.max() < 0.5 * 1.2 and 0.2 < relative.mean() < 0.3 and relative.min() < 0.02


def test_concept_overrides_are_augmented_in_training_alone(tiny_processor):
    model = make_model("concepts", processor=tiny_processor)
    install_projector_hooks(model, lambda overrides: overrides.where(overrides != 1, 0.75))
    batch = tiny_processor.pad_cells([[np.arange(4, 60)]] * 50, return_tensors="pt")
    overrides = torch.tensor([0.0, 1.0, float("nan"), float("nan"), 1.0]).expand(50, 1, 5)
    codes = []
    model.model.projector.codes.register_forward_hook(lambda _, inputs, __: codes.append(inputs[0]))
    for training, one in ((True, 0.75), (False, 1.0)):
        model.train(training).get_cell_features(**batch, concept_overrides=overrides)
        torch.testing.assert_close(codes[-1][:, [1, 4]], torch.tensor([2 * one, one]).expand(50, 2))


def rows_of(kinds):
    return Dataset.from_dict(
        {
            "dataset_id": [kind[0] for kind in kinds],
            "cell_type": [kind[1] for kind in kinds],
            "cells": [[[5, 6 + i % 3], [7]] for i in range(len(kinds))],
        }
    )


def test_panels_hold_the_genes_of_each_data_set():
    found = gene_panels(rows_of([("a", "T"), ("b", "T"), ("a", "B")]), 20)
    assert [row.nonzero().flatten().tolist() for row in found] == [[5, 6, 7, 8], [5, 7]]
    with pytest.raises(ValueError, match="at least two data sets, found"):
        gene_panels(rows_of([("a", "T")]), 20)


def test_balanced_sampler_samples_by_square_root():
    kinds = [("a", "T")] * 90 + [("a", "B")] * 9 + [("b", "B")]
    weights = row_weights(rows_of(kinds), 0.5)
    sampler = BalancedSampler(weights, seed=1)
    drawn = []
    for epoch in range(200):
        sampler.set_epoch(epoch)
        drawn.append(list(sampler))
    counts = np.bincount(np.concatenate(drawn), minlength=100)
    shares = np.array([counts[:90].sum(), counts[90:99].sum(), counts[99]]) / counts.sum()
    np.testing.assert_allclose(shares, np.sqrt([90, 9, 1]) / np.sqrt([90, 9, 1]).sum(), atol=0.01)
    assert drawn[0] != drawn[1] and len(drawn[0]) == 100
    sampler.set_epoch(0)
    assert list(sampler) == drawn[0]
    assert len(set(row_weights(rows_of(kinds), 0.0))) == 1
    rows = rows_of(kinds)
    assays = ["simulated" if i % 3 == 0 else "10x" for i in range(len(rows))]
    shared = row_weights(rows.add_column("assay", assays), 0.5, simulated_share=0.25)
    simulated = np.array(assays) == "simulated"
    assert np.isclose(shared[simulated].sum() / shared.sum(), 0.25)
    with pytest.raises(ValueError, match="0 of .* training rows have the assay 'simulated'"):
        row_weights(rows.add_column("assay", ["10x"] * len(rows)), 0.5, simulated_share=0.25)


def test_recipe_of_the_packaged_model_and_conflicting_options(small_h5ad, tmp_path):
    genes = example_cells().var["feature_name"].astype(str)[:400]
    sets = {"HALLMARK_HYPOXIA": genes[:200], "HALLMARK_GLYCOLYSIS": genes[200:]}
    gmt = tmp_path / "sets.gmt"
    gmt.write_text("".join("\t".join([name, "", *members]) + "\n" for name, members in sets.items()))
    options = {
        "dataset": [str(small_h5ad)],
        "describe_held_out": False,
        "max_steps": 2,
        "concept_pretraining_epochs": 1,
    }
    recipe = yaml.safe_load((PROJECT / "recipes" / "mini" / "train.yaml").read_text())
    # The rows of this test are real cells, and their gene embeddings come from gene sets.
    left_out = (*TINY, *options, "output_dir", "simulated_share", "gene_embeddings")
    recipe = {name: value for name, value in recipe.items() if name not in left_out}
    run(tmp_path / "all", **options, **recipe, gene_embeddings="svd_sets", gene_sets=str(gmt))
    saved = weights(tmp_path / "all" / "out")
    (table,) = (value for name, value in saved.items() if name.endswith("word_embeddings.weight") and len(value) > 1000)
    members = (table[:, -2:] / MEMBERSHIP).round(decimals=4)
    assert set(members.unique().tolist()) == {0, 1} and 100 < members.sum() <= 400
    done = run(tmp_path / "without", **options, gene_embeddings="svd_sets", expect=2)
    assert "--gene_embeddings svd_sets needs gene sets: pass --gene_sets FILE.gmt, or hallmark" in done.stderr
    balanced = {**options, "class_balance": 0.5, "train_sampling_strategy": "group_by_length"}
    done = run(tmp_path / "both", **balanced, expect=2)
    assert "--class_balance 0.5 samples the rows: omit --train_sampling_strategy group_by_length" in done.stderr
    done = run(tmp_path / "wrong", **options, panel_share=1.5, expect=2)
    assert "--panel_share 1.5: expected a share between 0 and 1" in done.stderr

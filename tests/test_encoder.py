"""Masked-gene pretraining: hidden genes, loss, baseline, and an encoder that `train_sft.py` loads."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from datasets import Dataset
from transformers import AutoModel, BertForMaskedLM

from cell2text.training.masked_gene_modeling import (
    IGNORED,
    GeneMasker,
    MaskedGeneModel,
    cells_of,
    context_free_baseline,
)
from vocabulary_cell2text import GeneVocabulary

from .tiny import make_adata, make_vocabulary
from .training_runs import PROJECT, run, run_here, weights


VOCABULARY = make_vocabulary()
CLS, EOS = VOCABULARY.cls_token_id, VOCABULARY.eos_token_id


def cell(*genes):
    return {"input_ids": [CLS, *genes, EOS]}


def test_masker_hides_the_share_of_genes_and_nothing_else():
    torch.manual_seed(0)
    genes = list(range(4, 44))
    batch = GeneMasker(VOCABULARY, 0.15)([cell(*genes)] * 500 + [cell(*genes[:3])])
    asked = batch["labels"] != IGNORED
    assert asked[:500].sum(1).eq(6).all() and asked[500].sum() == 1  # 15 % of 40; one at the least
    ids, original = batch["input_ids"][:500], torch.tensor([CLS, *genes, EOS])
    assert batch["labels"][:500][asked[:500]].equal(original.expand(500, -1)[asked[:500]])
    assert ids[~asked[:500]].equal(original.expand(500, -1)[~asked[:500]])  # specials and other genes as they were
    hidden = ids[asked[:500]]
    masked = (hidden == VOCABULARY.mask_token_id).float().mean()
    kept = (hidden == batch["labels"][:500][asked[:500]]).float().mean()
    assert 0.77 < masked < 0.83 and 0.08 < kept < 0.13
    assert batch["attention_mask"][500].sum() == 5 and (batch["labels"][500, 5:] == IGNORED).all()


def test_seeded_masker_hides_the_same_genes_in_every_batch():
    masker = GeneMasker(VOCABULARY, 0.3, seed=1)
    first, second = cell(*range(4, 30)), cell(*range(20, 60))
    together, alone = masker([first, second]), masker([first])
    assert together["labels"][0, :28].equal(alone["labels"][0]) and together["input_ids"][0, :28].equal(
        alone["input_ids"][0]
    )


def test_cell_without_genes_has_no_labels():
    batch = GeneMasker(VOCABULARY, 0.15)([cell(), cell(7, 8)])
    assert (batch["labels"][0] == IGNORED).all() and (batch["labels"][1] != IGNORED).sum() == 1


def test_loss_equals_that_of_bert():
    from transformers import BertConfig

    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # fmt: skip
    model = MaskedGeneModel(config).eval()
    plain = BertForMaskedLM(config).eval()
    plain.load_state_dict(model.state_dict())
    batch = GeneMasker(VOCABULARY, 0.3, seed=0)([cell(*range(4, 30)), cell(*range(20, 60))])
    found = model(**batch)
    assert torch.allclose(found["loss"], plain(**batch).loss, atol=1e-6)
    asked, guessed, loss = found["logits"].sum(0).tolist()
    right = (plain(**batch).logits.argmax(-1) == batch["labels"]).sum().item()
    assert asked == (batch["labels"] != IGNORED).sum() and guessed == right
    assert loss / asked == pytest.approx(found["loss"].item(), rel=1e-5)


def test_every_cell_is_used_once_and_truncated():
    rows = Dataset.from_dict({"cells": [[[2, 4, 5, 3]], [[2, 6, 3], [2, 7, 8, 9, 3]]], "cell_id": ["a", "b"]})
    cells = cells_of(rows, 4)
    assert list(cells["input_ids"]) == [[2, 4, 5, 3], [2, 6, 3], [2, 7, 8, 9]] and list(cells["length"]) == [4, 3, 4]


def test_context_free_baseline():
    train = Dataset.from_dict({"input_ids": [[CLS, 4, 5, EOS], [CLS, 4, EOS]]})
    held_out = Dataset.from_dict({"input_ids": [[CLS, 4, 6, EOS]]})
    found = context_free_baseline(train, held_out, VOCABULARY)
    total = 60 + 3  # one for every gene, and the three that were seen
    assert found["loss"] == pytest.approx(-(np.log(3 / total) + np.log(1 / total)) / 2) and found["guessed"] == 0.5


def pretrain(folder, *options, expect=0):
    toy = {
        "output_dir": folder, "max_genes": 32, "encoder_hidden_size": 16, "encoder_layers": 1, "encoder_heads": 2,
        "num_train_epochs": 2, "per_device_train_batch_size": 4, "use_cpu": True, "bf16": False, "report_to": "none",
        "disable_tqdm": True, "dataloader_num_workers": 0, "learning_rate": 1e-2,
    }  # fmt: skip
    arguments = ["--config", str(PROJECT / "configs" / "encoder.yaml")]
    arguments += [part for name, value in toy.items() for part in (f"--{name}", str(value))]
    return run_here("train_encoder", [*arguments, *options], expect, PROJECT)


@pytest.fixture(scope="module")
def two_kinds(tmp_path_factory):
    """Write cells of two kinds without a shared gene, and their gene vocabulary."""
    folder = tmp_path_factory.mktemp("kinds")
    adata = make_adata(120)
    counts = adata.X.toarray()
    counts[:60, 30:], counts[60:, :30] = 0, 0
    adata.X = sp.csr_matrix(counts)
    adata.obs["cell_type"] = ["B cell"] * 60 + ["monocyte"] * 60
    adata.write_h5ad(folder / "cells.h5ad")
    VOCABULARY.save_pretrained(folder / "vocabulary")
    return folder


def test_pretrained_encoder_trains_further_and_loads_in_train_sft(two_kinds, small_h5ad, tmp_path):
    data = ("--dataset", str(two_kinds / "cells.h5ad"), "--gene_vocab", str(two_kinds / "vocabulary"))
    rarely = ("--eval_strategy", "no", "--save_strategy", "no")
    done = pretrain(tmp_path / "encoder", *data, *rarely, "--num_train_epochs", "20")
    metrics = json.loads((tmp_path / "encoder" / "metrics.json").read_text())
    # Which kind a cell is halves the genes that a hidden one may be.
    assert metrics["encoder"]["loss"] < metrics["without_context"]["loss"] - 0.2
    assert metrics["held_out_cells"] == 24 and f"loss {metrics['encoder']['loss']:.3f}" in done.stdout
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert config["architectures"] == ["BertForMaskedLM"] and AutoModel.from_pretrained(tmp_path / "encoder")
    vocabulary = GeneVocabulary.from_pretrained(tmp_path / "encoder")
    assert vocabulary.max_genes == 32 and len(vocabulary) == config["vocab_size"]
    further = ("--cell_encoder", str(tmp_path / "encoder"), "--learning_rate", "1e-5")
    pretrain(tmp_path / "further", *data[:2], *further)  # with the encoder's own vocabulary
    other = tmp_path / "vocabulary"
    make_vocabulary(n_genes=59).save_pretrained(other)
    refused = pretrain(tmp_path / "refused", *data[:2], "--gene_vocab", str(other), *further, expect=2)
    assert "ranked with another gene vocabulary" in refused.stderr and "--cell_encoder" in refused.stderr
    further = json.loads((tmp_path / "further" / "metrics.json").read_text())
    assert abs(further["encoder"]["loss"] - metrics["encoder"]["loss"]) < 0.2  # it went on from there
    common = {"cell_encoder": str(tmp_path / "encoder"), "gene_embeddings": "random", "describe_held_out": False}
    heads = {
        "projector_type": "concepts",
        "concept_pretraining_epochs": 1,
    }  # learn from the encoder, which stays as it is
    run(tmp_path / "sft", dataset=[data[1]], gene_vocab=str(tmp_path / "encoder"), **heads, **common)
    pretrained, tuned = (weights(tmp_path / name) for name in ("encoder", "sft/out"))
    name = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(pretrained[f"bert.{name}"], tuned[f"model.cell_encoder.{name}"])
    wrong = run(tmp_path / "wrong", dataset=[str(small_h5ad)], expect=2, **common)
    assert "they do not belong together" in wrong.stderr and "Traceback" not in wrong.stderr


def test_invalid_mask_share_ends_in_one_line(tmp_path, small_h5ad):
    assert "--mask_share 1.5: expected a share" in pretrain(tmp_path, "--mask_share", "1.5", expect=2).stderr

"""Every file in `configs/` runs at toy size, and those of accelerate parse."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from cell2text.example import example_cells
from cell2text.preparation.run import prepare
from vocabulary_cell2text import GeneVocabulary

from .tiny import make_tokenizer
from .training_runs import run_here


PROJECT = Path(__file__).resolve().parents[1]
RECIPES = sorted(
    path.stem
    for path in (PROJECT / "configs").glob("*.yaml")
    if path.stem not in ("default", "prepare", "encoder", "grpo", "smollm2_lora", "two_stage_2_lm")
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Write small stand-ins for the data, encoders and language models that the recipes name."""
    folder = tmp_path_factory.mktemp("recipes")
    adata = example_cells()
    adata = adata[adata.obs["cell_type"].isin(["monocyte", "fibroblast"])]
    adata[adata.obs.groupby("cell_type", observed=True).head(8).index].copy().write_h5ad(folder / "cells.h5ad")
    shares = {"train": 0.5, "validation": 0.25, "test": 0.25}
    prepare([folder / "cells.h5ad"], folder / "prepared", split="random", shares=shares, progress=False, max_genes=32)
    n_genes = len(GeneVocabulary.from_pretrained(folder / "prepared" / "vocabulary"))
    encoder = BertModel(
        BertConfig(vocab_size=n_genes, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                   max_position_embeddings=64, pad_token_id=0)
    )  # fmt: skip
    for name in ("Geneformer-V2-104M", "Geneformer-V2-316M"):
        encoder.save_pretrained(folder / "geneformer" / name)
    tokenizer = make_tokenizer()
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3, "max_position_embeddings": 2048,
    }  # fmt: skip
    models = {"llama": LlamaForCausalLM(LlamaConfig(**sizes)), "gemma": Gemma3ForCausalLM(Gemma3TextConfig(**sizes))}
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def train(recipe: str, parts: Path, out: Path, **changes) -> None:
    """Run a recipe's file, with toy sizes and the stand-ins on the command line."""
    content = yaml.safe_load((PROJECT / "configs" / f"{recipe}.yaml").read_text())
    toy = {
        "dataset": parts / "prepared", "output_dir": out, "num_train_epochs": 1, "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1, "per_device_eval_batch_size": 4, "max_new_tokens": 4, "baselines": "majority",
        "report_to": "none", "use_cpu": True, "bf16": False, "warmup_steps": 0, "disable_tqdm": True, "max_length": 2000,
        "generation_batch_size": 8, "dataloader_num_workers": 0,
    }  # fmt: skip
    places = {
        "model_name_or_path": parts / ("gemma" if "gemma" in content["model_name_or_path"] else "llama"),
        "cell_encoder": parts / "geneformer", "gene_vocab": parts / "prepared" / "vocabulary", "num_cell_tokens": 4,
        "lora_r": 2,
    }  # fmt: skip
    if "describe_validation" in content:
        toy["describe_validation"] = 2
    options = toy | {name: place for name, place in places.items() if name in content} | changes
    arguments = ["--config", str(PROJECT / "configs" / f"{recipe}.yaml")]
    arguments += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    run_here("train_sft", arguments, 0, parts)


@pytest.mark.parametrize("recipe", [name for name in RECIPES if not name.startswith("two_stage")])
def test_a_recipe_trains_from_its_own_file(recipe, parts, tmp_path):
    train(recipe, parts, tmp_path, describe_held_out=recipe == "llama32_1b_lora")
    content = yaml.safe_load((PROJECT / "configs" / f"{recipe}.yaml").read_text())
    model = AutoModel.from_pretrained(tmp_path)
    assert model.config.projector_type == content["projector_type"] and model.config.freeze_cell_encoder
    assert (tmp_path / "adapter").exists() == (content["stage"] == "lora")
    assert (tmp_path / "cell_states").exists() == bool(content.get("cache_cell_states"))
    if recipe == "llama32_1b_lora":
        assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["text"]["n"] == 4
    assert "# test_a_recipe_trains" in (tmp_path / "README.md").read_text()


def test_second_stage_starts_from_the_first(parts, tmp_path):
    train("two_stage_1_projector", parts, tmp_path / "one", gene_dropout=0.25, projector_hidden_size=24)
    second = {"model_name_or_path": tmp_path / "one", "describe_held_out": False, "cell_feature_noise": 0.5}
    train("two_stage_2_lm", parts, tmp_path / "two", **second)
    models = [AutoModel.from_pretrained(tmp_path / name) for name in ("one", "two")]
    hidden = [(model.config.gene_dropout, model.config.cell_feature_noise) for model in models]
    assert hidden == [(0.25, 0.0), (0.25, 0.5)]  # the model's own, unless said otherwise
    assert [model.config.projector_hidden_size for model in models] == [24, 24]
    first, second = (model.state_dict() for model in models)
    changed = {name.split(".")[1] for name in first if not first[name].equal(second[name])}
    assert changed == {"projector", "language_model"}  # the encoder is the same
    plain = LlamaForCausalLM.from_pretrained(parts / "llama").state_dict()
    assert first["model.language_model.layers.0.self_attn.q_proj.weight"].equal(
        plain["model.layers.0.self_attn.q_proj.weight"]
    )


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "configs" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem
)
def test_accelerate_reads_its_files(path):
    assert load_config_from_file(str(path)).mixed_precision == "bf16"


def test_recipes_name_their_sources():
    for name in RECIPES:
        head = [
            line for line in (PROJECT / "configs" / f"{name}.yaml").read_text().splitlines() if line.startswith("#")
        ]
        text = " ".join(head)
        assert "Ours" in text and (
            "From the paper" in text or "From its public code" in text or "Published" not in text
        ), name
        assert f"`{name}.yaml`" in (PROJECT / "configs" / "README.md").read_text(), name


def test_gpu_benchmark_runs_at_toy_size_and_needs_a_gpu_otherwise(tmp_path, monkeypatch, capsys):
    command = [sys.executable, str(PROJECT / "benchmarks" / "gpu.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    toy = subprocess.run([*command, "--toy"], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert toy.returncode == 0, toy.stderr[-3000:]
    measured = json.loads(toy.stdout[toy.stdout.index('{\n "device"') :])["measured"]
    assert measured["training_cells_per_second"] > 0 and measured["described_cells_per_second_compiled_steps"] > 0
    assert measured["described_cells_per_second_steps"] > 0 and measured["share_of_equal_texts"] == 1
    assert 0 <= measured["share_of_time_waiting_for_data"] <= 1
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", command[1:])
    assert import_module("gpu").main() == 2 and "found no GPU" in capsys.readouterr().err

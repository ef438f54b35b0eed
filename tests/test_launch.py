"""The command line of the training scripts: help, options, precision, threads, warnings."""

import os
import signal
import sys
import time
import warnings
from dataclasses import fields

import pytest
import torch
from threadpoolctl import threadpool_info
from transformers import TrainingArguments
from trl import GRPOConfig, ModelConfig, SFTConfig

import train_encoder
import train_grpo
import train_sft
from cell2text.errors import UserError
from cell2text.evaluation.baselines import METHODS
from cell2text.training import precision
from cell2text.training.arguments import (
    FAST_BASELINES,
    Cell2TextArguments,
    MaskedGeneArguments,
    ReinforcementArguments,
)
from cell2text.training.checkpoints import mark_complete
from cell2text.training.launch import help_text, parse, run_script
from cell2text.training.precision import EncoderTrainingArguments, GRPOArguments, SFTArguments
from cell2text.training.threads import set_cpu_threads

from .training_runs import one_thread, run, run_here


@pytest.mark.parametrize(
    ("script", "arguments"),
    [(train_sft, Cell2TextArguments), (train_grpo, ReinforcementArguments), (train_encoder, MaskedGeneArguments)],
)
def test_help_lists_the_scripts_own_options_once_and_refers_to_the_libraries(script, arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    assert run_script("train.py", script.__doc__, script.main, script.parse_arguments, arguments) == 0
    text = capsys.readouterr().out
    for option in fields(arguments):
        assert text.count(f"  --{option.name} ") == 1, option.name
        assert len(option.metadata["help"]) <= 120, option.name
    assert "huggingface.co/docs/trl" in text and "--help_all" in text and len(text.splitlines()) < 130
    others = {field.name for kind in (SFTConfig, ModelConfig, TrainingArguments) for field in fields(kind)}
    assert not any(f"\n  --{name} " in text for name in others - {field.name for field in fields(arguments)})


def test_sigterm_leaves_the_blocks_of_a_script(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    before, left = signal.signal(signal.SIGTERM, signal.SIG_DFL), []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        finally:
            left.append(True)

    try:
        run_script("train.py", "", None, None, Cell2TextArguments)  # a script sets the handler before anything else
        with pytest.raises(SystemExit) as stopped:
            work()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == 128 + signal.SIGTERM and left


def test_help_all_lists_the_options_of_every_library(capsys):
    with pytest.raises(SystemExit) as stopped:
        train_sft.parse_arguments(["--help_all"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert all(f"--{name}" in text for name in ("cpu_threads", "lora_r", "packing", "weight_decay"))


def test_help_shows_choices_and_defaults():
    text = help_text("Train.", Cell2TextArguments)
    assert text.startswith("Train.\n\nData:\n")
    assert (
        "  --stage {full,lora,projector} " in text
        and "Share of the cells to hold out for the test. Default: 0.2." in text
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lerning_rate", "1"], "Unknown options .*--lerning_rate"),
        (["--config"], "--config names no file"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--load_best_model_at_end", "true"], "load_best_model_at_end requires"),
    ],
)
def test_impossible_options_end_in_one_line(argv, message, tmp_path):
    done = run_here("train_sft", argv, 2, tmp_path)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Precision")]
    assert len(lines) == 1 and lines[0].startswith("train_sft.py: ")
    with pytest.raises(UserError, match=message):
        train_sft.parse_arguments(argv)


def test_fast_baselines_are_all_but_lightgbm():
    assert set(FAST_BASELINES) == set(METHODS) - {"lightgbm"}


@pytest.mark.parametrize("kind", [SFTArguments, GRPOArguments, EncoderTrainingArguments])
def test_precision_follows_the_machine(kind, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(precision, "is_torch_bf16_gpu_available", lambda: False)
    with caplog.at_level("INFO"):
        assert kind(output_dir=str(tmp_path)).bf16 is False
    assert caplog.text.count("Precision: float32, since no GPU that computes in bfloat16 was found.") == 1
    with pytest.raises(UserError, match="bf16=True needs a GPU .* pass use_cpu=True"):
        kind(output_dir=str(tmp_path), bf16=True)
    assert kind(output_dir=str(tmp_path), bf16=True, use_cpu=True).bf16 is True
    assert kind(output_dir=str(tmp_path), use_cpu=True).bf16 is False
    caplog.clear()
    assert kind(output_dir=str(tmp_path), bf16=False).bf16 is False and not caplog.text


def test_a_gpu_with_bfloat16_trains_in_it_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "is_torch_bf16_gpu_available", lambda: True)
    args = type("Args", (), {"bf16": None, "fp16": False, "use_cpu": False})()
    precision._choose_precision(args)
    assert args.bf16 is True


def test_a_run_without_a_config_trains_on_a_cpu_and_says_its_precision(small_h5ad, tmp_path):
    """Concept pretraining is bounded by max_steps like the training after it."""
    options = {
        "dataset": small_h5ad, "max_steps": 2, "output_dir": "out", "report_to": "none", "num_cell_tokens": 2, "max_genes": 32,
        "encoder_layers": 0, "encoder_hidden_size": 16, "encoder_heads": 2, "decoder_hidden_size": 16, "decoder_layers": 1,
        "decoder_heads": 2, "decoder_vocab_size": 400, "describe_held_out": False, "concept_pretraining_epochs": 10,
        "gene_embeddings": "svd", "disable_tqdm": True, "cpu_threads": 1,
    }  # fmt: skip
    argv = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    done = run_here("train_sft", argv, 0, tmp_path)
    assert "Precision: float32" in done.stderr
    assert "Concept pretraining: 2 steps, as max_steps allows, of 40 planned." in done.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_threads_are_set_for_pytorch_and_blas(tmp_path):
    with one_thread():
        assert set_cpu_threads(2) == 2 == torch.get_num_threads()
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {2}
        assert set_cpu_threads(None) == 2  # PyTorch's own number


def test_a_resumed_run_takes_the_recorded_threads_of_as_many_ranks(tmp_path, monkeypatch, caplog):
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    with one_thread():
        mark_complete(checkpoint, rows_per_step=8, ranks=1, sharded=False)
        assert set_cpu_threads(2, str(checkpoint)) == 1
        assert (
            f"CPU threads: 1, as recorded in {checkpoint}; without the checkpoint this run would use 2." in caplog.text
        )
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert set_cpu_threads(2, str(checkpoint)) == 2
        (checkpoint / "complete.json").write_text('{"rows_a_step": 8, "ranks": 1, "sharded": false}')  # an older one
        assert set_cpu_threads(2, str(checkpoint)) == 2


def test_a_default_run_shows_no_future_warning(small_h5ad, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(warnings, "simplefilter", lambda *_: warnings.filterwarnings("always"))
    monkeypatch.setattr(warnings, "showwarning", lambda message, category, *_: shown.append((category, message)))
    run(tmp_path, dataset=[str(small_h5ad)], concept_pretraining_epochs=1, max_steps=2, eval_strategy="steps",
        eval_steps=1, save_strategy="steps", save_steps=1, activation_checkpointing=None)  # fmt: skip
    assert [message for category, message in shown if issubclass(category, FutureWarning)] == []


def test_own_options_and_those_of_the_libraries_share_no_name():
    for arguments, config in ((Cell2TextArguments, SFTConfig), (ReinforcementArguments, GRPOConfig)):
        own = {field.name for field in fields(arguments)}
        assert not own & {field.name for kind in (config, ModelConfig) for field in fields(kind)}
    assert parse(["--dataset", "a"], (Cell2TextArguments,))[0].dataset == ["a"]

"""`train_grpo.py`: its rows, a run on a tiny model, resuming, its card and its errors."""

import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from datasets import Dataset
from transformers import AutoModel

import train_grpo
from cell2text.errors import UserError
from cell2text.example import example_cells
from cell2text.preparation.run import prepare
from cell2text.training.arguments import ReinforcementArguments
from cell2text.training.grpo import load, make_trainer
from cell2text.training.grpo_trainer import CELL_TENSORS
from cell2text.training.rewarded_rows import rewarded_rows
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor
from vocabulary_cell2text import GeneVocabulary

from .tiny import make_model, make_tokenizer
from .training_runs import one_thread, run_here, weights


OPTIONS = {
    "max_steps": 2, "per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 6, "report_to": "none",
    "disable_tqdm": True, "use_cpu": True, "cpu_threads": 1, "save_strategy": "no", "describe_held_out": False,
    "learning_rate": 0.01, "logging_steps": 1, "pathway_reward_weight": 0, "activation_checkpointing": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def rows_folder(tmp_path_factory):
    """A prepared data set of sixteen labelled cells of one study."""
    folder = tmp_path_factory.mktemp("grpo")
    adata = example_cells()
    adata = adata[adata.obs["dataset_id"] == "kidney_immune"][:16].copy()
    adata.write_h5ad(folder / "cells.h5ad")
    prepare(
        [folder / "cells.h5ad"], folder / "rows", progress=False, split="random", max_genes=32, gene_sets="hallmark",
        shares={"train": 0.7, "validation": 0.1, "test": 0.2},
    )  # fmt: skip
    return folder / "rows"


@pytest.fixture(scope="module")
def start(rows_folder, tmp_path_factory):
    """A tiny model with the vocabulary of the data set, which writes one of two names whatever the cell."""
    folder = tmp_path_factory.mktemp("start") / "start"
    vocabulary = GeneVocabulary.from_pretrained(rows_folder / "vocabulary")
    processor = Cell2TextProcessor.from_components(make_tokenizer(), vocabulary, num_cell_tokens=2, max_genes=32)
    model = make_model("pooled", processor=processor)
    teach_two_names(model, processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def teach_two_names(model, processor) -> None:
    """Fine-tune a model on rows that name a monocyte or a B cell."""
    rows = [
        {
            "prompt": processor.conversation(),
            "completion": [{"role": "assistant", "content": name}],
            "cells": [[5, 6, 7]],
        }
        for name in ("monocyte", "B cell")
    ]
    batch = processor.data_collator()(rows)
    optimizer = torch.optim.Adam((weight for weight in model.parameters() if weight.requires_grad), lr=5e-3)
    for _ in range(40):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def arguments(start, rows_folder, out, **changes) -> list[str]:
    options = {"model_name_or_path": start, "dataset": rows_folder, "output_dir": out, **OPTIONS, **changes}
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


@contextmanager
def loaded_run(*args, **changes):
    with one_thread():
        yield load(*train_grpo.parse_arguments(arguments(*args, **changes)))


def run(*args, expect=0, **changes) -> SimpleNamespace:
    return run_here("train_grpo", arguments(*args, **changes), expect, args[2].parent)


@pytest.fixture(scope="module")
def finished(start, rows_folder, tmp_path_factory):
    """A run of two steps with a checkpoint after each."""
    out = tmp_path_factory.mktemp("finished") / "out"
    run(start, rows_folder, out, save_strategy="steps", save_steps=1, describe_held_out=True, baselines="none",
        max_new_tokens=4)  # fmt: skip
    return out


def test_a_run_changes_what_trains_and_keeps_the_frozen_encoder(finished, start):
    before, after = weights(start), weights(finished)
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"projector", "language_model"} | ({"weight"} if "lm_head.weight" in before else set())


def test_a_run_saves_a_model_that_loads_and_a_card(finished):
    model = AutoModel.from_pretrained(finished)
    assert isinstance(model, Cell2TextForConditionalGeneration)
    assert "image_token_id" not in json.loads((finished / "config.json").read_text())
    assert Cell2TextProcessor.from_pretrained(finished).num_cell_tokens == 2
    card = (finished / "README.md").read_text()
    assert "Trained from start on CPU" in card and "rewards (and weights) type 1, calibration 1" in card
    settings = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
    assert settings["num_generations"] == 2 and settings["max_steps"] == 2
    assert (finished / "evaluation" / "metrics.json").exists()
    assert (finished / "checkpoint-2" / "model.safetensors").exists()


def test_rewards_are_logged_by_name(finished):
    history = json.loads((finished / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in history if "reward" in entry]
    assert len(steps) == 2
    for step in steps:
        assert 0 < step["rewards/type/mean"] <= 1 and -1 <= step["rewards/calibration/mean"] <= 1
        total = step["rewards/type/mean"] + step["rewards/calibration/mean"]
        assert step["reward"] == pytest.approx(total, abs=1e-5) and step["reward_std"] > 0


def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(finished, start, rows_folder, tmp_path):
    out = tmp_path / "out"
    run(
        start,
        rows_folder,
        out,
        save_strategy="steps",
        save_steps=1,
        max_steps=1,
        lr_scheduler_type="constant",
        beta=0.1,
    )
    whole = tmp_path / "whole"
    run(start, rows_folder, whole, lr_scheduler_type="constant", beta=0.1)
    run(start, rows_folder, out, resume_from_checkpoint=True, lr_scheduler_type="constant", beta=0.1)
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(out).items())


def test_adapters_train_and_are_merged_into_the_saved_model(start, rows_folder, tmp_path):
    run(start, rows_folder, tmp_path / "out", use_peft=True, lora_r=2)
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").exists()
    before, after = weights(start), weights(tmp_path / "out")
    attention = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert set(before) == set(after) and not torch.equal(before[attention], after[attention])


def test_texts_are_scored_with_the_cells_that_they_were_sampled_for(start, rows_folder, tmp_path):
    with loaded_run(start, rows_folder, tmp_path / "out") as made:
        made.model = make_model("mlp", processor=made.processor)  # random, so that a text depends on the cell
        trainer = make_trainer(made)
        inputs = [made.train_rows[row] for row in (0, 0, 1, 1)]
        output = trainer._generate_and_score_completions(inputs)
        assert output["cell_input_ids"].shape[:2] == (4, 1)
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        kept = output["completion_ids"].shape[1]
        scored, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, kept, batch_size=3)
        logits = made.model(ids, attention_mask=mask, **{name: output[name] for name in CELL_TENSORS}).logits
        expected = logits[:, -kept - 1 : -1].log_softmax(-1).gather(-1, ids[:, -kept:, None])[..., 0]
        written = output["completion_mask"].bool()
        assert torch.allclose(scored[written], expected[written], atol=1e-4)
        trainer._cells = {name: value.flip(0) for name, value in trainer._cells.items()}
        other, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, kept)
        assert not torch.allclose(other[written], scored[written], atol=1e-4)
        placeholder = made.processor.cell_token_id
        assert not (output["completion_ids"] == placeholder).any()


def test_rows_hold_one_cell_its_label_and_its_pathways(start, rows_folder, tmp_path):
    with loaded_run(start, rows_folder, tmp_path / "out", pathway_reward_weight=1) as made:
        row, source = made.train_rows[0], made.rows.train[0]
        assert set(row) == {"cell_id", "cells", "prompt", "label_term", "pathways_active"}
        assert row["prompt"] == made.processor.conversation() and row["cells"] == source["cells"][:1]
        assert row["label_term"] == source["cell_type_ontology_term_id"]
        assert row["pathways_active"] == source["pathways_active"]
        assert len(row["pathways_active"]) == 3


@pytest.mark.parametrize("columns", [["cell_id", "cells"], None], ids=["no_column", "no_value"])
def test_rows_without_labels_end_with_what_to_change(columns, start, rows_folder, tmp_path):
    with loaded_run(start, rows_folder, tmp_path / "out") as made:
        rows = made.rows.train
    emptied = rows.to_dict() | {"cell_type": [None] * len(rows), "cell_type_ontology_term_id": [None] * len(rows)}
    emptied |= {"pathways_active": [[]] * len(rows)}
    rows = rows.select_columns(columns) if columns else Dataset.from_dict(emptied)
    processor = made.processor
    with pytest.raises(UserError, match="set type_reward_weight=0 and calibration_reward_weight=0"):
        rewarded_rows(rows, processor, {"calibration": 1.0})
    with pytest.raises(UserError, match="gene_sets='hallmark', or set pathway_reward_weight=0"):
        rewarded_rows(rows, processor, {"pathways": 1.0})


def test_rows_that_no_reward_verifies_are_left_out_and_counted(start, rows_folder, tmp_path, caplog):
    with loaded_run(start, rows_folder, tmp_path / "out") as made:
        rows = made.rows.train.to_dict()
    rows["cell_type"][0] = rows["cell_type_ontology_term_id"][0] = None
    rows["cells"][1] = [[]]
    kept = rewarded_rows(Dataset.from_dict(rows), made.processor, {"type": 1.0})
    n = len(rows["cells"])
    assert kept["cell_id"][:] == rows["cell_id"][2:]
    assert f"{n - 2} of {n} rows train: 1 have no label that a reward needs, and 1 more" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type_reward_weight": -1}, "type_reward_weight=-1.0: expected a finite number of at least 0"),
        ({"type_reward_weight": 0, "calibration_reward_weight": 0}, "All reward weights are 0"),
        ({"num_generations": 3}, "divisible"),
    ],
)
def test_impossible_options_end_in_one_line(changes, message, start, rows_folder, tmp_path):
    with pytest.raises(UserError, match=message):
        train_grpo.parse_arguments(arguments(start, rows_folder, tmp_path / "out", **changes))


def test_wrong_models_and_settings_end_in_one_line(start, rows_folder, tmp_path):
    done = run(tmp_path / "nowhere", rows_folder, tmp_path / "out", expect=2)
    assert "nowhere" in done.stderr and "does not exist" in done.stderr and "Traceback" not in done.stderr
    with loaded_run(start, rows_folder, tmp_path / "out") as made:
        made.training_args.reward_weights = [1.0, 1.0]
    with pytest.raises(UserError, match="omit it, and set type_reward_weight"):
        make_trainer(made)


def test_the_packaged_model_can_start_a_run_and_says_what_the_run_changes(tmp_path, caplog):
    example_cells()[:12].write_h5ad(tmp_path / "cells.h5ad")
    options = {**OPTIONS, "dataset": tmp_path / "cells.h5ad", "output_dir": tmp_path / "out"}
    options |= {"temperature": 2.0, "max_completion_length": 24}  # texts that differ
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with one_thread():
        made = load(*train_grpo.parse_arguments(words))
        trainer = make_trainer(made)
        before = made.model.lm_head.weight.detach().clone()
        trainer.train()
    assert not torch.equal(before, made.model.lm_head.weight)
    assert "changes only how the language model writes" in caplog.text


def test_the_configuration_runs_on_a_model_of_your_own(start, rows_folder, tmp_path):
    path = Path(train_grpo.DEFAULT_CONFIG)
    small = {name: value for name, value in OPTIONS.items() if name != "activation_checkpointing"}
    words = ["--config", str(path), *arguments(start, rows_folder, tmp_path / "out", **small)]
    words += ["--max_new_tokens", "4"]
    run_here("train_grpo", words, 0, tmp_path)
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_options_have_help_of_one_line():
    from cell2text.training.launch import help_text

    text = help_text(str(train_grpo.__doc__), ReinforcementArguments)
    assert "Rewards:\n" in text and "GRPOConfig" in text and "--calibration_reward_weight FLOAT" in text

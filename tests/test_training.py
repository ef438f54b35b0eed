"""Runs of `train_sft.py`: loss, stages, resuming, two ranks, output files and errors."""

import json
import re
import shutil
from pathlib import Path

import anndata as ad
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor
from trl import ModelConfig, SFTTrainer

from cell2text.evaluation.baseline_data import read_counts
from cell2text.example import example_cells
from cell2text.publish import files_to_push
from cell2text.training.arguments import FAST_BASELINES, Cell2TextArguments
from cell2text.training.concept_targets import TrainingConceptOverrides
from cell2text.training.freezing import apply_stage
from cell2text.training.loss_watch import BadLossError, LossWatch
from cell2text.training.rows import load_rows
from statements_cell2text import TypeHierarchy

from .tiny import make_adata, make_model
from .training_runs import TWO_RANKS, launch_runs, losses, make_trainer, run, run_here, weights, write_config


def test_loss_covers_the_completion_only(tmp_path):
    trainer = make_trainer(tmp_path)
    processor, tokenizer = trainer.processing_class, trainer.processing_class.tokenizer
    batch = next(iter(trainer.get_train_dataloader()))
    prompt = processor.apply_chat_template(processor.conversation(), tokenize=True, add_generation_prompt=True)[0]
    for ids, labels, mask in zip(
        batch["input_ids"].tolist(), batch["labels"].tolist(), batch["attention_mask"].tolist()
    ):
        assert ids[: len(prompt)] == prompt and labels[: len(prompt)] == [-100] * len(prompt)
        answer = [(token, label) for token, label, real in zip(ids, labels, mask) if real][len(prompt) :]
        assert all(token == label for token, label in answer)
        text = tokenizer.decode([label for _, label in answer])
        assert text == "This cell is a B cell. It comes from the blood.<|im_end|>\n"
        assert all(label == -100 for label, real in zip(labels, mask) if not real)
    assert batch["cell_input_ids"].shape[:2] == (8, 1)


def test_shuffled_rows_keep_their_cells(tmp_path):
    trainer = make_trainer(tmp_path, shuffle_dataset=True)
    rows = {row["cell_id"]: row["cells"][0] for row in trainer.train_dataset}
    expected = {f"cell{i}": cell.tolist() for i, cell in enumerate(trainer.processing_class.rank_encode(make_adata(8)))}
    assert rows == expected


def test_learning_rates_per_part(tmp_path):
    trainer = make_trainer(tmp_path, learning_rate=1e-3)
    trainer.model.model.freeze_cell_encoder(False)
    trainer.learning_rates = {"cell_encoder": 1e-5, "projector": 1e-2, "language_model": 1e-4}
    rate_of = {id(p): group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        expected = 1e-5 if ".cell_encoder." in name else 1e-2 if ".projector." in name else 1e-4
        assert rate_of[id(parameter)] == expected, name


def test_learning_rate_zero_freezes_a_part(tmp_path):
    trainer = make_trainer(tmp_path, learning_rates={"projector": 0.0}, max_steps=1)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        stays = ".projector." in name or ".cell_encoder." in name  # the encoder is frozen by default
        assert torch.equal(parameter, before[name]) == stays, name


def test_max_length_that_would_cut_a_row_raises(tmp_path):
    with pytest.raises(ValueError, match="max_length=20 would cut 8 of 8 rows.*Raise it to at least"):
        make_trainer(tmp_path, max_length=20)


def test_dataset_without_cells_raises(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match="eval dataset has no column `cells`"):
        trainer.evaluate(trainer.train_dataset.remove_columns("cells"))


@pytest.mark.parametrize(
    ("stage", "trained"),
    [("projector", {"projector"}), ("full", {"projector", "language_model", "lm_head"})],
)
def test_stages_train_their_parts(stage, trained):
    model = make_model()
    assert apply_stage(model, Cell2TextArguments(stage=stage), ModelConfig()) == stage
    parts = {name.removeprefix("model.").split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert parts == trained


def test_lora_stage_equals_use_peft():
    by_stage, by_flag = ModelConfig(), ModelConfig(use_peft=True)
    assert apply_stage(make_model(), Cell2TextArguments(stage="lora"), by_stage) == "lora"
    assert apply_stage(make_model(), Cell2TextArguments(), by_flag) == "lora"
    assert by_stage.lora_target_modules == by_flag.lora_target_modules and by_stage.use_peft
    assert by_flag.lora_modules_to_save == ["projector"]


def test_default_run_leaves_a_loadable_model_and_results(small_h5ad, tmp_path):
    done = run(
        tmp_path,
        dataset=[str(small_h5ad)],
        concept_pretraining_epochs=1,
        eval_strategy="epoch",
        report_to="tensorboard",
    )
    out = tmp_path / "out"
    metrics = json.loads((out / "evaluation" / "metrics.json").read_text())
    assert (
        set(metrics["systems"]) == {"shuffled_cells", *FAST_BASELINES} - {"usual_pathways"}
        and metrics["cell_type"]["n"] == 8
    )
    accuracy = {name: scores["cell_type"]["accuracy"] for name, scores in metrics["systems"].items()}
    assert accuracy["majority"] == 0.25 and accuracy["logistic_regression"] == 1.0
    assert (
        metrics["settings"]["baselines_trained_on"] == "counts"
        and "<svg" in (out / "evaluation" / "report.html").read_text()
    )
    predictions = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == 8 and {"cell_id", "prediction", "reference", "cell_type", "donor_id"} <= set(
        predictions[0]
    )
    assert all(row["type_probability"] is None and "confidence" not in row for row in predictions)
    assert metrics["calibration"] == {} and "ece" not in metrics["named_types"]
    assert "logistic regression" in done.stdout and "report.html" in done.stdout and "eval_loss" in done.stdout
    assert list(out.rglob("events.out.tfevents.*"))
    model, processor = AutoModel.from_pretrained(out), AutoProcessor.from_pretrained(out)
    assert model.config.num_cell_tokens == processor.num_cell_tokens == 2
    card = (out / "README.md").read_text()
    assert "model-index" in card and "| kNN |" in card and "license: apache-2.0" in card and "Trained on CPU" in card
    assert {"README.md", "model.safetensors", "evaluation/metrics.json"} <= {file.name for file in files_to_push(out)}
    pickles = {path.name for path in out.iterdir() if path.suffix in (".bin", ".pkl", ".pt")}
    assert pickles <= {"training_args.bin"}  # the Trainer's own record, which nothing here reads


@pytest.mark.parametrize("stage", ["full", "lora"])
def test_concept_run_predicts_cell_types_after_training(stage, small_h5ad, tmp_path, monkeypatch):
    """Training on text changes the language model alone, which reads statements about the labels of training cells."""
    options = {
        "dataset": [str(small_h5ad)], "projector_type": "concepts", "concept_pretraining_epochs": 60, "stage": stage, "lora_r": 2,
        "encoder_learning_rate": 0.0, "projector_learning_rate": 0.0, "eval_strategy": "epoch", "validation_share": 0.2,
        "describe_validation": 4,
    }  # fmt: skip
    batches, batch_of = [], TrainingConceptOverrides.batch
    monkeypatch.setattr(TrainingConceptOverrides, "batch", lambda *args: batches.append(batch_of(*args)) or batches[-1])
    run(tmp_path, **options)
    overrides = torch.cat(batches)[:, 0]
    known = overrides[overrides.isfinite().all(-1)]
    assert len(known) == 24 and overrides.isnan().all(-1).sum() == len(overrides) - 24  # no validation cell is told
    model, processor = (kind.from_pretrained(tmp_path / "out") for kind in (AutoModel, AutoProcessor))
    hierarchy = TypeHierarchy(model.config.concepts, uninformative=model.config.uninformative_types)
    adata = ad.read_h5ad(small_h5ad)
    labels = set(adata.obs["cell_type"])
    assert labels < set(model.config.cell_concepts["hierarchical"]["cell_type"]) and "cell" in hierarchy.names
    stated = hierarchy.decide(model.config.concepts.split(known)["cell_type"])
    assert {hierarchy.names[index] for index in stated.named} == labels and (stated.subtype == -1).all()
    cells = processor.pad_cells([[cell] for cell in processor.rank_encode(adata)], return_tensors="pt")
    told = model.get_cell_concepts(**cells)["cell_type"][:, 0]
    label_columns = torch.tensor([hierarchy.names.index(label) for label in adata.obs["cell_type"]])
    leaves = label_columns.unique()
    assert (leaves[told[:, leaves].argmax(-1)] == label_columns).float().mean() > 0.7
    named = hierarchy.decide(told, model.config.type_threshold).named
    assert (named >= 0).any() and hierarchy.above[named, label_columns][named >= 0].float().mean() > 0.8
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 8


def test_same_seed_gives_same_weights(small_rows, tmp_path):
    options = {
        "dataset": [str(small_rows)],
        "concept_pretraining_epochs": 1,
        "gene_dropout": 0.5,
        "describe_held_out": False,
        "max_steps": 3,
    }
    first, second, other = (
        run(tmp_path / name, **options, seed=seed) and weights(tmp_path / name / "out")
        for name, seed in (("first", 1), ("second", 1), ("other", 2))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("stage", ["full", "lora"])
def test_resumed_run_equals_uninterrupted_run(stage, small_rows, tmp_path, forked):
    options = {
        "dataset": [str(small_rows)], "stage": stage, "describe_held_out": False, "save_strategy": "steps", "save_steps": 3,
        "num_train_epochs": 1, "gene_dropout": 0.5, "cell_feature_noise": 0.5, "concept_pretraining_epochs": 1, "lora_r": 2,
        "projector_type": "concepts" if stage == "full" else "pooled",
    }  # fmt: skip
    own = forked if stage == "full" else None  # the last bit may depend on what a process did before
    run(tmp_path / "whole", forked=own, **options)
    shutil.copytree(tmp_path / "whole" / "out", tmp_path / "resumed" / "out")
    for checkpoint in (tmp_path / "resumed" / "out").glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-3":
            shutil.rmtree(checkpoint)
    (tmp_path / "resumed" / "out" / "model.safetensors").unlink()
    run(tmp_path / "resumed", forked=own, **options, resume_from_checkpoint="true")
    assert (tmp_path / "resumed" / "out" / "checkpoint-6").is_dir()  # it did go on
    whole, resumed = (weights(tmp_path / name / "out") for name in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_compiled_run_trains_the_same_weights(small_rows, tmp_path, monkeypatch):
    for name in ("BACKEND", "MODE"):  # what the run leaves behind for accelerate goes with the test
        monkeypatch.setenv(f"ACCELERATE_DYNAMO_{name}", "")
        monkeypatch.delenv(f"ACCELERATE_DYNAMO_{name}")
    options = {"dataset": [str(small_rows)], "describe_held_out": False, "max_steps": 2, "projector_dropout": 0.0}
    run(tmp_path / "plain", **options)
    run(tmp_path / "compiled", **options, torch_compile=True, torch_compile_backend="aot_eager")
    torch._dynamo.reset()
    plain, compiled = (weights(tmp_path / name / "out") for name in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    assert max((plain[name] - compiled[name]).abs().max().item() for name in plain) < 1e-4


def test_lora_run_leaves_adapter_and_merged_model(small_rows, tmp_path):
    run(tmp_path, dataset=[str(small_rows)], use_peft=True, lora_r=2, describe_held_out=False, freeze_cell_encoder=True)
    from peft import AutoPeftModelForCausalLM

    out = tmp_path / "out"
    merged = AutoModel.from_pretrained(out)
    adapted = AutoPeftModelForCausalLM.from_pretrained(out / "adapter")
    ids = torch.arange(5, 15).unsqueeze(0)
    assert torch.allclose(merged(input_ids=ids).logits, adapted(input_ids=ids).logits, atol=1e-5)
    kept = load_file(out / "adapter" / "adapter_model.safetensors")
    assert all("lora_" in name or "projector" in name for name in kept)


def test_two_ranks_and_fsdp2_train_like_one_rank(small_h5ad, tmp_path, forked):
    datasets = {"full": small_h5ad, "lora": tmp_path / "full" / "one" / "out" / "data"}

    def options(stage, **changes):
        return {
            "dataset": [str(datasets[stage])], "describe_held_out": False, "max_steps": 2, "optim": "sgd", "learning_rate": 1.0,
            "projector_dropout": 0.0, "stage": stage, "lora_r": 2, "logging_steps": 1, "save_strategy": "steps", "save_steps": 1,
            "validation_share": 0.2, "warmup_steps": 0, "freeze_cell_encoder": stage == "lora", "lora_dropout": 0.0,
            "per_device_train_batch_size": 8, **changes,
        }  # fmt: skip

    stages = ("full", "lora")
    two = {"per_device_train_batch_size": 4, "ddp_backend": "gloo"}
    for stage in stages:
        run(tmp_path / stage / "one", **options(stage))
    # What one rank began, two ranks finish.
    shutil.copytree(tmp_path / "full" / "one" / "out", tmp_path / "full" / "resumed" / "out")
    shutil.rmtree(tmp_path / "full" / "resumed" / "out" / "checkpoint-2")
    resumed = write_config(tmp_path / "full" / "resumed", **options("full", **two), resume_from_checkpoint="true")
    # Shards describe cells together while they train, too.
    fsdp2 = {**two, "baselines": ["majority"], "eval_strategy": "steps", "eval_steps": 1, "describe_validation": 5,
             "generation_batch_size": 2}  # fmt: skip
    sharded = [
        write_config(tmp_path / stage / "sharded", **options(stage, **fsdp2, describe_held_out=stage == "full"))
        for stage in stages
    ]
    script = Path(__file__).with_name("ranks_on_cpu.py")
    launch_runs((*TWO_RANKS, script), [resumed, "--fsdp2", *sharded], tmp_path, forked)

    for stage in stages:
        folder = tmp_path / stage
        checkpoint = folder / "sharded" / "out" / "checkpoint-2"
        assert (checkpoint / "pytorch_model_fsdp_0").is_dir()  # it was really cut
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        described = [entry["eval_cell_type_accuracy"] for entry in state["log_history"] if "eval_loss" in entry]
        assert described == [0.0, 0.0]  # so small a model says nothing yet
        expected, reference = losses(folder / "one"), weights(folder / "one" / "out")
        assert len(expected) == 2
        for name in ("resumed", "sharded") if stage == "full" else ("sharded",):
            assert losses(folder / name) == pytest.approx(expected, abs=1e-4), (stage, name)
            found = weights(folder / name / "out")
            assert found.keys() == reference.keys(), (stage, name)
            assert max((found[key] - reference[key]).abs().max().item() for key in found) < 1e-4, (stage, name)
        earlier, later = (
            load_file(next((folder / "one" / "out" / f"checkpoint-{step}").glob("*model.safetensors")))
            for step in (1, 2)
        )
        assert max((later[key] - earlier[key]).abs().max().item() for key in later) > 1e-3  # the last step did move


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"dataset": []}, "No training data: pass --dataset", id="no_dataset"),
        pytest.param({"dataset": ["nowhere.h5ad"]}, "nowhere.h5ad does not exist", id="missing_file"),
        pytest.param({"dataset": ["a.h5ad", "folder"]}, "mixes files of counts and data sets", id="mixed"),
        pytest.param(
            {"dataset": ["halves.h5ad"], "allow_fractional": False}, "fractional values .cell 'cell0'", id="fractional"
        ),
        pytest.param(
            {"stratify": ["batch"], "dataset": ["example_cells"]}, "there is no column \\['batch'\\]", id="stratify"
        ),
        pytest.param({"model_name_or_path": "."}, "a folder without config.json", id="no_model"),
        pytest.param(
            {"concept_pretraining_epochs": 1, "cell_encoder": "x", "freeze_cell_encoder": False},
            "would overwrite the pretrained",
            id="warm_start",
        ),
        pytest.param(
            {"projector_type": "concepts"},
            "set concept_pretraining_epochs",
            id="concepts",
        ),
        pytest.param({"resume_from_checkpoint": "runs/checkpoint-7"}, "no complete.json", id="no_checkpoint"),
        pytest.param({"max_length": 20}, "max_length 20 would cut", id="max_length"),
        pytest.param({"use_liger_kernel": True}, "pip install liger-kernel", id="liger"),
    ],
)
def test_invalid_options_end_in_one_message(changes, message, small_rows, tmp_path):
    path = write_config(tmp_path, **{"dataset": [str(small_rows)], **changes})
    if changes.get("dataset") == ["halves.h5ad"]:
        adata = make_adata()
        adata.X = adata.X / 2
        adata.write_h5ad(tmp_path / "halves.h5ad")
    done = run_here("train_sft", ["--config", str(path)], 2, tmp_path)
    assert re.search(message, done.stderr.replace("\n", " "))


def test_invalid_option_exits_with_code_2(tmp_path, forked):
    done = run(tmp_path, forked=forked, expect=2, dataset=[])
    assert "train_sft.py: No training data: pass --dataset" in done.stderr and "Traceback" not in done.stderr


EXAMPLE = {"dataset": ["example_cells"], "allow_fractional": True, "max_genes": 64}


@pytest.fixture(scope="module")
def example_rows(tmp_path_factory):
    """The rows of the example cells, some of which are held out for the test."""
    return load_rows(Cell2TextArguments(**EXAMPLE), str(tmp_path_factory.mktemp("example_rows")))


def test_validation_never_sees_the_test_cells(example_rows, tmp_path):
    choosing = load_rows(Cell2TextArguments(**EXAMPLE, hold_out="validation"), str(tmp_path))
    test = set(example_rows.held_out["cell_id"])
    seen = set(choosing.train["cell_id"]) | set(choosing.held_out["cell_id"])
    assert not test & seen and seen == set(example_rows.train["cell_id"]) and len(test) + len(seen) == 1409


def test_counts_match_the_files_of_the_rows(example_rows):
    rows = example_rows
    held_out = rows.held_out.select(range(40)).shuffle(seed=0)
    counts, adata = read_counts([held_out, held_out.select([3])], rows.files, None), example_cells()
    names = [name.removeprefix("example_cells:") for name in held_out["cell_id"]]
    assert (counts[:, adata.var_names].X != adata[[*names, names[3]]].X).nnz == 0
    with pytest.raises(ValueError, match=r"come from \['example_cells'\], which counts= does not list"):
        read_counts([held_out], [], None)


def test_prepared_data_set_trains_without_counts(small_h5ad, tmp_path):
    from cell2text.preparation.run import prepare

    shares = {"train": 0.5, "test": 0.5}
    prepare([small_h5ad], tmp_path / "data", split="random", shares=shares, progress=False, max_genes=32)
    run(tmp_path / "run", dataset=[str(tmp_path / "data")])
    metrics = json.loads((tmp_path / "run" / "out" / "evaluation" / "metrics.json").read_text())
    assert metrics["cell_type"]["n"] == 20 and metrics["settings"]["baselines_trained_on"] == "ranked genes"


def test_cached_states_give_the_same_losses_as_encoding(small_h5ad, small_rows, tmp_path):
    frozen = {
        "dataset": [str(small_rows)], "projector_type": "mlp", "num_cell_tokens": 4, "freeze_cell_encoder": True,
        "gene_embeddings": "random", "describe_held_out": False, "logging_steps": 1, "save_strategy": "epoch",
        "num_train_epochs": 2, "eval_strategy": "epoch", "train_sampling_strategy": "group_by_length",
    }  # fmt: skip
    run(tmp_path / "again", **frozen)
    run(tmp_path / "kept", **frozen, cache_cell_states=True)
    again, kept = losses(tmp_path / "again"), losses(tmp_path / "kept")
    assert len(kept) == len(again) > 10 and kept == pytest.approx(again, abs=1e-4) and len(set(kept)) > 10
    assert (tmp_path / "kept" / "out" / "cell_states" / "train" / "cache.json").exists()
    refused = run(
        tmp_path / "kept",
        **{**frozen, "dataset": [str(small_h5ad)]},
        cache_cell_states=True,
        split_seed=7,
        output_dir=str(tmp_path / "kept" / "new"),
        cell_state_cache=str(tmp_path / "kept" / "out" / "cell_states"),
        expect=2,
    )
    assert "is stale: it was made of another data" in refused.stderr


def test_nan_loss_stops_before_the_optimizer_step(tmp_path):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=4, num_train_epochs=2, learning_rate=1e-2)
    good = trainer.model.model.projector.missing_gene
    steps = []
    inner = SFTTrainer.compute_loss

    def poisoned(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        assert "cell_ids" not in inputs
        loss = inner(self, model, inputs, return_outputs, num_items_in_batch)
        steps.append(good.detach().clone())
        return loss * float("nan") if len(steps) == 3 else loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SFTTrainer, "compute_loss", poisoned)
        with pytest.raises(
            BadLossError,
            match="The loss of step 3 is nan, after a median of .* over 2 steps.*Its 4 cells are listed in",
        ):
            trainer.train()
    assert torch.isfinite(good).all() and torch.equal(good, steps[2])
    written = json.loads((tmp_path / "bad_batch.json").read_text())
    assert (
        written["step"] == 3
        and len(written["cell_ids"]) == 4
        and set(written["cell_ids"]) <= {f"cell{i}" for i in range(8)}
    )


def test_loss_spike_stops_the_run_but_slow_rise_does_not(tmp_path):
    watch = LossWatch(tmp_path, max_jump=5.0)
    for step in range(60):
        watch.check(1.0 + step / 20, ["a"], step)
    with pytest.raises(BadLossError, match="is 40, after a median of"):
        watch.check(40.0, ["b"], 60)
    assert json.loads((tmp_path / "bad_batch.json").read_text())["cell_ids"] == ["b"]
    LossWatch(tmp_path, max_jump=None).check(1e9, ["c"], 0)
    with pytest.raises(BadLossError, match="is inf"):
        LossWatch(tmp_path, max_jump=None).check(float("inf"), ["c"], 0)

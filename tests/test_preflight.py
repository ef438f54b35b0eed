"""Checks before the first step, frozen parts, memory advice and throughput."""

import re

import pytest
import torch
from trl import ModelConfig

import train_sft
from cell2text.training import preflight as checks
from cell2text.training.arguments import Cell2TextArguments
from cell2text.training.components import train_tokenizer
from cell2text.training.freezing import apply_stage
from cell2text.training.launch import run as launch
from cell2text.training.memory import is_out_of_memory, memory_advice
from cell2text.training.rows import TrainingRows, check_vocabulary, load_rows
from cell2text.training.throughput import FlopCounter, Throughput, batch_sizes, matrix_weights
from processing_cell2text import DEFAULT_CHAT_TEMPLATE, Cell2TextProcessor

from .tiny import make_model, make_processor, make_tokenizer, make_vocabulary
from .training_runs import make_trainer, run, write_config


def rows_of(trainer) -> TrainingRows:
    return TrainingRows(trainer.train_dataset, trainer.train_dataset, None, [])


def test_prompt_that_ends_inside_a_token_raises(tmp_path, capsys):
    """A byte-level tokenizer merges the space with the first word of the completion, so no training row has the space alone."""
    tokenizer = train_tokenizer(["assistant: This cell is a B cell. It comes from the blood."] * 20, 400)
    processor = Cell2TextProcessor.from_components(tokenizer, make_vocabulary(), num_cell_tokens=2)
    blank = DEFAULT_CHAT_TEMPLATE.replace("':\\n'", "': '").replace("assistant:\\n", "assistant: ")
    for template, whole in ((DEFAULT_CHAT_TEMPLATE, True), (blank, False)):
        processor.chat_template = processor.tokenizer.chat_template = template
        trainer = make_trainer(tmp_path, processor=processor)
        check = checks.check_completions(trainer, processor)
        assert (check.problem is None) == whole
    assert "8 of 8 completions would follow another context" in check.problem
    assert "a prompt ends with the token 'Ġ', which is 'ĠThis' in training" in check.problem
    with pytest.raises(ValueError, match="must end where a token ends"):
        checks.preflight(trainer, rows_of(trainer), processor)


def test_table_describes_the_run(tmp_path, capsys):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=4, num_train_epochs=3, gradient_accumulation_steps=2)
    checks.preflight(trainer, rows_of(trainer), trainer.processing_class)
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    trained = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    assert "8 training rows" in text and "64 gene tokens" in text and "max_length 512" in text
    assert f"{trained:,} parameters: cell_encoder 0 of" in text
    assert "3 steps of 8 rows (4 x 2 on 1 rank), 3.0 epochs" in text
    assert not list(tmp_path.iterdir())  # nothing was trained or written


def test_too_small_disk_raises_before_the_first_step(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=1, max_steps=9)
    usage = checks.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda folder: usage._replace(free=10_000))
    with pytest.raises(ValueError, match=r"The run needs .* GiB in .*: keep fewer checkpoints .save_total_limit=1."):
        checks.preflight(trainer, rows_of(trainer), trainer.processing_class)
    trainer.args.save_total_limit = 2
    assert checks.kept_checkpoints(trainer) == 3
    trainer.args.save_total_limit = None
    assert checks.kept_checkpoints(trainer) == 10
    assert checks.kept_checkpoints(trainer, begun=7) == 3
    trainer.args.save_total_limit, trainer.args.load_best_model_at_end = 1, True
    assert checks.kept_checkpoints(trainer) == 3  # the last, the best, and the one being written
    trainer.args.save_strategy, trainer.args.eval_strategy, trainer.args.eval_steps = "best", "steps", 5
    trainer.args.save_total_limit = None
    assert checks.kept_checkpoints(trainer) == 3  # two evaluations
    trainer.args.save_strategy, trainer.args.max_steps = "epoch", 4
    assert checks.kept_checkpoints(trainer) == 5  # one step an epoch
    trainer.args.save_strategy = "no"
    assert checks.kept_checkpoints(trainer) == 0


def test_run_without_trained_parameters_raises(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.model.requires_grad_(False)
    with pytest.raises(ValueError, match="Nothing trains"):
        checks.preflight(trainer, rows_of(trainer), trainer.processing_class)


def test_data_ranked_with_another_vocabulary_raise(small_h5ad, tmp_path):
    arguments = Cell2TextArguments(dataset=[str(small_h5ad)], max_genes=32)
    rows = load_rows(arguments, str(tmp_path))
    ours = make_processor().gene_vocabulary
    with pytest.raises(ValueError, match=r"another gene vocabulary .* than that of the model .64 tokens; \d+ of the"):
        check_vocabulary(rows, arguments, ours)
    rows.vocabulary = None
    with pytest.raises(ValueError, match="hold the gene token .*, but the model's vocabulary has 64 tokens"):
        check_vocabulary(rows, arguments, ours)


def test_vocabulary_beside_the_encoder_must_match_the_data(tmp_path):
    processor = make_processor()
    vocabulary = make_vocabulary(n_genes=50)
    vocabulary.save_pretrained(tmp_path)
    rows = TrainingRows(make_trainer(tmp_path / "run").train_dataset, None, None, [])
    check_vocabulary(rows, Cell2TextArguments(cell_encoder="no/such/folder"), processor.gene_vocabulary)
    with pytest.raises(ValueError, match="than that of cell_encoder=.*54 tokens"):
        check_vocabulary(rows, Cell2TextArguments(cell_encoder=str(tmp_path)), processor.gene_vocabulary)


def test_data_of_another_vocabulary_end_in_one_message(tmp_path, small_rows):
    make_model(processor=make_processor()).save_pretrained(tmp_path / "model")
    make_processor().save_pretrained(tmp_path / "model")
    done = run(tmp_path, dataset=[str(small_rows)], model_name_or_path=str(tmp_path / "model"),
               gene_embeddings="random", expect=2)  # fmt: skip
    assert "ranked with another gene vocabulary" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("pattern", [["no_such_proj"], [r".*language_model\..*\.query"]])
def test_lora_pattern_without_match_raises(pattern):
    options = ModelConfig(use_peft=True, lora_target_modules=pattern)
    with pytest.raises(ValueError, match="matches no linear layer.*are called down_proj, .*q_proj"):
        apply_stage(make_model(), Cell2TextArguments(), options)


def test_missing_chat_template_is_replaced_with_a_warning(small_rows, tmp_path, caplog):
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(None)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    run(tmp_path, dataset=[str(small_rows)], model_name_or_path=str(tmp_path / "llama"), describe_held_out=False,
        max_length=2000)  # fmt: skip
    assert "no chat template: Cell2Text's plain `role: text` template is used" in caplog.text
    template = (tmp_path / "out" / "chat_template.jinja").read_text()
    assert "message['role']" in template


@pytest.mark.parametrize(("stage", "layers"), [("full", 1), ("lora", 2), ("projector", 1)])
def test_unfrozen_layers_lie_below_the_feature_layer(stage, layers):
    model, options = make_model(freeze_cell_encoder=True), ModelConfig(use_peft=stage == "lora")
    apply_stage(model, Cell2TextArguments(stage=stage, unfreeze_encoder_layers=layers), options)
    trained = {name for name, weight in model.model.cell_encoder.named_parameters() if weight.requires_grad}
    # Three layers, states taken after the second: the third never matters.
    expected = {f"encoder.layer.{i}." for i in range(2 - layers, 2)}
    assert {re.match(r"encoder\.layer\.\d\.", name)[0] for name in trained} == expected
    if stage == "lora":
        assert set(options.lora_modules_to_save) == {"projector", *(f"cell_encoder.{name[:-1]}" for name in expected)}
    with pytest.raises(ValueError, match="the encoder has 3 layers, and its states are read after 2"):
        apply_stage(make_model(), Cell2TextArguments(unfreeze_encoder_layers=3), ModelConfig())


def test_only_unfrozen_layers_change(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2, learning_rate=1e-2, per_device_train_batch_size=4)
    apply_stage(trainer.model, Cell2TextArguments(unfreeze_encoder_layers=1), ModelConfig())
    before = {name: weight.clone() for name, weight in trainer.model.model.cell_encoder.named_parameters()}
    trainer.train()
    changed = {
        name for name, weight in trainer.model.model.cell_encoder.named_parameters() if not weight.equal(before[name])
    }
    assert changed and all(name.startswith("encoder.layer.1.") for name in changed)


def test_out_of_memory_gives_advice(small_h5ad, tmp_path, monkeypatch, capsys):
    from trl import SFTTrainer

    def greedy(self, *args, **kwargs):
        return torch.empty(2**50)  # a petabyte: PyTorch's own error

    monkeypatch.setattr(SFTTrainer, "compute_loss", greedy)
    path = write_config(tmp_path, dataset=[str(small_h5ad)], per_device_train_batch_size=8)
    arguments = train_sft.parse_arguments(["--config", str(path)])
    assert launch("train_sft.py", lambda: train_sft.main(*arguments)) == 1
    said = capsys.readouterr().err
    assert "train_sft.py: Out of memory. Weights 0.00 GiB" in said and "input_ids (8, " in said
    assert "--per_device_train_batch_size 4 --gradient_accumulation_steps 2" in said
    assert "--activation_checkpointing true" in said and "--stage lora" in said


def test_advice_omits_options_already_set(tmp_path):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=1, activation_checkpointing=True)
    text = memory_advice(trainer.model, {}, Cell2TextArguments(), trainer.args, ModelConfig(use_peft=True))
    assert "per_device" not in text and "activation_checkpointing" not in text and "--stage lora" not in text
    assert "--cache_cell_states true" in text
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory")) and not is_out_of_memory(RuntimeError("x"))


def test_logs_hold_cells_and_tokens_per_second(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2, per_device_train_batch_size=4, logging_steps=1)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    for entry in logged:
        ratio = entry["tokens_per_second"] / entry["cells_per_second"]
        assert entry["cells_per_second"] > 0 and min(lengths) - 0.1 <= ratio <= max(lengths) + 0.1
        assert "share_of_peak_flops" not in entry  # a CPU's peak is not known


def test_operations_match_the_flop_counter_of_pytorch(tmp_path):
    from torch.utils.flop_counter import FlopCounterMode

    trainer = make_trainer(tmp_path, per_device_train_batch_size=8)
    batch = next(iter(trainer.get_train_dataloader()))
    batch.pop("sizes")
    batch.pop("cell_ids")
    # PyTorch counts padding, and the head on all positions: so do we here.
    whole = torch.ones_like(batch["input_ids"])
    cells = torch.ones_like(batch["cell_attention_mask"])
    sizes = batch_sizes({"attention_mask": whole, "cell_attention_mask": cells, "labels": whole})
    model = trainer.model.train()
    model.set_attn_implementation("eager")  # the others' products are not counted on every device
    with FlopCounterMode(display=False) as counted:
        model(**batch).loss.backward()
    counter = FlopCounter(model)
    found = counter(sizes)
    other_half = 3 * counter.text_attention * sizes["token_pairs"]  # which causal attention need not compute
    assert found + other_half == pytest.approx(counted.get_total_flops(), rel=0.01)
    throughput = Throughput(lambda sizes: 5e11 * sizes["cells"], peak=1e12)
    throughput.add({"cells": 1, "tokens": 7})
    throughput.since -= 1.0
    figures = throughput.figures(ranks=2)
    assert figures["share_of_peak_flops"] == pytest.approx(0.5, abs=0.01)
    assert figures["cells_per_second"] == pytest.approx(2, abs=0.05)
    assert not throughput.sizes


def test_module_copied_by_peft_is_counted_once():
    from peft import LoraConfig, get_peft_model

    model = make_model(freeze_cell_encoder=False)
    expected = matrix_weights(model.model.cell_encoder)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["cell_encoder"]))
    assert matrix_weights(adapted.get_base_model().model.cell_encoder) == expected

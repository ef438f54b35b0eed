"""Checkpoints: killed runs resume to the same weights, incomplete ones are skipped, a full disk destroys nothing."""

import json
import os
import resource
import shutil
import signal
import time
from contextlib import suppress

import pytest
import torch

from cell2text.training.checkpoints import check_resume, find_checkpoint, mark_complete
from cell2text.training.saving import FullDiskError, saved_whole

from .training_runs import PROJECT, make_trainer, run, weights, write_config


def test_run_killed_while_saving_resumes_to_the_same_weights(small_rows, tmp_path, forked):
    """The resumed processes take the recorded number of threads, not their own."""
    options = {
        "dataset": [str(small_rows)], "describe_held_out": False, "save_strategy": "steps", "save_steps": 1, "max_steps": 6,
        "gene_dropout": 0.5, "save_total_limit": 1, "depth_loss": 0.3, "rank_cut": 0.3, "class_balance": 0.5,
    }  # fmt: skip
    run(tmp_path / "whole", **options, cpu_threads=2)
    for step, cpu_threads in ((2, 2), (4, 1)):
        path = write_config(tmp_path / "killed", **options, resume_from_checkpoint="true", cpu_threads=cpu_threads)
        log = tmp_path / f"killed{step}.log"
        process = forked.start(PROJECT / "train_sft.py", "--config", path, folder=tmp_path, log=log)
        while not (tmp_path / "killed" / "out" / f"checkpoint-{step}").exists() and forked.poll(process) is None:
            time.sleep(0.0005)
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        assert forked.wait(process) == -signal.SIGKILL, log.read_text()[-2000:]
        kept = find_checkpoint("true", str(tmp_path / "killed" / "out"))
        assert kept is not None and int(kept.rpartition("-")[2]) >= step - 1
    resumed = run(tmp_path / "killed", **options, resume_from_checkpoint="true", cpu_threads=1)
    assert "CPU threads: 2, as recorded in" in resumed.stderr and "this run would use 1" in resumed.stderr
    whole, killed = (weights(tmp_path / name / "out") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_last_complete_checkpoint_is_found(tmp_path):
    for step in (9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert find_checkpoint("true", str(tmp_path)) is None  # the run starts at its beginning
    for step in (9, 10):
        mark_complete(tmp_path / f"checkpoint-{step}", rows_per_step=8, ranks=1, sharded=False)
    assert find_checkpoint("true", str(tmp_path)) == str(tmp_path / "checkpoint-10")
    assert find_checkpoint(str(tmp_path / "checkpoint-9"), "") == str(tmp_path / "checkpoint-9")
    with pytest.raises(ValueError, match="it is not a checkpoint, or an incomplete one"):
        find_checkpoint(str(tmp_path / "checkpoint-11"), str(tmp_path))
    for wanted in (None, "false"):  # another run must not begin where it could take these for its own
        with pytest.raises(ValueError, match="holds checkpoint-10 of an earlier run: pass resume_from_checkpoint=true"):
            find_checkpoint(wanted, str(tmp_path))
        assert find_checkpoint(wanted, str(tmp_path / "new")) is None
    check_resume(str(tmp_path / "checkpoint-9"), rows_per_step=8, sharded=False)
    with pytest.raises(ValueError, match="trained with 8 rows per step on 1 ranks, but this run has 4"):
        check_resume(str(tmp_path / "checkpoint-9"), rows_per_step=4, sharded=False)
    with pytest.raises(ValueError, match="launch it with the same accelerate options"):
        check_resume(str(tmp_path / "checkpoint-9"), rows_per_step=8, sharded=True)


@pytest.fixture
def small_files():
    """Limit files to 40 kB, in place of a full disk: the operating system refuses further writing."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_full_disk_keeps_the_previous_checkpoint(tmp_path, small_files):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4, "save_total_limit": 1}
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    trainer = make_trainer(tmp_path, per_device_train_batch_size=4, **options)
    trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    trainer = make_trainer(tmp_path, per_device_train_batch_size=4, **{**options, "max_steps": 6})
    with pytest.raises(
        FullDiskError, match="checkpoint-5 could not be written completely.*resume_from_checkpoint=true"
    ):
        trainer.train(resume_from_checkpoint=find_checkpoint("true", str(tmp_path)))
    assert find_checkpoint("true", str(tmp_path)) == str(tmp_path / "checkpoint-4")


def test_full_disk_in_the_final_save_keeps_the_previous_model(tiny_model, tmp_path, small_files):
    (tmp_path / "model.safetensors").write_bytes(b"the model before")
    with pytest.raises(FullDiskError, match="could not be written completely"), saved_whole(tmp_path) as folder:
        tiny_model.save_pretrained(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == b"the model before"


def test_rewritten_checkpoint_is_incomplete_until_finished(tmp_path, monkeypatch):
    options = {"per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    make_trainer(tmp_path, **options).train()
    assert find_checkpoint("true", str(tmp_path)) == str(tmp_path / "checkpoint-1")
    again = make_trainer(tmp_path, **options)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(again, "_save_optimizer_and_scheduler", killed)
    with pytest.raises(KeyboardInterrupt):
        again.train()
    assert find_checkpoint("true", str(tmp_path)) is None  # new weights beside an old optimiser


def test_leftovers_of_killed_saves_are_removed(tmp_path):
    (tmp_path / ".saving-old").mkdir()
    for text in ("first", "second"):
        with saved_whole(tmp_path) as folder:
            (folder / "templates").mkdir()
            (folder / "templates" / "chat.jinja").write_text(text)
    assert (tmp_path / "templates" / "chat.jinja").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["templates"]


def test_lora_run_resumes_from_its_base_and_keeps_its_card(small_rows, tmp_path):
    lora = {"dataset": [str(small_rows)], "stage": "lora", "lora_r": 2, "describe_held_out": False, "max_steps": 2,
            "freeze_cell_encoder": True}  # fmt: skip
    saves = {"save_strategy": "steps", "save_steps": 1}
    run(tmp_path / "model", **{**lora, "seed": 3})
    run(tmp_path / "two", **lora)  # leaves a base of its own, and no checkpoint
    start = {"model_name_or_path": str(tmp_path / "model" / "out"), "gene_embeddings": "random"}
    run(tmp_path / "whole", **lora, **saves, **start)
    run(tmp_path / "two", **lora, **saves, **start)
    assert not (tmp_path / "two" / "out" / "base").exists()
    shutil.rmtree(tmp_path / "two" / "out" / "checkpoint-2")
    run(tmp_path / "two", **lora, **saves, **start, resume_from_checkpoint="true")
    whole, resumed = (weights(tmp_path / name / "out") for name in ("whole", "two"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    run(tmp_path / "fresh", **lora, **saves)
    card = (tmp_path / "fresh" / "out" / "README.md").read_text()
    run(tmp_path / "fresh", **lora, **saves, resume_from_checkpoint="true")
    again = (tmp_path / "fresh" / "out" / "README.md").read_text()
    assert "license: apache-2.0" in card and again == card


def test_finished_run_trains_no_further_step(tmp_path):
    options = {"per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 3, "max_steps": 3}
    first = make_trainer(tmp_path, **options)
    first.train()
    again = make_trainer(tmp_path, **options)
    checkpoint = find_checkpoint("true", str(tmp_path))
    again.train(resume_from_checkpoint=checkpoint)
    assert again.state.global_step == 3
    after, before = again.model.state_dict(), first.model.state_dict()
    assert all(after[name].equal(before[name]) for name in before)


def test_other_errors_while_saving_pass_through(tmp_path):
    with pytest.raises(KeyError, match="mine"), saved_whole(tmp_path):
        raise KeyError("mine")
    assert not list(tmp_path.iterdir())


def test_resuming_with_other_rows_per_step_raises(small_rows, tmp_path):
    options = {"dataset": [str(small_rows)], "describe_held_out": False, "save_strategy": "steps", "save_steps": 1}
    run(tmp_path, **options, max_steps=1)
    done = run(tmp_path, **options, max_steps=2, per_device_train_batch_size=2, resume_from_checkpoint="true", expect=2)
    assert "trained with 4 rows per step on 1 ranks, but this run has 2" in done.stderr
    assert json.loads((tmp_path / "out" / "checkpoint-1" / "complete.json").read_text())["rows_a_step"] == 4
    shutil.rmtree(tmp_path / "out")

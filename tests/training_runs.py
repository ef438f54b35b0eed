"""Runs of `train_sft.py` at toy size, and a trainer on synthetic cells."""

import io
import json
import warnings
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from datasets import Dataset
from safetensors.torch import load_file
from threadpoolctl import threadpool_limits
from trl import SFTConfig

from cell2text.preparation.rows import completion_array, message_for_arrow
from cell2text.training.arguments import Cell2TextArguments, MaskedGeneArguments, ReinforcementArguments
from cell2text.training.checkpoints import step_of
from cell2text.training.launch import run as launch
from cell2text.training.rows import load_rows
from cell2text.training.trainer import Cell2TextTrainer, TrainingCollator

from .tiny import make_adata, make_model, make_processor


PROJECT = Path(__file__).resolve().parents[1]
TINY = {
    "encoder_hidden_size": 16, "encoder_layers": 1, "encoder_heads": 2, "decoder_hidden_size": 16, "decoder_layers": 1,
    "decoder_heads": 2, "decoder_vocab_size": 400, "num_cell_tokens": 2, "max_genes": 32, "concept_pretraining_epochs": 0,
    "num_train_epochs": 1, "per_device_train_batch_size": 4, "max_new_tokens": 8, "report_to": "none", "bf16": False,
    "gene_dropout": 0.0, "eval_strategy": "no", "cpu_threads": 1, "disable_tqdm": True, "generation_batch_size": 64,
}  # fmt: skip


def write_config(folder: Path, **changes) -> Path:
    config = yaml.safe_load((PROJECT / "configs" / "default.yaml").read_text())
    config = {**config, **TINY, "output_dir": str(folder / "out"), **changes}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))
    return path


def prepare_rows(path: Path, folder: Path) -> Path:
    """Prepare a file as a run at toy size does, and return the data set: a run that reads it has the same rows."""
    config = yaml.safe_load((PROJECT / "configs" / "default.yaml").read_text()) | TINY | {"dataset": [str(path)]}
    names = {option.name for option in fields(Cell2TextArguments)}
    load_rows(Cell2TextArguments(**{name: config[name] for name in names & config.keys()}), str(folder))
    return folder / "data"


def run(folder, *, expect=0, forked=None, **changes):
    """Run train_sft.py on the default configuration at toy size, with changes.

    In this process, which spares it some seconds of imports, or in one of its own where it is `forked`.
    """
    path = write_config(folder, **changes)
    if forked is not None:
        log = folder / "log.txt"
        process = forked.start(PROJECT / "train_sft.py", "--config", path, folder=folder, log=log)
        assert forked.wait(process) == expect, log.read_text()[-4000:]
        return SimpleNamespace(returncode=expect, stdout="", stderr=log.read_text())
    return run_here("train_sft", ["--config", str(path)], expect, folder)


def launch_runs(launcher, configurations, folder, forked):
    """Start train_sft.py by a launcher, which may take several configurations and flags between them."""
    head, *more = configurations
    log = folder / "log.txt"
    command = [*launcher, PROJECT / "train_sft.py", "--config", head, *more]
    assert forked.wait(forked.start(*command, folder=folder, log=log)) == 0, log.read_text()[-6000:]


def run_here(script: str, arguments: list[str], expect: int, folder: Path) -> SimpleNamespace:
    """Call a training script's own functions in this process."""
    module = import_module(script)
    out, err = io.StringIO(), io.StringIO()
    with warnings.catch_warnings(), one_thread(), redirect_stdout(out), redirect_stderr(err), chdir(folder):
        warnings.simplefilter("ignore")
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        options = (Cell2TextArguments, ReinforcementArguments, MaskedGeneArguments)
        code = launch(f"{script}.py", lambda: module.main(*module.parse_arguments(arguments)), options)
    assert code == expect, out.getvalue()[-2000:] + err.getvalue()[-4000:]
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


@contextmanager
def one_thread():
    """Set this process back to one thread, whatever a run in it chose."""
    try:
        yield
    finally:
        torch.set_num_threads(1)
        threadpool_limits(limits=1)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def make_trainer(folder, processor=None, learning_rates=None, **options):
    processor = processor or make_processor()
    model = make_model(processor=processor)
    cells = [[cell.tolist()] for cell in processor.rank_encode(make_adata(8))]
    prompt = [message_for_arrow(message) for message in processor.conversation()]
    texts = ["This cell is a B cell. It comes from the blood."] * 8
    columns = {"cells": cells, "prompt": [prompt] * 8, "completion": completion_array(texts).to_pylist()}
    rows = Dataset.from_dict({"cell_id": [f"cell{i}" for i in range(8)], **columns})
    settings = {"output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none", "max_length": 512}
    return Cell2TextTrainer(
        model=model,
        args=SFTConfig(**{**settings, **options}),
        train_dataset=rows,
        processing_class=processor,
        data_collator=TrainingCollator(processor),
        learning_rates=learning_rates,
    )


TWO_RANKS = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")


def losses(folder: Path) -> list[float]:
    """Training losses of all steps, from the run's last checkpoint."""
    state = max((folder / "out").glob("checkpoint-*"), key=step_of) / "trainer_state.json"
    return [entry["loss"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]

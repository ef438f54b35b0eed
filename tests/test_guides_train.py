"""The commands of docs/guides/train.md name existing files, options and values, and the files that a run leaves."""

import re
import shlex
from importlib import import_module

import pytest

from .training_runs import PROJECT, run


GUIDE = (PROJECT / "docs" / "guides" / "train.md").read_text()
COMMANDS = [
    command.replace("\\\n", " ").replace("$rate", "1e-4")
    for command in re.findall(
        r"accelerate launch(?:[^\n]*\\\n)*[^\n]*", "".join(re.findall(r"```bash\n(.*?)```", GUIDE, re.S))
    )
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command, tmp_path, monkeypatch):
    """At full size they need GPUs and pretrained weights; test_training and test_recipes run them at toy size."""
    (tmp_path / "my_run.yaml").write_text((PROJECT / "configs" / "default.yaml").read_text())
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    monkeypatch.chdir(tmp_path)
    launcher, script, arguments = re.fullmatch(r"accelerate launch (.*?)(train_\w+)\.py(.*)", command).groups()
    assert all((PROJECT / name).is_file() for name in re.findall(r"configs/\S+\.yaml", launcher))
    argv = shlex.split(arguments)
    args, training_args, *_ = import_module(script).parse_arguments([*argv, "--use_cpu", "true"] if argv else [])
    assert args.dataset and training_args.output_dir


def test_every_command_is_found():
    assert len(COMMANDS) == GUIDE.count("accelerate launch") == 9


def test_options_that_the_prose_names_exist():
    from dataclasses import fields

    from transformers import TrainingArguments
    from trl import ModelConfig, SFTConfig

    from cell2text.training.arguments import Cell2TextArguments, MaskedGeneArguments

    classes = (Cell2TextArguments, MaskedGeneArguments, SFTConfig, ModelConfig, TrainingArguments)
    known = {field.name for kind in classes for field in fields(kind)}
    known |= {"config", "config_file", "help", "help_all", "model"}  # the last is `cell2text describe --model`
    assert set(re.findall(r"(?<![\w-])--([a-z]\w*)", GUIDE)) - {"no"} <= known


def test_a_lora_run_leaves_the_files_of_the_table(small_h5ad, tmp_path):
    run(tmp_path, dataset=[str(small_h5ad)], stage="lora", lora_r=2, max_steps=2, concept_pretraining_epochs=1)
    names = [
        name
        for row in re.findall(r"^\| (`.*?) \|", GUIDE.partition("## Your own")[0], re.M)
        for name in re.findall(r"`(.*?)`", row)
    ]
    assert len(names) == 9
    assert all((tmp_path / "out" / name).exists() for name in names), names

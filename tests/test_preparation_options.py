"""Options of `prepare` from Python, yaml files and the command line."""

from pathlib import Path

import pytest
import yaml

from cell2text.preparation.config import PrepareConfig

from .conftest import run_cli
from .preparation_runs import prepare_studies


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "some"}, "sampling='some': expected one of all, random, balanced, published"),
        ({"split": "batch"}, "split='batch': expected one of auto, donor, dataset"),
        ({"split": "named"}, "split='named' with 0 splits of named cells"),
        ({"named": {"test": ["a=b"]}}, "split='donor' with 1 splits of named cells"),
        ({"split": "named", "named": {"tset": ["a=b"]}}, "cells can be named for test and validation only"),
        ({"tasks": {"sing": 1.0}}, "tasks=sing: no task of this name. Expected describe"),
        ({"tasks": {"describe": 0.0}}, "expected none below 0 and one above 0"),
        ({"seed": "one"}, "seed='one': expected an integer"),
        ({"tasks": ["describe"]}, "tasks=\\['describe'\\]: expected a mapping of texts to numbers"),
        ({"cells_per_shard": 0}, "cells_per_shard=0: expected an integer from 1 to 65,536"),
        ({"ties": "random"}, "ties='random'"),
        ({"source": "census"}, "The Census takes no input files"),
        ({"workers": 0}, "workers=0: expected at least 1"),
        ({"gene_sets": "nothing.gmt"}, "Cannot read gene sets from nothing.gmt"),
        ({"gene_vocab": "nothing"}, "nothing"),
        ({"columns": {"assay": "nowhere"}}, "has no column 'nowhere' in obs, which columns= maps"),
        ({"gene_key": "nowhere"}, "gene_key='nowhere': adata.var has no such column"),
        ({"require": ["assay"]}, "No cell remains of 210: dropped"),
        ({"require": ["nope"]}, "require=nope: no metadata column of this name"),
        ({"columns": {"celltype": "x"}}, "columns=celltype: no metadata column of this name"),
        ({"max_genes": 0}, "max_genes=0: expected an integer of at least 8"),
        ({"n_cells": 2.5}, "n_cells=2.5: expected an integer"),
        ({"shares": {"train": 0.8, "test": float("nan")}}, "shares=.*: expected a mapping of texts to numbers"),
        ({"tasks": {"describe": "many"}}, "expected"),
        ({"broader_types": 1.5}, "broader_types=1.5: expected a number from 0 to 1"),
        ({"ties": "seeded"}, "seeded ties need a seed"),
        ({"gene_sets": None, "tasks": {"pathways": 1.0}}, "The task pathways needs gene sets"),
        ({"gene_vocab": "./nothing"}, "gene_vocab='./nothing' does not exist"),
    ],
)
def test_invalid_options_are_refused(options, message, studies, tmp_path):
    with pytest.raises((ValueError, OSError), match=message):
        prepare_studies(studies, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "report.json").exists()


def test_command_line_options_override_the_yaml_file(tmp_path):
    (tmp_path / "a.yaml").write_text("inputs: [x.h5ad]\nseed: 3\nsplit: random\n")
    config = PrepareConfig.from_yaml(tmp_path / "a.yaml", seed=4)
    assert (config.seed, config.split, config.inputs) == (4, "random", ["x.h5ad"])
    (tmp_path / "b.yaml").write_text("sed: 3\n")
    with pytest.raises(ValueError, match="options that do not exist: sed"):
        PrepareConfig.from_yaml(tmp_path / "b.yaml")
    with pytest.raises(ValueError, match="Cannot read the configuration"):
        PrepareConfig.from_yaml(tmp_path / "c.yaml")
    (tmp_path / "d.yaml").write_text("- a\n")
    with pytest.raises(ValueError, match="holds a list. Expected options"):
        PrepareConfig.from_yaml(tmp_path / "d.yaml")


def test_published_sampling_filters_as_published():
    config = PrepareConfig(inputs=["x"], sampling="published")
    assert config.require == ["cell_type", "tissue", "disease"] and "Smart-seq" in config.exclude_assays


def test_command_line_prints_a_summary_or_one_error(studies, tmp_path, capsys):
    options = ["--out", tmp_path / "out", "--quiet", "--split", "random"]
    assert run_cli("prepare", studies / "cells", *options, "--tasks", "describe=1,ask=2") == 0
    output = capsys.readouterr().out
    assert "210 rows (train 168" in output and "one: 60 of 60 cells, counts from X, 60 of 60 genes found in " in output
    assert run_cli("prepare", tmp_path / "none.h5ad", *options) == 2
    assert capsys.readouterr().err == f"cell2text: {tmp_path / 'none.h5ad'} does not exist.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "cells", "--tasks", "describe"], "--tasks describe: expected NAME=VALUE"),
        (["prepare", "cells", "--shares", "train=most"], "--shares train=most: expected NAME=VALUE, a number."),
        (["prepare"], "No input. Name h5ad files, zarr stores or folders."),
        (["vocab"], "No input. Name h5ad files, zarr stores or folders."),
        (["prepare", "cells", "--config", "nowhere.yaml"], "Cannot read the configuration nowhere.yaml"),
    ],
)
def test_wrong_usage_prints_one_line_and_exits_with_2(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run_cli(*arguments) == 2 and capsys.readouterr().err.startswith(f"cell2text: {message}")


def test_configs_prepare_yaml_lists_all_defaults():
    from dataclasses import asdict

    path = Path(__file__).resolve().parents[1] / "configs" / "prepare.yaml"
    written = yaml.safe_load(path.read_text())
    defaults = asdict(PrepareConfig(inputs=["x"]))
    assert {**defaults, **written, "primary_only": False} == defaults
    assert set(defaults) - set(written) == {"inputs", "census_version", "census_uri", "value_filter"}

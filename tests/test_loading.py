"""Loading a model: what is wrong with a folder is said before anything is loaded."""

import json
import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

import cell2text
from cell2text.errors import UserError
from cell2text.loading import check_model_folder

from .tiny import make_model, make_processor


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    processor = make_processor()
    make_model(processor=processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def without(saved, tmp_path, pattern):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    for path in folder.glob(pattern):
        path.unlink()
    return folder


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("config.json", "is a folder without config.json. Expected a saved Cell2Text model"),
        ("processor_config.json", "has no processor. Save it beside the model"),
        ("*.safetensors", "has no weights. Expected model.safetensors"),
    ],
)
def test_an_incomplete_folder_raises(saved, tmp_path, pattern, message):
    with pytest.raises(UserError, match=message):
        cell2text.load(without(saved, tmp_path, pattern))


def test_paths_that_are_not_models_raise(tmp_path):
    (tmp_path / "weights.bin").write_text("")
    cases = [
        (tmp_path / "nowhere", "does not exist. Expected a folder, or a Hub id"),
        (tmp_path / "weights.bin", "is a file"),
    ]
    for kind, content in (("llama", '{"model_type": "llama"}'), ("broken", "{"), ("list", "[]")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(content)
    cases += [
        (tmp_path / "llama", "is a model of type 'llama'. Expected type 'cell2text'"),
        (tmp_path / "broken", "config.json is not a configuration"),
        (tmp_path / "list", "config.json is not a configuration"),
    ]
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    cases.append((tmp_path / "adapter", "It holds a LoRA adapter: pass the folder of the whole model"))
    for path, message in cases:
        with pytest.raises(UserError, match=message):
            cell2text.load(path)


def test_a_name_that_is_neither_a_folder_nor_on_the_hub_raises():
    with pytest.raises(OSError, match="model='lab/none': no folder of this name, and the Hub does not provide it"):
        cell2text.load("lab/none")


def test_hub_ids_are_not_checked():
    check_model_folder("lab/model")
    check_model_folder(None)


def test_a_model_loads_in_evaluation_mode_without_a_progress_bar(saved, capfd):
    model, processor = cell2text.load(saved, device="cpu")
    assert not model.training and processor.num_cell_tokens == model.config.num_cell_tokens
    assert capfd.readouterr() == ("", "")


def test_progress_bars_of_the_caller_stay_on(saved):
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    before = are_progress_bars_disabled(), logging.is_progress_bar_enabled()
    cell2text.load(saved, device="cpu")
    assert (are_progress_bars_disabled(), logging.is_progress_bar_enabled()) == before


def damaged_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def damaged_config(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    for name, value in changes.items():
        part, _, key = name.rpartition("__")
        (content[part] if part else content)[key] = value
    path.write_text(json.dumps(content))


PROJECTOR = "model.projector.mlp.0.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: damaged_weights(folder, lambda w: w.pop(PROJECTOR)), rf"lacks weights \(1, first: {PROJECTOR}"),
        (
            lambda folder: damaged_weights(folder, lambda w: w.update(extra=w[PROJECTOR].clone())),
            "has unknown weights .*extra",
        ),
        (lambda folder: damaged_weights(folder, lambda w: w[PROJECTOR].fill_(float("nan"))), "not finite"),
        (lambda folder: damaged_weights(folder, lambda w: w[PROJECTOR].view(-1)[:1].fill_(float("inf"))), "not finite"),
        (
            lambda folder: damaged_weights(folder, lambda w: w.update({PROJECTOR: w[PROJECTOR][1:].clone()})),
            "cannot be loaded|misshapen",
        ),
        (lambda folder: os.truncate(folder / "model.safetensors", 5_000), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"{}" * 40), "cannot be loaded"),
        (lambda folder: damaged_config(folder, text_config__num_hidden_layers=10**7), "num_hidden_layers=10,000,000"),
        (lambda folder: damaged_config(folder, cell_config__vocab_size=10**12), "vocab_size="),
        (lambda folder: damaged_config(folder, text_config__hidden_size="wide"), "cannot be loaded"),
        (lambda folder: damaged_config(folder, cell_token_id=3), "tokenizer does not belong to the model"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be loaded"),
        (lambda folder: (folder / "chat_template.jinja").write_text("{% for"), "cannot be loaded"),
        (lambda folder: (folder / "chat_template.jinja").write_text("no cell"), "writes 0 placeholders"),
        (lambda folder: (folder / "gene_vocabulary.tsv").write_text("x"), "."),
        (lambda folder: (folder / "processor_config.json").write_text("[]"), "cannot be loaded"),
    ],
)
def test_a_damaged_model_is_refused_before_the_first_cell(saved, tmp_path, damage, message):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    damage(folder)
    with pytest.raises(UserError, match=message):
        cell2text.load(folder)


def test_other_devices_than_those_of_torch_are_refused(saved):
    with pytest.raises(UserError, match="is not a device. Expected cpu, cuda, or cuda:1"):
        cell2text.load(saved, device="banana")
    with pytest.raises(UserError, match="device='cuda:7' cannot be used|device='cuda:7'"):
        cell2text.load(saved, device="cuda:7")

"""Loading a model: what is wrong with a folder is said before anything is loaded."""

import shutil

import pytest

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

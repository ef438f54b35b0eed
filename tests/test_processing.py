"""The processor: placeholders, chat templates, padding, saving, and what raises."""

import json
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from processing_cell2text import DEFAULT_CHAT_TEMPLATE, Cell2TextProcessor

from .tiny import BLOCK_TEMPLATE, NO_SYSTEM_TEMPLATE, TEXT_TEMPLATE, make_processor, make_tokenizer, make_vocabulary


CELL = np.array([2, 10, 11, 3], dtype=np.uint16)
OTHER = np.array([2, 12, 3], dtype=np.uint16)


def chat(*cells, text="Describe this cell."):
    blocks = [{"type": "cell", "cell": cell} for cell in cells]
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": text}]}]


def test_a_placeholder_expands_to_num_cell_tokens(tiny_processor):
    inputs = tiny_processor(text="<cell> Describe.", cells=CELL, return_tensors="pt")
    assert (inputs["input_ids"] == tiny_processor.cell_token_id).sum() == tiny_processor.num_cell_tokens
    assert set(inputs) == set(tiny_processor.model_input_names)


def test_cells_are_padded_and_masked(tiny_processor):
    inputs = tiny_processor(
        text=["<cell><cell> Compare.", "<cell> Describe."], cells=[[CELL, OTHER], [OTHER]], return_tensors="pt"
    )
    assert inputs["cell_input_ids"].tolist() == [[[2, 10, 11, 3], [2, 12, 3, 0]], [[2, 12, 3, 0], [0, 0, 0, 0]]]
    assert inputs["cell_attention_mask"].tolist() == [[[1, 1, 1, 1], [1, 1, 1, 0]], [[1, 1, 1, 0], [0, 0, 0, 0]]]


def test_a_cell_without_genes_differs_from_an_empty_slot():
    processor = make_processor(specials=("<pad>", "<mask>"))
    mask = processor.pad_cells([[[], [5, 6]], [[7]]])["cell_attention_mask"]
    assert mask.tolist() == [[[1, 0], [1, 1]], [[1, 0], [0, 0]]]
    assert processor.is_empty([]) and not processor.is_empty([5])


def test_prompts_are_padded_on_the_left(tiny_processor):
    inputs = tiny_processor(text=["Describe this cell.", "A"], return_tensors="pt")
    assert inputs["attention_mask"][1, 0] == 0 and inputs["attention_mask"][1, -1] == 1


def test_a_call_chooses_the_padding_side(tiny_processor):
    texts = ["Describe this cell.", "A"]
    for options in ({"padding_side": "right"}, {"text_kwargs": {"padding_side": "right"}}):
        mask = tiny_processor(text=texts, return_tensors="pt", **options)["attention_mask"]
        assert mask[1, 0] == 1 and mask[1, -1] == 0


def test_a_given_tokenizer_is_left_unchanged():
    tokenizer = make_tokenizer(chat_template=None)
    tokenizer.pad_token, tokenizer.padding_side = None, "right"
    before = tokenizer.get_vocab()
    processor = Cell2TextProcessor.from_components(tokenizer, make_vocabulary())
    assert tokenizer.get_vocab() == before and tokenizer.padding_side == "right" and tokenizer.pad_token is None
    assert processor(text=["Describe this cell.", "A"], return_tensors="pt")["attention_mask"][1, 0] == 0


def test_an_anndata_supplies_one_cell_per_text(tiny_processor, tiny_adata):
    inputs = tiny_processor(text=["<cell> Describe."] * 12, cells=tiny_adata, return_tensors="pt")
    assert inputs["cell_input_ids"].shape == (12, 1, 32)


def test_truncated_cells_keep_their_closing_token(tiny_processor):
    ids = tiny_processor.pad_cells([[np.array([2, *range(4, 50), 3])]])["cell_input_ids"][0, 0]
    assert len(ids) == 32 and ids[0] == 2 and ids[-1] == 3 and ids[-2] == 33


@pytest.mark.parametrize(
    "template", [TEXT_TEMPLATE, BLOCK_TEMPLATE, DEFAULT_CHAT_TEMPLATE], ids=["text", "blocks", "plain"]
)
def test_chat_templates_with_and_without_blocks_render_the_same_text(template):
    processor = make_processor(template)
    text = processor.apply_chat_template(chat(CELL), add_generation_prompt=True)
    assert text.count("<cell>") == 1 and "Describe this cell." in text and "'type'" not in text
    inputs = processor.apply_chat_template(chat(CELL), tokenize=True, return_dict=True, return_tensors="pt")
    assert (inputs["input_ids"] == processor.cell_token_id).sum() == 5 and inputs["cell_input_ids"].shape == (1, 1, 4)


def test_chats_of_a_batch_may_hold_zero_one_or_several_cells(tiny_processor):
    inputs = tiny_processor.apply_chat_template(
        [chat(), chat(CELL), chat(CELL, OTHER)], tokenize=True, return_dict=True, return_tensors="pt"
    )
    found = (inputs["input_ids"] == tiny_processor.cell_token_id).sum(-1)
    assert found.tolist() == [0, 5, 10] and inputs["cell_attention_mask"].any(-1).sum(-1).tolist() == [0, 1, 2]


def test_a_chat_without_cells_needs_none(tiny_processor):
    inputs = tiny_processor.apply_chat_template(chat(), tokenize=True, return_dict=True, return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask"}


def test_a_template_without_system_role_gets_the_system_message_in_the_first_one():
    processor = make_processor(NO_SYSTEM_TEMPLATE)
    text = processor.apply_chat_template(processor.conversation())
    assert processor.system_prompt in text and text.count("<|im_start|>") == 1
    assert make_processor().apply_chat_template(processor.conversation()).count("<|im_start|>") == 2


def test_an_empty_system_prompt_adds_no_message(tiny_processor):
    tiny_processor.system_prompt = ""
    assert [message["role"] for message in tiny_processor.conversation()] == ["user"]


def test_assistant_masks_account_for_expanded_placeholders(tiny_processor):
    messages = [*chat(CELL), {"role": "assistant", "content": "A B cell."}]
    inputs = tiny_processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = np.array(inputs["input_ids"][0]), np.array(inputs["assistant_masks"][0], dtype=bool)
    assert tiny_processor.tokenizer.decode(ids[mask]) == "A B cell.<|im_end|>"


def test_a_saved_processor_loads_unchanged(tiny_processor, tmp_path):
    tiny_processor.instruction = "Which tissue?"
    tiny_processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, Cell2TextProcessor) and loaded.to_dict() == tiny_processor.to_dict()
    assert loaded.gene_vocabulary.fingerprint == tiny_processor.gene_vocabulary.fingerprint
    first, second = (p.apply_chat_template(p.conversation(), tokenize=True) for p in (tiny_processor, loaded))
    assert first == second
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".pkl", ".pickle", ".bin")]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"local_files_only": True, "revision": "main"},
        {"cache_dir": "cache", "trust_remote_code": True, "token": "hf_x"},
    ],
    ids=["plain", "local", "remote"],
)
@pytest.mark.parametrize("given", ["object", "folder"])
def test_a_saved_processor_loads_and_saves_as_the_same_bytes(given, options, tmp_path):
    tokenizer = make_tokenizer()
    if given == "folder":
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        tokenizer = tmp_path / "tokenizer"
    processor = Cell2TextProcessor.from_components(tokenizer, make_vocabulary(), num_cell_tokens=5)
    processor.save_pretrained(tmp_path / "first")
    loaded = AutoProcessor.from_pretrained(tmp_path / "first", **options)
    loaded.save_pretrained(tmp_path / "second")
    first, second = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("first", "second")
    )
    assert first == second
    assert not re.search(rb"local_files_only|is_local|hf_x|/tmp", first["tokenizer_config.json"])


def test_the_tokenizer_of_the_packaged_model_holds_no_load_arguments():
    config = json.loads(files("cell2text.models").joinpath("mini/tokenizer_config.json").read_text())
    assert not {"local_files_only", "is_local", "name_or_path", "trust_remote_code"} & set(config)


def test_the_vocabulary_is_pushed_with_the_processor(tiny_processor, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(
        Cell2TextProcessor, "push_to_hub", lambda self, *names, **options: pushed.append((names, options))
    )
    written = tiny_processor.save_pretrained(tmp_path / "model", push_to_hub=True, private=True)
    assert pushed == [(("model",), {"private": True})]
    assert {Path(file).name for file in written} >= {"processor_config.json", "gene_vocabulary.tsv", "gene_aliases.tsv"}


def test_special_tokens_of_the_tokenizer_are_kept(tiny_processor):
    assert set(tiny_processor.tokenizer.extra_special_tokens) == {"<|im_start|>", "<cell>"}


def test_a_tokenizer_without_template_or_padding_token_gets_both():
    tokenizer = make_tokenizer(chat_template=None)
    tokenizer.pad_token = None
    processor = Cell2TextProcessor.from_components(tokenizer, make_vocabulary())
    assert processor.tokenizer.pad_token == "<|im_end|>"
    assert (
        processor.apply_chat_template(chat(CELL), add_generation_prompt=True)
        == "user:\n<cell>Describe this cell.\nassistant:\n"
    )


def test_truncated_placeholders_raise_with_the_length_they_need(tiny_processor):
    text = "<cell><cell> Compare these."
    needed = len(tiny_processor(text=text)["input_ids"][0])
    with pytest.raises(ValueError, match=f"max_length=8 cut the prompt: 8 of 10 <cell> tokens.*at least {needed}"):
        tiny_processor(text=text, cells=[[CELL, OTHER]], truncation=True, max_length=8)
    assert (
        len(tiny_processor(text=text, cells=[[CELL, OTHER]], truncation=True, max_length=needed)["input_ids"][0])
        == needed
    )


@pytest.mark.parametrize(
    ("texts", "cells", "message"),
    [
        pytest.param(
            ["<cell><cell>"], [[CELL]], r"\[2\] <cell> placeholders but came with \[1\] cells", id="missing_cell"
        ),
        pytest.param(
            ["text"], [[CELL]], r"\[0\] <cell> placeholders but came with \[1\] cells", id="missing_placeholder"
        ),
        pytest.param(
            ["<cell>", "<cell>"], [[CELL]], r"\[1, 1\] <cell> placeholders but came with \[1\]", id="missing_row"
        ),
        pytest.param(
            ["<cell>"], [[np.array([2, 99, 3])]], "token 99, but the vocabulary has 64 tokens", id="other_vocabulary"
        ),
    ],
)
def test_cells_that_do_not_match_the_text_raise(tiny_processor, texts, cells, message):
    with pytest.raises(ValueError, match=message):
        tiny_processor(text=texts, cells=cells)


def test_empty_calls_images_and_unknown_blocks_raise(tiny_processor):
    with pytest.raises(ValueError, match="Pass text, cells or both"):
        tiny_processor()
    with pytest.raises(ValueError, match="reads text and cells, but got images"):
        tiny_processor(text="A", images=[1])
    with pytest.raises(ValueError, match="block of type 'image'"):
        tiny_processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}])


def test_a_tokenizer_without_the_placeholder_raises():
    with pytest.raises(ValueError, match="does not know the placeholder '<cell>'"):
        Cell2TextProcessor(make_tokenizer())


def test_a_processor_without_a_vocabulary_raises(tmp_path):
    processor = make_processor()
    processor.gene_vocabulary = None
    with pytest.raises(ValueError, match="has no gene vocabulary"):
        processor.rank_encode(None)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="No gene vocabulary in"):
        Cell2TextProcessor.from_pretrained(tmp_path)


def test_torch_and_numpy_agree(tiny_processor):
    arrays, tensors = (tiny_processor.pad_cells([[CELL]], return_tensors=kind) for kind in (None, "pt"))
    assert all(torch.equal(torch.from_numpy(arrays[name]), tensors[name]) for name in arrays)
    padded = tiny_processor.pad_cells([[CELL]], pad_to_multiple_of=8)
    assert padded["cell_input_ids"].shape == (1, 1, 8)

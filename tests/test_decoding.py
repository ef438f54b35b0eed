"""Greedy decoding: a cache that grows in place, and drafts that are verified; neither changes a text."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache

import cell2text
from cell2text.errors import UserError
from cell2text.language.parsing import read_fields
from decoding_cell2text import CompiledDecoder, DraftTable, InPlaceLayer
from generation_cell2text import SHARED_STATEMENTS, CellTextGenerator, encode_cells
from grammar_cell2text import pathway_words, with_article
from statements_cell2text import NONE_REPLACED

from .tiny import make_adata, make_model, make_processor


@pytest.fixture(scope="module")
def packaged():
    model, processor = cell2text.load()
    cells = processor.rank_encode(cell2text.example_cells(unseen=True))
    return model, processor, cells[::5]


@pytest.fixture(scope="module")
def encoded(packaged):
    model, processor, cells = packaged
    return encode_cells(model, processor, [[cell] for cell in cells])


class Silent(DraftTable):
    """Drafts nothing."""

    def propose(self, texts, finished, limit):
        return [[] for _ in texts]


def passes(monkeypatch, model) -> list[int]:
    """Collect the number of tokens of every pass through the language model."""
    lengths, forward = [], model.forward

    def counted(*args, **kwargs):
        lengths.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", counted)
    return lengths


def decoder_of(model, processor, drafts=None, **options):
    decoder = CellTextGenerator(model, processor, **options).decoder
    decoder.drafts = decoder.drafts if drafts is None else drafts
    return decoder


def test_drafts_of_earlier_texts_save_passes_and_leave_texts_as_they_are(packaged, encoded, monkeypatch):
    model, processor, _ = packaged
    plain = decoder_of(model, processor, Silent())
    expected = plain(encoded.features, encoded.mask)
    lengths = passes(monkeypatch, model)
    plain(encoded.features, encoded.mask)
    without, decoder = len(lengths), decoder_of(model, processor)
    decoder(encoded.features[:20], encoded.mask[:20])
    lengths.clear()
    found = decoder(encoded.features, encoded.mask)
    assert found.tokens == expected.tokens and len(lengths) < 0.8 * without and max(lengths[1:]) > 5
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-4)


def test_wrong_drafts_change_nothing(packaged, encoded):
    model, processor, _ = packaged
    expected = decoder_of(model, processor, Silent())(encoded.features, encoded.mask)
    decoder, tokens = decoder_of(model, processor), expected.tokens
    decoder.drafts.learn([[*text[: len(text) // 2], *reversed(text[len(text) // 2 :])] for text in tokens])
    assert decoder(encoded.features, encoded.mask).tokens == tokens


@pytest.fixture
def eager_compilation(monkeypatch):
    """Compilation without code generation, which takes a minute on a CPU; shapes and graphs are checked all the same."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda step, mode, dynamic: compile_(step, backend="eager", dynamic=dynamic))


def test_compiled_steps_write_the_same_texts(packaged, encoded, eager_compilation):
    model, processor, _ = packaged
    expected = decoder_of(model, processor, Silent())(encoded.features[:12], encoded.mask[:12])
    decoder = CellTextGenerator(model, processor, compiled=True).decoder
    found = decoder(encoded.features[:12], encoded.mask[:12])
    assert type(decoder) is CompiledDecoder and found.tokens == expected.tokens
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-3)
    cache = decoder._cache
    assert decoder(encoded.features[5:9], encoded.mask[5:9]).tokens == expected.tokens[5:9]  # a smaller batch
    assert decoder._cache is cache, "a smaller batch needs no new cache, and no new compilation"


def test_options_that_look_at_earlier_tokens_are_decoded_without_compilation(packaged, encoded):
    model, processor, _ = packaged
    options = {"repetition_penalty": 1.3, "max_new_tokens": 6}
    expected = decoder_of(model, processor, **options)(encoded.features[:3], encoded.mask[:3])
    decoder = CellTextGenerator(model, processor, compiled=True, **options).decoder
    assert decoder(encoded.features[:3], encoded.mask[:3]).tokens == expected.tokens and decoder._cache is None


def test_describe_compiles_on_request(eager_compilation):
    plain, compiled = (cell2text.example_cells(unseen=True)[:4].copy() for _ in range(2))
    cell2text.tl.describe(plain)
    cell2text.tl.describe(compiled, compile=True)
    assert plain.obs["cell2text"].tolist() == compiled.obs["cell2text"].tolist()
    assert plain.uns["cell2text"]["params"] == compiled.uns["cell2text"]["params"]


@pytest.mark.parametrize("limit", [1, 2, 9, 40])
def test_no_text_is_longer_than_its_limit(packaged, encoded, limit):
    model, processor, _ = packaged
    expected = decoder_of(model, processor, Silent(), max_new_tokens=limit)(encoded.features, encoded.mask).tokens
    decoder = decoder_of(model, processor, max_new_tokens=limit)
    for _ in range(2):  # the second time with drafts
        found = decoder(encoded.features, encoded.mask).tokens
        assert found == expected and max(map(len, found)) <= limit


@pytest.mark.parametrize("options", [{"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}, {"min_new_tokens": 5}])
@pytest.mark.parametrize("text", ["llama", "gemma3"])
def test_texts_equal_those_of_generate_where_nothing_can_be_drafted(options, text):
    processor = make_processor()
    model = make_model(processor=processor, text=text)
    cells = processor.rank_encode(make_adata(6))
    decoder = decoder_of(model, processor, max_new_tokens=12, **options)
    features = encode_cells(model, processor, [[cell] for cell in cells])
    inputs = processor.apply_chat_template(
        [processor.conversation()] * len(cells), tokenize=True, return_dict=True, return_tensors="pt",
        add_generation_prompt=True, processor_kwargs={"cells": [[cell] for cell in cells]},
    )  # fmt: skip
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=12, **options)[:, inputs["input_ids"].shape[1] :]
    for _ in range(2):
        found = decoder(features.features, features.mask).tokens
        assert found == [row[: len(text)] for row, text in zip(ids.tolist(), found)]


def test_a_layer_that_grows_in_place_holds_what_a_dynamic_one_holds():
    torch.manual_seed(0)
    grown, plain = DynamicCache(), DynamicCache()
    grown.layers = [InPlaceLayer()]
    for step, length in enumerate([5, 1, 70, 1, 3]):
        keys, values = torch.randn(2, len(range(4 - (step > 2))), 2, length, 8).unbind(0)
        states = [cache.update(keys, values, 0) for cache in (grown, plain)]
        for mine, theirs in zip(*states):
            assert torch.equal(mine, theirs)
        if step == 2:
            for cache in (grown, plain):
                cache.batch_select_indices(torch.tensor([0, 2, 3]))
        if step == 3:
            for cache in (grown, plain):
                cache.crop(-2)
    assert grown.get_seq_length() == plain.get_seq_length() == 78


def test_a_draft_ends_where_texts_have_differed():
    drafts = DraftTable()
    drafts.learn([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 7, 8]])
    assert drafts.propose([[], [1, 2]], np.zeros(2, dtype=bool), 99) == [
        [1, 2, 3],
        [3, 4],
    ]  # the median of four and two
    assert drafts.propose([[1, 2, 3, 4, 7]], np.zeros(1, dtype=bool), 99) == [[8]]
    assert drafts.propose([[1, 2], [9, 9, 9]], np.array([False, True]), 3) == [[], []]


def test_cells_share_texts_and_keep_the_digits_and_the_order_of_their_own(packaged):
    model, processor, cells = packaged
    generator = CellTextGenerator(model, processor)
    together = generator([[cell] for cell in cells])
    assert len(generator._known) <= len(set(together.texts)) < len(cells)
    backwards = CellTextGenerator(model, processor)([[cell] for cell in cells[::-1]])
    assert backwards.texts[::-1] == together.texts
    alone = [CellTextGenerator(model, processor)([[cell]]).texts[0] for cell in cells[:8]]
    assert alone == together.texts[:8]
    digits = [text.partition(" (0.")[2][:2] for text in together.texts if " (0." in text]
    assert len(set(digits)) > 1
    assert generator([[cell] for cell in cells]).steps == 0  # all texts are known


ACTIVE = "Its most active pathways are apoptosis and hypoxia."


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("This cell is {}. " + ACTIVE, True),
        ("This cell is {}. Its likelihood is 0.60. " + ACTIVE, False),
        ("This cell is {}. It is short of oxygen, {placeholder}. " + ACTIVE, False),
        ("This cell is {}.", False),
        ("This cell is a nobody. " + ACTIVE, False),
        ("It has {placeholder}.", False),
    ],
)
def test_a_text_that_placeholders_shape_is_decoded_from_the_cells_own_statement(packaged, monkeypatch, text, shared):
    model, processor, cells = packaged
    generator, statements = CellTextGenerator(model, processor), []
    firsts = [placeholders.pathways[0] for placeholders in generator._placeholders[:-1]]
    placeholder = " and ".join(pathway_words(generator.pathway_names[first]).title() for first in firsts)
    names = model.config.concept_groups["cell_type"]

    def decode(encoded, generated):
        statements.append(encoded)
        named = [names[row.argmax()] for row in encoded[:, 0, : len(names)]]
        return [(text.format(with_article(name), placeholder=placeholder), 1.0) for name in named]

    monkeypatch.setattr(generator, "_decode_statements", decode)
    described = generator([[cell] for cell in cells])
    assert len(statements) == (1 if shared else SHARED_STATEMENTS + 1)
    if not shared:
        written = described.confidence == 1.0
        concepts = generator.model.config.concepts.join(
            {group: torch.as_tensor(values[written]) for group, values in described.concepts.items()}
        )
        assert torch.equal(statements[-1], generator.statements.encode(concepts[:, None]))


def test_a_model_with_adapters_shares_texts(packaged):
    _, processor, cells = packaged
    model, _ = cell2text.load()
    texts = CellTextGenerator(model, processor)([[cell] for cell in cells]).texts
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert CellTextGenerator(adapted, processor)([[cell] for cell in cells]).texts == texts


def test_shared_texts_say_what_texts_of_the_cells_own_statements_say(packaged, monkeypatch):
    model, processor, cells = packaged
    prompts = [[cell] for cell in cells]
    shared = CellTextGenerator(model, processor)
    texts = shared(prompts).texts
    alone = CellTextGenerator(model, processor)
    monkeypatch.setattr(alone, "_placeholders", [NONE_REPLACED])
    assert [read_fields(text) for text in texts] == [read_fields(text) for text in alone(prompts).texts]
    assert len(shared._known) < len(alone._known)
    assert len({read_fields(text).pathways for text in texts}) > len(shared._known) / 2


def test_cells_of_a_table_are_summarised_without_states_of_genes(packaged):
    model, processor, cells = packaged
    batch = {name: torch.as_tensor(value) for name, value in processor.pad_cells([[c] for c in cells]).items()}
    with torch.no_grad():
        outputs = model.get_cell_features(**batch)
    summary, mask = model.summarise_cells(**batch), batch["cell_attention_mask"][..., None]
    assert model.looks_genes_up
    torch.testing.assert_close(summary.features, outputs.pooler_output, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(summary.concepts, outputs.concepts, atol=1e-5, rtol=1e-4)
    means = (outputs.last_hidden_state * mask).sum(2) / mask.sum(2)
    torch.testing.assert_close(summary.means, means, atol=1e-5, rtol=1e-4)


def test_the_table_follows_the_weights_and_other_encoders_have_none():
    model, processor = cell2text.load()
    cells = processor.pad_cells([[cell] for cell in processor.rank_encode(cell2text.example_cells(unseen=True)[:3])])
    batch = {name: torch.as_tensor(value) for name, value in cells.items()}
    before = model.summarise_cells(**batch).means
    with torch.no_grad():
        model.model.cell_encoder.embeddings.LayerNorm.weight.mul_(2)
        model.model.cell_encoder.embeddings.LayerNorm.bias.mul_(2)
    torch.testing.assert_close(model.summarise_cells(**batch).means, 2 * before, atol=1e-5, rtol=1e-4)
    assert not model.train().looks_genes_up and not make_model(processor=make_processor()).looks_genes_up


def test_bfloat16_changes_no_type_and_no_probability():
    plain, small = (cell2text.example_cells(unseen=True)[:40].copy() for _ in range(2))
    cell2text.tl.describe(plain)
    cell2text.tl.describe(small, bf16=True)
    columns = [name for name in plain.obs if name.startswith("cell2text_")]
    assert plain.obs[columns].equals(small.obs[columns])
    model, _ = cell2text.load(bf16=True)
    assert {weight.dtype for weight in model.get_decoder().parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in model.model.projector.parameters()} == {torch.float32}


def test_bfloat16_is_refused_for_a_model_that_is_loaded(packaged):
    model, processor, _ = packaged
    with pytest.raises(UserError, match=r"Load it with cell2text\.load\(bf16=True\)"):
        cell2text.tl.describe(cell2text.example_cells(unseen=True)[:2].copy(), (model, processor), bf16=True)

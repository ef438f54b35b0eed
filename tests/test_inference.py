"""Texts and embeddings of many cells: equal to `generate`, whatever the batches, and prompts of every kind."""

import json

import anndata as ad
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

from cell2text.inference import embedding, generation
from cell2text.inference.batch_size import MAX_GENE_TOKENS, MAX_PROMPTS, gene_tokens_that_fit, prompts_that_fit
from cell2text.inference.cell_types import CellTypes
from cell2text.inference.embedding import embed_cells
from cell2text.inference.generation import BatchedTextGenerator, generate_with_sharded_model
from cell2text.inference.probabilities import type_probabilities
from cell2text.inference.prompts import build_conversation
from cell2text.language.fields import Claim
from concepts_cell2text import ConceptNames
from declining_cell2text import EMPTY_CELL_TEXT
from generation_cell2text import CellTextGenerator, encode_cells
from statements_cell2text import TypeHierarchy

from .describing import N_CELLS, experiment, model  # noqa: F401
from .tiny import make_adata, make_model, make_processor


@pytest.fixture
def loaded(model):
    return AutoModel.from_pretrained(model).eval(), AutoProcessor.from_pretrained(model)


def generate(loaded, processor, cells, **options):
    inputs = processor.apply_chat_template(
        [processor.conversation()] * len(cells), tokenize=True, return_dict=True, return_tensors="pt",
        add_generation_prompt=True, processor_kwargs={"cells": [[cell] for cell in cells]},
    )  # fmt: skip
    return inputs, loaded.generate(**inputs, do_sample=False, **options)


def test_texts_equal_those_of_generate_and_ended_rows_cost_no_steps(loaded):
    model, processor = loaded
    cells = processor.rank_encode(make_adata(N_CELLS))
    generated = CellTextGenerator(model, processor, max_new_tokens=12)([[cell] for cell in cells])
    inputs, ids = generate(model, processor, cells, max_new_tokens=12)
    completions = ids[:, inputs["input_ids"].shape[1] :]
    expected = [processor.tokenizer.decode(row, skip_special_tokens=True).strip() for row in completions]
    assert generated.texts == expected and len({len(text) for text in expected}) > 3
    steps_without_removal = len(cells) * completions.shape[1]
    assert generated.useful <= generated.steps < steps_without_removal
    assert ((generated.confidence > 0) & (generated.confidence <= 1)).all()


def test_confidence_is_the_probability_of_the_text(loaded):
    model, processor = loaded
    cell = processor.rank_encode(make_adata(1))[0]
    inputs, outputs = generate(
        model, processor, [cell], max_new_tokens=6, output_scores=True, return_dict_in_generate=True
    )
    completion = outputs.sequences[0, inputs["input_ids"].shape[1] :]
    log_probabilities = [score[0].log_softmax(-1)[token].item() for score, token in zip(outputs.scores, completion)]
    confidence = CellTextGenerator(model, processor, max_new_tokens=6)([[cell]]).confidence[0]
    assert confidence == pytest.approx(np.exp(np.sum(log_probabilities)), rel=1e-4)


def test_a_concept_model_returns_concept_probabilities_and_nan_for_empty_cells():
    processor = make_processor()
    model = make_model("concepts", processor=processor)
    cells = processor.rank_encode(make_adata(5))
    generator = CellTextGenerator(model, processor, genes_at_once=len(cells[0]), max_new_tokens=2)
    concepts = generator([[cells[0]], [cells[1][:0]], [cells[2]]]).concepts
    batch = processor.pad_cells([[cells[0]], [cells[2]]], return_tensors="pt")
    for group, expected in model.get_cell_concepts(**batch).items():
        np.testing.assert_allclose(concepts[group][[0, 2]], expected[:, 0].detach(), rtol=1e-4)
        assert np.isnan(concepts[group][1]).all()
    empty = generator([[cells[1][:0]]]).concepts  # no cell of the batch has counts
    assert empty.keys() == concepts.keys() and all(np.isnan(values).all() for values in empty.values())
    assert all(empty[group].shape == (1, concepts[group].shape[1]) for group in concepts)


def override_pathways(model, n: int, *shape: int) -> np.ndarray:
    """Overrides of n cells that all differ: pathways A, B or C by turns, every other concept predicted."""
    rows = [model.encode_concepts(pathways=["ABC"[i % 3]]).numpy().ravel() for i in range(n)]
    return np.stack(rows).reshape(n, *shape, -1)


def test_concept_overrides_replace_predictions_of_each_prompt_in_batches_of_any_size():
    processor = make_processor()
    model = make_model("concepts", processor=processor)
    cells = processor.rank_encode(make_adata(7))
    cells = [cells[0], cells[1][:4], cells[2][:0], *(cell[: 9 - i] for i, cell in enumerate(cells[3:]))]
    overrides = override_pathways(model, len(cells))
    single = [
        CellTextGenerator(model, processor, max_new_tokens=6)([[cell]], row[None, None])
        for cell, row in zip(cells, overrides)
    ]
    generated = BatchedTextGenerator(model, processor, batch_size=3, max_new_tokens=6)(cells, overrides)
    assert generated.texts == [one.texts[0] for one in single]
    assert generated.texts != BatchedTextGenerator(model, processor, batch_size=3, max_new_tokens=6)(cells).texts
    pathways = generated.concepts["pathways"]
    assert [np.eye(3)[i % 3].tolist() for i in (0, 1, 3, 4, 5, 6)] == pathways[[0, 1, 3, 4, 5, 6]].tolist()
    assert np.isnan(pathways[2]).all()  # the cell without counts
    kept = BatchedTextGenerator(model, processor, batch_size=3, max_new_tokens=6)(cells).concepts["cell_type"]
    np.testing.assert_allclose(generated.concepts["cell_type"], kept, rtol=1e-4)


def test_comparisons_override_the_concepts_of_both_cells():
    processor = make_processor()
    model = make_model("concepts", processor=processor)
    cells, chat = processor.rank_encode(make_adata(3)), processor.conversation(2)
    overrides = override_pathways(model, 3)
    batched = BatchedTextGenerator(
        model, processor, chat, comparison_cell=cells[2], comparison_overrides=overrides[2], max_new_tokens=8
    )
    pairs = np.stack([overrides, np.broadcast_to(overrides[2], overrides.shape)], axis=1)
    alone = CellTextGenerator(model, processor, chat, max_new_tokens=8)
    expected = alone([[cell, cells[2]] for cell in cells], pairs).texts
    assert batched(cells, overrides).texts == expected
    pairs[:, 1] = np.nan
    assert expected != alone([[cell, cells[2]] for cell in cells], pairs).texts  # the second cell counts


def test_concept_overrides_of_another_shape_are_refused():
    processor = make_processor()
    model = make_model("concepts", processor=processor)
    cells = processor.rank_encode(make_adata(2))
    with pytest.raises(ValueError, match=r"the shape \(2, 5\): expected \(2, 1, 5\), which is \(prompts, cells per"):
        CellTextGenerator(model, processor)([[cell] for cell in cells], np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"the shape \(1, 5\): expected \(cells, concepts\), \(2, 5\)"):
        BatchedTextGenerator(model, processor)(cells, np.zeros((1, 5)))


def test_type_probabilities_follow_the_named_type_and_its_label():
    claims = [Claim("t cells", "CL:0000084"), Claim("T cell"), Claim("neuron", "CL:0000540"), None]
    concepts = np.array([[0.1, 0.9], [0.7, 0.3], [1, 0], [0, 1]])
    found = type_probabilities(claims, ["B cell", "T cell"], concepts)
    np.testing.assert_allclose(found, [0.9, 0.3, np.nan, np.nan], rtol=1e-6)


@pytest.mark.parametrize("text", ["llama", "gemma3", "qwen3"])
def test_caching_the_prompt_prefix_does_not_change_texts(text):
    processor = make_processor()
    model = make_model(processor=processor, text=text)
    cells = [[cell] for cell in processor.rank_encode(make_adata(4))]
    cached = CellTextGenerator(model, processor, max_new_tokens=8)
    assert cached.decoder.n_shared > 5
    uncached = CellTextGenerator(model, processor, max_new_tokens=8)
    uncached.decoder.n_shared = 0
    assert cached(cells).texts == uncached(cells).texts == cached(cells).texts


def test_many_cells_keep_their_order_and_empty_cells_get_an_explanation(loaded):
    model, processor = loaded
    cells = processor.rank_encode(make_adata(7))
    cells = [cells[0], cells[1][:4], cells[2][:0], *(cell[: 3 + i] for i, cell in enumerate(cells[3:]))]
    single = [CellTextGenerator(model, processor, max_new_tokens=6)([[cell]]) for cell in cells]
    generated = BatchedTextGenerator(model, processor, batch_size=3, max_new_tokens=6)(cells)
    assert generated.texts == [one.texts[0] for one in single] and generated.texts[2] == EMPTY_CELL_TEXT
    embeddings = np.concatenate([one.embeddings for one in single])
    np.testing.assert_allclose(generated.embeddings, embeddings, atol=1e-5)
    np.testing.assert_allclose(embed_cells(model, processor, cells), embeddings, atol=1e-5)
    assert (embeddings[2] == 0).all() and np.isnan(generated.confidence[2])
    none = BatchedTextGenerator(model, processor, max_new_tokens=6)([])
    assert none.texts == [] and none.embeddings.shape == embed_cells(model, processor, []).shape == (0, 32)


def test_batch_sizes_follow_the_free_memory_and_texts_do_not(loaded, experiment, monkeypatch):
    fresh = make_model(processor=make_processor())
    prompts = [prompts_that_fit(fresh, 200, free) for free in (0, 2**22, 2**24, 2**40)]
    genes = [gene_tokens_that_fit(fresh, 64, free) for free in (0, 2**22, 2**40)]
    assert prompts[0] == 1 < prompts[1] < prompts[2] <= prompts[3] == MAX_PROMPTS["cpu"]
    assert all(n & (n - 1) == 0 for n in prompts)
    assert genes[0] == 1 < genes[1] < genes[2] == MAX_GENE_TOKENS["cpu"]
    assert prompts_that_fit(fresh, 2_000, 2**24) < prompts[2]  # longer texts need more memory
    model, processor = loaded
    cells = processor.rank_encode(ad.read_h5ad(experiment))
    texts, sizes = [], []
    for free in (2**40, 2**18):
        monkeypatch.setattr(generation, "free_memory", lambda _, free=free: free)
        generator = BatchedTextGenerator(model, processor, max_new_tokens=10)
        sizes.append(generator.batches.batch_size)
        texts.append(generator(cells).texts)
    assert sizes[0] > sizes[1] and texts[0] == texts[1]


def test_running_out_of_memory_halves_the_batch(loaded, monkeypatch):
    model, processor = loaded
    cells = processor.rank_encode(make_adata(9))
    expected = BatchedTextGenerator(model, processor, batch_size=8, max_new_tokens=6)(cells)

    def small_generate(self, prompts, concept_overrides=None, real=CellTextGenerator.__call__):
        if len(prompts) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, prompts, concept_overrides)

    def small_encode(model, processor, prompts, genes_at_once=None):
        if len(prompts) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode_cells(model, processor, prompts, genes_at_once)

    monkeypatch.setattr(CellTextGenerator, "__call__", small_generate)
    monkeypatch.setattr(embedding, "encode_cells", small_encode)
    generator = BatchedTextGenerator(model, processor, batch_size=8, max_new_tokens=6)
    before = generator.batches.gene_tokens
    assert generator(cells).texts == expected.texts
    assert (generator.batches.batch_size, generator.batches.gene_tokens) == (2, before // 4)
    np.testing.assert_allclose(embed_cells(model, processor, cells), expected.embeddings, atol=1e-5)


def test_memory_too_small_for_one_cell_raises(loaded, monkeypatch):
    def never(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(CellTextGenerator, "__call__", never)
    with pytest.raises(torch.OutOfMemoryError):
        BatchedTextGenerator(*loaded, batch_size=4)([[5, 6]])


def test_a_sharded_model_generates_the_texts_of_the_whole_model(tiny_model, tiny_processor):
    cells = [*tiny_processor.rank_encode(make_adata(5)), np.array([], dtype=np.uint16)]
    expected = BatchedTextGenerator(tiny_model, tiny_processor, batch_size=2, max_new_tokens=6)(cells).texts
    found = generate_with_sharded_model(tiny_model, tiny_processor, cells, batch_size=2, max_new_tokens=6)
    assert found == expected and found[-1] == EMPTY_CELL_TEXT


def test_a_prompt_is_a_question_a_task_or_a_conversation_file(tmp_path):
    processor = make_processor()

    def instruction(prompt=None, **options):
        return build_conversation(processor, prompt, **options)[-1]["content"][-1]["text"]

    assert instruction("Which tissue?") == "Which tissue?" and instruction() == processor.instruction
    assert instruction("annotate") == "Name the cell type of this cell. Answer with the name alone."
    assert instruction("ask:tissue") == "Which tissue is this cell from?"
    assert instruction(compare_to="c3") == "Describe the differences and similarities of these two cells."
    chat = tmp_path / "chat.json"
    chat.write_text(json.dumps([{"role": "user", "content": [{"type": "cell"}, {"type": "text", "text": "Well?"}]}]))
    assert instruction(str(chat)) == "Well?"
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("[")
    for prompt, options, message in [
        ("compare", {}, "needs a cell to compare to: pass compare_to=NAME"),
        ("ask:age", {}, "prompt='ask:age': expected ask: followed by one of cell_type"),
        (" ", {}, "prompt=' ' is empty"),
        ("nowhere.json", {}, "does not exist"),
        (str(tmp_path / "list.json"), {}, "holds no conversation"),
        (str(tmp_path / "broken.json"), {}, "is not valid JSON"),
        (str(chat), {"compare_to": "c3"}, "holds 1 cell blocks: expected 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            build_conversation(processor, prompt, **options)


HIERARCHY = ["cell", "leukocyte", "T cell", "mature T cell", "CD8-positive, alpha-beta T cell",
             "CD4-positive, alpha-beta T cell", "B cell", "cluster 7"]  # fmt: skip
T_CELL = Claim("T cell", "CL:0000084")
CD8, CD4 = "CD8-positive, alpha-beta T cell", "CD4-positive, alpha-beta T cell"


@pytest.mark.parametrize(
    ("claim", "probabilities", "expected"),
    [
        (T_CELL, (1, 1, 0.97, 0.9, 0.62, 0.31, 0.02, 0), [(CD8, 0.62), (CD4, 0.31)]),
        (T_CELL, (1, 1, 0.97, 0.9, 0.3, 0.3, 0.02, 0), [("mature T cell", 0.9), (CD8, 0.3), (CD4, 0.3)]),
        (T_CELL, (1, 1, 0.97, 0.04, 0.03, 0.01, 0.02, 0), []),
        (None, (1, 0.9, 0.4, 0.4, 0.3, 0.05, 0.5, 0), [("B cell", 0.5), (CD8, 0.3), (CD4, 0.05)]),
        (None, (1, 0.9, 0.3, 0.2, 0.02, 0.05, 0.05, 0.4), [("leukocyte", 0.9), ("cluster 7", 0.4), ("mature T cell", 0.2)]),
        (Claim(CD8, "CL:0000625"), (1,) * 8, []),
        (Claim("unknown cell"), (1,) * 8, []),
        (None, (np.nan,) * 8, []),
    ],
)  # fmt: skip
def test_candidates_are_the_most_probable_types_below_the_named_one(claim, probabilities, expected):
    types = CellTypes(ConceptNames({"cell_type": HIERARCHY}))
    found = sorted(types.candidates([claim], np.array([probabilities]))[0], key=lambda pair: -pair[1])
    assert sorted(found) == sorted(expected) and [value for _, value in found] == [value for _, value in expected]


def test_models_without_concepts_have_no_candidates():
    assert CellTypes(ConceptNames()).candidates([T_CELL, None], np.empty((2, 0))) == [[], []]


def test_candidates_of_a_model_with_a_hierarchy_follow_it_and_start_with_the_likely_subtype():
    parents = {"cell": [], "T cell": ["cell"], "cluster 7": ["T cell"], "cluster 2": ["T cell"]}
    names = ConceptNames(hierarchical={"cell_type": parents})
    values = torch.tensor([[0.95, 0.99, 0.3, 0.55]])  # T cell, cell, cluster 2, cluster 7
    decision = TypeHierarchy(names, "cell_type", ["cell"]).decide(values)
    types = CellTypes(names, ["cell"])
    assert types.names[decision.named] == "T cell" and types.names[decision.subtype] == "cluster 7"
    for claim in (T_CELL, None):
        assert [name for name, _ in types.candidates([claim], values.numpy())[0]] == ["cluster 7", "cluster 2"]

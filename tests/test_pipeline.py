"""The pipeline as part of the installed package: inputs, prompts, refusals."""

import numpy as np
import pytest
import torch
import transformers

from cell2text.models import MINI
from pipeline_cell2text import CellToTextPipeline

from .tiny import make_adata, make_model, make_processor


@pytest.fixture(scope="module")
def describe():
    processor = make_processor()
    return CellToTextPipeline(model=make_model(processor=processor), processor=processor)


def test_one_cell_gives_one_text_and_several_a_list(describe):
    cells = describe.processor.rank_encode(make_adata(3))
    several = describe(cells, max_new_tokens=5)
    assert len(several) == 3 and describe(cells[1], max_new_tokens=5) == several[1]
    assert describe(cells[1].tolist(), max_new_tokens=5) == several[1]


def test_the_texts_do_not_depend_on_order_or_batch(describe):
    adata = make_adata(7)
    texts = [text["generated_text"] for text in describe(adata, max_new_tokens=8, batch_size=3)]
    backwards = [text["generated_text"] for text in describe(adata[::-1].copy(), max_new_tokens=8, batch_size=5)]
    assert texts == backwards[::-1] and len(set(texts)) > 1


def test_a_prompt_and_arguments_of_generate_are_passed_on(describe):
    cells = describe.processor.rank_encode(make_adata(1))
    usual = describe(cells, max_new_tokens=8)
    assert usual != describe(cells, max_new_tokens=8, prompt="A B cell expressing MS4A1.")
    assert describe(cells, generate_kwargs={"max_new_tokens": 8}) == usual


def test_counts_are_read_from_the_layer_that_is_named(describe):
    adata = make_adata(3)
    expected = describe(adata, max_new_tokens=5)
    adata.layers["counts"], adata.X = adata.X.copy(), adata.X.log1p()
    with pytest.raises(ValueError, match="pass layer='counts'"):
        describe(adata, layer="X")
    assert describe(adata, max_new_tokens=5) == describe(adata, layer="counts", max_new_tokens=5) == expected
    with pytest.raises(ValueError, match="these cells are ranked"):
        describe([np.array([2, 5, 3])], layer="counts")


def test_no_cells_give_no_texts(describe):
    assert describe(make_adata(3)[:0]) == []


def test_a_changed_model_gives_new_texts():
    processor = make_processor()
    model = make_model(processor=processor)
    describe, cells = CellToTextPipeline(model=model, processor=processor), processor.rank_encode(make_adata(2))
    describe(cells, max_new_tokens=6)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.v_proj.weight.mul_(-3)
    fresh = CellToTextPipeline(model=model, processor=processor)(cells, max_new_tokens=6)
    assert describe(cells, max_new_tokens=6) == fresh


def test_the_task_is_registered_for_a_loaded_model(describe):
    cells = describe.processor.rank_encode(make_adata(2))
    found = transformers.pipeline("cell-to-text", model=describe.model, processor=describe.processor)
    assert isinstance(found, CellToTextPipeline)
    assert found(cells, max_new_tokens=5) == describe(cells, max_new_tokens=5)


def test_the_task_is_registered_for_a_saved_folder(describe, tmp_path):
    """The folder names its own pipeline code, which the installed package makes unnecessary."""
    describe.model.save_pretrained(tmp_path)
    describe.processor.save_pretrained(tmp_path)
    cells = describe.processor.rank_encode(make_adata(2))
    found = transformers.pipeline("cell-to-text", model=str(tmp_path))
    assert isinstance(found, CellToTextPipeline)
    assert found(cells, max_new_tokens=5) == describe(cells, max_new_tokens=5)
    again = transformers.pipeline("cell-to-text", model=describe.model, processor=describe.processor)
    assert isinstance(again, CellToTextPipeline)  # saving leaves a loaded model as it was


def test_the_packaged_model_is_a_folder_for_the_pipeline():
    describe = transformers.pipeline("cell-to-text", model=str(MINI))
    assert isinstance(describe, CellToTextPipeline)
    assert describe([2, 100, 200, 300], max_new_tokens=3)["generated_text"]


def test_the_packaged_folder_holds_the_code_that_a_saved_folder_holds(describe, tmp_path):
    describe.model.save_pretrained(tmp_path)
    describe.processor.save_pretrained(tmp_path)
    saved, packaged = ({path.name: path.read_text() for path in at.glob("*.py")} for at in (tmp_path, MINI))
    assert saved == packaged

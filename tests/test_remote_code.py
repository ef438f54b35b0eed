"""A saved folder loads in a process where Cell2Text is not installed, and gives equal logits."""

import json
import textwrap
from contextlib import chdir, redirect_stdout
from io import StringIO

import pytest
import torch

from cell2text.models import MINI
from declining_cell2text import DECLINED_START

from .tiny import make_adata, make_model, make_processor


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    processor = make_processor()
    model = make_model("perceiver", processor=processor)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    adata = make_adata(4)
    adata.X[2] = 0
    adata.write_h5ad(folder / "cells.h5ad")
    chats = [processor.conversation() for _ in range(2)]
    cells = [[cell] for cell in processor.rank_encode(adata)[:2]]
    inputs = processor.apply_chat_template(
        chats, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"cells": cells}
    )
    torch.save({"inputs": dict(inputs), "logits": model(**inputs).logits}, folder / "expected.pt")
    return folder


@pytest.mark.parametrize("how", ["remote", "installed"])
def test_every_auto_class_loads_the_generating_model(saved, without_package, how):
    code = """
        import json, torch, transformers
        torch.set_num_threads(1)  # as the tests that computed the logits, which are compared bit for bit
        expected = torch.load("expected.pt")
        kinds = {}
        config = transformers.AutoConfig.from_pretrained("model", trust_remote_code=TRUST)
        kinds["AutoConfig"] = type(config).__name__
        kinds["AutoProcessor"] = type(transformers.AutoProcessor.from_pretrained("model", trust_remote_code=TRUST)).__name__
        for name in ("AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"):
            model = getattr(transformers, name).from_pretrained("model", trust_remote_code=TRUST)
            assert torch.equal(model(**expected["inputs"]).logits, expected["logits"]), name
            assert model.generate(**expected["inputs"], max_new_tokens=3).shape[1] == expected["inputs"]["input_ids"].shape[1] + 3
            kinds[name] = type(model).__name__
        print(json.dumps(kinds))
    """.replace("TRUST", str(how == "remote"))
    if how == "remote":
        output = without_package(code, saved)
    else:
        with chdir(saved), redirect_stdout(StringIO()) as printed:
            exec(textwrap.dedent(code), {})
        output = printed.getvalue()
    generating = "Cell2TextForConditionalGeneration"
    assert json.loads(output.splitlines()[-1]) == {
        "AutoConfig": "Cell2TextConfig",
        "AutoProcessor": "Cell2TextProcessor",
        "AutoModel": generating,
        "AutoModelForCausalLM": generating,
        "AutoModelForImageTextToText": generating,
        "AutoModelForMultimodalLM": generating,
    }


def test_the_pipeline_takes_an_anndata_and_gives_a_reason_for_an_empty_cell(saved, without_package):
    output = without_package(
        """
        import anndata, json
        from transformers import pipeline
        adata = anndata.read_h5ad("cells.h5ad")
        describe = pipeline("cell-to-text", model="model", trust_remote_code=True)
        print(json.dumps([describe(adata, max_new_tokens=5, batch_size=size) for size in (1, 2, 8)]))
        """,
        saved,
    )
    one, two, eight = json.loads(output.splitlines()[-1])
    assert one == two == eight and len(one) == 4
    assert one[2]["generated_text"].startswith("This cell cannot be described: it has no counts")


def test_the_packaged_model_is_a_hub_folder(saved, without_package):
    output = without_package(
        f"""
        from transformers import pipeline
        describe = pipeline("cell-to-text", model={str(MINI)!r}, trust_remote_code=True)
        print(describe([2, *range(100, 140)], max_new_tokens=8)["generated_text"])
        """,
        saved,
    )
    assert output.splitlines()[-1].startswith(DECLINED_START)  # these genes in this order are no cell


def test_a_model_loaded_as_remote_code_is_saved_with_all_its_code(saved, without_package):
    without_package(
        """
        import os, torch
        from transformers import AutoModel, AutoProcessor, pipeline
        AutoModel.from_pretrained("model", trust_remote_code=True).save_pretrained("again")
        AutoProcessor.from_pretrained("model", trust_remote_code=True).save_pretrained("again")
        code = sorted(name for name in os.listdir("model") if name.endswith(".py"))
        assert code == sorted(name for name in os.listdir("again") if name.endswith(".py")), os.listdir("again")
        expected = torch.load("expected.pt")
        same = ("tokenizer_config.json", "tokenizer.json", "processor_config.json", "gene_vocabulary.tsv")
        assert all(open(f"model/{name}").read() == open(f"again/{name}").read() for name in same)
        again = AutoModel.from_pretrained("again", trust_remote_code=True)
        assert torch.equal(again(**expected["inputs"]).logits, expected["logits"])
        """,
        saved,
    )

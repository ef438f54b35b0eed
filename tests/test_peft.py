"""LoRA on the language model, projector trained whole: save, load by every way there is, merge, reload."""

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from cell2text.training.freezing import lora_pattern

from .tiny import make_adata, make_model, make_processor


@pytest.fixture(scope="module", params=[True, False], ids=["frozen_encoder", "trained_encoder"])
def trained(request, tmp_path_factory):
    """A base model on disk, an adapter on disk after one step, and the logits of both together."""
    folder = tmp_path_factory.mktemp("peft")
    processor = make_processor()
    model = make_model("mlp", processor=processor, freeze_cell_encoder=request.param)
    model.save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    modules_to_save = ["projector"] if request.param else ["projector", "cell_encoder"]
    config = LoraConfig(
        r=4,
        target_modules=lora_pattern(base),
        modules_to_save=modules_to_save,
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    torch.manual_seed(0)
    adapted = get_peft_model(base, config)
    inputs = processor.apply_chat_template(
        [processor.conversation()] * 2, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"cells": [[cell] for cell in processor.rank_encode(make_adata(2))]},
    )  # fmt: skip
    adapted.train()
    adapted(**inputs, labels=inputs["input_ids"]).loss.backward()
    torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1).step()
    adapted.eval().save_pretrained(folder / "adapter")
    return folder, adapted, dict(inputs), adapted(**inputs).logits.detach(), request.param


def test_lora_sits_on_the_language_model_alone_and_the_projector_trains_whole(trained):
    _, adapted, _, _, frozen = trained
    names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    lora = [name for name in names if "lora_" in name]
    assert lora and all(".language_model.layers." in name for name in lora)
    rest = {name.split("modules_to_save")[0].rsplit(".", 2)[-2] for name in names if "lora_" not in name}
    assert rest == ({"projector"} if frozen else {"projector", "cell_encoder"})


def test_the_adapter_differs_from_its_base(trained):
    folder, _, inputs, logits, _ = trained
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    assert (base(**inputs).logits - logits).abs().max() > 1e-2


def test_adapter_loads_through_peft_model(trained):
    folder, _, inputs, logits, _ = trained
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "base"), folder / "adapter")
    assert torch.allclose(loaded(**inputs).logits, logits, atol=1e-6)


def test_adapter_loads_through_auto_peft_model(trained):
    folder, _, inputs, logits, _ = trained
    loaded = AutoPeftModelForCausalLM.from_pretrained(folder / "adapter")
    assert torch.allclose(loaded(**inputs).logits, logits, atol=1e-6)
    assert loaded.generate(**inputs, max_new_tokens=2).shape[0] == 2


def test_adapter_loads_through_load_adapter(trained):
    folder, _, inputs, logits, _ = trained
    loaded = AutoModelForCausalLM.from_pretrained(folder / "base")
    loaded.load_adapter(str(folder / "adapter"))
    assert torch.allclose(loaded(**inputs).logits, logits, atol=1e-6)


def test_adapter_folder_loads_as_a_model(trained):
    folder, _, inputs, logits, _ = trained
    loaded = AutoModelForCausalLM.from_pretrained(folder / "adapter")
    assert torch.allclose(loaded(**inputs).logits, logits, atol=1e-6)


def test_merged_model_is_saved_and_reloaded(trained):
    folder, _, inputs, logits, _ = trained
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "base"), folder / "adapter")
    merged = loaded.merge_and_unload()
    assert torch.allclose(merged(**inputs).logits, logits, atol=1e-5)
    merged.save_pretrained(folder / "merged")
    again = AutoModelForCausalLM.from_pretrained(folder / "merged")
    assert torch.allclose(again(**inputs).logits, logits, atol=1e-5)
    assert not any("lora" in name for name, _ in again.named_parameters())

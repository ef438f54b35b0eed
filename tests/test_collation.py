"""The data collator: which tokens are labelled, how cells travel, what raises, and equal losses in every trainer."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

import collation_cell2text
from cell2text.preparation.rows import completion_array, message_for_arrow
from cell2text.training.trainer import Cell2TextTrainer, TrainingCollator
from processing_cell2text import DEFAULT_CHAT_TEMPLATE

from .tiny import BLOCK_TEMPLATE, NO_SYSTEM_TEMPLATE, TEXT_TEMPLATE, make_adata, make_model, make_processor


CELL, OTHER = [2, 10, 11, 3], [2, 12, 3]
TEMPLATES = {"text": TEXT_TEMPLATE, "blocks": BLOCK_TEMPLATE, "no_system": NO_SYSTEM_TEMPLATE}
RUN = {
    "per_device_train_batch_size": 4, "num_train_epochs": 2, "logging_steps": 1, "report_to": "none", "use_cpu": True,
    "bf16": False, "disable_tqdm": True, "save_strategy": "no", "learning_rate": 1e-2,
}  # fmt: skip
SKIP = {"dataset_kwargs": {"skip_prepare_dataset": True}}


def user(*texts, cells=1):
    return {"role": "user", "content": [*[{"type": "cell"}] * cells, *({"type": "text", "text": t} for t in texts)]}


def assistant(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def labelled(processor, batch, row=0):
    labels = batch["labels"][row]
    return processor.tokenizer.decode(labels[labels != -100])


@pytest.fixture(scope="module")
def rows():
    processor = make_processor()
    texts = [f"This cell is a {kind} cell." for kind in ("B", "T", "NK", "CD8 T")] * 2
    cells = [[cell.tolist()] for cell in processor.rank_encode(make_adata(8))]
    prompt = [message_for_arrow(message) for message in processor.conversation()]
    return Dataset.from_dict(
        {"cells": cells, "prompt": [prompt] * 8, "completion": completion_array(texts).to_pylist()}
    )


@pytest.mark.parametrize("template", TEMPLATES)
def test_only_the_completion_is_labelled(template):
    processor = make_processor(TEMPLATES[template])
    prompt = processor.conversation()
    rows = [
        {"prompt": prompt, "completion": [assistant(text)], "cells": [CELL]}
        for text in ("A B cell.", "A T cell from the blood.")
    ]
    batch = processor.data_collator()(rows)
    expected = processor.apply_chat_template(prompt, tokenize=True, add_generation_prompt=True)[0]
    for row, text in enumerate(("A B cell.", "A T cell from the blood.")):
        assert batch["input_ids"][row, : len(expected)].tolist() == expected
        assert (batch["labels"][row, : len(expected)] == -100).all()
        assert labelled(processor, batch, row) == f"{text}<|im_end|>\n"
        kept = batch["labels"][row] != -100
        assert torch.equal(batch["input_ids"][row][kept], batch["labels"][row][kept])
    assert batch["attention_mask"].sum(-1).tolist() == [len(expected) + n for n in (batch["labels"] != -100).sum(-1)]


@pytest.mark.parametrize("template", [*TEMPLATES.values(), DEFAULT_CHAT_TEMPLATE], ids=[*TEMPLATES, "plain"])
def test_every_assistant_turn_of_messages_is_labelled(template):
    processor = make_processor(template)
    chat = [user("Describe this cell."), assistant("A B cell."), user("Which tissue?", cells=0), assistant("Blood.")]
    batch = processor.data_collator()([{"messages": chat, "cells": [CELL]}])
    end = "<|im_end|>\n"
    assert labelled(processor, batch) == f"A B cell.{end}Blood.{end}"
    single = processor.data_collator()([{"messages": chat[:2], "cells": [CELL]}])
    pair = processor.data_collator()([{"prompt": chat[:1], "completion": chat[1:2], "cells": [CELL]}])
    assert single.keys() == pair.keys() and all(torch.equal(single[name], pair[name]) for name in single)


def test_a_prompt_that_ends_inside_a_token_warns(monkeypatch):
    processor = make_processor(DEFAULT_CHAT_TEMPLATE.replace("':\\n'", "': '").replace("assistant:\\n", "assistant: "))
    warned = []
    monkeypatch.setattr(collation_cell2text.logger, "warning_once", warned.append)
    batch = processor.data_collator()(
        [{"prompt": [user("Describe")], "completion": [assistant("cell of blood.")], "cells": [CELL]}]
    )
    assert labelled(processor, batch) == " cell of blood.<|im_end|>\n" and "The tokens are ' '" in warned[0]


def test_a_chat_that_the_assistant_opens_is_labelled_from_its_start(tiny_processor):
    batch = tiny_processor.data_collator()([{"messages": [assistant("A B cell.")], "cells": []}])
    assert labelled(tiny_processor, batch).endswith("assistant\nA B cell.<|im_end|>\n")


def test_text_is_padded_on_the_right_and_cells_are_masked(tiny_processor):
    rows = [
        {"messages": [user("Compare.", cells=2), assistant("Alike.")], "cells": [CELL, OTHER]},
        {"messages": [user("Describe this cell."), assistant("A B cell.")], "cells": [OTHER]},
        {"messages": [user("Hello.", cells=0), assistant("Hello.")], "cells": []},
    ]
    batch = tiny_processor.data_collator(pad_to_multiple_of=16)(rows)
    assert batch["input_ids"].shape[1] % 16 == 0
    assert (batch["attention_mask"].diff() <= 0).all()  # ones, then zeros
    assert ((batch["input_ids"] == 0) == (batch["attention_mask"] == 0)).all()
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    assert batch["cell_input_ids"].tolist() == [
        [[2, 10, 11, 3], [2, 12, 3, 0]], [[2, 12, 3, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]],
    ]  # fmt: skip
    assert (batch["input_ids"] == tiny_processor.cell_token_id).sum(-1).tolist() == [10, 5, 0]


def test_cells_may_stand_in_their_blocks(tiny_processor):
    column = {"messages": [user("Compare.", cells=2), assistant("Alike.")], "cells": [CELL, OTHER]}
    blocks = [{"type": "cell", "cell": np.array(CELL)}, {"type": "cell", "cell": OTHER}]
    inside = {
        "messages": [{"role": "user", "content": [*blocks, {"type": "text", "text": "Compare."}]}, assistant("Alike.")]
    }
    expected, found = (tiny_processor.data_collator()([row]) for row in (column, inside))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("projector", ["mlp", "perceiver", "pooled", "concepts"])
def test_a_batch_without_cells_has_finite_gradients(projector):
    processor = make_processor()
    model = make_model(projector, processor=processor).train()
    batch = processor.data_collator()([{"messages": [user("Hello.", cells=0), assistant("Hello.")], "cells": []}] * 2)
    model(**batch).loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


PROMPT, COMPLETION = [user("Describe this cell.")], [assistant("A B cell.")]


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        pytest.param({"prompt": PROMPT, "completion": COMPLETION}, {}, "remove_unused_columns=False", id="no_cells"),
        pytest.param({"input_ids": [5, 6], "labels": [5, 6], "cells": [CELL]}, {}, "0 <cell> tokens but 1 cells x 5 "
                     r"features \(5\). Was the row truncated", id="cut_cells"),
        pytest.param({"prompt": PROMPT, "completion": COMPLETION, "cells": [CELL, OTHER]}, {}, "5 <cell> tokens but 2 "
                     "cells.*every cell block", id="too_many_cells"),
        pytest.param({"prompt": PROMPT, "completion": COMPLETION, "cells": [CELL]}, {"max_length": 20},
                     r"max_length=20 would cut a row of \d+ tokens", id="too_long"),
        pytest.param({"prompt": PROMPT, "completion": COMPLETION, "cells": [CELL], "input_ids": [1] * 20}, {},
                     r"The trainer cut a row of \d+ tokens to 20", id="cut_by_the_trainer"),
        pytest.param({"messages": PROMPT, "cells": [CELL]}, {}, "no assistant turn", id="nothing_to_learn"),
        pytest.param({"prompt": "<cell>", "completion": "B", "cells": [CELL]}, {}, "list of chat messages", id="strings"),
        pytest.param({"text": "B", "cells": [CELL]}, {}, r"holds \['cells', 'text'\]: expected messages", id="columns"),
        pytest.param({"input_ids": [1], "cells": []}, {}, "expected messages", id="no_labels"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_learned_raise(tiny_processor, row, options, message):
    with pytest.raises(ValueError, match=message):
        tiny_processor.data_collator(**options)([row])


def losses(trainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def make_trainer(kind, rows, folder, collator, arguments, **options):
    processor = make_processor()
    return kind(
        model=make_model(processor=processor), processing_class=processor, train_dataset=rows,
        data_collator=collator(processor), args=arguments(output_dir=str(folder), **RUN, **options),
    )  # fmt: skip


def test_sft_trainer_has_the_losses_of_train_sft(rows, tmp_path):
    own = make_trainer(Cell2TextTrainer, rows, tmp_path, TrainingCollator, SFTConfig)
    kept = {"remove_unused_columns": False}
    plain, prepared = (
        make_trainer(SFTTrainer, rows, tmp_path, lambda p: p.data_collator(), SFTConfig, **kept, **extra)
        for extra in (SKIP, {})
    )
    expected = losses(own)
    assert len(expected) == 4 and expected[0] - expected[-1] > 0.1
    assert losses(plain) == losses(prepared) == expected


def test_the_trainer_of_transformers_has_the_losses_of_train_sft(rows, tmp_path):
    own = make_trainer(Cell2TextTrainer, rows, tmp_path, TrainingCollator, SFTConfig, lr_scheduler_type="linear")
    plain = make_trainer(
        Trainer, rows, tmp_path, lambda p: p.data_collator(), TrainingArguments, remove_unused_columns=False
    )
    assert losses(plain) == pytest.approx(losses(own), abs=1e-4)


def test_messages_have_the_losses_of_prompt_and_completion(rows, tmp_path):
    messages = rows.map(
        lambda row: {"messages": row["prompt"] + row["completion"]}, remove_columns=["prompt", "completion"]
    )
    pair, chat = (
        make_trainer(
            SFTTrainer, kind, tmp_path, lambda p: p.data_collator(), SFTConfig, remove_unused_columns=False, **SKIP
        )
        for kind in (rows, messages)
    )
    assert losses(pair) == losses(chat)


def test_dpo_trains_on_chosen_and_rejected_rows(rows, tmp_path):
    preferences = rows.rename_column("completion", "chosen").add_column(
        "rejected", completion_array(["It comes from the blood."] * 8).to_pylist()
    )
    processor = make_processor()
    batch = processor.data_collator()(preferences.select(range(2)).to_list())
    assert batch["input_ids"].shape[0] == batch["cell_input_ids"].shape[0] == 4 and "labels" not in batch
    texts = [
        processor.tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(batch["input_ids"], batch["completion_mask"])
    ]
    ends = ["This cell is a B cell.", "This cell is a T cell.", *["It comes from the blood."] * 2]
    assert texts == [f"{text}<|im_end|>\n" for text in ends]
    trainer = DPOTrainer(
        model=make_model(processor=processor), processing_class=processor, train_dataset=preferences,
        data_collator=processor.data_collator(), peft_config=LoraConfig(target_modules=r".*language_model.*proj"),
        args=DPOConfig(output_dir=str(tmp_path), **RUN, remove_unused_columns=False, precompute_ref_log_probs=True),
    )  # fmt: skip
    found = losses(trainer)
    assert found[0] == pytest.approx(np.log(2), abs=1e-4) and found[-1] < 0.69

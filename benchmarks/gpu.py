"""Measure training and generation on one GPU (target 14): share of peak FLOPs, time waiting for data, cells per second.

    python benchmarks/gpu.py            # writes benchmarks/results/gpu.json
    python benchmarks/gpu.py --toy      # small sizes on CPU, to test the script; writes nothing

Training: a model of the size of Llama-3.2-1B with LoRA and a frozen encoder of the size of Geneformer-V2-104M, with
random weights, cached encoder states, bfloat16 and the trainer of `train_sft.py`. Generation: 150 tokens per cell in
batches of 128 cells, including the encoder, with and without `describe --compile`.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from training import GENEFORMER, MAX_GENES, N_GENES, encoder_config
from transformers import LlamaConfig
from trl import SFTConfig

from cell2text.files import write_atomically
from cell2text.preparation.rows import completion_array, message_for_arrow
from cell2text.training.components import train_tokenizer
from cell2text.training.state_cache import CellStateCache, open_or_build
from cell2text.training.trainer import Cell2TextTrainer, TrainingCollator
from decoding_cell2text import DraftTable
from generation_cell2text import CellTextGenerator, encode_cells
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor
from vocabulary_cell2text import SPECIAL_TOKENS, GeneVocabulary


RESULTS = Path(__file__).resolve().parent / "results" / "gpu.json"
LLAMA_1B = {
    "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
    "intermediate_size": 8192, "vocab_size": 128_256, "max_position_embeddings": 4096, "tie_word_embeddings": True,
}  # fmt: skip
TOY_LLAMA = LLAMA_1B | {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "intermediate_size": 64, "vocab_size": 400,
}  # fmt: skip
ANSWER = "This cell is a B cell. It comes from the blood of a healthy donor. " * 6
MEASURED_WINDOWS = 3
CELLS_AT_ONCE = 128


def build_model(toy: bool) -> tuple[Cell2TextForConditionalGeneration, Cell2TextProcessor]:
    torch.manual_seed(0)
    vocabulary = GeneVocabulary(
        [*SPECIAL_TOKENS, *(f"ENSG{i:011d}" for i in range(N_GENES))],
        np.array([*[np.nan] * len(SPECIAL_TOKENS), *np.ones(N_GENES)]),
        [""] * (len(SPECIAL_TOKENS) + N_GENES),
        {},
        max_genes=64 if toy else MAX_GENES,
    )
    tokenizer = train_tokenizer([ANSWER] * 20, 300)
    processor = Cell2TextProcessor.from_components(tokenizer, vocabulary, num_cell_tokens=8 if toy else 256)
    encoder = encoder_config("V1-10M" if toy else "V2-104M")
    model = Cell2TextForConditionalGeneration.from_components(
        encoder, LlamaConfig(**(TOY_LLAMA if toy else LLAMA_1B)), processor, projector_type="mlp",
        cell_feature_layer=-2, freeze_cell_encoder=True, dtype=torch.float32 if toy else torch.bfloat16,
    )  # fmt: skip
    return model.to("cpu" if toy else "cuda"), processor


def make_rows(processor: Cell2TextProcessor, n_rows: int) -> Dataset:
    rng = np.random.default_rng(0)
    lengths = rng.integers(processor.max_genes // 2, processor.max_genes, size=n_rows)
    prompt = [message_for_arrow(message) for message in processor.conversation()]
    columns = {
        "cell_id": [f"cell{i}" for i in range(n_rows)],
        "cells": [[rng.integers(4, N_GENES, size=length).tolist()] for length in lengths],
        "prompt": [prompt] * n_rows,
        "completion": completion_array([ANSWER] * n_rows).to_pylist(),
    }
    return Dataset.from_dict(columns)


class OneBatch:
    """A collator that returns its first batch every time, to train without loading data."""

    def __init__(self, collator: TrainingCollator):
        self.collator, self.batch = collator, None

    def __call__(self, examples):
        self.batch = self.batch or self.collator(examples)
        return dict(self.batch)


def train(model, processor, rows: Dataset, cache: CellStateCache, folder: str, *, toy: bool, one_batch: bool) -> dict:
    """Train, and return the throughput as the median of the last logging windows."""
    collator = TrainingCollator(processor, caches={"train": cache})
    every = 2 if toy else 10
    trainer = Cell2TextTrainer(
        model=model,
        args=SFTConfig(
            output_dir=folder, max_steps=every * (MEASURED_WINDOWS + 1), logging_steps=every, max_length=None,
            per_device_train_batch_size=4 if toy else 16, bf16=not toy, use_cpu=toy, report_to="none",
            disable_tqdm=True, save_strategy="no", train_sampling_strategy="group_by_length",
            dataloader_num_workers=0 if toy or one_batch else 4,
        ),
        train_dataset=rows,
        processing_class=processor,
        data_collator=OneBatch(collator) if one_batch else collator,
        peft_config=LoraConfig(
            r=4 if toy else 256, lora_alpha=512, modules_to_save=["projector"],
            target_modules=r".*language_model\..*\.(q_proj|k_proj|v_proj|o_proj)",
        ),
    )  # fmt: skip
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry][1:]
    trainer.model.unload()
    return {
        name: median(entry[name] for entry in logged)
        for name in ("cells_per_second", "tokens_per_second", "share_of_peak_flops")
        if name in logged[0]
    }


def describe(model, processor, rows: Dataset, *, toy: bool) -> dict[str, float]:
    """Return the cells described per second by single steps and by compiled ones, and the share of equal texts.

    Texts of a model with random weights never end, and no text is drafted from an earlier batch.
    """
    cells = [[np.array(row[0])] for row in rows["cells"][: 4 if toy else CELLS_AT_ONCE]]
    speeds, texts = {}, {}
    for name, compiled in (("steps", False), ("compiled_steps", True)):
        options = {"max_new_tokens": 4 if toy else 150, "texts_at_once": len(cells), "compiled": compiled}
        decoder = CellTextGenerator(model, processor, **options).decoder
        decoder.ends = set()
        seconds = []
        for _ in range(MEASURED_WINDOWS + 1):
            decoder.drafts = DraftTable()
            start = time.perf_counter()
            encoded = encode_cells(model, processor, cells)
            texts[name] = decoder(encoded.features, encoded.mask).tokens  # on the CPU: the GPU is done
            seconds.append(time.perf_counter() - start)
        speeds[f"described_cells_per_second_{name}"] = len(cells) / median(seconds[1:])
    equal = np.mean([one == other for one, other in zip(*texts.values())])
    return speeds | {"share_of_equal_texts": float(equal)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="small sizes on CPU, writes nothing")
    toy = parser.parse_args().toy
    if toy:
        torch.compiler.set_stance("force_eager")  # generating code for a CPU takes a minute and tests nothing here
    if not toy and not torch.cuda.is_available():
        print(
            "gpu.py found no GPU. Run it on a GPU machine, or pass --toy to test the script on CPU.",
            file=sys.stderr,
        )
        return 2
    model, processor = build_model(toy)
    rows = make_rows(processor, 16 if toy else 512)
    with tempfile.TemporaryDirectory() as folder:
        cache = open_or_build(Path(folder, "states"), model, processor, rows, batch_size=4 if toy else 64)
        kept = rows.add_column("cache", ["train"] * len(rows)).add_column("cache_row", list(range(len(rows))))
        real, repeated = (
            train(model, processor, kept, cache, folder, toy=toy, one_batch=one_batch) for one_batch in (False, True)
        )
    measured = {f"training_{name}": value for name, value in real.items()}
    # Batches differ in size, so tokens are compared, not steps.
    measured["share_of_time_waiting_for_data"] = max(0.0, 1 - real["tokens_per_second"] / repeated["tokens_per_second"])
    measured |= describe(model, processor, rows, toy=toy)
    targets = {
        "14 training >= 30 % of peak": measured.get("training_share_of_peak_flops", 0.0) >= 0.3,
        "14 description >= 70 cells/s": measured["described_cells_per_second_compiled_steps"] >= 70,
        "14 waiting <= 5 %": measured["share_of_time_waiting_for_data"] <= 0.05,
    }
    shapes = {"encoder": GENEFORMER["V2-104M"], "language_model": LLAMA_1B}
    device = "CPU, toy sizes" if toy else torch.cuda.get_device_name(0)
    result = {"device": device, "shapes": shapes, "measured": measured, "bars": targets, "torch": torch.__version__}
    print(json.dumps(result, indent=1))
    if not toy:
        write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

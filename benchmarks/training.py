"""Measure training on CPU (targets 8 to 11): length buckets, cached encoder states, cost of projector and head.

    python benchmarks/training.py            # all parts, about 15 minutes: benchmarks/results/training.json
    python benchmarks/training.py buckets states parts head      # only these

Ratios compare CPU time of alternating measurements on one thread within one run, as the median of five. Models have the
named sizes and random weights, since the values do not affect the time.
"""

import argparse
import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from preparation import REPETITIONS, interleaved
from transformers import BertConfig, BertModel, LlamaConfig
from trl.trainer import utils as trl_utils
from trl.trainer.utils import add_fused_lm_head

from cell2text.files import write_atomically
from cell2text.training.components import train_tokenizer
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor
from vocabulary_cell2text import SPECIAL_TOKENS, GeneVocabulary


RESULTS = Path(__file__).resolve().parent / "results" / "training.json"
MAX_GENES, MEAN_LENGTH = 2048, 1211
N_GENES = 20_271
GENEFORMER = {
    "V1-10M": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512},
    "V2-104M": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}
SMOLLM2_135M = {
    "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "intermediate_size": 1536, "vocab_size": 49_152, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
PROJECTED_GENES, TEXT_TOKENS, ANSWER_TOKENS = 256, 200, 104
VOCABULARY_128K = 128_256


def encoder_config(name: str) -> BertConfig:
    return BertConfig(
        vocab_size=N_GENES + len(SPECIAL_TOKENS), max_position_embeddings=MAX_GENES, pad_token_id=0, hidden_act="relu",
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **GENEFORMER[name],
    )  # fmt: skip


def mixed_lengths(n: int) -> np.ndarray:
    """Sample genes per cell as in the published data: log-normal, mean 1,211, at most 2,048."""
    rng = np.random.default_rng(0)
    sigma = 0.5
    return np.clip(rng.lognormal(np.log(MEAN_LENGTH) - sigma**2 / 2, sigma, size=n), 200, MAX_GENES).astype(int)


def buckets() -> dict:
    """Measure target 8: encoding cells of mixed lengths, padded to 2,048, to the batch, and bucketed by length."""
    torch.manual_seed(0)
    encoder = BertModel(encoder_config("V1-10M"), add_pooling_layer=False).eval()
    lengths, batch = mixed_lengths(32), 8
    rng = np.random.default_rng(1)
    cells = [rng.integers(4, N_GENES, size=length) for length in lengths]

    @torch.inference_mode()
    def encode(groups: list[list[int]], length: int | None = None) -> dict[int, torch.Tensor]:
        found = {}
        for group in groups:
            width = length or max(len(cells[i]) for i in group)
            ids, mask = torch.zeros(len(group), width, dtype=torch.long), torch.zeros(len(group), width)
            for row, i in enumerate(group):
                ids[row, : len(cells[i])], mask[row, : len(cells[i])] = torch.from_numpy(cells[i]), 1
            states = encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            found |= {i: states[row, : len(cells[i])] for row, i in enumerate(group)}
        return found

    mixed = [list(range(start, start + batch)) for start in range(0, len(cells), batch)]
    order = np.argsort(lengths, kind="stable")
    bucketed = [order[start : start + batch].tolist() for start in range(0, len(cells), batch)]
    sides = {
        "padded to 2,048": lambda: encode(mixed, MAX_GENES),
        "padded to the batch": lambda: encode(mixed),
        "bucketed by length": lambda: encode(bucketed),
    }
    seconds = interleaved(sides)
    together, alone = encode(bucketed), encode([[i] for i in range(8)])
    worst = max(float((together[i] - alone[i]).abs().max()) for i in alone)
    return {
        "mean_length": round(float(lengths.mean())),
        **{f"{name}, over pad-to-2,048": seconds["padded to 2,048"] / taken for name, taken in seconds.items()},
        "largest_difference_from_one_cell_calls": worst,
    }


def make_model(
    encoder: str, vocab_size: int | None = None
) -> tuple[Cell2TextForConditionalGeneration, Cell2TextProcessor]:
    """Build a model of the sizes of Geneformer and SmolLM2-135M with an MLP on 256 genes; only the projector trains."""
    torch.manual_seed(0)
    genes = [f"ENSG{i:011d}" for i in range(N_GENES)]
    medians = np.array([*[np.nan] * len(SPECIAL_TOKENS), *np.ones(N_GENES)])
    names = [""] * (len(SPECIAL_TOKENS) + N_GENES)
    vocabulary = GeneVocabulary([*SPECIAL_TOKENS, *genes], medians, names, {}, max_genes=MAX_GENES)
    tokenizer = train_tokenizer(["This cell is a B cell."] * 20, 300)
    processor = Cell2TextProcessor.from_components(tokenizer, vocabulary, num_cell_tokens=PROJECTED_GENES)
    text = LlamaConfig(**{**SMOLLM2_135M, "vocab_size": vocab_size or SMOLLM2_135M["vocab_size"]})
    model = Cell2TextForConditionalGeneration.from_components(
        encoder_config(encoder), text, processor, projector_type="mlp", cell_feature_layer=-2, freeze_cell_encoder=True,
        projector_dropout=0.0,
    )  # fmt: skip
    model.requires_grad_(False)
    model.model.projector.requires_grad_(True)
    return model.train(), processor


def text_batch(model, n: int) -> dict[str, torch.Tensor]:
    """Build prompts of one cell each, followed by text; only the completion has labels."""
    cells = torch.full((n, PROJECTED_GENES), model.config.cell_token_id)
    text = torch.randint(10, 200, (n, TEXT_TOKENS), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([cells, text], dim=1)
    labels = ids.clone()
    labels[:, :-ANSWER_TOKENS] = -100
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


def cell_batch(n: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, N_GENES, (n, MAX_GENES), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = SPECIAL_TOKENS.index("<cls>")
    return {"cell_input_ids": ids[:, None], "cell_attention_mask": torch.ones_like(ids)[:, None]}


def states() -> dict:
    """Measure target 9: projector-stage steps with a 104M encoder at 2,048 genes, encoded or from cached states."""
    model, _ = make_model("V2-104M")
    batch, cells = text_batch(model, 1), cell_batch(1)
    positions = model.model.projector.first_gene + PROJECTED_GENES
    with torch.no_grad():
        kept = model.get_cell_features(**cells).last_hidden_state[:, :, :positions].clone()
    cut = {name: value[..., :positions] for name, value in cells.items()}
    losses = {}

    def step(name: str, **inputs) -> None:
        model.zero_grad()
        loss = model(**batch, **inputs).loss
        loss.backward()
        losses[name] = float(loss.detach())

    sides = {"encoded": lambda: step("encoded", **cells), "kept": lambda: step("kept", **cut, cell_states=kept)}
    seconds = interleaved(sides)
    return {
        "encoding_over_kept": seconds["encoded"] / seconds["kept"],
        "difference_of_the_losses": abs(losses["encoded"] - losses["kept"]),
        "KiB_a_cell_in_bfloat16": positions * model.config.cell_config.hidden_size * 2 / 1024,
    }


def parts() -> dict:
    """Measure target 10: projector and placeholders, forward and backward, as a share of a step with cached states."""
    model, _ = make_model("V2-104M")
    batch, cells = text_batch(model, 2), cell_batch(2)
    positions = model.model.projector.first_gene + PROJECTED_GENES
    cut = {name: value[..., :positions] for name, value in cells.items()}
    kept = torch.randn(2, 1, positions, model.config.cell_config.hidden_size)
    embeds = model.get_input_embeddings()(batch["input_ids"]).detach()

    def step() -> None:
        model.zero_grad()
        model(**batch, **cut, cell_states=kept).loss.backward()

    def fill() -> None:
        model.zero_grad()
        features = model.get_cell_features(**cut, cell_states=kept).pooler_output
        model.model._fill_placeholders(
            batch["input_ids"], embeds, features, cut["cell_attention_mask"]
        ).sum().backward()

    seconds = interleaved({"step": step, "projector and filling": fill})
    return {"share_of_a_step": seconds["projector and filling"] / seconds["step"]}


def head() -> dict:
    """Measure target 11: head and loss on all positions over those of the completion only, with 128k tokens."""
    model, _ = make_model("V1-10M", VOCABULARY_128K)
    weight = model.lm_head.weight.requires_grad_(True)
    batch = text_batch(model, 2)
    hidden = torch.randn(
        2, PROJECTED_GENES + TEXT_TOKENS, SMOLLM2_135M["hidden_size"], generator=torch.Generator().manual_seed(0)
    ).requires_grad_(True)
    model.model.forward = lambda *_, **__: type(  # fixed states: only the head is timed
        "Output", (), {"last_hidden_state": hidden, "past_key_values": None, "hidden_states": None, "attentions": None,
                       "cell_hidden_states": None},
    )()  # fmt: skip
    gradients: dict[str, torch.Tensor] = {}

    def whole() -> None:
        weight.grad = None
        model(input_ids=batch["input_ids"], labels=batch["labels"]).loss.backward()
        gradients["whole"] = weight.grad

    def answer() -> None:
        weight.grad = None
        found = fused(input_ids=batch["input_ids"], labels=batch["labels"], fused_lm_head=True)
        mask = batch["labels"][:, 1:] != -100
        (-(found.log_probs[..., : mask.shape[1]] * mask).sum() / mask.sum()).backward()
        gradients["answer"] = weight.grad

    plain = model.forward
    add_fused_lm_head(model)
    fused, model.forward = model.forward, plain
    # TRL scores only the completion's positions with Triton; on CPU it scores all unless patched.
    seconds = interleaved({"whole": whole, "all positions by TRL": answer})
    with patch.object(trl_utils, "_use_triton", lambda _: True):
        seconds |= interleaved({"answer": answer})
    difference = (gradients["whole"] - gradients["answer"]).abs().max() / gradients["whole"].abs().max()
    return {
        "all_positions_over_the_answer": seconds["whole"] / seconds["answer"],
        "all_positions_over_TRL_on_CPU": seconds["whole"] / seconds["all positions by TRL"],
        "largest_relative_difference_of_gradients": float(difference),
        "positions": PROJECTED_GENES + TEXT_TOKENS,
        "answer": ANSWER_TOKENS,
    }


TARGETS = {
    "buckets": {
        "8 bucketed >= 1.7": lambda r: r["bucketed by length, over pad-to-2,048"] >= 1.7,
        "8 equal to 1e-4": lambda r: r["largest_difference_from_one_cell_calls"] <= 1e-4,
    },
    "states": {
        "9 kept >= 2.2": lambda r: r["encoding_over_kept"] >= 2.2,
        "9 equal loss": lambda r: r["difference_of_the_losses"] <= 1e-4,
    },
    "parts": {"10 share <= 0.05": lambda r: r["share_of_a_step"] <= 0.05},
    "head": {
        "11 answer alone >= 1.9": lambda r: r["all_positions_over_the_answer"] >= 1.9,
        "11 gradients equal": lambda r: r["largest_relative_difference_of_gradients"] <= 1e-4,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"any of: {', '.join(TARGETS)}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in args.names or TARGETS:
        measured = globals()[name]()
        bars = {bar: bool(is_met(measured)) for bar, is_met in TARGETS[name].items()}
        rounded = {key: float(f"{value:.4g}") for key, value in measured.items()}
        results[name] = {"measured": rounded, "bars": bars, "repetitions": REPETITIONS}
        print(json.dumps({name: results[name]}, indent=1), flush=True)
        write_atomically(RESULTS, json.dumps(dict(sorted(results.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()

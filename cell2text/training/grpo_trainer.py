"""TRL's GRPOTrainer for rows with cells.

TRL passes a fixed list of inputs to a model, made for images. This trainer passes the ranked genes of cells instead:
while texts are sampled, and whenever their tokens are scored. It adds learning rates per part of the model and
checkpoints that resume.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from trl import GRPOConfig, GRPOTrainer

from cell2text.training.checkpoints import CompleteCheckpoints
from cell2text.training.learning_rates import PartLearningRates
from collation_cell2text import IGNORE_INDEX


CELL_TENSORS = ("cell_input_ids", "cell_attention_mask")


class Cell2TextGRPOTrainer(PartLearningRates, CompleteCheckpoints, GRPOTrainer):  # type: ignore[misc]  # two `train`
    """GRPOTrainer for rows with `prompt`, a list of chat messages, and `cells`, the ranked genes of its cells.

    The project's collator renders the prompts, checks that cells and placeholders match, and pads the cells.

    Parameters
    ----------
    learning_rates
        See :class:`cell2text.training.learning_rates.PartLearningRates`.
    """

    args: GRPOConfig
    processing_class: Any
    chat_template_kwargs: Any

    def __init__(self, model, *args, processing_class, learning_rates=None, **kwargs):
        self.set_learning_rates(model, learning_rates)
        self.collator = processing_class.data_collator()
        self._prompt_ids: list[list[int]] = []  # of the texts that are sampled
        self._cells: dict[str, torch.Tensor] = {}  # of the texts that are sampled or scored
        with _placeholder_as_image_token(model.config):
            super().__init__(model, *args, processing_class=processing_class, **kwargs)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.get_train_dataloader()) / self.args.gradient_accumulation_steps)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        options: dict[str, Any] = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
        encoded: Any = self.processing_class.apply_chat_template(
            [row["prompt"] for row in inputs],
            processor_kwargs={"padding": False},
            **options,
            **self.chat_template_kwargs,
        )
        self._prompt_ids = encoded["input_ids"]
        prompts = zip(self._prompt_ids, inputs)
        batch = self.collator([{"input_ids": ids, "labels": ids, "cells": row["cells"]} for ids, row in prompts])
        self._cells = {name: batch[name].to(self.accelerator.device) for name in CELL_TENSORS}
        return {**super()._generate_and_score_completions(inputs), **self._cells}

    def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]], None, dict[str, torch.Tensor]]:
        return self._prompt_ids, None, self._cells

    def _compute_loss(self, model, inputs: dict[str, Any]) -> torch.Tensor:
        self._cells = {name: inputs[name] for name in CELL_TENSORS}
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **_
    ):  # fmt: skip
        labels = input_ids.masked_fill(attention_mask == 0, IGNORE_INDEX)
        labels[:, :-logits_to_keep] = IGNORE_INDEX  # only texts are scored, not their prompts
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, **self._cells}
        log_probabilities, entropies = [], []
        for start in range(0, len(input_ids), batch_size or len(input_ids)):
            part = {name: value[start : start + (batch_size or len(input_ids))] for name, value in inputs.items()}
            with self.accelerator.autocast():
                outputs = model(**part, fused_lm_head=True)
            log_probabilities.append(outputs.log_probs[:, -logits_to_keep:])
            if compute_entropy:
                entropies.append(outputs.entropy[:, -logits_to_keep:])
        return torch.cat(log_probabilities), torch.cat(entropies) if compute_entropy else None, None


@contextmanager
def _placeholder_as_image_token(config) -> Iterator[None]:
    """Name the placeholder of cells as TRL expects it: the token that is never sampled."""
    config.image_token_id = config.cell_token_id
    try:
        yield
    finally:
        del config.image_token_id

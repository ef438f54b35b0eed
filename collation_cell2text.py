"""A data collator for fine-tuning: rows of chat messages and ranked cells in, padded and labelled batches out.

Works with TRL's `SFTTrainer` and `DPOTrainer` and with `transformers.Trainer`, but imports none of them. The processor
supplies the chat template, the tokenizer and the padding of cells.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import logging


try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError


logger = logging.get_logger(__name__)

IGNORE_INDEX = -100  # labels that the loss skips


@dataclass
class Cell2TextDataCollator:
    r"""Turns dataset rows into a batch for training. Only completions are labelled, never prompts or cells.

    A row holds `cells`, a list of ranked cells in the order of their `{"type": "cell"}` blocks (or the blocks hold
    them: `{"type": "cell", "cell": ranked_genes}`), and one of:

    - `prompt` and `completion`, both lists of chat messages: the completion is labelled;
    - `messages`, a list of chat messages: every assistant turn is labelled;
    - `prompt`, `chosen` and `rejected`, for preference training: the batch holds the chosen rows, then the rejected
      ones, and `completion_mask` in place of `labels`;
    - `input_ids` and `labels`, as TRL prepares them: used unchanged.

    Args:
        processor ([`Cell2TextProcessor`]):
            Applies the chat template and pads the cells.
        max_length (`int`, *optional*):
            Maximum number of tokens per row. A longer row raises an error, because truncation would cut its cells or
            the end of its completion. Defaults to no limit.
        pad_to_multiple_of (`int`, *optional*):
            Round the padded text length up to a multiple of this. Defaults to the length of the longest row.

    Examples:

    ```python
    args = SFTConfig(remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True})
    trainer = SFTTrainer(model, args, processor.data_collator(), rows, processing_class=processor)
    ```
    """

    processor: Any
    max_length: int | None = None
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows.

        Args:
            rows (`list[dict]`): Rows of one dataset.

        Returns:
            `input_ids`, `attention_mask` and `labels` of shape `(batch, length)`, padded on the right, and
            `cell_input_ids` and `cell_attention_mask` of shape `(batch, n_cells, n_genes)`.

        Raises:
            ValueError: If a row lacks a column, its placeholders and cells differ in number, or it is too long.
        """
        if "chosen" in rows[0]:
            return self._collate_preferences(rows)
        cells = [_cells_of(row) for row in rows]
        sequences, labels = self._tokenize(rows)
        for row, ids, row_cells in zip(rows, sequences, cells):
            self._check(row, ids, row_cells)
        batch = {
            "input_ids": self._pad(sequences, self.processor.tokenizer.pad_token_id),
            "attention_mask": self._pad([[1] * len(ids) for ids in sequences], 0),
            "labels": self._pad(labels, IGNORE_INDEX),
        }
        return {**batch, **self.processor.pad_cells(cells, return_tensors="pt")}

    def _collate_preferences(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pairs = [
            {"prompt": row["prompt"], "completion": row[answer], "cells": _cells_of(row)}
            for answer in ("chosen", "rejected")
            for row in rows
        ]
        batch = self(pairs)
        batch["completion_mask"] = (batch.pop("labels") != IGNORE_INDEX).long()
        for name in ("ref_chosen_logps", "ref_rejected_logps"):  # TRL's `precompute_ref_log_probs`
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows])
        return batch

    def _tokenize(self, rows: list[dict[str, Any]]) -> tuple[list[list[int]], list[list[int]]]:
        """Return the token ids and labels of every row, unpadded."""
        if {"input_ids", "labels"} <= set(rows[0]) and not {"messages", "prompt"} & set(rows[0]):
            return [list(row["input_ids"]) for row in rows], [list(row["labels"]) for row in rows]
        conversations, turns = zip(*(_labelled_turns(row) for row in rows))
        sequences = self._render(conversations)
        spans = [(chat, start, end) for chat, row_turns in zip(conversations, turns) for start, end in row_turns]
        prompts = iter(self._render([chat[:start] for chat, start, _ in spans], add_generation_prompt=True))
        inner = iter(self._render([chat[:end] for chat, _, end in spans if end < len(chat)]))
        labels = []
        for chat, row_turns, ids in zip(conversations, turns, sequences):
            row_labels = [IGNORE_INDEX] * len(ids)
            for _, end in row_turns:
                prompt, through = next(prompts), ids if end == len(chat) else next(inner)
                first, last = _common_prefix(prompt, ids), _common_prefix(through, ids)
                if first < len(prompt):
                    logger.warning_once(
                        "A prompt ends with other tokens alone than before its completion: the model trains on a "
                        "context that it does not see when it generates. End the chat template's generation prompt "
                        f"where a token ends. The tokens are {self.processor.decode(prompt[first:])!r}."
                    )
                row_labels[first:last] = ids[first:last]
            labels.append(row_labels)
        return sequences, labels

    def _render(self, conversations, **kwargs) -> list[list[int]]:
        """Return the token ids of conversations; an empty one precedes a chat that the assistant opens."""
        filled = [chat for chat in conversations if chat]
        if not filled:
            return [[] for _ in conversations]
        options = {"tokenize": True, "return_dict": True, "processor_kwargs": {"padding": False}, **kwargs}
        encoded: dict[str, list[list[int]]] = self.processor.apply_chat_template(filled, **options)
        ids = iter(encoded["input_ids"])
        return [next(ids) if chat else [] for chat in conversations]

    def _check(self, row: dict[str, Any], ids: list[int], cells: list):
        features = self.processor.num_cell_tokens
        found, expected = ids.count(self.processor.cell_token_id), len(cells) * features
        if found != expected:
            hint = "Give every cell block of a row one cell, in order."
            if "cells" not in row:
                hint = "Keep the column `cells`: set remove_unused_columns=False in the trainer's arguments."
            elif "input_ids" in row:
                hint = "Was the row truncated? Set max_length=None in the trainer's arguments."
            raise UserError(
                f"A row holds {found} {self.processor.cell_token} tokens but {len(cells)} cells x {features} features "
                f"({expected}). {hint}"
            )
        if self.max_length is not None and len(ids) > self.max_length:
            raise UserError(f"max_length={self.max_length} would cut a row of {len(ids)} tokens: raise it.")
        if "input_ids" in row and len(row["input_ids"]) < len(ids):
            raise UserError(
                f"The trainer cut a row of {len(ids)} tokens to {len(row['input_ids'])}: set max_length=None in its "
                "arguments."
            )

    def _pad(self, sequences: list[list[int]], value: int) -> torch.Tensor:
        length = max(map(len, sequences))
        if self.pad_to_multiple_of:
            length = -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of
        return torch.tensor([[*ids, *[value] * (length - len(ids))] for ids in sequences])


def _labelled_turns(row: dict[str, Any]) -> tuple[list[dict], list[tuple[int, int]]]:
    """Return a row's conversation, and the ranges of its messages that are labelled."""
    if "messages" in row:
        chat = list(row["messages"])
        turns = [(i, i + 1) for i, message in enumerate(chat) if message["role"] == "assistant"]
        if not turns:
            raise UserError("A row's messages hold no assistant turn: there is nothing to learn from them.")
        return chat, turns
    prompt, completion = row.get("prompt"), row.get("completion")
    if not (isinstance(prompt, (list, tuple)) and isinstance(completion, (list, tuple))):
        raise UserError(
            f"A row holds {sorted(row)}: expected messages, or prompt and completion, each a list of chat messages "
            "such as {'role': 'user', 'content': [{'type': 'cell'}]}."
        )
    return [*prompt, *completion], [(len(prompt), len(prompt) + len(completion))]


def _cells_of(row: dict[str, Any]) -> list:
    """Return a row's ranked cells, from its column `cells` or from the blocks of its messages."""
    if "cells" in row:
        return list(row["cells"])
    messages = row.get("messages") or row.get("prompt")
    contents = [message.get("content") for message in messages or [] if isinstance(message, dict)]
    blocks = [block for content in contents if isinstance(content, (list, tuple)) for block in content]
    return [block["cell"] for block in blocks if block.get("cell") is not None]


def _common_prefix(ids: list[int], other_ids: list[int]) -> int:
    """Return the number of leading tokens that two sequences share."""
    differences = (i for i, (token, other) in enumerate(zip(ids, other_ids)) if token != other)
    return next(differences, min(len(ids), len(other_ids)))


__all__ = ["Cell2TextDataCollator"]

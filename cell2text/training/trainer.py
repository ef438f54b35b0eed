"""TRL's SFTTrainer for rows with cells.

It adds learning rates per part of the model, checks of every loss, generated texts at evaluations, resumable
checkpoints and throughput to the logs. Its collator adds cached encoder states and concept labels to the collator of
the Hub files.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from trl import SFTConfig, SFTTrainer

from cell2text.errors import UserError
from cell2text.inference.generation import BatchedTextGenerator, generate_with_sharded_model
from cell2text.training.checkpoints import CompleteCheckpoints
from cell2text.training.class_balance import BalancedRows
from cell2text.training.concept_targets import TrainingConceptOverrides
from cell2text.training.learning_rates import PartLearningRates
from cell2text.training.loss_watch import LossWatch
from cell2text.training.saving import is_sharded
from cell2text.training.state_cache import CellStateCache
from cell2text.training.throughput import FlopCounter, Throughput, batch_sizes, peak_flops
from cell2text.training.validation import GenerationEvaluator
from collation_cell2text import Cell2TextDataCollator


REPORTED_TENSORS = ("input_ids", "cell_input_ids", "cell_states")
TOKENS_PER_GENE = 100_000  # weight of a gene in a row's length: attention over genes costs most


@dataclass
class TrainingCollator(Cell2TextDataCollator):
    """The collator of the Hub files, and for each row cached encoder states and concept overrides.

    A batch also holds `cell_ids` and `sizes`, which the trainer removes before the forward pass.

    Parameters
    ----------
    caches
        Cached encoder states by name. A row's column `cache` names its cache, `cache_row` its row in the cache.
        Defaults to none: every step encodes its cells.
    concept_overrides
        Concept labels of the training cells, for the projector type `concepts`. Defaults to none.
    """

    caches: dict[str, CellStateCache] = field(default_factory=dict)
    concept_overrides: TrainingConceptOverrides | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().__call__(rows)
        if "cache" in rows[0]:
            cache = self.caches[rows[0]["cache"]]
            for name in ("cell_input_ids", "cell_attention_mask"):
                batch[name] = batch[name][..., : cache.positions]
            cached = [row["cache_row"] for row in rows]
            batch["cell_states"] = cache.batch(cached, *batch["cell_input_ids"].shape[1:])
        if self.concept_overrides is not None:
            batch["concept_overrides"] = self.concept_overrides.batch(rows, batch["cell_input_ids"].shape[1])
        batch["cell_ids"] = [row.get("cell_id", "") for row in rows]
        batch["sizes"] = batch_sizes(batch)
        return batch


class Cell2TextTrainer(PartLearningRates, BalancedRows, CompleteCheckpoints, SFTTrainer):
    """SFTTrainer for rows with cells.

    Parameters
    ----------
    learning_rates
        See :class:`cell2text.training.learning_rates.PartLearningRates`.
    max_loss_jump
        Nats above the median of the last 50 losses that stop the run; None for no limit.
    row_weights
        Sampling weight per training row, shape (n_rows,); None samples every row once per epoch.

    Attributes
    ----------
    validation_texts
        Describes validation cells at every evaluation and adds their metrics; None describes none.
    batch_shapes
        Shapes of the last batch, reported when memory is exhausted.
    """

    args: SFTConfig
    model: torch.nn.Module
    train_dataset: Dataset

    def __init__(
        self, model, *args, learning_rates: Mapping[str, float | None] | None = None, max_loss_jump=None,
        row_weights=None, **kwargs,
    ):  # fmt: skip
        self.weights = row_weights
        self.set_learning_rates(model, learning_rates)
        self.validation_texts: GenerationEvaluator | None = None
        self.batch_shapes: dict[str, tuple[int, ...]] = {}
        super().__init__(model, *args, **kwargs)
        self.loss_watch = LossWatch(Path(str(self.args.output_dir)), max_loss_jump)
        self.throughput = Throughput(FlopCounter(self._plain_model()), peak_flops(self.args.device))

    def describe_at_evaluation(self, rows: Dataset, *, batch_size: int, max_new_tokens: int) -> None:
        """Describe these rows' cells at every evaluation and log what the texts get right."""
        share = {"rank": self.args.process_index, "ranks": self.args.world_size, "gather": gather_object}
        options = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}

        def describe(cells):
            if is_sharded(self):
                return generate_with_sharded_model(self.model.eval(), self.processing_class, cells, **options)
            self.model.eval()
            return BatchedTextGenerator(self._plain_model(), self.processing_class, **options)(cells).texts

        self.validation_texts = GenerationEvaluator(rows, describe, **share)

    def _plain_model(self) -> Any:
        """Return the Cell2Text model inside the wrappers of Accelerate and PEFT; LoRA layers stay active."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if isinstance(model, PeftModel) else model

    def train(self, *args, **kwargs):
        self.throughput.start()
        return super().train(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        cell_ids, sizes = inputs.pop("cell_ids", []), inputs.pop("sizes", {})
        self.batch_shapes = {name: tuple(inputs[name].shape) for name in REPORTED_TENSORS if name in inputs}
        output = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.model.training:
            loss = float((output[0] if return_outputs else output).detach())
            self.loss_watch.check(loss, cell_ids, self.state.global_step + 1, self.args.process_index)
            self.throughput.add(sizes)
        return output

    def log(self, logs, start_time=None):
        if "loss" in logs and self.model.training:
            logs = {**logs, **self.throughput.figures(self.args.world_size)}
        super().log(logs, start_time)

    def evaluate(self, *args, **kwargs):
        with self.throughput.paused():
            return super().evaluate(*args, **kwargs)

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.validation_texts is not None:
            found = self.validation_texts.metrics()
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output

    def _save_checkpoint(self, model, trial):
        with self.throughput.paused():
            super()._save_checkpoint(model, trial)

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        if "cells" not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, "cell_id", "cells", "cache", "cache_row"]

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        if "cells" not in dataset.column_names:
            raise UserError(f"The {dataset_name} dataset has no column `cells`; it has {dataset.column_names}.")
        uncut = copy.copy(args)  # TRL would truncate prompts without an error
        uncut.max_length = None
        prepared = super()._prepare_dataset(dataset, processing_class, uncut, packing, formatting_func, dataset_name)
        if args.max_length is not None:
            _check_lengths(prepared, args.max_length, dataset_name)
        if args.train_sampling_strategy == "group_by_length":
            prepared = add_lengths(prepared, args.length_column_name)
        return prepared


def add_lengths(dataset, column: str):
    """Add a column of lengths to group batches by: genes of the longest cell first, then tokens of the text."""
    lengths = [
        TOKENS_PER_GENE * max(map(len, cells), default=0) + len(ids)
        for cells, ids in zip(dataset["cells"], dataset["input_ids"])
    ]
    return dataset.add_column(column, lengths)


def _check_lengths(dataset, max_length: int, name: str) -> None:
    """Raise a `UserError` if `max_length` would cut a row: TRL would drop cells or sentences without an error."""
    lengths = [len(ids) for ids in dataset["input_ids"]]
    longer = sum(length > max_length for length in lengths)
    if longer:
        raise UserError(
            f"max_length={max_length} would cut {longer:,} of {len(lengths):,} rows of the {name} dataset; the "
            f"longest has {max(lengths)} tokens. Raise it to at least {max(lengths)}, or lower num_cell_tokens."
        )

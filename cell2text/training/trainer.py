"""TRL's SFTTrainer with cells: a collator that pads them, and checks before the first step."""

import copy
from dataclasses import dataclass, field
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from cell2text.training.checkpoints import mark_complete
from cell2text.training.loss_watch import LossWatch
from cell2text.training.stages import is_sharded
from cell2text.training.state_cache import CellStateCache
from processing_cell2text import Cell2TextProcessor


GENES_FIRST = 100_000  # one gene more counts as much as so many tokens: attention over genes costs most


@dataclass
class Cell2TextCollator(DataCollatorForLanguageModeling):
    """TRL's own batch of text, and the cells of each example: ranked genes, and where they are kept their states.

    Parameters
    ----------
    processor
        Pads the cells.
    caches
        Kept states by the name that the column `cache` of a row has; its column `cache_row` says which row it is.
    """

    processor: Cell2TextProcessor | None = None
    caches: dict[str, CellStateCache] = field(default_factory=dict)

    def torch_call(self, examples):
        batch = super().torch_call(examples)
        cells = self.processor.pad_cells([example["cells"] for example in examples], return_tensors="pt")
        if "cache" in examples[0]:
            cache = self.caches[examples[0]["cache"]]
            cells = {name: value[..., : cache.positions] for name, value in cells.items()}
            rows = [example["cache_row"] for example in examples]
            cells["cell_states"] = cache.batch(rows, *cells["cell_input_ids"].shape[1:])
        batch.update(cells)
        batch["cell_ids"] = [example.get("cell_id", "") for example in examples]
        return batch


class Cell2TextTrainer(SFTTrainer):
    """An SFTTrainer whose rows hold cells.

    Parameters
    ----------
    encoder_learning_rate, projector_learning_rate
        Learning rates of these parts; the trainer's own when left out.
    max_loss_jump
        Nats above the recent median that stop the run.
    """

    def __init__(self, *args, encoder_learning_rate=None, projector_learning_rate=None, max_loss_jump=None, **kwargs):
        self.part_learning_rates = {"cell_encoder": encoder_learning_rate, "projector": projector_learning_rate}
        super().__init__(*args, **kwargs)
        self.loss_watch = LossWatch(Path(self.args.output_dir), max_loss_jump)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        cell_ids = inputs.pop("cell_ids", [])
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.model.training:
            loss = float((found[0] if return_outputs else found).detach())
            self.loss_watch.look(loss, cell_ids, self.state.global_step + 1, self.args.process_index)
        return found

    @property
    def rows_a_step(self) -> int:
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def _save_checkpoint(self, model, trial):
        """TRL's, marked as whole when every rank has written its part; older ones are deleted only then."""
        kept, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = kept
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
            mark_complete(folder, rows_a_step=self.rows_a_step, ranks=self.args.world_size, sharded=is_sharded(self))
            rotate_checkpoints(self.args.output_dir, kept, self.state.best_model_checkpoint, use_mtime=True)

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        if "cells" not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, "cell_id", "cells", "cache", "cache_row"]

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        if "cells" not in dataset.column_names:
            raise ValueError(f"The {dataset_name} dataset has no column of cells; it has {dataset.column_names}.")
        whole = copy.copy(args)
        whole.max_length = None
        prepared = super()._prepare_dataset(dataset, processing_class, whole, packing, formatting_func, dataset_name)
        if args.max_length is not None:
            refuse_long_rows(prepared, args.max_length, dataset_name)
        if args.train_sampling_strategy == "group_by_length":
            prepared = with_lengths(prepared, args.length_column_name)
        return prepared

    def create_optimizer(self, model=None):
        rates = {part: rate for part, rate in self.part_learning_rates.items() if rate is not None}
        if self.optimizer is None and rates:
            trained = self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
            decayed = set(self.get_decay_parameter_names(trained))
            groups = parameter_groups(trained, rates, decayed, weight_decay=self.args.weight_decay)
            self.optimizer_cls_and_kwargs = optimizer_class, {**options, "params": groups}
        return super().create_optimizer(model)


def parameter_groups(model, rates: dict[str, float], decayed: set[str], *, weight_decay: float) -> list[dict]:
    """Trainable parameters by part and by weight decay; parts in `rates` carry a learning rate of their own."""
    groups: dict[tuple, dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = next((part for part in rates if f"{part}." in name), None)
        decay = weight_decay if name in decayed else 0.0
        group = groups.setdefault((part, decay), {"params": [], "weight_decay": decay})
        group["params"].append(parameter)
        if part is not None:
            group["lr"] = rates[part]
    return list(groups.values())


def with_lengths(dataset, column: str):
    """Rows with their longest cell's genes, then their text's tokens, as one number: what batches are grouped by.

    Genes come first, since attention over them costs most.
    """
    lengths = [
        GENES_FIRST * max(map(len, cells), default=0) + len(ids)
        for cells, ids in zip(dataset["cells"], dataset["input_ids"])
    ]
    return dataset.add_column(column, lengths)


def refuse_long_rows(dataset, max_length: int, name: str) -> None:
    """Raise rather than cut a prompt's cells or an answer's last sentence, as TRL would without a word."""
    lengths = [len(ids) for ids in dataset["input_ids"]]
    longer = sum(length > max_length for length in lengths)
    if longer:
        raise ValueError(
            f"max_length={max_length} would cut {longer:,} of {len(lengths):,} rows of the {name} dataset; the "
            "longest has "
            f"{max(lengths)} tokens. Raise it to at least {max(lengths)}, or lower num_cell_tokens."
        )

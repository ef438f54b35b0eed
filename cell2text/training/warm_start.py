"""The warm start: a fresh encoder learns to tell cell types apart before it meets the language model.

A language model's loss on a few words is a weak signal for an encoder that knows nothing yet; a classifier's is a strong
one. The classification head is thrown away.
"""

import torch
from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainingArguments

from cell2text.data.descriptions import known
from modeling_cell2text import Cell2TextForConditionalGeneration, pool_states
from processing_cell2text import Cell2TextProcessor


class CellClassifier(nn.Module):
    """A linear head on the pooled states of a model's encoder, which it shares and trains."""

    def __init__(self, model: Cell2TextForConditionalGeneration, n_classes: int):
        super().__init__()
        self.backbone = model.model
        self.has_cls = model.config.cell_cls_token_id is not None
        self.head = nn.Linear(model.config.cell_config.hidden_size * (2 if self.has_cls else 1), n_classes)

    def forward(self, cell_input_ids, cell_attention_mask, labels):
        states = self.backbone.get_cell_features(cell_input_ids, cell_attention_mask).last_hidden_state
        genes = cell_attention_mask.bool() & self.backbone._is_gene(cell_input_ids)
        pooled = pool_states(states.flatten(0, 1), genes.flatten(0, 1), has_cls=self.has_cls)
        logits = self.head(pooled.to(self.head.weight.dtype))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def warm_start_encoder(
    model: Cell2TextForConditionalGeneration,
    processor: Cell2TextProcessor,
    rows: Dataset,
    args: TrainingArguments,
    *,
    epochs: float,
    learning_rate: float,
) -> float:
    """Train the encoder on the rows' cell types, in place.

    Parameters
    ----------
    rows
        Rows with `cells` and `cell_type`; rows of an unknown type are left out.
    args
        Batch size, precision, device and seed are taken from here.

    Returns
    -------
    The training loss, averaged over the warm start.
    """
    labelled = [index for index, name in enumerate(rows["cell_type"]) if known(name)]
    classes = sorted(set(rows.select(labelled)["cell_type"]))
    if len(classes) < 2:
        raise ValueError(f"warm_start_epochs={epochs} needs at least two cell types to tell apart, found {classes}.")

    def collate(examples):
        labels = torch.tensor([classes.index(example["cell_type"]) for example in examples])
        return {**processor.pad_cells([example["cells"] for example in examples], return_tensors="pt"), "labels": labels}

    options = TrainingArguments(
        output_dir=args.output_dir,
        per_device_train_batch_size=args.per_device_train_batch_size,
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        bf16=args.bf16,
        use_cpu=args.use_cpu,
        seed=args.seed,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        logging_strategy="epoch",
        disable_tqdm=args.disable_tqdm,
        dataloader_pin_memory=False,
    )
    classifier = CellClassifier(model, len(classes))
    trainer = Trainer(classifier, options, data_collator=collate, train_dataset=rows.select(labelled))
    loss = trainer.train().training_loss
    model.to(args.device)
    return loss

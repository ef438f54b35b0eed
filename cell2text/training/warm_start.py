"""The warm start: a fresh encoder and projector learn cell types and pathways before they meet the language model.

A language model's loss on a few words is a weak signal for an encoder that knows nothing yet; a classifier's is a
strong one. The classification heads are thrown away.
"""

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainingArguments

from cell2text.data.ontology import known
from cell2text.training.augmentation import BalancedRows
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor


PATHWAY_WEIGHT = 0.2  # of one gene set's loss beside that of the cell type


class CellClassifier(nn.Module):
    """Linear heads on a model's projected cells, which share and train the encoder and the projector.

    Parameters
    ----------
    n_types, n_pathways
        Cell types, of which a cell has one, and gene sets, of which its text names some; 0 gene sets for no such head.
    """

    def __init__(self, model: Cell2TextForConditionalGeneration, n_types: int, n_pathways: int):
        super().__init__()
        self.cell_encoder, self.projector = model.model.cell_encoder, model.model.projector
        self.get_cell_features = model.model.get_cell_features
        size = model.config.num_cell_tokens * model.config.text_config.hidden_size
        self.types, self.pathways = nn.Linear(size, n_types), nn.Linear(size, n_pathways) if n_pathways else None

    def forward(self, cell_input_ids, cell_attention_mask, labels, pathways=None):
        """`labels` of shape (n_cells,); `pathways` of shape (n_cells, n_pathways), NaN where they are unknown."""
        features = self.get_cell_features(cell_input_ids, cell_attention_mask).pooler_output
        features = features.flatten(1).to(self.types.weight.dtype)
        logits = self.types(features)
        loss = nn.functional.cross_entropy(logits, labels)
        if self.pathways is not None:
            scored = ~pathways.isnan()
            losses = nn.functional.binary_cross_entropy_with_logits(
                self.pathways(features), pathways.nan_to_num(), weight=scored, reduction="sum"
            )
            loss = loss + PATHWAY_WEIGHT * losses / len(labels)
        return {"loss": loss, "logits": logits}


class BalancedTrainer(BalancedRows, Trainer):
    """transformers' own, that may draw rare kinds of rows more often."""


def warm_start_encoder(
    model: Cell2TextForConditionalGeneration,
    processor: Cell2TextProcessor,
    rows: Dataset,
    args: TrainingArguments,
    *,
    epochs: float,
    learning_rate: float,
    weights: np.ndarray | None = None,
) -> float:
    """Train the encoder and the projector on the rows' cell types and named pathways, in place.

    Parameters
    ----------
    rows
        Rows with `cells`, of which the first counts, and its `cell_type` and `pathways`; rows of an unknown type are
        left out.
    args
        Batch size, precision, device and seed are taken from here.
    weights
        How often each row is drawn; every row once an epoch if None.

    Returns
    -------
    The training loss, averaged over the warm start.
    """
    labelled = [index for index, name in enumerate(rows["cell_type"]) if known(name)]
    classes = sorted(set(rows.select(labelled)["cell_type"]))
    if len(classes) < 2:
        raise ValueError(f"warm_start_epochs={epochs} needs at least two cell types to tell apart, found {classes}.")

    scored = rows["pathways"] if "pathways" in rows.column_names else ()
    sets = sorted({name for named in scored for name in named or ()})

    def collate(examples):
        batch = processor.pad_cells([example["cells"][:1] for example in examples], return_tensors="pt")
        batch["labels"] = torch.tensor([classes.index(example["cell_type"]) for example in examples])
        if sets:
            batch["pathways"] = torch.tensor([named_sets(example["pathways"], sets) for example in examples])
        return batch

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
    model.train()  # the classifier borrows the model's parts, and gene dropout looks at the model
    classifier = CellClassifier(model, len(classes), len(sets))
    trainer = BalancedTrainer(classifier, options, data_collator=collate, train_dataset=rows.select(labelled))
    trainer.weights = None if weights is None else weights[labelled]
    loss = trainer.train().training_loss
    model.to(device=args.device)  # type: ignore[call-arg]
    return loss


def named_sets(named: list[str] | None, sets: list[str]) -> list[float]:
    """Of each gene set whether a cell's text names it; NaN for a cell whose pathways are unknown."""
    return [float(name in named) for name in sets] if named else [float("nan")] * len(sets)

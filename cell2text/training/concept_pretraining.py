"""Concept pretraining: encoder and projector learn to classify cells before the language model is trained.

The language model's loss on a few words is a weak signal for an untrained encoder; a classification loss is a strong
one. Types are learned at every level of the Cell Ontology, so that similar types become neighbours. Afterwards the
heads predict the types of the held-out cells: errors of a text beyond those arise between the features and the words.
The heads are then discarded, except for those of a `concepts` projector.
"""

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainingArguments

from cell2text.errors import UserError
from cell2text.evaluation.bootstrap import Resampler
from cell2text.evaluation.classification import FieldPairs
from cell2text.language.fields import ORIGIN_FIELDS, Claim
from cell2text.ontology.terms import clean_label
from cell2text.training.class_balance import BalancedRows
from cell2text.training.concept_targets import LABEL_COLUMNS, CellConcepts, claims_by_type_name, true_type_claims
from cell2text.training.row_columns import column_values
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor
from statements_cell2text import ONE_CELL, PROFILE_GROUP, TYPES


logger = logging.getLogger(__name__)

# Concept groups that shape the encoder, and the weight of each name in the loss.
GROUP_WEIGHTS = {TYPES: 1.0, "pathways": 0.2, PROFILE_GROUP: 0.3}
CONCEPT_PRETRAINING_FILE = "concept_pretraining.json"
HEAD_METRICS = ("accuracy", "lenient_accuracy", "pagerank_similarity")


@dataclass
class ConceptPretrainingResult:
    """Loss and held-out accuracy of a concept pretraining.

    Parameters
    ----------
    loss
        Mean training loss over all steps.
    held_out
        `n` labelled held-out cells and the `HEAD_METRICS` of the types that the head predicts for them, from 0 to 1;
        None if there are none.
    """

    loss: float
    held_out: dict[str, float] | None = None


class ConceptClassifier(nn.Module):
    """Linear heads on a model's projected cells; encoder and projector are the model's own and train with the heads.

    A `concepts` projector keeps its heads. For any other projector, heads of types and pathways are added and discarded
    afterwards. Origin heads train on detached features, so study artefacts do not shape the encoder.
    """

    def __init__(self, model: Cell2TextForConditionalGeneration, concepts: CellConcepts):
        super().__init__()
        projector = model.model.projector
        self.cell_encoder, self.encode_cells = model.model.cell_encoder, model.model.encode_cells
        # Functions rather than modules, whose mode would change with the classifier's.
        self.mask_genes, self.gene_table = model.model.gene_mask.__call__, model.model.gene_table
        size = model.config.num_cell_tokens * model.config.text_config.hidden_size
        if model.config.cell_concepts is None:
            learned = [group for group in GROUP_WEIGHTS if group in concepts.groups]
            heads = {group: nn.Linear(size, len(concepts.groups[group])) for group in learned}
            self.projector, self.heads = projector, nn.ModuleDict(heads)
        elif model.config.cell_concepts == concepts.to_dict():
            self.projector, self.heads = projector.pooled, projector.heads
        else:
            of_rows, of_model = concepts.groups, model.config.concept_groups
            differ = sorted(group for group in {*of_model, *of_rows} if of_model.get(group) != of_rows.get(group))
            raise UserError(
                f"The model's cell_concepts differ from those of these rows in {differ}: omit "
                "concept_pretraining_epochs for a model that is trained already, or train a new one."
            )
        # The features are as small as a language model's embeddings; heads would take long to compensate.
        self.scale = float(self.projector.output_norm.weight.detach().abs().mean())

    def train(self, mode: bool = True):
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.cell_encoder.parameters()):
            self.cell_encoder.eval()  # a frozen encoder has no dropout
        return self

    def forward(self, cell_input_ids, cell_attention_mask, targets):
        """Return the loss and the logits of `cell_type`.

        `targets` are those of :meth:`CellConcepts.targets`; groups without a head are ignored.
        """
        features = self.features(cell_input_ids, cell_attention_mask)
        detached = features.detach()
        logits = {group: head(detached if group in ORIGIN_FIELDS else features) for group, head in self.heads.items()}
        loss = torch.zeros((), device=features.device)
        for group, values in logits.items():
            learn = masked_binary_cross_entropy if group == "pathways" else masked_cross_entropy
            loss = loss + GROUP_WEIGHTS.get(group, 1.0) * learn(values, targets[group])
        return {"loss": loss, "logits": logits[TYPES]}

    def features(self, cell_input_ids, cell_attention_mask) -> torch.Tensor:
        """Return the input of the heads, shape (n_cells, num_cell_tokens * text_hidden)."""
        table = self.gene_table() if hasattr(self.projector, "project_mean") else None
        if table is None:
            states, gene_mask, _ = self.encode_cells(cell_input_ids, cell_attention_mask)
            features = self.projector(states.flatten(0, 1), gene_mask.flatten(0, 1))
        else:
            ids, _, gene_mask = self.mask_genes(cell_input_ids.flatten(0, 1), cell_attention_mask.flatten(0, 1).bool())
            features = self.projector.project_mean(self.projector.mean_of_genes(table, ids, gene_mask))
        return features.flatten(1).to(self.heads[TYPES].weight.dtype) / self.scale


def masked_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy with the target shares, averaged over the cells whose targets are known."""
    known = ~targets.isnan().any(-1)
    losses = -(logits.log_softmax(-1) * targets.nan_to_num()).sum(-1)
    return (losses * known).sum() / known.sum().clamp(min=1)


def masked_binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the binary cross-entropy, summed over columns and averaged over cells; NaN targets are ignored."""
    known = ~targets.isnan()
    losses = nn.functional.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), weight=known, reduction="sum")
    return losses / len(targets)


class BalancedTrainer(BalancedRows, Trainer):
    """transformers' Trainer with an optional weight per row."""


def pretrain_concepts(
    model: Cell2TextForConditionalGeneration,
    processor: Cell2TextProcessor,
    rows: Dataset,
    args: TrainingArguments,
    *,
    epochs: float,
    learning_rate: float,
    batch_size: int | None = None,
    weights: np.ndarray | None = None,
    held_out: Dataset | None = None,
    augment: bool = True,
) -> ConceptPretrainingResult:
    """Train encoder and projector to classify the first cell of each row, in place.

    Parameters
    ----------
    rows
        Rows with `cells`, `cell_type` and optionally `profile`, `pathways` and origin. Rows without a cell type are
        skipped, unless their profile is not that of one cell.
    args
        Batch size, precision, device and seed. A positive `max_steps` bounds the steps of concept pretraining as well.
    batch_size
        Cells per step; that of `args` if None.
    weights
        Sampling weight per row; None samples every row once per epoch.
    held_out
        Rows to predict at the end; rows without a cell type are skipped.
    augment
        Whether genes are hidden from the encoder as in the rest of the training.

    Raises
    ------
    UserError
        If the rows have fewer than two cell types, or the model predicts other concepts.
    """
    labelled = labelled_rows(rows)
    needed = {"cells", *LABEL_COLUMNS, *ORIGIN_FIELDS, "pathways"}
    learned = rows.select(labelled).select_columns([name for name in rows.column_names if name in needed])
    concepts = CellConcepts.from_rows(rows)
    claims = {claim.name: claim for claim in claims_by_type_name(learned).values()}
    if len(claims) < 2:
        raise UserError(f"concept_pretraining_epochs={epochs} needs at least two cell types, found {list(claims)}.")

    def collate(examples):
        batch = processor.pad_cells([example["cells"][:1] for example in examples], return_tensors="pt")
        return {**batch, "targets": concepts.targets(examples)}

    batch_size = batch_size or args.per_device_train_batch_size
    options = _pretraining_arguments(args, epochs, learning_rate, len(learned), batch_size)
    # The classifier sets the modes of its own parts; hiding genes depends on the mode of the whole model.
    model.train(augment)
    classifier = ConceptClassifier(model, concepts)
    trainer = BalancedTrainer(classifier, options, data_collator=collate, train_dataset=learned)
    trainer.weights = None if weights is None else weights[labelled]
    loss = trainer.train().training_loss
    model.eval()
    figures = None
    if held_out is not None:
        types = [claims.get(name, Claim(name)) for name in concepts.groups[TYPES]]
        figures = _held_out_metrics(classifier, processor, held_out, types, options)
    model.to(device=args.device)  # type: ignore[call-arg]
    return ConceptPretrainingResult(loss, figures)


def labelled_rows(rows: Dataset) -> list[int]:
    """Return the indices of rows with a cell type, or with a kind of profile that has none."""
    kinds = column_values(rows, PROFILE_GROUP) if PROFILE_GROUP in rows.column_names else [None] * len(rows)
    pairs = enumerate(zip(column_values(rows, TYPES), kinds))
    return [index for index, (name, kind) in pairs if clean_label(name) or (kind or ONE_CELL) != ONE_CELL]


def _pretraining_arguments(
    args: TrainingArguments, epochs: float, learning_rate: float, n_rows: int, batch_size: int
) -> TrainingArguments:
    """Return the options of concept pretraining, which saves nothing and reports no metrics."""
    planned = math.ceil(epochs * math.ceil(n_rows / (batch_size * args.world_size)))
    bounded = 0 < args.max_steps < planned
    if bounded:
        logger.info("Concept pretraining: %d steps, as max_steps allows, of %d planned.", args.max_steps, planned)
    return TrainingArguments(
        output_dir=args.output_dir,
        per_device_train_batch_size=batch_size,
        num_train_epochs=epochs,
        max_steps=args.max_steps if bounded else -1,
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


def _held_out_metrics(
    classifier: ConceptClassifier, processor: Cell2TextProcessor, held_out: Dataset, claims: list[Claim],
    options: TrainingArguments,
) -> dict[str, float] | None:  # fmt: skip
    """Return the head's metrics on the labelled held-out cells; None if no cell is labelled.

    Parameters
    ----------
    claims
        Cell types in the order of the head's classes.
    """
    labelled = held_out.select(
        [index for index, name in enumerate(column_values(held_out, TYPES)) if clean_label(name)]
    )
    if not len(labelled):
        return None
    predicted: list[int] = []
    classifier.eval()
    with torch.no_grad():
        for batch in labelled.select_columns("cells").iter(options.per_device_eval_batch_size):
            padded = processor.pad_cells([ranked[:1] for ranked in batch["cells"]], return_tensors="pt")
            cells = {name: values.to(options.device) for name, values in padded.items()}
            predicted += classifier.heads["cell_type"](classifier.features(**cells)).argmax(-1).tolist()
    predicted_claims = [claims[index] for index in predicted]
    pairs = FieldPairs("cell_type", true_type_claims(labelled), predicted_claims, np.arange(len(labelled)))
    metrics = pairs.metrics(Resampler([None] * len(labelled), n_resamples=0))
    return {"n": len(labelled), **{name: float(metrics[name][0]) for name in HEAD_METRICS}}

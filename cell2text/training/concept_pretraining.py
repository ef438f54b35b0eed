"""The warm start: a fresh encoder and projector learn cell types and pathways before they meet the language model.

A language model's loss on a few words is a weak signal for an encoder that knows nothing yet; a classifier's is a
strong one. The classification heads are thrown away, once they have told what encoder and projector know without any
text: what a text gets wrong beyond that was lost on its way into words.
Types are learned at every level of the Cell Ontology, as neighbours of each other.
"""

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
from cell2text.training.concept_targets import BROADER_TYPES, CellConcepts, claims_by_name, type_claims
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor


# Groups of concepts that shape the encoder, and what the loss of one of their names weighs.
LEARNED = {"cell_type": 1.0, BROADER_TYPES: 0.1, "pathways": 0.2}
CONCEPT_PRETRAINING = "concept_pretraining.json"
FIGURES = ("accuracy", "lenient_accuracy", "pagerank_similarity")


@dataclass
class ConceptPretrainingResult:
    """What a warm start came to.

    Parameters
    ----------
    loss
        Training loss, averaged over the whole.
    held_out
        `n` cells that took no part, and of their types what the head names: `accuracy` and the others of `FIGURES`,
        shares from 0 to 1; None where there are none.
    """

    loss: float
    held_out: dict[str, float] | None = None


class CellClassifier(nn.Module):
    """Linear heads on a model's projected cells, which share and train the encoder and the projector.

    A projector of named concepts has its heads, and keeps them; others are read by heads of types and pathways that go
    with the classifier, as those of broader types always do. Where a cell comes from, its study tells best, so what
    does is read off but trains no more.
    """

    def __init__(self, model: Cell2TextForConditionalGeneration, concepts: CellConcepts):
        super().__init__()
        projector = model.model.projector
        self.cell_encoder, self.encode_cells = model.model.cell_encoder, model.model.encode_cells
        size = model.config.num_cell_tokens * model.config.text_config.hidden_size
        if model.config.cell_concepts is None:
            learned = [group for group in LEARNED if group in concepts.groups]
            heads = {group: nn.Linear(size, len(concepts.groups[group])) for group in learned}
            self.projector, self.heads = projector, nn.ModuleDict(heads)
        elif model.config.cell_concepts == concepts.told():
            self.projector, self.heads = projector.pooled, nn.ModuleDict(projector.heads)
            if BROADER_TYPES in concepts.groups:
                self.heads[BROADER_TYPES] = nn.Linear(size, len(concepts.groups[BROADER_TYPES]))
        else:
            asked = CellConcepts(concepts.told()).groups
            told = model.config.concept_groups
            differ = sorted(group for group in {*told, *asked} if told.get(group) != asked.get(group))
            raise UserError(
                f"The model tells other cell_concepts than these rows, in {differ}: leave out "
                "concept_pretraining_epochs for a model that is trained already, or train a new one."
            )
        # Features are as small as a language model's embeddings, which a head would take long to make up for.
        self.scale = float(self.projector.output_norm.weight.detach().abs().mean())

    def train(self, mode: bool = True):
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.cell_encoder.parameters()):
            self.cell_encoder.eval()  # a frozen one is as it is
        return self

    def forward(self, cell_input_ids, cell_attention_mask, truths):
        """`truths` as :meth:`CellConcepts.truths` has them; groups without a head are left out."""
        features = self.features(cell_input_ids, cell_attention_mask)
        logits = self.heads["cell_type"](features)
        loss = nn.functional.cross_entropy(logits, truths["cell_type"])
        for group, weight in LEARNED.items():
            if group in self.heads and group != "cell_type":
                loss = loss + weight * masked_binary_cross_entropy(self.heads[group](features), truths[group])
        for group in ORIGIN_FIELDS:
            if group in self.heads:
                loss = loss + nn.functional.cross_entropy(self.heads[group](features.detach()), truths[group])
        return {"loss": loss, "logits": logits}

    def features(self, cell_input_ids, cell_attention_mask) -> torch.Tensor:
        """What the heads read of each cell, shape (n_cells, num_cell_tokens * text_hidden)."""
        states, gene_mask, _ = self.encode_cells(cell_input_ids, cell_attention_mask)
        features = self.projector(states.flatten(0, 1), gene_mask.flatten(0, 1))
        return features.flatten(1).to(self.heads["cell_type"].weight.dtype) / self.scale


def masked_binary_cross_entropy(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy over columns added up, mean over cells; what is NaN in truth weighs nothing."""
    known = ~truth.isnan()
    losses = nn.functional.binary_cross_entropy_with_logits(logits, truth.nan_to_num(), weight=known, reduction="sum")
    return losses / len(truth)


class BalancedTrainer(BalancedRows, Trainer):
    """transformers' own, that may draw rare kinds of rows more often."""


def pretrain_concepts(
    model: Cell2TextForConditionalGeneration,
    processor: Cell2TextProcessor,
    rows: Dataset,
    args: TrainingArguments,
    *,
    epochs: float,
    learning_rate: float,
    weights: np.ndarray | None = None,
    held_out: Dataset | None = None,
    augment: bool = True,
) -> ConceptPretrainingResult:
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
    held_out
        Rows to be asked for in the end, which train nothing; those of an unknown type are left out.
    augment
        Whether genes are hidden from the encoder as in the rest of the training, or it sees each cell whole.
    """
    labelled = [index for index, name in enumerate(rows["cell_type"]) if clean_label(name)]
    learned, concepts = rows.select(labelled), CellConcepts.of(rows)
    classes = concepts.groups["cell_type"]
    if len(classes) < 2:
        raise UserError(
            f"concept_pretraining_epochs={epochs} needs at least two cell types to tell apart, found {classes}."
        )

    def collate(examples):
        batch = processor.pad_cells([example["cells"][:1] for example in examples], return_tensors="pt")
        return {**batch, "truths": concepts.truths(examples)}

    options = concept_pretraining_arguments(args, epochs, learning_rate)
    # The classifier puts the parts it borrows into training by itself; what hides genes looks at the whole model.
    model.train(augment)
    classifier = CellClassifier(model, concepts)
    trainer = BalancedTrainer(classifier, options, data_collator=collate, train_dataset=learned)
    trainer.weights = None if weights is None else weights[labelled]
    loss = trainer.train().training_loss
    model.eval()
    figures = None
    if held_out is not None:
        claim_of = claims_by_name(learned)
        claims = [claim_of[name] for name in classes]
        figures = held_out_figures(classifier, processor, held_out, claims, options)
    model.to(device=args.device)  # type: ignore[call-arg]
    return ConceptPretrainingResult(loss, figures)


def concept_pretraining_arguments(args: TrainingArguments, epochs: float, learning_rate: float) -> TrainingArguments:
    """Of a run's arguments those that hold for its warm start, which saves and reports nothing."""
    return TrainingArguments(
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


def held_out_figures(
    classifier: CellClassifier, processor: Cell2TextProcessor, held_out: Dataset, claims: list[Claim],
    options: TrainingArguments,
) -> dict[str, float] | None:  # fmt: skip
    """How near the head, whose classes make these claims, comes to held-out types; None where none of them is known."""
    asked = held_out.select([index for index, name in enumerate(held_out["cell_type"]) if clean_label(name)])
    if not len(asked):
        return None
    chosen: list[int] = []
    classifier.eval()
    with torch.no_grad():
        for batch in asked.select_columns("cells").iter(options.per_device_eval_batch_size):
            padded = processor.pad_cells([ranked[:1] for ranked in batch["cells"]], return_tensors="pt")
            cells = {name: values.to(options.device) for name, values in padded.items()}
            chosen += classifier.heads["cell_type"](classifier.features(**cells)).argmax(-1).tolist()
    pairs = FieldPairs("cell_type", type_claims(asked), [claims[index] for index in chosen], np.arange(len(asked)))
    found = pairs.metrics(Resampler([None] * len(asked), n_resamples=0))
    return {"n": len(asked), **{name: float(found[name][0]) for name in FIGURES}}

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

from cell2text.data.ontology import ancestors, known
from cell2text.evaluation.bootstrap import Resampler
from cell2text.evaluation.classification import FieldPairs, truth_claim
from cell2text.evaluation.fields import Claim
from cell2text.training.augmentation import BalancedRows
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor


PATHWAY_WEIGHT = 0.2  # of one gene set's loss beside that of the cell type
BROADER_WEIGHT = 0.1  # of one broader type's loss
WARM_START = "warm_start.json"
FIGURES = ("accuracy", "lenient_accuracy", "pagerank_similarity")


@dataclass
class WarmStart:
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

    Parameters
    ----------
    broader
        Cell types, of which a cell has one, by the broader types that they fall under: 1 or 0, NaN in the row of a type
        of which that is not known, shape (n_types, n_broader).
    n_pathways
        Gene sets, of which a cell's text names some; 0 for no such head.
    """

    def __init__(self, model: Cell2TextForConditionalGeneration, broader: torch.Tensor, n_pathways: int):
        super().__init__()
        self.cell_encoder, self.projector = model.model.cell_encoder, model.model.projector
        self.get_cell_features = model.model.get_cell_features
        # Features are as small as a language model's embeddings, which a head would take long to make up for.
        self.scale = float(self.projector.output_norm.weight.detach().abs().mean())
        size = model.config.num_cell_tokens * model.config.text_config.hidden_size
        n_types, n_broader = broader.shape
        self.types = nn.Linear(size, n_types)
        self.broader = nn.Linear(size, n_broader) if n_broader else None
        self.pathways = nn.Linear(size, n_pathways) if n_pathways else None
        self.register_buffer("falls_under", broader)

    def forward(self, cell_input_ids, cell_attention_mask, labels, pathways=None):
        """`labels` of shape (n_cells,); `pathways` of shape (n_cells, n_pathways), NaN where they are unknown."""
        features = self.features(cell_input_ids, cell_attention_mask)
        logits = self.types(features)
        loss = nn.functional.cross_entropy(logits, labels)
        if self.broader is not None:
            loss = loss + BROADER_WEIGHT * loss_where_known(self.broader(features), self.falls_under[labels])
        if self.pathways is not None:
            loss = loss + PATHWAY_WEIGHT * loss_where_known(self.pathways(features), pathways)
        return {"loss": loss, "logits": logits}

    def features(self, cell_input_ids, cell_attention_mask) -> torch.Tensor:
        """What the language model would see of each cell, shape (n_cells, num_cell_tokens * text_hidden)."""
        features = self.get_cell_features(cell_input_ids, cell_attention_mask).pooler_output
        return features.flatten(1).to(self.types.weight.dtype) / self.scale


def loss_where_known(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy over columns added up, mean over cells; what is NaN in truth weighs nothing."""
    known = ~truth.isnan()
    losses = nn.functional.binary_cross_entropy_with_logits(logits, truth.nan_to_num(), weight=known, reduction="sum")
    return losses / len(truth)


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
    held_out: Dataset | None = None,
    augment: bool = True,
) -> WarmStart:
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
    labelled = [index for index, name in enumerate(rows["cell_type"]) if known(name)]
    learned = rows.select(labelled)
    classes = sorted(set(learned["cell_type"]))
    if len(classes) < 2:
        raise ValueError(f"warm_start_epochs={epochs} needs at least two cell types to tell apart, found {classes}.")

    claim_of = dict(zip(learned["cell_type"], type_claims(learned)))
    claims = [claim_of[name] for name in classes]
    scored = rows["pathways"] if "pathways" in rows.column_names else ()
    sets = sorted({name for named in scored for name in named or ()})

    def collate(examples):
        batch = processor.pad_cells([example["cells"][:1] for example in examples], return_tensors="pt")
        batch["labels"] = torch.tensor([classes.index(example["cell_type"]) for example in examples])
        if sets:
            batch["pathways"] = torch.tensor([named_sets(example["pathways"], sets) for example in examples])
        return batch

    options = warm_start_arguments(args, epochs, learning_rate)
    # The classifier puts the parts it borrows into training by itself; what hides genes looks at the whole model.
    model.train(augment)
    classifier = CellClassifier(model, broader_types(claims), len(sets))
    trainer = BalancedTrainer(classifier, options, data_collator=collate, train_dataset=learned)
    trainer.weights = None if weights is None else weights[labelled]
    loss = trainer.train().training_loss
    model.eval()
    figures = None
    if held_out is not None:
        figures = held_out_figures(classifier, processor, held_out, claims, options)
    model.to(device=args.device)  # type: ignore[call-arg]
    return WarmStart(loss, figures)


def warm_start_arguments(args: TrainingArguments, epochs: float, learning_rate: float) -> TrainingArguments:
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
    asked = held_out.select([index for index, name in enumerate(held_out["cell_type"]) if known(name)])
    if not len(asked):
        return None
    chosen: list[int] = []
    classifier.eval()
    with torch.no_grad():
        for batch in asked.select_columns("cells").iter(options.per_device_eval_batch_size):
            padded = processor.pad_cells([ranked[:1] for ranked in batch["cells"]], return_tensors="pt")
            cells = {name: values.to(options.device) for name, values in padded.items()}
            chosen += classifier.types(classifier.features(**cells)).argmax(-1).tolist()
    pairs = FieldPairs("cell_type", type_claims(asked), [claims[index] for index in chosen], np.arange(len(asked)))
    found = pairs.metrics(Resampler([None] * len(asked), n_resamples=0))
    return {"n": len(asked), **{name: float(found[name][0]) for name in FIGURES}}


def type_claims(rows: Dataset) -> list[Claim]:
    return [truth_claim("cell_type", *row) for row in zip(rows["cell_type"], rows["cell_type_ontology_term_id"])]


def broader_types(types: list[Claim]) -> torch.Tensor:
    """Which types fall under which terms of the Cell Ontology, their own among them, as :class:`CellClassifier` has it.

    Terms above all of the types tell nothing and are left out.
    """
    above = [ancestors(claim.term_id) if claim.term_id else frozenset() for claim in types]
    located = [terms for terms in above if terms]
    columns = sorted(frozenset().union(*located) - frozenset.intersection(*located)) if located else []
    rows = [[float(term in terms) if terms else float("nan") for term in columns] for terms in above]
    return torch.tensor(rows).reshape(len(types), len(columns))


def named_sets(named: list[str] | None, sets: list[str]) -> list[float]:
    """Of each gene set whether a cell's text names it; NaN for a cell whose pathways are unknown."""
    return [float(name in named) for name in sets] if named else [float("nan")] * len(sets)

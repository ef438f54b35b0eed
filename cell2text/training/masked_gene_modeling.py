"""Masked-gene modelling: an encoder learns which genes occur together by predicting hidden ones, as Geneformer does."""

from collections import Counter

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModelForMaskedLM, BertForMaskedLM, Trainer

from cell2text.errors import UserError
from cell2text.training.arguments import EncoderArguments
from cell2text.training.checkpoints import CompleteCheckpoints
from cell2text.training.components import fresh_encoder_config
from vocabulary_cell2text import SPECIAL_TOKENS, GeneVocabulary


IGNORED = -100  # label of a position without a loss
# Shares of the genes to predict that are masked or replaced. The rest stay, so the encoder cannot trust any position.
MASKED_SHARE, REPLACED_SHARE = 0.8, 0.1


class MaskedGeneModel(BertForMaskedLM):
    """BERT that computes its head only at the genes to predict, some 15 % of the positions."""

    def forward(self, input_ids, attention_mask, labels):
        """Return the mean loss, and per cell the genes to predict, those predicted correctly and their summed loss."""
        predicts = labels != IGNORED
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[predicts]
        logits, genes = self.cls(states).float(), labels[predicts]
        losses = nn.functional.cross_entropy(logits, genes, reduction="none")
        per_gene = torch.stack([torch.ones_like(losses), (logits.argmax(-1) == genes).float(), losses.detach()], dim=1)
        cell = predicts.nonzero()[:, 0]
        per_cell = per_gene.new_zeros(len(labels), 3).index_add_(0, cell, per_gene)
        return {"loss": losses.mean() if len(genes) else logits.sum(), "logits": per_cell}


def load_encoder(args: EncoderArguments, vocabulary: GeneVocabulary, max_genes: int) -> MaskedGeneModel:
    """Return a new encoder, or a pretrained one to train further.

    Raises
    ------
    UserError
        If the pretrained encoder is not a BERT, or has another number of genes.
    """
    if args.cell_encoder is None:
        return MaskedGeneModel(fresh_encoder_config(args, vocabulary, max_genes))
    options = {"subfolder": args.cell_encoder_subfolder} if args.cell_encoder_subfolder else {}
    loaded = AutoModelForMaskedLM.from_pretrained(args.cell_encoder, **options)
    if not isinstance(loaded, BertForMaskedLM):
        raise UserError(f"cell_encoder={args.cell_encoder} is a {type(loaded).__name__}: expected a BertForMaskedLM.")
    if loaded.config.vocab_size != len(vocabulary):
        raise UserError(
            f"cell_encoder={args.cell_encoder} has {loaded.config.vocab_size:,} gene tokens, but the data have "
            f"{len(vocabulary):,}: prepare them with the encoder's vocabulary (cell2text prepare --gene-vocab FOLDER)."
        )
    model = MaskedGeneModel(loaded.config)
    model.load_state_dict(loaded.state_dict())
    return model


def as_bert(model: MaskedGeneModel) -> BertForMaskedLM:
    """Return the same weights in the class that Geneformer is published with."""
    bert = BertForMaskedLM(model.config)
    bert.load_state_dict(model.state_dict())
    return bert


def cells_of(rows: Dataset, max_genes: int) -> Dataset:
    """Return every cell of the rows once, as `input_ids` of at most `max_genes` tokens and their `length`."""

    def flatten(batch):
        cells = [cell[:max_genes] for cells in batch["cells"] for cell in cells]
        return {"input_ids": cells, "length": [len(cell) for cell in cells]}

    return rows.map(flatten, batched=True, remove_columns=rows.column_names)


class GeneMasker:
    """Data collator: pad cells and hide some of their genes.

    Parameters
    ----------
    vocabulary
        Gene vocabulary. Its special tokens are never hidden.
    share
        Share of a cell's genes to predict.
    seed
        Random seed that selects the same genes of a cell in every batch; None selects new ones each time.
    """

    def __init__(self, vocabulary: GeneVocabulary, share: float, seed: int | None = None):
        self.share, self.seed, self.pad, self.mask = share, seed, vocabulary.pad_token_id, vocabulary.mask_token_id
        special = [vocabulary.token_ids[token] for token in SPECIAL_TOKENS if token in vocabulary.token_ids]
        self.special = torch.zeros(len(vocabulary), dtype=torch.bool)
        self.special[special] = True
        self.genes = (~self.special).nonzero().flatten()

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `attention_mask` and `labels`, each of shape (n_cells, n_genes)."""
        length = max(len(example["input_ids"]) for example in examples)
        ids = torch.full((len(examples), length), self.pad)
        labels = torch.full((len(examples), length), IGNORED)
        for i, example in enumerate(examples):
            cell = torch.tensor(example["input_ids"], dtype=torch.long)
            ids[i, : len(cell)], labels[i, : len(cell)] = self._hide(cell)
        return {"input_ids": ids, "attention_mask": (ids != self.pad).long(), "labels": labels}

    def _hide(self, cell: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a cell with hidden genes and the labels to predict; at least one gene if the cell has any."""
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed + int(cell.sum()))
        genes = (~self.special[cell]).nonzero().flatten()
        n_hidden = max(1, round(self.share * len(genes))) if len(genes) else 0
        hidden = genes[torch.randperm(len(genes), generator=generator)[:n_hidden]]
        labels = torch.full_like(cell, IGNORED)
        labels[hidden] = cell[hidden]
        way = torch.rand(n_hidden, generator=generator)
        others = self.genes[torch.randint(len(self.genes), (n_hidden,), generator=generator)]
        replaced = torch.where(way < MASKED_SHARE + REPLACED_SHARE, others, cell[hidden])
        return cell.scatter(0, hidden, torch.where(way < MASKED_SHARE, self.mask, replaced)), labels


class EncoderTrainer(CompleteCheckpoints, Trainer):  # type: ignore[misc]
    """transformers' Trainer that hides the same genes in every evaluation."""

    def __init__(self, *, eval_collator: GeneMasker, **kwargs):
        super().__init__(compute_metrics=_prediction_metrics, **kwargs)
        self.eval_collator = eval_collator

    def get_eval_dataloader(self, eval_dataset=None):
        training, self.data_collator = self.data_collator, self.eval_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training


def _prediction_metrics(prediction) -> dict[str, float]:
    """Return the share of hidden genes that is predicted correctly, and their mean loss."""
    hidden, correct, loss = prediction.predictions.sum(axis=0).tolist()
    return {"guessed": correct / max(hidden, 1), "gene_loss": loss / max(hidden, 1)}


def context_free_baseline(train: Dataset, held_out: Dataset, vocabulary: GeneVocabulary) -> dict[str, float]:
    """Return the loss of predicting gene frequencies, and the accuracy of always predicting the most frequent gene.

    Both are over all genes of the held-out cells. Frequencies are those of the training cells, with one added to every
    count.
    """
    counts = Counter(token for cell in train["input_ids"] for token in cell)
    special = {vocabulary.token_ids[token] for token in SPECIAL_TOKENS if token in vocabulary.token_ids}
    frequency = np.ones(len(vocabulary))
    for token, count in counts.items():
        frequency[token] += count
    frequency[list(special)] = 0
    log_share = np.log(np.maximum(frequency, 1e-300) / frequency.sum())
    genes = np.concatenate([np.setdiff1d(np.asarray(cell), list(special)) for cell in held_out["input_ids"]])
    return {"loss": float(-log_share[genes].mean()), "guessed": float((genes == frequency.argmax()).mean())}

"""Masked-gene modelling: an encoder learns which genes belong together by guessing hidden ones, as Geneformer did."""

from collections import Counter

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModelForMaskedLM, BertForMaskedLM, Trainer

from cell2text.errors import UserError
from cell2text.training.arguments import EncoderArguments
from cell2text.training.checkpoints import WholeCheckpoints
from cell2text.training.components import fresh_encoder_config
from vocabulary_cell2text import SPECIAL_TOKENS, GeneVocabulary


NOT_ASKED = -100  # a label that is left out of the loss
MASKED, CHANGED = 0.8, 0.1  # of the genes that are asked; the rest stay as they are, so that no position can be trusted


class MaskedGeneModel(BertForMaskedLM):
    """BERT with its head on the genes that are asked alone, some 15 % of them."""

    def forward(self, input_ids, attention_mask, labels):
        """Mean loss of the hidden genes, and for each cell how many were asked and guessed, and their loss."""
        asked = labels != NOT_ASKED
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[asked]
        logits, genes = self.cls(states).float(), labels[asked]
        losses = nn.functional.cross_entropy(logits, genes, reduction="none")
        each = torch.stack([torch.ones_like(losses), (logits.argmax(-1) == genes).float(), losses.detach()], dim=1)
        cell = asked.nonzero()[:, 0]
        counted = each.new_zeros(len(labels), 3).index_add_(0, cell, each)
        return {"loss": losses.mean() if len(genes) else logits.sum(), "logits": counted}


def load_encoder(args: EncoderArguments, vocabulary: GeneVocabulary, max_genes: int) -> MaskedGeneModel:
    """A fresh encoder, or one to train further.

    Raises
    ------
    ValueError
        If the pretrained encoder is no BERT, or has another number of genes.
    """
    if args.cell_encoder is None:
        return MaskedGeneModel(fresh_encoder_config(args, vocabulary, max_genes))
    options = {"subfolder": args.cell_encoder_subfolder} if args.cell_encoder_subfolder else {}
    loaded = AutoModelForMaskedLM.from_pretrained(args.cell_encoder, **options)
    if not isinstance(loaded, BertForMaskedLM):
        raise UserError(f"--cell_encoder {args.cell_encoder} is a {type(loaded).__name__}: expected BertForMaskedLM.")
    if loaded.config.vocab_size != len(vocabulary):
        raise UserError(
            f"--cell_encoder {args.cell_encoder} knows {loaded.config.vocab_size:,} gene tokens, the data have "
            f"{len(vocabulary):,}: prepare them with the encoder's vocabulary (--gene-vocab)."
        )
    model = MaskedGeneModel(loaded.config)
    model.load_state_dict(loaded.state_dict())
    return model


def plain_encoder(model: MaskedGeneModel) -> BertForMaskedLM:
    """The same weights under the class that Geneformer is published with."""
    plain = BertForMaskedLM(model.config)
    plain.load_state_dict(model.state_dict())
    return plain


def cells_of(rows: Dataset, max_genes: int) -> Dataset:
    """Every cell of the rows once as `input_ids`, and its `length`."""

    def flatten(batch):
        cells = [cell[:max_genes] for cells in batch["cells"] for cell in cells]
        return {"input_ids": cells, "length": [len(cell) for cell in cells]}

    return rows.map(flatten, batched=True, remove_columns=rows.column_names)


class GeneMasker:
    """Collator: pads cells and hides some of their genes.

    Parameters
    ----------
    vocabulary
        Its special tokens are never asked.
    share
        Of a cell's genes that are asked.
    seed
        None draws anew each time; a number asks the same genes of a cell whatever batch it is in.
    """

    def __init__(self, vocabulary: GeneVocabulary, share: float, seed: int | None = None):
        self.share, self.seed, self.pad, self.mask = share, seed, vocabulary.pad_token_id, vocabulary.mask_token_id
        special = [vocabulary.token_ids[token] for token in SPECIAL_TOKENS if token in vocabulary.token_ids]
        self.special = torch.zeros(len(vocabulary), dtype=torch.bool)
        self.special[special] = True
        self.genes = (~self.special).nonzero().flatten()

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` and `labels`, all of shape (n_cells, n_genes)."""
        length = max(len(example["input_ids"]) for example in examples)
        ids = torch.full((len(examples), length), self.pad)
        labels = torch.full((len(examples), length), NOT_ASKED)
        for i, example in enumerate(examples):
            cell = torch.tensor(example["input_ids"], dtype=torch.long)
            ids[i, : len(cell)], labels[i, : len(cell)] = self.hide(cell)
        return {"input_ids": ids, "attention_mask": (ids != self.pad).long(), "labels": labels}

    def hide(self, cell: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A cell with genes hidden, and the labels of those that are asked; at least one where it has genes."""
        draw = None if self.seed is None else torch.Generator().manual_seed(self.seed + int(cell.sum()))
        genes = (~self.special[cell]).nonzero().flatten()
        n_asked = max(1, round(self.share * len(genes))) if len(genes) else 0
        asked = genes[torch.randperm(len(genes), generator=draw)[:n_asked]]
        labels = torch.full_like(cell, NOT_ASKED)
        labels[asked] = cell[asked]
        how = torch.rand(n_asked, generator=draw)
        others = self.genes[torch.randint(len(self.genes), (n_asked,), generator=draw)]
        hidden = torch.where(how < MASKED, self.mask, torch.where(how < MASKED + CHANGED, others, cell[asked]))
        return cell.scatter(0, asked, hidden), labels


class EncoderTrainer(WholeCheckpoints, Trainer):  # type: ignore[misc]
    """transformers' Trainer whose evaluation asks the same genes each time."""

    def __init__(self, *, eval_collator: GeneMasker, **kwargs):
        super().__init__(compute_metrics=guessed_share, **kwargs)
        self.eval_collator = eval_collator

    def get_eval_dataloader(self, eval_dataset=None):
        training, self.data_collator = self.data_collator, self.eval_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training


def guessed_share(prediction) -> dict[str, float]:
    """Over all genes that are asked: the share that is guessed, and the mean loss."""
    asked, guessed, loss = prediction.predictions.sum(axis=0).tolist()
    return {"guessed": guessed / max(asked, 1), "gene_loss": loss / max(asked, 1)}


def without_context(train: Dataset, held_out: Dataset, vocabulary: GeneVocabulary) -> dict[str, float]:
    """What is reached without looking at a cell: the loss of the genes' frequencies, the share of the commonest gene.

    The loss is over all genes of the held-out cells, with one added to every count.
    """
    counts = Counter(token for cell in train["input_ids"] for token in cell)
    special = {vocabulary.token_ids[token] for token in SPECIAL_TOKENS if token in vocabulary.token_ids}
    frequency = np.ones(len(vocabulary))
    for token, count in counts.items():
        frequency[token] += count
    frequency[list(special)] = 0
    log_share = np.log(np.maximum(frequency, 1e-300) / frequency.sum())
    genes = [np.setdiff1d(np.asarray(cell), list(special)) for cell in held_out["input_ids"]]
    asked = np.concatenate(genes)
    return {"loss": float(-log_share[asked].mean()), "guessed": float((asked == frequency.argmax()).mean())}

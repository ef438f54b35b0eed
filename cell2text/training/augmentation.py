"""Change training cells as if another study had measured them.

Studies differ in their gene panels, sequencing depth and number of genes per cell. A model that sees each cell under
several of these conditions learns what they have in common. The changes apply through hooks, so the model files do not
know of them.
"""

import re
from collections.abc import Callable

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset

from cell2text.errors import UserError
from cell2text.training.arguments import Cell2TextArguments
from cell2text.training.row_columns import arrow_column, column_values
from vocabulary_cell2text import GeneVocabulary


MIN_GENES = 16  # genes that a rank cut leaves
# Symbols of genes that nuclei hardly show: mitochondrial, and of ribosomal proteins (but not RPS6 kinases).
OUTSIDE_NUCLEI = re.compile(r"MT-|RP[LS](?!\d+(K|BP))")


class CellAugmentation:
    """Hide genes of ranked cells, and move the others up as if the hidden ones had not been measured.

    Parameters
    ----------
    panels
        Gene tokens of each data set, bool, shape (n_panels, n_tokens).
    panel_share
        Share of cells restricted to the panel of a random data set.
    depth_loss
        Maximum share of genes that a cell loses, as at a lower sequencing depth; low ranks are lost first.
    rank_cut
        Maximum share of genes cut off the end of a cell.
    nuclei_share
        Share of cells shown as nuclei.
    outside_nuclei
        Gene tokens that nuclei do not show, bool, shape (n_tokens,); required by `nuclei_share`.
    kept
        Tokens that always stay: special tokens.
    """

    def __init__(
        self, panels: torch.Tensor, *, panel_share: float = 0.0, depth_loss: float = 0.0, rank_cut: float = 0.0,
        nuclei_share: float = 0.0, outside_nuclei: torch.Tensor | None = None, kept: tuple[int, ...] = (),
    ):  # fmt: skip
        if nuclei_share and outside_nuclei is None:
            raise UserError(f"nuclei_share={nuclei_share} needs outside_nuclei: the genes that nuclei do not show.")
        self.panels, self.panel_share = panels, panel_share
        self.depth_loss, self.rank_cut, self.kept = depth_loss, rank_cut, kept
        self.nuclei_share, self.outside_nuclei = nuclei_share, outside_nuclei

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return changed cells and their boolean mask, both of shape (n_cells, n_genes) like the input.

        Random numbers come from torch's global generator, whose state checkpoints hold, so that a run can be resumed.
        """
        n_cells, n_genes = ids.shape
        self.panels = self.panels.to(ids.device)

        def uniform(*shape):
            return torch.rand(*shape, device=ids.device)

        special = torch.isin(ids, torch.tensor(self.kept, device=ids.device)) if self.kept else torch.zeros_like(mask)
        genes = mask & ~special
        left = genes.clone()
        if self.panel_share:
            chosen = torch.randint(len(self.panels), (n_cells, 1), device=ids.device)
            restricted = uniform(n_cells, 1) < self.panel_share
            left &= self.panels[chosen, ids] | ~restricted
        if self.nuclei_share and self.outside_nuclei is not None:
            self.outside_nuclei = self.outside_nuclei.to(ids.device)
            left &= ~self.outside_nuclei[ids] | (uniform(n_cells, 1) >= self.nuclei_share)
        if self.depth_loss:
            place = genes.cumsum(-1) / genes.sum(-1, keepdim=True).clamp(min=1)
            left &= uniform(n_cells, n_genes) >= 2 * self.depth_loss * uniform(n_cells, 1) * place
        if self.rank_cut:
            n_left = left.sum(-1, keepdim=True)
            longest = (n_left * (1 - self.rank_cut * uniform(n_cells, 1))).ceil().clamp(min=MIN_GENES)
            left &= left.cumsum(-1) <= longest
        left = torch.where(left.any(-1, keepdim=True), left, genes) | (special & mask)  # a cell keeps at least one gene
        order = torch.argsort(~left, dim=-1, stable=True)
        return ids.gather(-1, order), left.gather(-1, order)


def install_gene_hooks(model, augmentation: CellAugmentation | None = None) -> None:
    """Hide genes from a model's trained encoder while it is in training mode.

    The hooks apply `augmentation` first, then the `gene_dropout` of the model's configuration. A frozen encoder and a
    model in evaluation mode see every gene. Nothing of this is saved with the model's weights.

    Parameters
    ----------
    model
        A `Cell2TextForConditionalGeneration`.
    augmentation
        Function of ranked cells and their mask, both of shape (n_cells, n_genes), that returns both; None for none.
    """
    config, gene_mask = model.config, model.model.gene_mask

    def augment(module, inputs):
        if module.training and not config.freeze_cell_encoder and augmentation is not None:
            return augmentation(*inputs)
        return None

    def drop_genes(module, _, outputs):
        if not module.training or config.freeze_cell_encoder or config.gene_dropout <= 0:
            return None
        ids, mask, genes = outputs
        largest = torch.rand(len(ids), 1, device=ids.device) * config.gene_dropout
        dropped = genes & (torch.rand(ids.shape, device=ids.device) < largest)
        return ids, mask & ~dropped, genes & ~dropped

    gene_mask.register_forward_pre_hook(augment)
    gene_mask.register_forward_hook(drop_genes)


def install_projector_hooks(model, augment_concepts: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
    """Change what the language model reads about a cell while the projector is in training mode.

    The hooks apply `augment_concepts` to concept overrides, and add the `cell_feature_noise` of the model's
    configuration to the projected features. Install them after concept pretraining, which calls the projector, too.

    Parameters
    ----------
    model
        A `Cell2TextForConditionalGeneration`.
    augment_concepts
        Function of concept overrides, shape (n_cells, n_concepts), that returns the same shape; None for none.
    """
    config, projector = model.config, model.model.projector

    def augment(module, inputs):
        if module.training and augment_concepts is not None and len(inputs) == 3:
            states, gene_mask, overrides = inputs
            return states, gene_mask, augment_concepts(overrides)
        return None

    def add_noise(module, _, outputs):
        if not module.training or config.cell_feature_noise <= 0:
            return None
        if isinstance(outputs, tuple):
            return noisy(outputs[0], config.cell_feature_noise), *outputs[1:]
        return noisy(outputs, config.cell_feature_noise)

    projector.register_forward_pre_hook(augment)
    projector.register_forward_hook(add_noise)


def noisy(features: torch.Tensor, largest: float) -> torch.Tensor:
    """Add normal noise to projected cells, shape (n_cells, num_cell_tokens, text_hidden).

    Each cell samples the noise's standard deviation uniformly between 0 and `largest`, relative to the root mean
    square of its features.
    """
    share = torch.rand(len(features), 1, 1, device=features.device) * largest
    size = features.detach().float().square().mean((-1, -2), keepdim=True).sqrt()
    return features + (share * size * torch.randn_like(features, dtype=torch.float32)).to(features.dtype)


def cell_augmentation(args: Cell2TextArguments, rows: Dataset, vocabulary: GeneVocabulary) -> CellAugmentation | None:
    """Return the augmentation that the options describe, None if they describe none."""
    options = {name: getattr(args, name) for name in ("panel_share", "depth_loss", "rank_cut", "nuclei_share")}
    if not any(options.values()):
        return None
    n_tokens = len(vocabulary)
    panels = gene_panels(rows, n_tokens) if args.panel_share else torch.ones(1, n_tokens, dtype=torch.bool)
    outside = outside_nuclei(vocabulary) if args.nuclei_share else None
    special = tuple(token for token in (vocabulary.cls_token_id, vocabulary.eos_token_id) if token is not None)
    return CellAugmentation(panels, **options, outside_nuclei=outside, kept=special)


def outside_nuclei(vocabulary: GeneVocabulary) -> torch.Tensor:
    """Return which gene tokens are mitochondrial or ribosomal by symbol, bool, shape (n_tokens,).

    Raises
    ------
    UserError
        If the vocabulary has no such gene.
    """
    hidden = torch.tensor([OUTSIDE_NUCLEI.match(symbol) is not None for symbol in vocabulary.symbols])
    if not hidden.any():
        raise UserError(
            "nuclei_share hides mitochondrial and ribosomal genes (MT-, RPL, RPS), and the gene vocabulary has none: "
            "omit it, or fit a vocabulary that has gene symbols."
        )
    return hidden


def gene_panels(rows: Dataset, n_tokens: int) -> torch.Tensor:
    """Return which gene tokens occur in the cells of each data set, bool, shape (n_datasets, n_tokens).

    Raises
    ------
    UserError
        If there is only one data set, whose panel would restrict nothing.
    """
    dataset_of_row = np.asarray(column_values(rows, "dataset_id"), dtype=object)
    names = sorted(set(dataset_of_row), key=str)
    if len(names) < 2:
        raise UserError(f"panel_share needs the panels of at least two data sets, found {names}: omit it.")
    cells = arrow_column(rows, "cells").combine_chunks()
    panel_of_row = np.array([names.index(name) for name in dataset_of_row])
    panel_of_token = np.repeat(
        panel_of_row[pc.list_parent_indices(cells).to_numpy()], pc.list_value_length(cells.flatten()).to_numpy()
    )
    tokens = cells.flatten().flatten().to_numpy().astype(np.int64)
    panels = torch.zeros(len(names), n_tokens, dtype=torch.bool)
    panels[torch.from_numpy(panel_of_token), torch.from_numpy(tokens)] = True
    return panels

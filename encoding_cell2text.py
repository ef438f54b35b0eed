"""The cell side of the model: from gene tokens to encoder states, projected features and concept probabilities.

[`CellEncodingMixin`] holds the methods; `modeling_cell2text.py` adds the text.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple


try:
    from .concepts_cell2text import ConceptNames
except ImportError:
    from concepts_cell2text import ConceptNames

try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError


@dataclass
class CellSummary:
    """What a text or an annotation needs of cells, without the states of their genes.

    Args:
        features (`torch.FloatTensor` of shape `(batch, n_cells, num_cell_tokens, text_hidden)`): Projected cells.
        means (`torch.FloatTensor` of shape `(batch, n_cells, cell_hidden)`):
            Mean of the encoder's states at the projected layer over the tokens of each cell.
        concepts (`torch.FloatTensor` of shape `(batch, n_cells, n_concepts)`, *optional*):
            See [`Cell2TextCellOutput`].
    """

    features: torch.Tensor
    means: torch.Tensor
    concepts: torch.Tensor | None


@dataclass
class Cell2TextCellOutput(BaseModelOutputWithPooling):
    """Outputs of the encoder and the projector.

    Args:
        concepts (`torch.FloatTensor` of shape `(batch, n_cells, n_concepts)`, *optional*):
            Concept probabilities after overrides, for a `concepts` projector.
    """

    concepts: torch.FloatTensor | None = None


class Cell2TextGeneMask(nn.Module):
    """Find the genes among a cell's tokens.

    A module without parameters, so that training code can hide genes with forward hooks.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, ids, mask):
        """Return the tokens, the mask of all tokens and the mask of genes, each of shape `(cells, n_genes)`."""
        genes = mask & (ids != (self.config.cell_config.pad_token_id or 0))
        for special in (self.config.cell_cls_token_id, self.config.cell_eos_token_id):
            if special is not None:
                genes = genes & (ids != special)
        return ids, mask, genes


class CellEncodingMixin:
    """Methods of a model with the parts `gene_mask`, `cell_encoder` and `projector`, and a [`Cell2TextConfig`]."""

    config: Any
    device: Any
    gene_mask: Any
    cell_encoder: Any
    projector: Any
    training: bool

    @can_return_tuple
    def get_cell_features(
        self,
        cell_input_ids: torch.LongTensor,
        cell_attention_mask: torch.Tensor | None = None,
        cell_states: torch.FloatTensor | None = None,
        concept_overrides: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | Cell2TextCellOutput:
        """Encode cells and project them into the language model's embedding space.

        Args:
            cell_input_ids (`torch.LongTensor` of shape `(batch, n_cells, n_genes)` or `(batch, n_genes)`):
                Gene tokens, highest-ranked first.
            cell_attention_mask (`torch.Tensor` of the same shape, *optional*):
                1 for gene tokens, 0 for padding. Defaults to a mask of the padding token.
            cell_states (`torch.FloatTensor` of shape `(batch, n_cells, n_genes, cell_hidden)`, *optional*):
                Precomputed states of a frozen encoder. The encoder is not run again.
            concept_overrides (`torch.FloatTensor` of shape `(batch, n_cells, n_concepts)`, *optional*):
                Values from 0 to 1 that replace the predicted concept probabilities; NaN keeps the prediction. Build
                them with [`~Cell2TextModel.encode_concepts`].

        Returns:
            `Cell2TextCellOutput`: `last_hidden_state` holds the projected encoder layer, shape
            `(batch, n_cells, n_genes, cell_hidden)`; `pooler_output` the features that replace the placeholders, shape
            `(batch, n_cells, num_cell_tokens, text_hidden)`; `concepts` the concept probabilities of a `concepts`
            projector.

        Raises:
            UserError: If `concept_overrides` have other columns than the projector's concepts, or the projector
                predicts no concepts.
        """
        states, gene_mask, outputs = self.encode_cells(cell_input_ids, cell_attention_mask, cell_states, **kwargs)
        inputs = [states.flatten(0, 1), gene_mask.flatten(0, 1)]
        if concept_overrides is not None:
            self._concept_names().check_overrides(concept_overrides)
            inputs.append(concept_overrides.flatten(0, 1))
        features, concepts = self._as_batch(self.projector(*inputs), states.shape[:2])
        return Cell2TextCellOutput(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=features,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            concepts=concepts,
        )

    def _as_batch(self, projected, shape) -> tuple:
        """Return a projector's features and concepts with the shape `(batch, n_cells, ...)`."""
        if self.config.projector_type == "concepts":
            return tuple(values.unflatten(0, shape) for values in projected)
        return projected.unflatten(0, shape), None

    @torch.no_grad()
    def summarise_cells(
        self,
        cell_input_ids: torch.LongTensor,
        cell_attention_mask: torch.Tensor | None = None,
        concept_overrides: torch.FloatTensor | None = None,
    ) -> CellSummary:
        """Encode and project cells, and average the states of their genes.

        The features are those of [`~Cell2TextModel.get_cell_features`]. With an encoder that looks genes up in a table,
        the averages are computed from the table, without a state for every gene of every cell.

        Args:
            cell_input_ids, cell_attention_mask, concept_overrides: See [`~Cell2TextModel.get_cell_features`].
        """
        ids, mask = self._as_cell_batch(cell_input_ids, cell_attention_mask)
        table = self._known_gene_table()
        if table is None:
            outputs = self.get_cell_features(ids, mask, concept_overrides=concept_overrides, return_dict=True)
            visible = mask.unsqueeze(-1)
            means = (outputs.last_hidden_state * visible).sum(dim=2) / visible.sum(dim=2).clamp(min=1)
            return CellSummary(outputs.pooler_output, means, outputs.concepts)
        shape = ids.shape[:2]
        ids, mask, gene_mask = self.gene_mask(ids.flatten(0, 1), mask.flatten(0, 1))
        means = nn.functional.embedding_bag(ids, table, per_sample_weights=mask.to(table.dtype), mode="sum")
        means = means / mask.sum(-1, keepdim=True).clamp(min=1)
        table = table.to(next(self.projector.parameters()).dtype)
        inputs = [self.projector.mean_of_genes(table, ids, gene_mask), gene_mask]
        if concept_overrides is not None:
            self._concept_names().check_overrides(concept_overrides)
            inputs.append(concept_overrides.flatten(0, 1))
        features, concepts = self._as_batch(self.projector.project_mean(*inputs), shape)
        return CellSummary(features, means.unflatten(0, shape), concepts)

    @property
    def looks_genes_up(self) -> bool:
        """Whether :meth:`summarise_cells` looks genes up in a table."""
        return self._known_gene_table() is not None

    @torch.no_grad()
    def _known_gene_table(self) -> torch.Tensor | None:
        """Return :meth:`gene_table` for a projector that reads the mean of genes.

        The table is computed once for as long as the encoder's weights stay as they are.
        """
        if self.training or not hasattr(self.projector, "mean_of_genes"):
            return None
        state = [
            (weight.data_ptr(), 0 if weight.is_inference() else weight._version, weight.dtype, weight.device)
            for weight in self.cell_encoder.parameters()
        ]
        if getattr(self, "_gene_table_of", None) != state:
            self._gene_table, self._gene_table_of = self.gene_table(), state
        return self._gene_table

    def get_cell_concepts(
        self, cell_input_ids: torch.LongTensor, cell_attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.FloatTensor]:
        """Predict the probability of each of the configuration's `cell_concepts`.

        Args:
            cell_input_ids, cell_attention_mask: See [`~Cell2TextModel.get_cell_features`].

        Returns:
            `dict[str, torch.FloatTensor]`: By group the probabilities of its names, shape `(batch, n_cells, n_names)`,
            in the order of the configuration. Those of a `multiclass` group add up to 1.

        Raises:
            UserError: If the projector predicts no concepts.
        """
        names = self._concept_names()
        return names.split(self.get_cell_features(cell_input_ids, cell_attention_mask, return_dict=True).concepts)

    def encode_concepts(self, **names: str | list[str]) -> torch.Tensor:
        """Encode named concepts as the argument `concept_overrides` of `forward` and `generate`.

        Args:
            **names: By group the name that applies to the cell (`tissue="kidney"`), or a list of names for a
                `multilabel` group. Omitted groups keep the model's predictions.

        Returns:
            `torch.Tensor` of shape `(1, 1, n_concepts)`. Expand or stack it for more cells.

        Raises:
            UserError: If the projector predicts no concepts, or the group or name does not exist.
        """
        return self._concept_names().encode(**names).view(1, 1, -1).to(self.device)

    def _concept_names(self) -> ConceptNames:
        if self.config.projector_type != "concepts":
            raise UserError(
                f"projector_type={self.config.projector_type!r} predicts no concepts: only projector_type='concepts' "
                "does."
            )
        return self.config.concepts

    def encode_cells(self, cell_input_ids, cell_attention_mask=None, cell_states=None, **kwargs):
        """Return the states that the projector reads, the mask of genes among them, and the encoder's outputs."""
        ids, mask = self._as_cell_batch(cell_input_ids, cell_attention_mask)
        shape = ids.shape
        ids, mask, gene_mask = self.gene_mask(ids.flatten(0, 1), mask.flatten(0, 1))
        if cell_states is None:
            outputs, states = self._encode(ids, mask, **kwargs)
            states = states.unflatten(0, shape[:2])
        else:
            outputs, states = BaseModelOutputWithPooling(), cell_states
        outputs.last_hidden_state = states
        # PEFT keeps a fully trained projector in float32, whatever the encoder's precision.
        states = states.to(next(self.projector.parameters()).dtype)
        return states, gene_mask.unflatten(0, shape[:2]), outputs

    def gene_table(self) -> torch.Tensor | None:
        """Return the state of each gene, shape `(n_tokens, cell_hidden)`, if it is the same in every cell.

        That holds for an encoder without layers and position embeddings: it looks genes up in a table.
        Returns `None` for any other encoder.
        """
        tables: Any = getattr(self.cell_encoder, "embeddings", None)
        layers = getattr(self.cell_encoder.config, "num_hidden_layers", None)
        if layers != 0 or not hasattr(tables, "LayerNorm") or type(tables.word_embeddings) is not nn.Embedding:
            return None
        positions = tables.position_embeddings.weight
        if (positions.requires_grad and torch.is_grad_enabled()) or bool(positions.any()):
            return None
        return tables.dropout(tables.LayerNorm(tables.word_embeddings.weight + tables.token_type_embeddings.weight[0]))

    def _encode(self, ids, mask, **kwargs):
        """Return the encoder's outputs and its projected layer."""
        # An empty slot attends to its first padding token: attention to nothing is NaN.
        visible = mask | (~mask.any(-1, keepdim=True) & (torch.arange(ids.shape[-1], device=ids.device) == 0))
        layer = self.config.cell_feature_layer
        kwargs = {**kwargs, "output_hidden_states": layer != -1 or kwargs.get("output_hidden_states", False)}
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_cell_encoder):
            outputs = self.cell_encoder(input_ids=ids, attention_mask=visible.long(), return_dict=True, **kwargs)
        return outputs, outputs.last_hidden_state if layer == -1 else outputs.hidden_states[layer]

    def _as_cell_batch(self, ids, mask):
        """Return cells and their boolean mask, both of shape `(batch, n_cells, n_genes)`."""
        if mask is None:
            mask = ids != (self.config.cell_config.pad_token_id or 0)
        if ids.ndim == 2:
            ids, mask = ids.unsqueeze(1), mask.unsqueeze(1)
        return ids, mask.bool()


__all__ = ["Cell2TextCellOutput", "Cell2TextGeneMask", "CellEncodingMixin"]

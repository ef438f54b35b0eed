"""Projectors: encoder states of one cell's genes to the features that take its placeholders' place.

All of them map states of shape `(cells, genes, cell_hidden)` and a boolean mask of the same first two axes, true where
a gene stands, to features of shape `(cells, num_cell_tokens, text_hidden)`.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer


try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError


class Cell2TextMLPProjector(nn.Module):
    """The published MLP adapter: the highest-ranked genes, one text-side feature each.

    A cell with fewer genes than `num_cell_tokens` is filled up with a learned vector.
    """

    def __init__(self, config):
        super().__init__()
        text_size = config.text_config.hidden_size
        self.num_cell_tokens = config.num_cell_tokens
        self.first_gene = 0 if config.cell_cls_token_id is None else 1
        self.mlp = projector_mlp(config, config.cell_config.hidden_size, text_size)
        self.missing_gene = nn.Parameter(torch.zeros(text_size))
        self.output_norm = nn.LayerNorm(text_size)

    def forward(self, states, gene_mask):
        last = self.first_gene + self.num_cell_tokens
        states, gene_mask = states[:, self.first_gene : last], gene_mask[:, self.first_gene : last]
        short = self.num_cell_tokens - states.shape[1]
        states, gene_mask = nn.functional.pad(states, (0, 0, 0, short)), nn.functional.pad(gene_mask, (0, short))
        return self.output_norm(torch.where(gene_mask.unsqueeze(-1), self.mlp(states), self.missing_gene))


class Cell2TextPooledProjector(nn.Module):
    """The rank-weighted mean of the gene states, beside the `<cls>` state where there is one, through an MLP."""

    def __init__(self, config):
        super().__init__()
        self.num_cell_tokens = config.num_cell_tokens
        self.has_cls = config.cell_cls_token_id is not None
        self.longest_cell = getattr(config.cell_config, "max_position_embeddings", 4096)
        text_size = config.text_config.hidden_size
        pooled_size = config.cell_config.hidden_size * (2 if self.has_cls else 1)
        self.mlp = projector_mlp(config, pooled_size, config.num_cell_tokens * text_size)
        self.output_norm = nn.LayerNorm(text_size)

    def forward(self, states, gene_mask):
        ranks = torch.arange(states.shape[1], device=states.device) - int(self.has_cls)
        weights = gene_mask * rank_weights(ranks.clamp(min=0), self.longest_cell).to(states.dtype)
        pooled = (states * weights.unsqueeze(-1)).sum(1) / weights.sum(-1, keepdim=True).clamp(min=1e-6)
        if self.has_cls:
            pooled = torch.cat([states[:, 0], pooled], dim=-1)
        return self.output_norm(self.mlp(pooled).unflatten(-1, (self.num_cell_tokens, -1)))


class Cell2TextConceptProjector(nn.Module):
    """A bottleneck: of a cell, nothing but how probable each of the configuration's `cell_concepts` is gets through.

    Linear heads, one a group, read the probabilities off a pooled projector's features; one linear map turns them into
    features again. With a learning rate of 0 for encoder and projector the concepts keep the meaning of their names.
    """

    def __init__(self, config):
        super().__init__()
        if not config.concept_groups:
            raise UserError("projector_type='concepts' needs cell_concepts: names of what the heads are to tell.")
        self.num_cell_tokens = config.num_cell_tokens
        self.multiclass = tuple(config.cell_concepts.get("multiclass", ()))
        self.sizes = {group: len(names) for group, names in config.concept_groups.items()}
        text_size = config.text_config.hidden_size
        width = config.num_cell_tokens * text_size
        self.pooled = Cell2TextPooledProjector(config)
        self.heads = nn.ModuleDict({group: nn.Linear(width, size) for group, size in self.sizes.items()})
        self.codes = nn.Linear(sum(self.sizes.values()), width, bias=False)
        self.output_norm = nn.LayerNorm(text_size)

    def forward(self, states, gene_mask, concept_overrides=None):
        """Features, and the concepts they are made of, shape `(cells, n_concepts)`.

        `concept_overrides` of that shape, NaN where unknown, stand in for what the heads tell.
        """
        concepts = self.tell(states, gene_mask)
        if concept_overrides is not None:
            concepts = torch.where(concept_overrides.isnan(), concepts, concept_overrides.to(concepts.dtype))
        groups = zip(self.sizes, concepts.split(list(self.sizes.values()), dim=-1))
        weighted = [MULTICLASS_WEIGHT * found if group in self.multiclass else found for group, found in groups]
        features = self.codes(torch.cat(weighted, dim=-1)).unflatten(-1, (self.num_cell_tokens, -1))
        return self.output_norm(features), concepts

    def tell(self, states, gene_mask) -> torch.Tensor:
        """How probable each concept is, shape `(cells, n_concepts)`; those of a group of `multiclass` add up to 1."""
        features = self.pooled(states, gene_mask).flatten(1)
        logits = {group: self.heads[group](features) for group in self.sizes}
        return torch.cat(
            [found.softmax(-1) if group in self.multiclass else found.sigmoid() for group, found in logits.items()],
            dim=-1,
        )


class Cell2TextPerceiverProjector(nn.Module):
    """The published Perceiver adapter: latents that read all genes once, then each other.

    Genes carry sinusoidal positions of their rank. A cell without a gene shows the latents one learned vector instead.
    """

    def __init__(self, config):
        super().__init__()
        size = config.projector_hidden_size or config.cell_config.hidden_size
        text_size = config.text_config.hidden_size
        self.input = nn.Linear(config.cell_config.hidden_size, size)
        self.no_genes = nn.Parameter(torch.zeros(1, 1, size))
        self.latents = nn.Parameter(torch.zeros(config.num_cell_tokens, size))
        self.layers = nn.ModuleList(
            Cell2TextPerceiverLayer(config, size, reads_genes=index == 0)
            for index in range(1 + config.projector_num_layers)
        )
        self.norm = nn.LayerNorm(size)
        self.output = nn.Linear(size, text_size)
        self.output_norm = nn.LayerNorm(text_size)

    def forward(self, states, gene_mask):
        genes = self.input(states)
        genes = genes + sinusoidal_positions(genes.shape[1], genes.shape[2], device=genes.device).to(genes.dtype)
        genes = torch.cat([self.no_genes.expand(len(genes), -1, -1), genes], dim=1)
        mask = torch.cat([~gene_mask.any(-1, keepdim=True), gene_mask], dim=1)[:, None, None, :]
        latents = self.layers[0](self.latents.unsqueeze(0).expand(len(genes), -1, -1), genes, mask)
        for layer in self.layers[1:]:
            latents = layer(latents)
        return self.output_norm(self.output(self.norm(latents)))


class Cell2TextPerceiverLayer(GradientCheckpointingLayer):
    """Pre-norm attention of latents to genes (`reads_genes`) or to themselves, and a feed-forward part."""

    def __init__(self, config, size: int, *, reads_genes: bool):
        super().__init__()
        if size % config.projector_num_heads:
            raise UserError(
                f"Perceiver width {size} cannot be split over projector_num_heads={config.projector_num_heads}."
            )
        self.num_heads = config.projector_num_heads
        self.dropout = config.projector_dropout
        self.latent_norm, self.ffn_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.gene_norm = nn.LayerNorm(size) if reads_genes else None
        self.query, self.key, self.value, self.out = (nn.Linear(size, size) for _ in range(4))
        inner = int(size * config.projector_ffn_ratio)
        self.ffn = nn.Sequential(
            nn.Linear(size, inner),
            ACT2FN[config.projector_hidden_act],
            nn.Dropout(self.dropout),
            nn.Linear(inner, size),
        )

    def forward(self, latents, genes=None, mask=None):
        queries = self.latent_norm(latents)
        context = queries if self.gene_norm is None else self.gene_norm(genes)
        query, key, value = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, queries), (self.key, context), (self.value, context))
        )
        dropout = self.dropout if self.training else 0.0
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        latents = latents + self.out(attended.transpose(1, 2).flatten(-2))
        return latents + self.ffn(self.ffn_norm(latents))


PROJECTORS = {
    "mlp": Cell2TextMLPProjector,
    "perceiver": Cell2TextPerceiverProjector,
    "pooled": Cell2TextPooledProjector,
    "concepts": Cell2TextConceptProjector,
}
# How much more the concepts of which a cell has one count than those of which it has several.
MULTICLASS_WEIGHT = 2.0


def projector_mlp(config, input_size: int, output_size: int) -> nn.Sequential:
    hidden_size = config.projector_hidden_size or config.text_config.hidden_size
    return nn.Sequential(
        nn.Linear(input_size, hidden_size),
        nn.LayerNorm(hidden_size),
        ACT2FN[config.projector_hidden_act],
        nn.Dropout(config.projector_dropout),
        nn.Linear(hidden_size, output_size),
    )


def rank_weights(ranks: torch.Tensor, longest_cell: int) -> torch.Tensor:
    """How much a gene counts by its rank: `log((longest + 1) / (rank + 1))`, which falls to 0 at the longest cell."""
    return torch.log((longest_cell + 1) / (ranks + 1.0)).clamp(min=0)


def sinusoidal_positions(length: int, size: int, *, device=None) -> torch.Tensor:
    """Position encodings of Vaswani et al. 2017, shape `(length, size)`, float32."""
    rates = torch.exp(torch.arange(0, size, 2, device=device) * (-torch.log(torch.tensor(1e4)).item() / size))
    angles = torch.arange(length, device=device).unsqueeze(-1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[:, :size]


def init_projector(module: nn.Module, std: float) -> None:
    """Initialise what transformers' own `_init_weights` does not know: the projectors' bare parameters."""
    if isinstance(module, Cell2TextPerceiverProjector):
        init.normal_(module.latents, std=std)
        init.zeros_(module.no_genes)
    elif isinstance(module, Cell2TextMLPProjector):
        init.zeros_(module.missing_gene)


__all__ = ["PROJECTORS", "init_projector", "rank_weights", "sinusoidal_positions"]

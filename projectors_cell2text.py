"""Projectors: from the encoder states of a cell's genes to the features that replace its placeholders.

Each projector maps states of shape `(cells, genes, cell_hidden)` and a boolean mask of genes, shape `(cells, genes)`,
to features of shape `(cells, num_cell_tokens, text_hidden)`.
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

try:
    from .statements_cell2text import ONE_CELL, PROFILE_GROUP, StatementEncoder
except ImportError:
    from statements_cell2text import ONE_CELL, PROFILE_GROUP, StatementEncoder


class Cell2TextMLPProjector(nn.Module):
    """The published MLP adapter: one feature for each of the highest-ranked genes.

    A learned vector pads cells with fewer genes than `num_cell_tokens`.
    """

    def __init__(self, config):
        super().__init__()
        text_size = config.text_config.hidden_size
        self.num_cell_tokens = config.num_cell_tokens
        self.first_gene = 0 if config.cell_cls_token_id is None else 1
        self.mlp = _projector_mlp(config, config.cell_config.hidden_size, text_size)
        self.missing_gene = nn.Parameter(torch.zeros(text_size))
        self.output_norm = nn.LayerNorm(text_size)

    def forward(self, states, gene_mask):
        last = self.first_gene + self.num_cell_tokens
        states, gene_mask = states[:, self.first_gene : last], gene_mask[:, self.first_gene : last]
        short = self.num_cell_tokens - states.shape[1]
        states, gene_mask = nn.functional.pad(states, (0, 0, 0, short)), nn.functional.pad(gene_mask, (0, short))
        return self.output_norm(torch.where(gene_mask.unsqueeze(-1), self.mlp(states), self.missing_gene))


class Cell2TextPooledProjector(nn.Module):
    """An MLP on the rank-weighted mean of the gene states and, if cells have one, the `<cls>` state."""

    def __init__(self, config):
        super().__init__()
        self.num_cell_tokens = config.num_cell_tokens
        self.has_cls = config.cell_cls_token_id is not None
        self.longest_cell = getattr(config.cell_config, "max_position_embeddings", 4096)
        text_size = config.text_config.hidden_size
        pooled_size = config.cell_config.hidden_size * (2 if self.has_cls else 1)
        self.mlp = _projector_mlp(config, pooled_size, config.num_cell_tokens * text_size)
        self.output_norm = nn.LayerNorm(text_size)

    def forward(self, states, gene_mask):
        return self.project_mean(self.mean_of_states(states, gene_mask))

    def mean_of_states(self, states, gene_mask) -> torch.Tensor:
        """Return the pooled genes of each cell, shape `(cells, pooled_size)`."""
        weights = self._weights(gene_mask).to(states.dtype)
        pooled = (states * weights.unsqueeze(-1)).sum(1) / weights.sum(-1, keepdim=True).clamp(min=1e-6)
        return torch.cat([states[:, 0], pooled], dim=-1) if self.has_cls else pooled

    def _weights(self, gene_mask) -> torch.Tensor:
        ranks = torch.arange(gene_mask.shape[1], device=gene_mask.device) - int(self.has_cls)
        return gene_mask * rank_weights(ranks.clamp(min=0), self.longest_cell)

    def mean_of_genes(self, table, ids, gene_mask) -> torch.Tensor:
        """Return the pooled genes of each cell, shape `(cells, pooled_size)`.

        The same as for the states of an encoder whose states are the rows of `table`, shape `(n_tokens, cell_hidden)`,
        without computing the state of every gene of every cell.
        """
        weights = self._weights(gene_mask).to(table.dtype)
        sums = nn.functional.embedding_bag(ids, table, per_sample_weights=weights, mode="sum")
        means = sums / weights.sum(-1, keepdim=True).clamp(min=1e-6)
        return torch.cat([table[ids[:, 0]], means], dim=-1) if self.has_cls else means

    def project_mean(self, pooled, gene_mask=None) -> torch.Tensor:
        """Return features of shape `(cells, num_cell_tokens, text_hidden)` for the pooled genes of cells."""
        return self.output_norm(self.mlp(pooled).unflatten(-1, (self.num_cell_tokens, -1)))


class Cell2TextConceptProjector(nn.Module):
    """A concept bottleneck: only the probabilities of the configuration's `cell_concepts` reach the language model.

    Linear heads, one per group, predict the probabilities from a pooled projector's features; one linear map turns
    them into features again. Each concept keeps the meaning of its name as long as encoder and heads are not trained
    on the text's loss (Koh et al. 2020, arXiv 2007.04612: independent training).

    The head of a hierarchical group predicts a mass for each name, that of a cell for which no name further below is
    known. The probability of a name is the mass of the name and of all names below it, calibrated by
    `type_calibration`. A model with such a group encodes statements instead of probabilities; see
    [`StatementEncoder`].
    """

    def __init__(self, config):
        super().__init__()
        self.names, self.calibration = config.concepts, config.type_calibration
        if not self.names.groups:
            raise UserError("projector_type='concepts' needs cell_concepts: the names that the heads predict.")
        self.num_cell_tokens = config.num_cell_tokens
        text_size = config.text_config.hidden_size
        width = config.num_cell_tokens * text_size
        self.pooled = Cell2TextPooledProjector(config)
        self.heads = nn.ModuleDict({group: nn.Linear(width, size) for group, size in self.names.sizes.items()})
        self.statements = None
        if self.names.hierarchical:
            self.statements = StatementEncoder(self.names, config.type_threshold, config.uninformative_types)
        n_codes = self.names.n_concepts if self.statements is None else self.statements.n_columns
        self.codes = nn.Linear(n_codes, width, bias=False)
        self.output_norm = nn.LayerNorm(text_size)

    def forward(self, states, gene_mask, concept_overrides=None):
        """Return features, and the concept probabilities that they encode, shape `(cells, n_concepts)`.

        `concept_overrides` of that shape replace the predicted probabilities; NaN keeps the prediction.
        """
        return self.project_mean(self.pooled.mean_of_states(states, gene_mask), gene_mask, concept_overrides)

    def mean_of_genes(self, table, ids, gene_mask) -> torch.Tensor:
        """See [`Cell2TextPooledProjector.mean_of_genes`]."""
        return self.pooled.mean_of_genes(table, ids, gene_mask)

    def project_mean(self, pooled, gene_mask, concept_overrides=None):
        """Do the same as `forward` for the pooled genes of cells."""
        concepts = self.predict_concepts(pooled, gene_mask)
        if concept_overrides is not None:
            concepts = torch.where(concept_overrides.isnan(), concepts, concept_overrides.to(concepts.dtype))
        encoded = self._weighted(concepts) if self.statements is None else self.statements(concepts)
        return self.project_statements(encoded), concepts

    def project_statements(self, encoded) -> torch.Tensor:
        """Return features for encoded statements, shape `(cells, n_columns)`; see [`StatementEncoder`]."""
        features = self.codes(encoded.to(self.codes.weight.dtype)).unflatten(-1, (self.num_cell_tokens, -1))
        return self.output_norm(features)

    def _weighted(self, concepts: torch.Tensor) -> torch.Tensor:
        weighted = {
            group: MULTICLASS_WEIGHT * values if group in self.names.multiclass else values
            for group, values in self.names.split(concepts).items()
        }
        return self.names.join(weighted)

    def predict_concepts(self, pooled, gene_mask) -> torch.Tensor:
        """Return concept probabilities for the pooled genes of cells, shape `(cells, n_concepts)`.

        Those of a `multiclass` group add up to 1. In a `hierarchical` group a name is at most as probable as a name
        above it.
        """
        features = self.pooled.project_mean(pooled).flatten(1)
        probabilities = {}
        for group, head in self.heads.items():
            logits = head(features)
            probabilities[group] = logits.sigmoid() if group in self.names.multilabel else logits.softmax(-1)
        for group in self.names.hierarchical:
            probabilities[group] = self._sum_up(group, probabilities, gene_mask)
        return self.names.join(probabilities)

    def concept_log_odds(self, states, gene_mask, group: str, columns: torch.Tensor) -> torch.Tensor:
        """Return the log-odds of one name of a group per cell, before calibration, shape `(cells,)`.

        They keep a gradient where a probability is so close to 0 or 1 that its own gradient vanishes.

        Args:
            states, gene_mask: As for `forward`.
            group (`str`): Group of the names.
            columns (`torch.LongTensor` of shape `(cells,)`): Index of each cell's name in its group.
        """
        logits = self.heads[group](self.pooled(states, gene_mask).flatten(1)).float()
        if group in self.names.multilabel:
            return logits.gather(1, columns[:, None])[:, 0]
        if group in self.names.hierarchical:
            included = self.statements.hierarchies[group].to(logits.device).above[columns]
        else:
            included = nn.functional.one_hot(columns, logits.shape[1]).bool()
        least = torch.finfo(logits.dtype).min
        inside, outside = logits.masked_fill(~included, least), logits.masked_fill(included, least)
        return inside.logsumexp(-1) - outside.logsumexp(-1)

    def _sum_up(self, group: str, probabilities: dict, gene_mask) -> torch.Tensor:
        """Return the probability of each name of a hierarchical group, given the masses of all names."""
        hierarchy = self.statements.hierarchies[group].to(gene_mask.device)
        above = hierarchy.above.to(probabilities[group])
        summed = (probabilities[group] @ above.T).clamp(max=1.0)
        if self.calibration is None:
            return summed
        profile = probabilities.get(PROFILE_GROUP)
        one_cell = None
        if profile is not None:
            one_cell = profile[:, self.names.groups[PROFILE_GROUP].index(ONE_CELL)]
        n_genes = gene_mask.sum(-1)
        return hierarchy.calibrate(summed, n_genes, self.calibration, self.statements.threshold, one_cell).to(summed)


class Cell2TextPerceiverProjector(nn.Module):
    """The published Perceiver adapter: latents attend to all genes once, then to each other.

    Genes get sinusoidal encodings of their ranks. For a cell without genes, the latents attend to a learned vector.
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
    """Pre-norm attention of latents to genes (`reads_genes=True`) or to themselves, then a feed-forward block."""

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
# Weight of multi-class concepts relative to multi-label ones in the projector's linear map.
MULTICLASS_WEIGHT = 2.0


def _projector_mlp(config, input_size: int, output_size: int) -> nn.Sequential:
    hidden_size = config.projector_hidden_size or config.text_config.hidden_size
    return nn.Sequential(
        nn.Linear(input_size, hidden_size),
        nn.LayerNorm(hidden_size),
        ACT2FN[config.projector_hidden_act],
        nn.Dropout(config.projector_dropout),
        nn.Linear(hidden_size, output_size),
    )


def rank_weights(ranks: torch.Tensor, longest_cell: int) -> torch.Tensor:
    """Return the weights of genes by rank, `log((longest_cell + 1) / (rank + 1))`, at least 0."""
    return torch.log((longest_cell + 1) / (ranks + 1.0)).clamp(min=0)


def sinusoidal_positions(length: int, size: int, *, device=None) -> torch.Tensor:
    """Return the position encodings of Vaswani et al. 2017, shape `(length, size)`, float32."""
    rates = torch.exp(torch.arange(0, size, 2, device=device) * (-torch.log(torch.tensor(1e4)).item() / size))
    angles = torch.arange(length, device=device).unsqueeze(-1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[:, :size]


def init_projector(module: nn.Module, std: float) -> None:
    """Initialize the projectors' bare parameters, which transformers' `_init_weights` does not cover."""
    if isinstance(module, Cell2TextPerceiverProjector):
        init.normal_(module.latents, std=std)
        init.zeros_(module.no_genes)
    elif isinstance(module, Cell2TextMLPProjector):
        init.zeros_(module.missing_gene)


__all__ = ["PROJECTORS", "init_projector", "rank_weights", "sinusoidal_positions"]

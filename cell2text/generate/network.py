"""The networks of the generator: a log-linear decoder of conditions and latent states, and a flow that samples states.

Depends on PyTorch only. The decoder is a factor analysis of counts with covariates. The flow follows CFGen (Palma et
al. 2025): flow matching in the latent space, conditional on the cell's concepts.
"""

import math

import torch
from torch import Tensor, nn


TIME_FREQUENCIES = 4


class Decoder(nn.Module):
    """Expected logarithmic shares of genes: base + style of the study + condition + type in the study + latent state.

    Parameters
    ----------
    n_genes, n_nodes, n_styles, n_groups
        Number of genes, condition nodes, styles, and groups of one type in one study.
    rank
        Number of gene programs that the condition nodes share.
    latent
        Size of a cell's latent state.
    """

    def __init__(self, n_genes: int, n_nodes: int, n_styles: int, n_groups: int, rank: int, latent: int):
        super().__init__()
        self.base = nn.Parameter(torch.zeros(n_genes))
        self.styles = nn.Parameter(torch.zeros(n_styles, n_genes))
        self.groups = nn.Parameter(torch.zeros(n_groups, n_genes))
        self.programs = nn.Parameter(torch.randn(rank, n_genes) / math.sqrt(rank))
        self.condition = nn.Parameter(torch.zeros(n_nodes, rank))
        self.loadings = nn.Parameter(torch.zeros(latent, n_genes))

    def mean(self, nodes: Tensor, styles: Tensor, groups: Tensor | None = None) -> Tensor:
        """Return unnormalised logarithmic shares of the mean state, shape (n_cells, n_genes).

        Parameters
        ----------
        nodes
            Condition nodes, float, shape (n_cells, n_nodes); their vectors are added up.
        styles
            Number of each cell's style, shape (n_cells,).
        groups
            Number of each cell's group, shape (n_cells,); -1 and None stand for none.
        """
        logits = self.base + self.styles[styles] + nodes @ self.condition @ self.programs
        if groups is not None:
            logits = logits + torch.where(groups[:, None] >= 0, self.groups[groups.clamp(min=0)], 0.0)
        return logits

    def forward(self, nodes: Tensor, styles: Tensor, groups: Tensor | None, states: Tensor) -> Tensor:
        """Return unnormalised logarithmic shares of latent states, shape (n_cells, latent); see :meth:`mean`."""
        return self.mean(nodes, styles, groups) + states @ self.loadings


class Flow(nn.Module):
    """Velocity field that carries noise to the latent states and the depth of cells of a condition.

    Parameters
    ----------
    n_nodes, n_styles
        Number of condition nodes and of styles.
    size
        Size of a sample: the latent state and the standardised logarithmic depth.
    hidden
        Width of the network.
    """

    def __init__(self, n_nodes: int, n_styles: int, size: int, hidden: int):
        super().__init__()
        self.size = size
        self.condition = nn.Parameter(torch.zeros(n_nodes, hidden))
        self.styles = nn.Embedding(n_styles, hidden)
        self.input = nn.Linear(size, hidden)
        self.time = nn.Linear(2 * TIME_FREQUENCIES, hidden)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, hidden)) for _ in range(3)
        )
        self.output = nn.Linear(hidden, size)

    def context(self, nodes: Tensor, styles: Tensor) -> Tensor:
        """Return the embedding of condition and style, shape (n_cells, hidden)."""
        return nodes @ self.condition + self.styles(styles)

    def forward(self, samples: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """Return velocities, shape (n_cells, size), at times from 0 (noise) to 1, shape (n_cells, 1)."""
        angles = time * (math.pi * 2.0 ** torch.arange(TIME_FREQUENCIES))
        hidden = self.input(samples) + self.time(torch.cat([angles.sin(), angles.cos()], dim=1)) + context
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        return self.output(hidden)

    @torch.inference_mode()
    def sample(self, nodes: Tensor, styles: Tensor, generator: torch.Generator, steps: int = 30) -> Tensor:
        """Carry noise to samples by the midpoint rule, shape (n_cells, size)."""
        samples = torch.randn(len(nodes), self.size, generator=generator)
        context, step = self.context(nodes, styles), 1 / steps
        for i in range(steps):
            time = torch.full((len(nodes), 1), i * step)
            half = samples + step / 2 * self(samples, time, context)
            samples = samples + step * self(half, time + step / 2, context)
        return samples

"""A generalised linear mixed model over samples of cells that attention pools.

The log-odds of a sample are `b + sum_j a_j x_j u` with attention `a = softmax_j(x_j v)` over its cells. The effects `u`
and `v` are random, with a normal prior whose width is learned; their posterior is a diagonal normal distribution,
fitted by variational inference. Depends on PyTorch only.

References
----------
Engelmann et al. 2024, Mixed models with multiple instance learning, AISTATS (MixMIL).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


N_STEPS, LEARNING_RATE, N_DRAWS = 200, 0.1, 8
N_PREDICTION_DRAWS = 64
EFFECT_WIDTH, ATTENTION_WIDTH = 3.0, 1.0  # prior widths before they are learned, log-odds
WIDTH_TOLERANCE = 1.0  # standard deviation of the logarithm of a prior width


@dataclass(frozen=True)
class PooledPrediction:
    """Prediction for samples, and what their cells add to it.

    Parameters
    ----------
    probability, log_odds
        Posterior means for each sample, shape (n_samples,).
    attention
        Weight of each cell, shape (n_cells,); the weights of a sample sum to 1.
    contribution
        What each cell adds to the log-odds of its sample; the sum over the cells and the intercept are the log-odds.
    """

    probability: np.ndarray
    log_odds: np.ndarray
    attention: np.ndarray
    contribution: np.ndarray


class _NormalEffects(nn.Module):
    """Effects with a normal prior of learned width, and a diagonal normal posterior."""

    def __init__(self, size: int, width: float):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(size))
        self.log_scale = nn.Parameter(torch.full((size,), -2.0))
        self.log_width = nn.Parameter(torch.tensor(float(np.log(width))))
        self.first_log_width = float(np.log(width))

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Return posterior draws, shape (size, n)."""
        noise = torch.randn((len(self.mean), n), generator=generator)
        return self.mean[:, None] + self.log_scale.exp()[:, None] * noise

    def divergence(self) -> torch.Tensor:
        """Return the divergence of the posterior from the prior, with the penalty of the prior's width."""
        ratio = (self.log_scale - self.log_width) * 2
        shift = (self.mean / self.log_width.exp()) ** 2
        penalty = 0.5 * ((self.log_width - self.first_log_width) / WIDTH_TOLERANCE) ** 2
        return 0.5 * (ratio.exp() + shift - 1 - ratio).sum() + penalty


class AttentionMixedModel(nn.Module):
    """Predict a binary label of samples from their cells.

    Both classes have the same total weight in the fit, so that leaving a donor out does not shift the intercept towards
    the other class. Probabilities therefore refer to classes of equal size.

    Parameters
    ----------
    n_components
        Number of features of a cell.
    attention
        Weight the cells of a sample by attention; otherwise equally, which gives a mixed model of means.
    seed
        Random seed of the posterior draws.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(12) % 2
    >>> codes = np.repeat(np.arange(12), 20)
    >>> cells = rng.normal(size=(240, 3)) + labels[codes][:, None] * [2.0, 0.0, 0.0]
    >>> found = AttentionMixedModel(3).fit(cells, codes, labels).predict(cells, codes)
    >>> bool(found.probability[labels == 1].min() > found.probability[labels == 0].max())
    True
    """

    effect_scale: torch.Tensor
    attention_scale: torch.Tensor

    def __init__(self, n_components: int, *, attention: bool = True, seed: int = 0):
        super().__init__()
        self.has_attention, self.seed = attention, seed
        self.effects = _NormalEffects(n_components, EFFECT_WIDTH)
        self.attention_effects = _NormalEffects(n_components, ATTENTION_WIDTH)
        self.intercept = nn.Parameter(torch.zeros(()))
        self.register_buffer("effect_scale", torch.ones(()))
        self.register_buffer("attention_scale", torch.ones(()))

    def fit(self, cells: np.ndarray, codes: np.ndarray, labels: np.ndarray) -> "AttentionMixedModel":
        """Fit the model to samples, and return it.

        Parameters
        ----------
        cells
            Features of the cells, centred, shape (n_cells, n_components).
        codes
            Sample of each cell, from 0 to n_samples - 1.
        labels
            Label of each sample, 0 or 1, shape (n_samples,).
        """
        x, bags, n = _tensors(cells, codes)
        means = torch.zeros(n, x.shape[1]).index_add_(0, bags, x) / torch.bincount(bags, minlength=n)[:, None]
        self.effect_scale = means.var(dim=0, unbiased=False).sum().clamp(min=1e-12).rsqrt()
        self.attention_scale = x.square().sum(dim=1).mean().clamp(min=1e-12).rsqrt()
        y = torch.as_tensor(np.asarray(labels, dtype=np.float32))
        share = y.mean()
        weight = torch.where(y > 0, 0.5 / share, 0.5 / (1 - share))
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, N_STEPS)
        for _ in range(N_STEPS):
            log_odds = self._log_odds(x, bags, n, N_DRAWS, generator)[0]
            losses = F.binary_cross_entropy_with_logits(log_odds, y[:, None].expand_as(log_odds), reduction="none")
            loss = (weight[:, None] * losses).sum() / N_DRAWS + self.effects.divergence()
            if self.has_attention:
                loss = loss + self.attention_effects.divergence()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return self

    @torch.inference_mode()
    def predict(self, cells: np.ndarray, codes: np.ndarray) -> PooledPrediction:
        """Predict samples; see :meth:`fit` for the parameters."""
        x, bags, n = _tensors(cells, codes)
        generator = torch.Generator().manual_seed(self.seed)
        log_odds, attention, values = self._log_odds(x, bags, n, N_PREDICTION_DRAWS, generator)
        return PooledPrediction(
            log_odds.sigmoid().mean(dim=1).numpy(), log_odds.mean(dim=1).numpy(), attention.mean(dim=1).numpy(),
            (attention * values).mean(dim=1).numpy(),
        )  # fmt: skip

    @property
    def weights(self) -> np.ndarray:
        """Posterior mean effect of each component on the log-odds, shape (n_components,)."""
        return (self.effects.mean * self.effect_scale).detach().numpy()

    def _log_odds(self, x: torch.Tensor, bags: torch.Tensor, n: int, n_draws: int, generator: torch.Generator):
        """Return log-odds of samples, and attention and value of each cell, with one column per posterior draw."""
        values = x @ self.effects.draw(n_draws, generator) * self.effect_scale
        if self.has_attention:
            scores = x @ self.attention_effects.draw(n_draws, generator) * self.attention_scale
        else:
            scores = torch.zeros_like(values)
        attention = _softmax_by_bag(scores, bags, n)
        pooled = torch.zeros(n, n_draws).index_add_(0, bags, attention * values)
        return self.intercept + pooled, attention, values


def _softmax_by_bag(scores: torch.Tensor, bags: torch.Tensor, n: int) -> torch.Tensor:
    """Return the softmax of scores over the cells of each sample, shape (n_cells, n_draws)."""
    index = bags[:, None].expand_as(scores)
    highest = torch.full((n, scores.shape[1]), -torch.inf).scatter_reduce_(0, index, scores.detach(), "amax")
    exponentials = (scores - highest[bags]).exp()
    return exponentials / torch.zeros(n, scores.shape[1]).index_add_(0, bags, exponentials)[bags]


def _tensors(cells: np.ndarray, codes: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return features, samples of the cells, and the number of samples."""
    x = torch.as_tensor(np.asarray(cells, dtype=np.float32))
    bags = torch.as_tensor(np.asarray(codes, dtype=np.int64))
    return x, bags, int(bags.max()) + 1

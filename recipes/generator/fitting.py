"""Fit the generator: decoder and latent states by variational inference, the flow on the states, and the dispersion.

Each cell has its own variational posterior of the latent state, so no encoder is needed. Profiles have the mean state.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from training_cells import TrainingCells

from cell2text.generate.conditions import condition_nodes, node_matrix
from cell2text.generate.network import Decoder, Flow


LOG_CLAMP = 12.0  # largest size of a style's logarithmic factor


@dataclass(frozen=True)
class GeneratorOptions:
    """Options of a training run; see options.yaml for what they mean."""

    rank: int = 96
    latent: int = 32
    hidden: int = 256
    steps: int = 1200
    cells_per_step: int = 128
    profiles_per_step: int = 48
    learning_rate: float = 0.01
    state_learning_rate: float = 0.05
    max_counts: float = 5000.0
    profile_counts: float = 10_000.0
    condition_penalty: float = 0.01
    pair_penalty: float = 0.03
    donor_penalty: float = 0.1
    style_penalty: float = 0.02
    state_weight: float = 1.0
    flow_steps: int = 2500
    flow_batch: int = 512
    flow_learning_rate: float = 2e-3
    node_dropout: float = 0.15
    dispersion_cells: float = 20.0
    seed: int = 0


@dataclass
class Conditions:
    """Numbered conditions of cells and profiles.

    Parameters
    ----------
    nodes
        Names of the condition nodes of the decoder; those of the flow come first.
    n_flow
        Number of nodes of the flow.
    styles
        Names of the styles; those of real studies come first.
    cells, profiles
        Nodes of each cell and profile, bool, shape (n, n_nodes).
    cell_styles, profile_styles
        Number of the style of each cell and profile.
    """

    nodes: list[str]
    n_flow: int
    styles: list[str]
    cells: Tensor
    profiles: Tensor
    cell_styles: Tensor
    profile_styles: Tensor


def number_conditions(cells: TrainingCells) -> Conditions:
    """Number the nodes and styles of all cells and profiles."""
    of_cells, of_profiles = (_nodes(table) for table in (cells.obs, cells.profiles))
    shared = {node for nodes in [*of_cells, *of_profiles] for node in nodes}
    everywhere = set.intersection(*map(set, [*of_cells, *of_profiles]))
    names = sorted(shared - everywhere)
    donors = sorted({f"donor {name}" for name in cells.obs["donor"]})
    of_cells = [[*nodes, f"donor {donor}"] for nodes, donor in zip(of_cells, cells.obs["donor"])]
    styles = [*cells.measured, *sorted(set(cells.profiles["style"]))]
    return Conditions(
        [*names, *donors],
        len(names),
        styles,
        node_matrix(of_cells, [*names, *donors]),
        node_matrix(of_profiles, [*names, *donors]),
        *(torch.tensor([styles.index(name) for name in table["style"]]) for table in (cells.obs, cells.profiles)),
    )


def _nodes(table: pd.DataFrame) -> list[list[str]]:
    columns = ["cell_type", "tissue", "disease", "sex", "stage"]
    known = {row: condition_nodes(*row) for row in set(table[columns].itertuples(index=False, name=None))}
    return [known[row] for row in table[columns].itertuples(index=False, name=None)]


@dataclass
class FittedDecoder:
    """Result of :func:`fit_decoder`: the decoder, and mean and log-variance of each cell's state."""

    decoder: Decoder
    mean: Tensor
    log_variance: Tensor

    def sample(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Sample states of cells from their posteriors."""
        noise = torch.randn(len(rows), self.mean.shape[1], generator=generator)
        return self.mean[rows] + noise * (self.log_variance[rows] / 2).exp()


def fit_decoder(cells: TrainingCells, conditions: Conditions, options: GeneratorOptions, log=print) -> FittedDecoder:
    """Fit decoder and posteriors by stochastic variational inference of multinomial counts."""
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    decoder = Decoder(len(cells.genes), len(conditions.nodes), len(conditions.styles), options.rank, options.latent)
    decoder.base.data = _mean_log_share(cells)
    shape = (cells.counts.shape[0], options.latent)
    fitted = FittedDecoder(decoder, nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.full(shape, -2.0)))
    rates = [options.learning_rate, options.state_learning_rate]
    groups = [{"params": list(decoder.parameters())}, {"params": [fitted.mean, fitted.log_variance]}]
    optimizer = torch.optim.Adam(groups, lr=rates[0], betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, options.steps, pct_start=0.1)
    weights = row_weights(cells.obs)
    measured = torch.tensor(np.array(list(cells.measured.values())))
    profiles = torch.tensor(cells.fractions)
    for step in range(options.steps):
        rows = torch.tensor(rng.choice(len(weights), size=options.cells_per_step, p=weights))
        loss = _loss_of_cells(fitted, cells, conditions, rows, measured, generator, options)
        chosen = torch.tensor(rng.integers(len(profiles), size=options.profiles_per_step))
        loss = loss + _loss_of_profiles(decoder, profiles[chosen], conditions, chosen, options)
        loss = loss / options.cells_per_step + _penalty(decoder, conditions, options)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            log(f"decoder step {step}: loss {loss.item():.1f}")
    return FittedDecoder(decoder, fitted.mean.detach(), fitted.log_variance.detach())


def _loss_of_cells(
    fitted: FittedDecoder, cells: TrainingCells, conditions: Conditions, rows: Tensor, measured: Tensor,
    generator: torch.Generator, options: GeneratorOptions,
) -> Tensor:  # fmt: skip
    """Return the negative evidence lower bound of cells."""
    styles = conditions.cell_styles[rows]
    logits = fitted.decoder(conditions.cells[rows], styles, fitted.sample(rows, generator))
    logits = logits.masked_fill(~measured[styles], -torch.inf)
    likelihood = _multinomial(logits, torch.tensor(cells.counts[rows.numpy()].toarray()), options.max_counts)
    divergence = _divergence(fitted.mean[rows], fitted.log_variance[rows])
    return (likelihood + options.state_weight * divergence).sum()


def _loss_of_profiles(
    decoder: Decoder, shares: Tensor, conditions: Conditions, rows: Tensor, options: GeneratorOptions
) -> Tensor:
    """Return the negative log-likelihood of profiles with the mean state, as if each had `profile_counts` counts."""
    logits = decoder(conditions.profiles[rows], conditions.profile_styles[rows])
    logits = logits.masked_fill(shares.isnan(), -torch.inf)
    return options.profile_counts * _multinomial(logits, shares.nan_to_num(), 1.0).sum()


def row_weights(obs: pd.DataFrame) -> np.ndarray:
    """Return probabilities of cells: each type of a study counts as the root of its size."""
    size = obs.groupby(["style", "cell_type"])["donor"].transform("size").to_numpy()
    return (1 / np.sqrt(size)) / (1 / np.sqrt(size)).sum()


def _mean_log_share(cells: TrainingCells) -> Tensor:
    """Return the logarithm of the mean share over studies and profiles, shape (n_genes,)."""
    shares = [cells.fractions]
    for name, measured in cells.measured.items():
        total = np.asarray(cells.counts[(cells.obs["style"] == name).to_numpy()].sum(axis=0)).ravel()
        shares.append(np.where(measured, total / total.sum(), np.nan)[None])
    mean = np.nanmean(np.concatenate(shares), axis=0)
    return torch.tensor(np.log(mean + 1e-7), dtype=torch.float32)


def _multinomial(logits: Tensor, counts: Tensor, max_counts: float) -> Tensor:
    """Return the negative log-likelihood per row, scaled down to `max_counts` counts."""
    total = counts.sum(dim=1)
    found = torch.where(counts > 0, logits, 0) * counts
    likelihood = total * logits.logsumexp(dim=1) - found.sum(dim=1)
    return likelihood * (max_counts / total).clamp(max=1)


def _divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)


def _penalty(decoder: Decoder, conditions: Conditions, options: GeneratorOptions) -> Tensor:
    size = (decoder.condition.weight**2).sum(dim=1)
    is_pair = torch.tensor(["|" in name for name in conditions.nodes])
    is_donor = torch.tensor([name.startswith("donor ") for name in conditions.nodes])
    weight = torch.where(
        is_donor, options.donor_penalty, torch.where(is_pair, options.pair_penalty, options.condition_penalty)
    )
    return (
        (weight * size).sum()
        + options.style_penalty * (decoder.styles**2).sum() / len(conditions.styles)
        + 0.01 * (decoder.programs**2).sum() / decoder.programs.shape[0]
    )


def fit_flow(
    fitted: FittedDecoder,
    targets: np.ndarray,
    conditions: Conditions,
    weights: np.ndarray,
    options: GeneratorOptions,
    log=print,
) -> Flow:
    """Fit the flow to states sampled from the posteriors and to standardised logarithmic depths, shape (n_cells,)."""
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    flow = Flow(conditions.n_flow, int(conditions.cell_styles.max()) + 1, options.latent + 1, options.hidden)
    optimizer = torch.optim.AdamW(flow.parameters(), lr=options.flow_learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.flow_learning_rate, options.flow_steps)
    depth = torch.tensor(targets, dtype=torch.float32)[:, None]
    for step in range(options.flow_steps):
        rows = torch.tensor(rng.choice(len(weights), size=options.flow_batch, p=weights))
        target = torch.cat([fitted.sample(rows, generator), depth[rows]], dim=1)
        nodes = conditions.cells[rows, : conditions.n_flow]
        nodes = nodes * (torch.rand(nodes.shape, generator=generator) >= options.node_dropout)
        noise = torch.randn(target.shape, generator=generator)
        time = torch.rand(len(rows), 1, generator=generator)
        velocity = flow(noise + time * (target - noise), time, flow.context(nodes, conditions.cell_styles[rows]))
        loss = ((velocity - (target - noise)) ** 2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 0:
            log(f"flow step {step}: loss {loss.item():.3f}")
    return flow


@torch.inference_mode()
def fit_dispersion(
    cells: TrainingCells, conditions: Conditions, fitted: FittedDecoder, options: GeneratorOptions
) -> np.ndarray:
    """Estimate the overdispersion of each gene in each study by the method of moments, shape (n_studies, n_genes).

    The variance of a count is mean + dispersion * mean^2. Genes with few counts are shrunk to the study's mean.
    """
    generator = torch.Generator().manual_seed(options.seed)
    found = []
    for number, measured in enumerate(cells.measured.values()):
        excess = np.zeros((2, len(cells.genes)))
        for rows in torch.where(conditions.cell_styles == number)[0].split(256):
            logits = fitted.decoder(
                conditions.cells[rows], conditions.cell_styles[rows], fitted.sample(rows, generator)
            )
            counts = cells.counts[rows.numpy()].toarray()
            shares = logits.masked_fill(~torch.tensor(measured), -torch.inf).softmax(dim=1).numpy()
            expected = shares * counts.sum(axis=1, keepdims=True)
            excess[0] += ((counts - expected) ** 2 - expected).sum(axis=0)
            excess[1] += (expected**2).sum(axis=0)
        overall = max(excess[0].sum() / excess[1].sum(), 0.0)
        prior = options.dispersion_cells
        found.append((excess[0] + prior * overall) / (excess[1] + prior))
    return np.clip(found, 0.0, 10.0)

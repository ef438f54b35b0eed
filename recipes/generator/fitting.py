"""Fit the generator in four steps: mean shares of conditions, latent states of cells, the flow, and the dispersion.

    pseudobulks and profiles -> condition vectors on all genes -> types of studies in closed form
    cells -> variational posteriors of latent states on the leading genes -> flow of states and depth

Each cell has its own posterior, so no encoder is needed. Profiles have no states.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from training_cells import TrainingCells

from cell2text.generate.conditions import condition_nodes, node_matrix
from cell2text.generate.network import Decoder, Flow


CONDITION_COLUMNS = ["cell_type", "tissue", "disease", "sex", "stage"]


@dataclass(frozen=True)
class GeneratorOptions:
    """Options of a training run.

    Parameters
    ----------
    rank, latent, hidden
        Sizes: gene programs of conditions, latent state, width of the flow.
    mean_steps, mean_rows, mean_learning_rate
        Optimisation of the condition vectors: steps, pseudobulks and profiles per step, and peak rate.
    cell_counts, profile_counts
        Number of counts that a pseudobulk (at most) and a profile are worth.
    condition_penalty, pair_penalty, style_penalty, program_penalty
        Weights of squared parameters: vectors of terms, of pairs of type and tissue, styles, and programs.
    group_counts
        Counts of a gene at which a type's mean in a study is half way between the condition's mean and its own.
    state_genes, state_steps, state_cells, state_learning_rate, max_counts
        Latent states: number of leading genes, steps, cells per step, peak rate, and counts that a cell is worth.
    flow_steps, flow_cells, flow_learning_rate, node_dropout
        Flow: steps, cells per step, peak rate, and probability that a condition node is hidden.
    dispersion_cells
        Weight of the study's mean dispersion, in squared expected counts.
    seed
        Random seed.
    """

    rank: int = 64
    latent: int = 24
    hidden: int = 192
    mean_steps: int = 300
    mean_rows: int = 96
    mean_learning_rate: float = 0.02
    cell_counts: float = 20_000.0
    profile_counts: float = 10_000.0
    condition_penalty: float = 0.3
    pair_penalty: float = 1.0
    style_penalty: float = 1.0
    program_penalty: float = 1.0
    group_counts: float = 10.0
    state_genes: int = 4000
    state_steps: int = 600
    state_cells: int = 384
    state_learning_rate: float = 0.05
    max_counts: float = 5000.0
    flow_steps: int = 3000
    flow_cells: int = 256
    flow_learning_rate: float = 2e-3
    node_dropout: float = 0.1
    dispersion_cells: float = 20.0
    seed: int = 0


@dataclass
class Numbering:
    """Numbered conditions of cells and profiles.

    Parameters
    ----------
    nodes, styles, groups
        Names of the condition nodes, of the styles (those of real studies first), and pairs of style and type of cells.
    conditions
        Nodes of each distinct condition, float, shape (n_conditions, n_nodes).
    cells, profiles
        Number of the condition of each cell and profile.
    cell_styles, profile_styles, cell_groups
        Number of the style of each cell and profile, and of the group of each cell.
    """

    nodes: list[str]
    styles: list[str]
    groups: list[tuple[str, str]]
    conditions: Tensor
    cells: Tensor
    profiles: Tensor
    cell_styles: Tensor
    profile_styles: Tensor
    cell_groups: Tensor


def number_conditions(cells: TrainingCells) -> Numbering:
    """Number the nodes, styles and groups of all cells and profiles. Nodes that all conditions have are left out."""
    tables = (cells.obs, cells.profiles)
    rows = [list(table[CONDITION_COLUMNS].itertuples(index=False, name=None)) for table in tables]
    distinct = list(dict.fromkeys([*rows[0], *rows[1]]))
    nodes = [condition_nodes(*row) for row in distinct]
    names = sorted(set().union(*nodes) - set.intersection(*map(set, nodes)))
    number = {row: i for i, row in enumerate(distinct)}
    styles = [*cells.measured, *sorted(set(cells.profiles["style"]))]
    pairs = list(zip(cells.obs["style"], cells.obs["cell_type"]))
    groups = sorted(set(pairs))
    group_number = {pair: i for i, pair in enumerate(groups)}
    return Numbering(
        names,
        styles,
        groups,
        node_matrix(nodes, names),
        *(torch.tensor([number[row] for row in of_table]) for of_table in rows),
        *(torch.tensor([styles.index(name) for name in table["style"]]) for table in tables),
        torch.tensor([group_number[pair] for pair in pairs]),
    )


def fit_means(cells: TrainingCells, numbering: Numbering, options: GeneratorOptions, log=print) -> Decoder:
    """Fit condition vectors, programs and styles to pseudobulks and profiles, and types of studies in closed form."""
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    shares, weights, conditions, styles = _rows_of_means(cells, numbering, options)
    sizes = (len(cells.genes), len(numbering.nodes), len(numbering.styles), len(numbering.groups))
    decoder = Decoder(*sizes, options.rank, options.latent)
    decoder.base.data = torch.tensor(np.log(np.nanmean(shares, axis=0) + 1e-7), dtype=torch.float32)
    trained = [decoder.base, decoder.styles, decoder.programs, decoder.condition]
    optimizer = torch.optim.Adam(trained, lr=options.mean_learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.mean_learning_rate, options.mean_steps)
    penalties = torch.where(
        torch.tensor(["|" in name for name in numbering.nodes]), options.pair_penalty, options.condition_penalty
    )
    for step in range(options.mean_steps):
        rows = rng.permutation(len(shares))[: options.mean_rows]
        target = torch.tensor(shares[rows])
        logits = decoder.mean(numbering.conditions[conditions[rows]], styles[rows])
        loss = multinomial_loss(logits.masked_fill(target.isnan(), -torch.inf), target.nan_to_num()) @ weights[rows]
        penalty = (
            penalties @ (decoder.condition**2).sum(dim=1)
            + options.style_penalty * (decoder.styles**2).sum()
            + options.program_penalty * (decoder.programs**2).sum()
        )
        loss = loss * len(shares) / options.mean_rows + penalty
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            log(f"means, step {step}: loss per row {loss.item() / len(shares):.1f}")
    decoder.groups.data = _group_effects(cells, numbering, decoder, options)
    return decoder


def _rows_of_means(cells: TrainingCells, numbering: Numbering, options: GeneratorOptions):
    """Return shares (NaN where not measured), weights, conditions and styles of pseudobulks and profiles."""
    keys = pd.DataFrame({"condition": numbering.cells.numpy(), "style": numbering.cell_styles.numpy()})
    codes = keys.groupby(["condition", "style"], sort=True).ngroup().to_numpy()
    members = sp.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))))
    sums = np.asarray((members @ cells.counts).todense(), dtype=np.float32)
    firsts = np.unique(codes, return_index=True)[1]
    styles = numbering.cell_styles[firsts]
    measured = np.array(list(cells.measured.values()))[styles.numpy()]
    total = sums.sum(axis=1)
    shares = np.where(measured, sums / total[:, None], np.nan).astype(np.float32)
    weights = np.concatenate(
        [np.minimum(total, options.cell_counts), np.full(len(cells.profiles), options.profile_counts)]
    )
    return (
        np.concatenate([shares, cells.fractions]),
        torch.tensor(weights, dtype=torch.float32),
        torch.cat([numbering.cells[firsts], numbering.profiles]),
        torch.cat([styles, numbering.profile_styles]),
    )


def multinomial_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Return the cross-entropy of shares that sum to 1, shape (n_rows,); genes without logits must have none."""
    return logits.logsumexp(dim=1) - torch.where(shares > 0, logits * shares, 0.0).sum(dim=1)


@torch.inference_mode()
def _group_effects(cells: TrainingCells, numbering: Numbering, decoder: Decoder, options: GeneratorOptions) -> Tensor:
    """Return how the genes of each type in a study differ from its condition: the logarithm of the shrunken ratio."""
    effects = torch.zeros(len(numbering.groups), len(cells.genes))
    for number in range(len(numbering.groups)):
        rows = torch.where(numbering.cell_groups == number)[0]
        observed = torch.tensor(np.asarray(cells.counts[rows.numpy()].sum(axis=0)).ravel())
        shares = _condition_shares(cells, numbering, decoder, rows)
        expected = (shares * torch.tensor(_totals(cells, rows))[:, None]).sum(dim=0)
        measured = torch.tensor(cells.measured[numbering.groups[number][0]])
        ratio = (observed + options.group_counts) / (expected + options.group_counts)
        effects[number] = torch.where(measured, ratio.log(), 0.0)
    return effects


def _totals(cells: TrainingCells, rows: Tensor) -> np.ndarray:
    return np.asarray(cells.counts[rows.numpy()].sum(axis=1)).ravel()


def _condition_shares(cells: TrainingCells, numbering: Numbering, decoder: Decoder, rows: Tensor) -> Tensor:
    """Return the expected shares of cells without group and state, shape (n_rows, n_genes)."""
    style = int(numbering.cell_styles[rows[0]])
    distinct, inverse = torch.unique(numbering.cells[rows], return_inverse=True)
    logits = decoder.mean(numbering.conditions[distinct], torch.full((len(distinct),), style))
    measured = torch.tensor(cells.measured[numbering.styles[style]])
    return logits.masked_fill(~measured, -torch.inf).softmax(dim=1)[inverse]


@dataclass
class CellStates:
    """Posteriors of the latent states of cells: mean and log-variance, each of shape (n_cells, latent)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Sample states of cells."""
        noise = torch.randn(len(rows), self.mean.shape[1], generator=generator)
        return self.mean[rows] + noise * (self.log_variance[rows] / 2).exp()


def fit_states(
    cells: TrainingCells, numbering: Numbering, decoder: Decoder, options: GeneratorOptions, log=print
) -> CellStates:
    """Fit loadings and posteriors of latent states by stochastic variational inference. Sets `decoder.loadings`."""
    torch.manual_seed(options.seed)
    rng, generator = np.random.default_rng(options.seed), torch.Generator().manual_seed(options.seed)
    genes = leading_genes(cells, options.state_genes)
    counts = cells.counts[:, genes].toarray()
    offsets, place = _offsets(cells, numbering, decoder, genes)
    shape = (len(counts), options.latent)
    states = CellStates(nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.full(shape, -1.0)))
    loadings = nn.Parameter(0.05 * torch.randn(options.latent, len(genes)))
    rates = [options.state_learning_rate, options.state_learning_rate / 4]
    groups = [{"params": [states.mean, states.log_variance]}, {"params": [loadings]}]
    optimizer = torch.optim.Adam(groups, lr=rates[0], betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, options.state_steps)
    weights = row_weights(cells.obs)
    for step in range(options.state_steps):
        rows = torch.tensor(rng.choice(len(weights), size=options.state_cells, p=weights))
        found = torch.tensor(counts[rows.numpy()])
        logits = offsets[place[rows]] + states.sample(rows, generator) @ loadings
        total = found.sum(dim=1).clamp(min=1)
        likelihood = multinomial_loss(logits, found / total[:, None]) * total.clamp(max=options.max_counts)
        mean, log_variance = states.mean[rows], states.log_variance[rows]
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
        loss = (likelihood + divergence).mean() + 0.5 * (loadings**2).sum() / len(weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            log(f"states, step {step}: loss {loss.item():.1f}")
    decoder.loadings.data = torch.zeros(options.latent, len(cells.genes)).index_copy(
        1, torch.tensor(genes), loadings.data
    )
    return CellStates(states.mean.detach(), states.log_variance.detach())


def leading_genes(cells: TrainingCells, n: int) -> np.ndarray:
    """Return the genes with the highest mean share over the studies, sorted."""
    shares = np.zeros(len(cells.genes))
    for name in cells.measured:
        total = np.asarray(cells.counts[(cells.obs["style"] == name).to_numpy()].sum(axis=0)).ravel()
        shares += total / total.sum()
    return np.sort(np.argsort(-shares, kind="stable")[:n])


@torch.inference_mode()
def _offsets(cells: TrainingCells, numbering: Numbering, decoder: Decoder, genes: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return logarithmic shares of the mean state by distinct condition and style, and the number of each cell's."""
    keys = torch.stack([numbering.cells, numbering.cell_styles, numbering.cell_groups], dim=1)
    distinct, place = torch.unique(keys, dim=0, return_inverse=True)
    logits = decoder.mean(numbering.conditions[distinct[:, 0]], distinct[:, 1], distinct[:, 2])[:, genes]
    measured = torch.tensor(np.array(list(cells.measured.values()))[:, genes])
    return logits.masked_fill(~measured[distinct[:, 1]], -1e4), place


def row_weights(obs: pd.DataFrame) -> np.ndarray:
    """Return probabilities of cells: each type of a study counts as the root of its size."""
    size = obs.groupby(["style", "cell_type"])["donor"].transform("size").to_numpy()
    return (1 / np.sqrt(size)) / (1 / np.sqrt(size)).sum()


def fit_flow(
    states: CellStates,
    depths: np.ndarray,
    numbering: Numbering,
    weights: np.ndarray,
    options: GeneratorOptions,
    log=print,
) -> Flow:
    """Fit the flow to states sampled from the posteriors and to standardised logarithmic depths, shape (n_cells,)."""
    torch.manual_seed(options.seed)
    rng, generator = np.random.default_rng(options.seed), torch.Generator().manual_seed(options.seed)
    flow = Flow(len(numbering.nodes), int(numbering.cell_styles.max()) + 1, options.latent + 1, options.hidden)
    optimizer = torch.optim.AdamW(flow.parameters(), lr=options.flow_learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.flow_learning_rate, options.flow_steps)
    distinct, place = torch.unique(numbering.cells, return_inverse=True)
    depth = torch.tensor(depths, dtype=torch.float32)[:, None]
    for step in range(options.flow_steps):
        rows = torch.tensor(rng.choice(len(weights), size=options.flow_cells, p=weights))
        target = torch.cat([states.sample(rows, generator), depth[rows]], dim=1)
        nodes = numbering.conditions[distinct]
        nodes = nodes * (torch.rand(nodes.shape, generator=generator) >= options.node_dropout)
        context = (nodes @ flow.condition)[place[rows]] + flow.styles(numbering.cell_styles[rows])
        noise = torch.randn(target.shape, generator=generator)
        time = torch.rand(len(rows), 1, generator=generator)
        velocity = flow(noise + time * (target - noise), time, context)
        loss = ((velocity - (target - noise)) ** 2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 0:
            log(f"flow, step {step}: loss {loss.item():.3f}")
    return flow


@torch.inference_mode()
def fit_dispersion(
    cells: TrainingCells, numbering: Numbering, decoder: Decoder, states: CellStates, options: GeneratorOptions
) -> np.ndarray:
    """Estimate the overdispersion of each gene in each study by the method of moments, shape (n_studies, n_genes).

    The variance of a count is mean + dispersion * mean^2. Genes with few counts are shrunk to the study's mean.
    """
    generator = torch.Generator().manual_seed(options.seed)
    found = []
    for number, measured in enumerate(cells.measured.values()):
        excess = np.zeros((2, len(cells.genes)))
        for rows in torch.where(numbering.cell_styles == number)[0].split(256):
            logits = decoder(
                numbering.conditions[numbering.cells[rows]], numbering.cell_styles[rows], numbering.cell_groups[rows],
                states.sample(rows, generator),
            )  # fmt: skip
            counts = cells.counts[rows.numpy()].toarray()
            shares = logits.masked_fill(~torch.tensor(measured), -torch.inf).softmax(dim=1).numpy()
            expected = shares * counts.sum(axis=1, keepdims=True)
            excess[0] += ((counts - expected) ** 2 - expected).sum(axis=0)
            excess[1] += (expected**2).sum(axis=0)
        overall = max(excess[0].sum() / excess[1].sum(), 0.0)
        prior = options.dispersion_cells
        found.append((excess[0] + prior * overall) / (excess[1] + prior))
    return np.clip(found, 0.0, 10.0)

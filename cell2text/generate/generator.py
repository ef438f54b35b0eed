"""Load the generator and sample counts of cells of one condition."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from safetensors.torch import load_file

from cell2text.generate.conditions import condition_nodes, node_matrix
from cell2text.generate.network import Decoder, Flow


WEIGHTS_FILE, CONFIG_FILE, GENES_FILE, SEEN_FILE = "model.safetensors", "config.json", "genes.txt", "seen.tsv"
SEEN_COLUMNS = ("cell_type", "tissue", "disease", "sex", "stage", "style", "donor", "cells")
_BLOCK_CELLS = 256  # sampled at once: bounds memory to about 100 MB


@dataclass(frozen=True)
class CellPlan:
    """What each generated cell is sampled from, one row per cell.

    Parameters
    ----------
    table
        Columns `cell_type`, `tissue`, `disease`, `sex`, `stage`, `style`, `donor`, and `borrowed`: whether the style's
        study has no cells of this type and origin.
    """

    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.table)


class CellGenerator:
    """Conditional generative model of counts: a log-linear decoder, a flow of latent states, and negative binomials.

    Parameters
    ----------
    decoder, flow
        Networks.
    config
        `nodes`, `groups` (pairs of style and type), `styles` (by name: `assay`, whether it `lends`, and mean, standard
        `deviation`, minimum `low` and maximum `high` of the logarithmic depth), and the `sizes` of the networks.
    measured
        Whether the study of a style has a gene, bool, shape (n_styles, n_genes).
    dispersion
        Overdispersion of each gene, shape (n_styles, n_genes).
    genes
        Ensembl ids, shape (n_genes,).
    seen
        Conditions of the training cells and profiles, with the columns `SEEN_COLUMNS`; profiles have 0 cells.
    """

    def __init__(
        self, decoder: Decoder, flow: Flow, config: dict, measured: np.ndarray, dispersion: np.ndarray,
        genes: np.ndarray, seen: pd.DataFrame,
    ):  # fmt: skip
        self.decoder, self.flow, self.config = decoder.eval(), flow.eval(), config
        self.measured, self.dispersion, self.genes, self.seen = measured, dispersion, genes, seen
        self.styles = list(config["styles"])
        self.groups = {(style, term): i for i, (style, term) in enumerate(config["groups"])}

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike) -> "CellGenerator":
        """Load a generator from a folder that recipes/generator wrote."""
        path = Path(folder)
        config = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
        weights = load_file(path / WEIGHTS_FILE)
        loadings = weights.pop("decoder.loadings")
        genes = np.array((path / GENES_FILE).read_text(encoding="utf-8").split())
        weights["decoder.loadings"] = torch.zeros(len(loadings), len(genes), dtype=loadings.dtype)
        weights["decoder.loadings"][:, weights["leading_genes"]] = loadings
        sizes = config["sizes"]
        n_nodes, n_styles, n_groups = (len(config[name]) for name in ("nodes", "styles", "groups"))
        decoder = Decoder(len(genes), n_nodes, n_styles, n_groups, sizes["rank"], sizes["latent"])
        flow = Flow(n_nodes, n_styles, sizes["latent"] + 1, sizes["hidden"])
        for name, network in (("decoder", decoder), ("flow", flow)):
            own = {
                key.removeprefix(f"{name}."): value.float()
                for key, value in weights.items()
                if key.startswith(f"{name}.")
            }
            network.load_state_dict(own)
        seen = pd.read_csv(path / SEEN_FILE, sep="\t", keep_default_na=False)
        return cls(
            decoder, flow, config, weights["measured"].numpy().astype(bool), weights["dispersion"].float().numpy(),
            genes, seen,
        )  # fmt: skip

    def sample(self, plan: CellPlan, rng: np.random.Generator) -> sp.csr_matrix:
        """Sample counts of the cells of a plan.

        Parameters
        ----------
        plan
            The cells.
        rng
            Source of all randomness.

        Returns
        -------
        Integer counts, CSR int32, shape (n_cells, n_genes); each cell has at least one count.
        """
        torch_generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        starts = range(0, len(plan), _BLOCK_CELLS)
        blocks = [
            self._sample_block(plan.table.iloc[start : start + _BLOCK_CELLS], rng, torch_generator) for start in starts
        ]
        return sp.csr_matrix(sp.vstack(blocks))

    @torch.inference_mode()
    def _sample_block(self, table: pd.DataFrame, rng, torch_generator) -> sp.csr_matrix:
        styles = torch.tensor([self.styles.index(name) for name in table["style"]])
        nodes = node_matrix(_nodes_of(table), self.config["nodes"])
        sampled = self.flow.sample(nodes, styles, torch_generator)
        states, depth = sampled[:, :-1], self._depth(sampled[:, -1].numpy(), table["style"])
        pairs = zip(table["style"], table["cell_type"], table["borrowed"])
        groups = torch.tensor(
            [-1 if borrowed else self.groups.get((style, term), -1) for style, term, borrowed in pairs]
        )
        logits = self.decoder(nodes, styles, groups, states)
        hidden = ~self.measured[styles.numpy()] & ~table["borrowed"].to_numpy(dtype=bool)[:, None]
        shares = logits.masked_fill(torch.tensor(hidden), -torch.inf).softmax(dim=1).numpy()
        return sample_counts(shares, depth, self.dispersion[styles.numpy()], rng)

    def _depth(self, standardised: np.ndarray, styles: Sequence[str]) -> np.ndarray:
        known = [self.config["styles"][name] for name in styles]
        mean, deviation, low, high = (
            np.array([one[key] for one in known]) for key in ("mean", "deviation", "low", "high")
        )
        return np.exp(np.clip(standardised * deviation + mean, low, high))


def _nodes_of(table: pd.DataFrame) -> list[list[str]]:
    rows = list(table[["cell_type", "tissue", "disease", "sex", "stage"]].itertuples(index=False, name=None))
    known = {row: condition_nodes(*row) for row in set(rows)}
    return [known[row] for row in rows]


def sample_counts(
    shares: np.ndarray, depth: np.ndarray, dispersion: np.ndarray, rng: np.random.Generator
) -> sp.csr_matrix:
    """Sample negative binomial counts around expected shares.

    Parameters
    ----------
    shares
        Expected share of each gene, shape (n_cells, n_genes); rows sum to 1.
    depth
        Expected number of counts per cell, shape (n_cells,).
    dispersion
        Overdispersion: variance = mean + dispersion * mean^2, shape (n_cells, n_genes).
    rng
        Source of randomness.

    Returns
    -------
    CSR int32, shape (n_cells, n_genes); a cell without counts gets one of its most expressed gene.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> sample_counts(np.array([[0.5, 0.5, 0.0]]), np.array([1000.0]), np.zeros((1, 3)), rng).toarray()
    array([[509, 443,   0]], dtype=int32)
    """
    rates = shares * depth[:, None]
    noisy = (dispersion > 0) & (rates > 0)
    shape = 1 / np.maximum(dispersion[noisy], 1e-3)
    rates[noisy] *= rng.standard_gamma(shape) / shape
    rates *= (depth / np.maximum(rates.sum(axis=1), 1e-12))[:, None]
    counts = rng.poisson(rates)
    empty = np.flatnonzero(counts.sum(axis=1) == 0)
    counts[empty, shares[empty].argmax(axis=1)] = 1
    return sp.csr_matrix(counts.astype(np.int32))

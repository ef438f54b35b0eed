"""Sample raw counts of cells around mean expression profiles.

A simulated cell has a *donor*, which shares gene effects and a real file: the file gives its genes, depth and the share
of technical genes. Expected shares are those of the profile, the donor's gene effects, ambient RNA and, for technical
genes and genes that the profile lacks, those of a real cell. Counts are gamma-Poisson (negative binomial) around them.
Depends on NumPy and SciPy.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cell2text.preparation.profiles import Profiles
from cell2text.preparation.real_cells import Dispersion, GeneKinds, RealStudy, related


KINDS = ("cell", "ambient", "doublet", "shuffled", "thinned")
DONORS = 6  # per data set of profiles
DONOR_SD, PROFILE_SD = 0.2, 0.22  # of log gene effects: shared by a donor's cells, and of one profile in a donor
AMBIENT = (1.5, 28.5)  # Beta distribution of the share of ambient RNA, mean 5 %
EMPIRICAL_DEPTH, DEPTH_SD, DEPTHS = 0.6, 0.3, (500, 20_000)  # share of depths from real cells; others log-uniform
LIKENESS = (2, 1)  # Beta distribution of how much a donor resembles the real file in housekeeping genes
MIN_PLATFORM = 1e-6  # share from which the factor of a gene is known
MAX_PLATFORM = 10.0  # factor of a housekeeping gene between a data set of profiles and a real file
PANELS = {"study": 0.5, "all": 0.35, "random": 0.15}  # genes that a donor's cells can have
EXPRESSED = 1e-5  # share of a profile from which a gene counts as expressed
PANEL_SHARE = (0.4, 0.95)  # genes of a random panel
AMBIENT_COUNTS, AMBIENT_THIN = (5, 300), 0.7  # counts of a thin ambient droplet, and the share of thin ones
THINNED_COUNTS = (5, 150)
DOUBLET_SHARE, DOUBLET_DEPTH = (0.35, 0.65), 1.5
MAX_DOUBLET_RELATION = 0.5  # common ancestors of the two types of a doublet
MIN_SOUP = 3  # profiles


@dataclass
class Donor:
    """What the simulated cells of one donor share.

    Parameters
    ----------
    name
        Value of `donor_id`.
    study
        Real file that lends genes, depth and technical genes.
    effects
        Factor of each gene, shape (n_genes,).
    scatter
        Factor of each gene's dispersion, shape (n_genes,).
    panel
        `"study"`: the cells have the genes of the real file. `"all"`: they have those of the profile. `"random"`: they
        have some of the profile's genes.
    random_panel
        Genes of a random panel, shape (n_genes,).
    likeness
        How far the shares of housekeeping and ribosomal genes move from those of the profile, 0, to those of the real
        file, 1.
    """

    name: str
    study: RealStudy
    effects: np.ndarray
    scatter: np.ndarray
    panel: str
    random_panel: np.ndarray
    likeness: float


class CellSimulator:
    """Sample cells of profiles and outliers.

    Parameters
    ----------
    profiles
        Profiles to sample from.
    studies
        Real cells, on the genes `genes`.
    genes
        Ensembl ids of the simulation, sorted; they include those of the profiles.
    kinds, dispersion
        From :func:`~cell2text.preparation.real_cells.gene_kinds` and
        :func:`~cell2text.preparation.real_cells.fit_dispersion`.
    seed
        Random seed.
    """

    def __init__(
        self, profiles: Profiles, studies: Sequence[RealStudy], genes: np.ndarray, kinds: GeneKinds,
        dispersion: Dispersion, seed: int,
    ):  # fmt: skip
        self.profiles, self.studies, self.genes = profiles, studies, genes
        self.kinds, self.dispersion, self.seed = kinds, dispersion, seed
        self.columns = np.searchsorted(genes, profiles.genes)
        self._donors: dict[str, list[Donor]] = {}
        self._soups: dict[str, np.ndarray] = {}
        self._platforms: dict[tuple[str, str], np.ndarray] = {}

    def cells(self, number: int, kinds: Sequence[str]) -> tuple[sp.csr_matrix, list[str], list[str | None]]:
        """Sample cells of one profile.

        Parameters
        ----------
        number
            Row of the profile.
        kinds
            Kind of each cell, of `KINDS`.

        Returns
        -------
        Counts, CSR int32, shape (n_cells, n_genes); the donor of each cell; the second cell type of each doublet, None
        for other kinds.
        """
        rng = self._rng("cells", self.profiles.obs.index[number])
        donors = self._donors_of(number)
        chosen = rng.integers(len(donors), size=len(kinds))
        blocks: list[sp.csr_matrix] = []
        order: list[np.ndarray] = []
        partners: list[str | None] = [None] * len(kinds)
        for i, donor in enumerate(donors):
            profile_effects = np.exp(rng.normal(0, PROFILE_SD, len(self.genes)))
            for kind in KINDS:
                rows = np.flatnonzero((chosen == i) & (np.array(kinds) == kind))
                if len(rows):
                    block, second = self._sample(number, kind, len(rows), donor, donor.effects * profile_effects, rng)
                    blocks.append(block)
                    order.append(rows)
                    for row, name in zip(rows, second):
                        partners[row] = name
        counts = sp.csr_matrix(sp.vstack(blocks))[np.argsort(np.concatenate(order))]
        return counts, [donors[i].name for i in chosen], partners

    def _sample(self, number: int, kind: str, n: int, donor: Donor, effects: np.ndarray, rng: np.random.Generator):
        """Return counts of `n` cells of one kind and donor, and the second types of doublets."""
        second: list[str | None] = [None] * n
        if kind == "ambient":
            expected, depth = self._expected(number, self._soup(number), None, n, donor, effects, rng)
            thin = rng.random(n) < AMBIENT_THIN
            depth = np.where(thin, _log_uniform(AMBIENT_COUNTS, n, rng), depth)
        else:
            term = self.profiles.obs["cell_type_ontology_term_id"].iloc[number]
            expected, depth = self._expected(number, self._shares(number), term, n, donor, effects, rng)
            ambient = rng.beta(*AMBIENT, size=(n, 1))
            soup, _ = self._expected(number, self._soup(number), None, 1, donor, effects, rng)
            expected = (1 - ambient) * expected + ambient * soup
        if kind == "doublet":
            expected, second = self._mix(number, expected, donor, effects, rng)
            depth = depth * DOUBLET_DEPTH
        counts = self._draw(expected, depth, donor, rng)
        if kind == "thinned":
            kept = np.minimum(1.0, _log_uniform(THINNED_COUNTS, n, rng) / np.maximum(counts.sum(axis=1), 1))
            counts = rng.binomial(counts, kept[:, None])
        if kind == "shuffled":
            possible = np.flatnonzero(expected.any(axis=0))
            counts[:, possible] = rng.permuted(counts[:, possible], axis=1)
        return sp.csr_matrix(counts.astype(np.int32)), second

    def _expected(
        self,
        number: int,
        shares: np.ndarray,
        term: str | None,
        n: int,
        donor: Donor,
        effects: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return expected shares, shape (n, n_genes), and depths, shape (n,), with the help of `n` real cells."""
        study, kinds = donor.study, self.kinds
        rows, is_related = study.choose(term, n, rng) if term else (rng.integers(len(study.totals), size=n), False)
        measured = np.isfinite(shares)
        profile = np.where(measured, shares, 0)
        lacking = study.measured & ~measured & ~kinds.mitochondrial & ~kinds.ribosomal
        lacking &= np.ones_like(lacking) if is_related else kinds.unspecific
        blocks = [kinds.mitochondrial & study.measured, kinds.ribosomal & study.measured, lacking]
        lent = np.asarray(study.counts[rows] @ np.array(blocks, dtype=np.float64).T) / study.totals[rows, None]
        of_profile = profile[kinds.ribosomal].sum()
        if not is_related and of_profile > 0:
            lent[:, 1] = lent[:, 1] ** donor.likeness * of_profile ** (1 - donor.likeness)
        panel = _panel(donor, profile, is_related)
        kept = profile * (~kinds.mitochondrial & ~kinds.ribosomal) * effects * panel
        kept *= self._platform(number, study) ** donor.likeness
        expected = np.outer(1 - np.minimum(lent.sum(axis=1), 0.95), kept / max(kept.sum(), 1e-12))
        means = study.means[study.group[rows]] * effects
        for block, share in zip(blocks, lent.T):
            part = means * block
            total = part.sum(axis=1, keepdims=True)
            expected += share[:, None] * np.divide(part, total, out=np.zeros_like(part), where=total > 0)
        expected *= panel
        return expected / expected.sum(axis=1, keepdims=True), self._depths(study.totals[rows], rng)

    def _depths(self, totals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        empirical = totals * np.exp(rng.normal(0, DEPTH_SD, len(totals)))
        return np.where(rng.random(len(totals)) < EMPIRICAL_DEPTH, empirical, _log_uniform(DEPTHS, len(totals), rng))

    def _draw(self, expected: np.ndarray, depth: np.ndarray, donor: Donor, rng: np.random.Generator) -> np.ndarray:
        """Draw negative binomial counts around expected shares, at least one count per cell."""
        possible = np.flatnonzero(expected.any(axis=0))
        means = expected[:, possible]
        phi = np.clip(self.dispersion(means) * donor.scatter[possible], 1e-3, 10)
        shares = means * rng.standard_gamma((1 / phi).astype(np.float32), dtype=np.float32) * phi
        counts = np.zeros(expected.shape, dtype=np.int64)
        counts[:, possible] = rng.poisson(
            depth[:, None] * shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
        )
        empty = np.flatnonzero(counts.sum(axis=1) == 0)
        counts[empty, expected[empty].argmax(axis=1)] = 1
        return counts

    def _mix(self, number: int, expected: np.ndarray, donor: Donor, effects: np.ndarray, rng: np.random.Generator):
        """Mix the expected shares of cells with those of cells of other lineages."""
        n, obs = len(expected), self.profiles.obs
        share = rng.uniform(*DOUBLET_SHARE, size=n)
        partners = rng.choice(self._strangers(number), size=n)
        mixed = np.empty_like(expected)
        for i, partner in enumerate(partners):
            term = obs["cell_type_ontology_term_id"].iloc[partner]
            other, _ = self._expected(partner, self._shares(partner), term, 1, donor, effects, rng)
            mixed[i] = share[i] * expected[i] + (1 - share[i]) * other[0]
        return mixed, obs["cell_type"].iloc[partners].tolist()

    def _strangers(self, number: int) -> np.ndarray:
        """Return profiles of other lineages: of the same data set or tissue, or else of any."""
        obs = self.profiles.obs
        terms = obs["cell_type_ontology_term_id"]
        relation = {term: related(terms.iloc[number], term) for term in terms.unique()}
        strange = (terms.map(relation) <= MAX_DOUBLET_RELATION) & (obs["cell_type"] != obs["cell_type"].iloc[number])
        for column in ("dataset", "tissue"):
            near = np.flatnonzero(strange & (obs[column] == obs[column].iloc[number]))
            if len(near):
                return near
        return np.flatnonzero(strange) if strange.any() else np.array([number])

    def _shares(self, number: int) -> np.ndarray:
        """Return the shares of a profile on all genes, NaN where it was not measured."""
        shares = np.full(len(self.genes), np.nan, dtype=np.float32)
        shares[self.columns] = self.profiles.fractions[number]
        return shares

    def _soup(self, number: int) -> np.ndarray:
        """Return the mean shares of the profiles of a data set, or else of a tissue."""
        obs = self.profiles.obs
        members = obs["dataset"] == obs["dataset"].iloc[number]
        key = obs["dataset"].iloc[number]
        if members.sum() < MIN_SOUP:
            key = f"tissue {obs['tissue'].iloc[number]}"
            members = obs["tissue"] == obs["tissue"].iloc[number]
        if key not in self._soups:
            values = self.profiles.fractions[members.to_numpy()]
            measured = np.isfinite(values)
            soup = np.full(len(self.genes), np.nan, dtype=np.float32)
            total, number_measured = np.where(measured, values, 0).sum(axis=0), measured.sum(axis=0)
            soup[self.columns] = np.where(number_measured > 0, total / np.maximum(number_measured, 1), np.nan)
            self._soups[key] = soup
        return self._soups[key]

    def _platform(self, number: int, study: RealStudy) -> np.ndarray:
        """Return the factor of each housekeeping gene from a data set of profiles to a real file, 1 for other genes."""
        dataset = self.profiles.obs["dataset"].iloc[number]
        if (dataset, study.name) not in self._platforms:
            values = self.profiles.fractions[(self.profiles.obs["dataset"] == dataset).to_numpy()]
            here = np.zeros(len(self.genes))
            here[self.columns] = np.nan_to_num(values).mean(axis=0)
            there = study.means[study.large].mean(axis=0) if study.large.any() else study.means.mean(axis=0)
            shared = self.kinds.housekeeping & (here > MIN_PLATFORM) & (there > MIN_PLATFORM)
            factor = np.ones(len(self.genes))
            ratio = (there[shared] / there[shared].sum()) / (here[shared] / here[shared].sum())
            factor[shared] = np.clip(ratio, 1 / MAX_PLATFORM, MAX_PLATFORM)
            self._platforms[dataset, study.name] = factor
        return self._platforms[dataset, study.name]

    def _donors_of(self, number: int) -> list[Donor]:
        dataset = self.profiles.obs["dataset"].iloc[number]
        if dataset not in self._donors:
            rng = self._rng("donors", dataset)
            self._donors[dataset] = [self._donor(f"{dataset} simulated donor {i + 1}", rng) for i in range(DONORS)]
        return self._donors[dataset]

    def _donor(self, name: str, rng: np.random.Generator) -> Donor:
        n = len(self.genes)
        study = self.studies[int(rng.integers(len(self.studies)))]
        kind = str(rng.choice(list(PANELS), p=list(PANELS.values())))
        random_panel = rng.random(n) < rng.uniform(*PANEL_SHARE)
        scatter = np.exp(rng.normal(0, self.dispersion.scatter, n))
        likeness = rng.beta(*LIKENESS)
        return Donor(name, study, np.exp(rng.normal(0, DONOR_SD, n)), scatter, kind, random_panel, likeness)

    def _rng(self, purpose: str, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(f"{purpose} {name}".encode())])


def _panel(donor: Donor, profile: np.ndarray, is_related: bool) -> np.ndarray:
    """Return the genes that cells of a profile can have, shape (n_genes,).

    Files often lack genes that none of their cells expresses. So a file without related cells does not take genes away
    that the profile expresses.
    """
    if donor.panel == "random":
        return donor.random_panel
    if donor.panel == "all":
        return np.ones(len(profile), dtype=bool)
    return donor.study.measured if is_related else donor.study.measured | (profile >= EXPRESSED)


def _log_uniform(bounds: tuple[float, float], n: int, rng: np.random.Generator) -> np.ndarray:
    low, high = np.log(bounds)
    return np.exp(rng.uniform(low, high, size=n))

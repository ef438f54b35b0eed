"""Measure whether evidence is faithful: delete the evidence genes of cells, and look at the named type's probability.

Genes of similar rank, chosen at random, are deleted for comparison. Depends on `explainer`'s attribution and on the
bootstrap of `evaluation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cell2text.evaluation.bootstrap import Resampler, interval
from cell2text.evidence.attribution import ConceptScore, GeneAttribution, TextScore
from cell2text.evidence.explainer import marker_tokens
from cell2text.evidence.statements import Statement


DELETED = (5, 10)  # numbers of genes that are deleted
RANDOM_REPEATS = 3  # random sets of genes per cell
NEAREST_RANKS = 10  # a random gene is one of this many with the nearest ranks


@dataclass(frozen=True)
class StatedCell:
    """A cell whose text names a cell type.

    Parameters
    ----------
    cell
        Ranked genes: gene token ids.
    score
        What the evidence is for: the concept of the type, or its words in the text of a model without concepts.
    statement
        The named type.
    donor
        The donor, for intervals; None if unknown.
    """

    cell: np.ndarray
    score: ConceptScore | TextScore
    statement: Statement
    donor: str | None = None


def faithfulness(attribution: GeneAttribution, cells: Sequence[StatedCell], *, seed: int = 0) -> dict:
    """Return metrics of evidence, with intervals over donors.

    Parameters
    ----------
    attribution
        Computes contributions.
    cells
        Cells with a named type.
    seed
        Random seed of the randomly chosen genes and of the bootstrap.

    Returns
    -------
    `loss_without_5` and `loss_without_10`: mean loss of the named type's probability when that many evidence genes are
    deleted; `random_loss_5` and `random_loss_10`: the same for random genes of similar rank; `lead_5` and `lead_10`:
    the first minus five times the second, which is above 0 if evidence matters at least five times as much;
    `marker_share`, `marker_share_of_similar_rank` and `marker_share_by_chance`: the share of known markers among five
    evidence genes, among random genes of similar rank, and among all ranked genes of the cell, for types with known
    markers; `intervals` of all; `n` cells, the number of resampled `groups`
    and what they are, `"donor"` or `"cell"`.
    """
    rng = np.random.default_rng(seed)
    contributions = _attribute(attribution, cells)
    before = _probabilities(attribution, cells, [one.cell for one in cells])
    frame = attribution.processor.gene_vocabulary.frame_token_ids
    values: dict[str, np.ndarray] = {}
    for n in DELETED:
        evidence = [_evidence(one.cell, found, n, frame) for one, found in zip(cells, contributions)]
        loss = before - _probabilities(attribution, cells, _without(cells, evidence))
        random_sets = [
            [similar_ranks(one.cell, found, frame, rng) for one, found in zip(cells, evidence)]
            for _ in range(RANDOM_REPEATS)
        ]
        random_loss = np.mean(
            [before - _probabilities(attribution, cells, _without(cells, chosen)) for chosen in random_sets], axis=0
        )
        values |= {f"loss_without_{n}": loss, f"random_loss_{n}": random_loss, f"lead_{n}": loss - 5 * random_loss}
        if n == min(DELETED):
            values["marker_share"] = _marker_shares(attribution, cells, evidence)
            shares = [_marker_shares(attribution, cells, chosen) for chosen in random_sets]
            values["marker_share_of_similar_rank"] = np.mean(shares, axis=0)
    all_genes = [np.flatnonzero(~np.isin(one.cell, frame)) for one in cells]
    values["marker_share_by_chance"] = _marker_shares(attribution, cells, all_genes)
    resampler, rows = Resampler([one.donor for one in cells], seed=seed), np.arange(len(cells))
    means = resampler.all_means(values, rows)
    bounds = {name: interval(found) for name, found in means.items()}
    unit, groups = resampler.groups(rows)
    return {
        **{name: _rounded(float(found[0])) for name, found in means.items()},
        "intervals": {name: pair and [_rounded(bound) for bound in pair] for name, pair in bounds.items()},
        "n": len(cells), "groups": len(np.unique(groups)), "resampled": unit,
    }  # fmt: skip


def similar_ranks(cell: np.ndarray, genes: np.ndarray, frame: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Return as many other genes of a cell, each chosen at random among those with the nearest ranks.

    Parameters
    ----------
    cell
        Ranked genes: gene token ids.
    genes
        Positions of genes in the cell.
    frame
        Special tokens, which are never chosen.
    rng
        Random numbers.

    Examples
    --------
    >>> similar_ranks(np.arange(10, 14), np.array([1, 2]), (), np.random.default_rng(0)).tolist()
    [3, 0]
    """
    free = set(np.flatnonzero(~np.isin(cell, frame)).tolist()) - set(genes.tolist())
    chosen = []
    for gene in genes.tolist():
        nearest = sorted(free, key=lambda place: (abs(place - gene), place))[:NEAREST_RANKS]
        if nearest:
            chosen.append(int(rng.choice(nearest)))
            free.discard(chosen[-1])
    return np.array(chosen, dtype=np.int64)


def _evidence(cell: np.ndarray, contributions: np.ndarray, n: int, frame: Sequence[int]) -> np.ndarray:
    """Return the positions of the genes with the highest contributions."""
    genes = np.flatnonzero(~np.isin(cell, frame))
    return genes[np.argsort(-contributions[genes], kind="stable")[:n]]


def _without(cells: Sequence[StatedCell], positions: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [np.delete(one.cell, chosen) for one, chosen in zip(cells, positions)]


def _attribute(attribution: GeneAttribution, cells: Sequence[StatedCell]) -> list[np.ndarray]:
    ranked, scores = [one.cell for one in cells], [one.score for one in cells]
    if all(isinstance(score, ConceptScore) for score in scores):
        return attribution.of_concepts(ranked, scores)  # type: ignore[arg-type]
    return attribution.of_texts(ranked, scores)  # type: ignore[arg-type]


def _probabilities(
    attribution: GeneAttribution, cells: Sequence[StatedCell], ranked: Sequence[np.ndarray]
) -> np.ndarray:
    """Return the probability of each cell's named type, given other ranked genes."""
    return attribution.probabilities(ranked, [one.score for one in cells])


def _marker_shares(
    attribution: GeneAttribution, cells: Sequence[StatedCell], positions: Sequence[np.ndarray]
) -> np.ndarray:
    """Return the share of known markers among genes of each cell; NaN for types without known markers."""
    shares = np.full(len(cells), np.nan)
    for row, (one, chosen) in enumerate(zip(cells, positions)):
        markers = marker_tokens(one.statement, attribution.processor.gene_vocabulary)
        if len(markers) and len(chosen):
            shares[row] = np.isin(one.cell[chosen], markers).mean()
    return shares


def _rounded(value: float) -> float:
    return round(value, 5)

"""Compute the concepts of a cell that its own counts show: its most active pathways, and the sex of its donor.

They replace the model's predictions as concept overrides, so that what a text states of them is true of that very cell.
Depends on `signatures` for their definitions.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cell2text.describe.options import DescribeOptions
from cell2text.evidence.counts import CountEvidence
from cell2text.signatures.aucell import MIN_COVERAGE, MIN_GENES
from cell2text.signatures.gene_sets import hallmark_gene_sets
from cell2text.signatures.pathways import PathwayScorer, top_pathways
from cell2text.signatures.sex import FEMALE, MALE, SexGenes
from concepts_cell2text import ConceptNames
from ranking_cell2text import MappedGenes


PATHWAYS, SEX, UNKNOWN = "pathways", "sex", "unknown"
PATHWAY_VALUES = (1.0, 0.5)  # concept values of the most active and the second most active pathway


@dataclass
class OwnReading:
    """What the counts of some cells show.

    Parameters
    ----------
    overrides
        Concept overrides, float32, shape (n_cells, n_concepts); see :meth:`OwnConcepts.overrides`.
    evidence
        Genes behind them, per cell; None if evidence is not needed.
    """

    overrides: np.ndarray
    evidence: list[dict] | None = None


class OwnConcepts:
    """Concept overrides from raw counts.

    Parameters
    ----------
    names
        Concepts of the model; none for a model without concepts.
    var
        `var` of the file.
    genes
        The file's genes, mapped to the vocabulary.
    options
        `pathways` and `sex` choose between the cell's own counts and the model's predictions; `evidence` is the number
        of genes to find per statement.

    Attributes
    ----------
    notes
        What a user should know about the file or the model.
    """

    def __init__(self, names: ConceptNames, var, genes: MappedGenes, options: DescribeOptions):
        self.names, self.notes = names, [*_unusable(names, options)]
        self.scorer = self.sex_genes = None
        if options.pathways != "model" and can_override_pathways(names):
            self.scorer = PathwayScorer(hallmark_gene_sets(), var, genes)
            self.notes += _notes_on_coverage(self.scorer)
        if options.sex != "model" and can_override_sex(names):
            self.sex_genes = SexGenes(var, genes)
        self.evidence = None
        if options.evidence is not None:
            self.evidence = CountEvidence(var, genes, self.scorer, self.sex_genes, options.evidence)

    def reading(self) -> dict:
        """Return where pathways and sex come from, ready for JSON; without groups that the model does not have."""
        reading: dict = {}
        if PATHWAYS in self.names.groups:
            reading["pathways"] = "cell" if self.scorer else "model"
        if SEX in self.names.groups:
            reading["sex"] = "cell" if self.sex_genes else "model"
        if self.scorer:
            reading["gene_sets"] = len(self.scorer.gene_sets)
            reading["gene_sets_found"] = int(self.scorer.nameable.sum())
            reading["gene_sets_of_model"] = len(self.names.groups[PATHWAYS])
        return reading

    def score_blocks(self, blocks: Iterable[sp.csr_matrix], readings: list[OwnReading]) -> Iterator[sp.csr_matrix]:
        """Yield blocks of raw counts unchanged, and append what each shows to a list."""
        for block in blocks:
            readings.append(self.read(block))
            yield block

    def read(self, counts: sp.csr_matrix, ranks: sp.csr_matrix | None = None) -> OwnReading:
        """Return the overrides of cells, and the genes behind them if the options ask for evidence.

        Parameters
        ----------
        counts, ranks
            See :meth:`overrides`.
        """
        values = self.overrides(counts, ranks)
        if self.evidence is None:
            return OwnReading(values)
        stated = [self._stated(PATHWAYS, row) for row in values]
        sexes = [next((sex for sex in self._stated(SEX, row) if sex != UNKNOWN), None) for row in values]
        return OwnReading(values, self.evidence(counts, counts if ranks is None else ranks, stated, sexes))

    def _stated(self, group: str, values: np.ndarray) -> list[str]:
        """Return the names of a group that the overrides of a cell state."""
        columns = group_columns(self.names)
        if group not in columns:
            return []
        return [name for name, value in zip(self.names.groups[group], values[columns[group]]) if value > 0]

    def overrides(self, counts: sp.csr_matrix, ranks: sp.csr_matrix | None = None) -> np.ndarray:
        """Return concept overrides of raw counts of all genes of the file, float32, shape (n_cells, n_concepts).

        `ranks` are values that rank the genes of each cell for its pathways, if counts do not.

        Pathways hold 1 for the most active one, 0.5 for the second and 0 otherwise; the group `sex` 1 for the sex that
        XIST and Y genes indicate, or for `unknown`. All other values are NaN, which keeps the prediction.
        """
        values = np.full((counts.shape[0], self.names.n_concepts), np.nan, dtype=np.float32)
        columns = group_columns(self.names)
        if self.scorer is not None:
            values[:, columns[PATHWAYS]] = pathway_values(
                self.scorer, counts if ranks is None else ranks, self.names.groups[PATHWAYS]
            )
        if self.sex_genes is not None:
            sexes = [sex or UNKNOWN for sex in self.sex_genes.read(counts)]
            values[:, columns[SEX]] = np.array(sexes)[:, None] == np.array(self.names.groups[SEX])
        return values


def pathway_values(scorer: PathwayScorer, counts: sp.csr_matrix, concepts: Sequence[str]) -> np.ndarray:
    """Return concept values of the two most active pathways, float32, shape (n_cells, n_pathways).

    A pathway that the model has no concept for is left out with all less active ones, since these are not the most
    active.

    Parameters
    ----------
    scorer
        Gene sets of the file.
    counts
        Raw counts of all genes of the file.
    concepts
        Names of the model's pathways.
    """
    columns = {name: column for column, name in enumerate(concepts)}
    values = np.zeros((counts.shape[0], len(columns)), dtype=np.float32)
    if not scorer.has_enough_genes:
        return values
    top, _ = top_pathways(scorer.score(counts), scorer.gene_sets.names, scorer.nameable)
    expressed = np.asarray(counts.sum(axis=1)).ravel() > 0  # without counts, the order of the sets would decide
    for row in np.flatnonzero(expressed):
        for name, value in zip(top[row], PATHWAY_VALUES):
            if name not in columns:
                break
            values[row, columns[name]] = value
    return values


def can_override_pathways(names: ConceptNames) -> bool:
    """Return whether a model names pathways, and all of them are packaged Hallmark sets."""
    return PATHWAYS in names.groups and set(names.groups[PATHWAYS]) <= set(hallmark_gene_sets().names)


def can_override_sex(names: ConceptNames) -> bool:
    """Return whether a model names both sexes, and can leave the sex open."""
    return {FEMALE, MALE, UNKNOWN} <= set(names.groups.get(SEX, ()))


def group_columns(names: ConceptNames) -> dict[str, slice]:
    """Return the columns of each group in a concept tensor."""
    columns, start = {}, 0
    for group, size in names.sizes.items():
        columns[group] = slice(start, start + size)
        start += size
    return columns


def _unusable(names: ConceptNames, options: DescribeOptions) -> Iterator[str]:
    """Yield a note for each group that the user wants from the cell, and that this model does not support."""
    if options.pathways == "cell" and not can_override_pathways(names):
        yield (
            "pathways='cell': the model names no pathways, or others than the packaged Hallmark sets. Its own "
            "predictions are kept."
        )
    if options.sex == "cell" and not can_override_sex(names):
        yield (
            "sex='cell': the model does not have the concepts female, male and unknown of the group sex. Its own "
            "predictions are kept."
        )


def _notes_on_coverage(scorer: PathwayScorer) -> Iterator[str]:
    """Yield a note if no text of the file can state pathways."""
    if not scorer.has_enough_genes:
        yield f"No pathways are stated: AUCell needs at least {MIN_GENES} genes, and the file has {scorer.n_genes}."
    elif not scorer.nameable.any():
        yield (
            f"No pathways are stated: none of the {len(scorer.gene_sets)} gene sets has {MIN_COVERAGE:.0%} of its "
            "genes in the file."
        )

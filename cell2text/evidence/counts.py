"""Evidence from the counts of a cell: genes of its most active pathways, and genes that show the sex of the donor.

Depends on `signatures` for the definitions of both.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from cell2text.evidence.statements import AUCELL, COUNTS, PATHWAYS, GeneEvidence
from cell2text.signatures.aucell import gene_gains
from cell2text.signatures.pathways import PathwayScorer
from cell2text.signatures.sex import FEMALE, SexGenes
from cell2text.sources.gene_tables import approved_symbols
from grammar_cell2text import pathway_words
from ranking_cell2text import MappedGenes


SEX = "sex"


class CountEvidence:
    """Find the genes behind statements that come from counts.

    Parameters
    ----------
    var
        `var` of the file.
    genes
        The file's genes, mapped to the vocabulary.
    scorer
        Scores pathways; None if they come from the model.
    sex_genes
        Reads the sex; None if it comes from the model.
    n_genes
        Number of genes per statement.
    """

    def __init__(self, var, genes: MappedGenes, scorer: PathwayScorer | None, sex_genes: SexGenes | None, n_genes: int):
        self.genes, self.scorer, self.sex_genes, self.n_genes = genes, scorer, sex_genes, n_genes
        names, first = [str(name) for name in var.index], dict(zip(genes.columns[::-1], range(len(var) - 1, -1, -1)))
        self.tokens = np.asarray(genes.column_tokens)
        self.symbols = [
            gene_symbol(genes.vocabulary, int(token)) if token >= 0 else names[first[column]]
            for column, token in enumerate(self.tokens)
        ]

    def __call__(
        self,
        counts: sp.csr_matrix,
        ranks: sp.csr_matrix,
        pathways: Sequence[Sequence[str]],
        sexes: Sequence[str | None],
    ) -> list[dict]:
        """Return evidence per cell: by field and stated words in lower case, the unit and the genes.

        Parameters
        ----------
        counts
            Raw counts of all genes of the file, shape (n_cells, n_genes).
        ranks
            Values that rank the genes for the pathways, of the same shape; the counts themselves for files of counts.
        pathways
            Names of the pathways that each cell states.
        sexes
            `"female"`, `"male"` or None per cell.
        """
        counts, ranks = self.genes.collapse(counts), self.genes.collapse(ranks)
        found: list[dict] = []
        for row, (names, sex) in enumerate(zip(pathways, sexes)):
            evidence: dict = {}
            if names and self.scorer is not None:
                ranking = ranks[row].toarray().ravel()
                for name in names:
                    genes = self._pathway(self.scorer, ranking, name)
                    evidence[PATHWAYS, pathway_words(name).casefold()] = (AUCELL, genes)
            if sex is not None and self.sex_genes is not None:
                columns = self.sex_genes.xist if sex == FEMALE else self.sex_genes.y
                evidence[SEX, sex] = (COUNTS, self._best(columns, counts[row].toarray().ravel()[columns]))
            found.append(evidence)
        return found

    def _pathway(self, scorer: PathwayScorer, ranking: np.ndarray, name: str) -> list[GeneEvidence]:
        columns = scorer.columns[scorer.gene_sets.names.index(name)]
        gains = np.where(ranking[columns] > 0, gene_gains(ranking, columns), 0.0)
        return self._best(columns, gains)

    def _best(self, columns: np.ndarray, values: np.ndarray) -> list[GeneEvidence]:
        order = np.argsort(-values, kind="stable")[: self.n_genes]
        return [GeneEvidence(self.symbols[columns[i]], float(values[i])) for i in order if values[i] > 0]


def gene_symbol(vocabulary, token: int) -> str:
    """Return the symbol of a gene token, or its name in the vocabulary if it has none."""
    name = vocabulary.tokens[token]
    return vocabulary.symbols[token] or approved_symbols().get(name) or name

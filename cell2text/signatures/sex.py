"""Read the sex of a cell's donor from XIST and genes of the Y chromosome, from all counts of the cell.

XIST silences one X chromosome and is expressed in cells with two. Genes of the Y chromosome are expressed in cells that
have one. Most cells of a shallow experiment show neither, and then nothing is read from them. Do not rely on the result
for tumours and cell lines, which can lose the Y chromosome or express XIST in male cells, nor for doublets and chimeras
of a female and a male donor. `benchmarks/sex_genes.py` measures how often it is right.
"""

import numpy as np
import scipy.sparse as sp

from cell2text.signatures.gene_sets import GeneSets, match_columns
from ranking_cell2text import MappedGenes


FEMALE, MALE = "female", "male"
X_GENES = ["ENSG00000229807"]  # XIST
Y_GENES = [
    "ENSG00000129824",  # RPS4Y1
    "ENSG00000067048",  # DDX3Y
    "ENSG00000198692",  # EIF1AY
    "ENSG00000012817",  # KDM5D
    "ENSG00000183878",  # UTY
    "ENSG00000114374",  # USP9Y
    "ENSG00000067646",  # ZFY
    "ENSG00000131002",  # TXLNGY
]
# In females, single counts of Y genes are found in up to 6 % of the cells (ambient RNA, reads of X homologs).
MIN_Y_COUNTS = 2
MIN_XIST_COUNTS = 1
MIN_XIST_COUNTS_ALONE = 2  # in files without Y genes, which cannot contradict
MIN_RATIO = 10  # of the counts of one kind to those of the other


class SexGenes:
    """XIST and the Y genes, matched to the genes of a file.

    Parameters
    ----------
    var
        `var` of the file.
    genes
        The file's genes, mapped to the vocabulary.
    """

    def __init__(self, var, genes: MappedGenes):
        self.genes = genes
        self.xist, self.y = match_columns(GeneSets(["X", "Y"], [X_GENES, Y_GENES]), var, genes)

    def read(self, counts: sp.csr_matrix) -> np.ndarray:
        """Return `"female"`, `"male"` or None per cell, shape (n_cells,), from raw counts of all genes of the file."""
        collapsed = self.genes.collapse(counts)
        xist, y = (np.asarray(collapsed[:, columns].sum(axis=1)).ravel() for columns in (self.xist, self.y))
        return sex_from_counts(xist, y, y_measured=bool(len(self.y)))


def sex_from_counts(xist: np.ndarray, y: np.ndarray, *, y_measured: bool = True) -> np.ndarray:
    """Read the donor's sex from the counts of each cell.

    Parameters
    ----------
    xist
        Counts of XIST, shape (n_cells,).
    y
        Summed counts of `Y_GENES`, shape (n_cells,).
    y_measured
        Whether the file has any of `Y_GENES`. Otherwise more counts of XIST are needed.

    Returns
    -------
    `"female"`, `"male"`, or None for cells with too few counts or with both kinds, shape (n_cells,).

    Examples
    --------
    >>> sex_from_counts(np.array([1, 0, 0, 3, 40]), np.array([0, 2, 1, 3, 2])).tolist()
    ['female', 'male', None, None, 'female']
    """
    sexes = np.full(len(xist), None, dtype=object)
    sexes[(xist >= (MIN_XIST_COUNTS if y_measured else MIN_XIST_COUNTS_ALONE)) & (xist >= MIN_RATIO * y)] = FEMALE
    sexes[(y >= MIN_Y_COUNTS) & (y >= MIN_RATIO * xist)] = MALE
    return sexes

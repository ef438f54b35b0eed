"""Sex from XIST and Y genes."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cell2text.signatures.sex import X_GENES, Y_GENES, SexGenes, sex_from_counts
from ranking_cell2text import CellRanker
from vocabulary_cell2text import SPECIAL_TOKENS, GeneVocabulary


def file_of(counts: dict[str, list[int]], vocabulary_genes) -> tuple[ad.AnnData, CellRanker]:
    """Cells with counts of the named genes, and a vocabulary that holds some of the genes."""
    tokens = [*SPECIAL_TOKENS, *vocabulary_genes, *(f"ENSG{i:011d}" for i in range(1, 20))]
    medians = np.array([np.nan if token in SPECIAL_TOKENS else 1.0 for token in tokens])
    vocabulary = GeneVocabulary(tokens, medians, [""] * len(tokens), max_genes=32)
    names = [*counts, *(f"ENSG{i:011d}" for i in range(1, 20))]
    n_cells = len(next(iter(counts.values())))
    columns = [*counts.values(), *([1] * n_cells for _ in range(19))]
    adata = ad.AnnData(sp.csr_matrix(np.array(columns, dtype=np.float32).T), var=pd.DataFrame(index=names))
    return adata, CellRanker(adata.var, vocabulary, max_genes=32)


@pytest.mark.parametrize("in_vocabulary", [[], [*X_GENES, *Y_GENES[:2]]], ids=["outside", "inside"])
def test_sex_is_read_from_all_genes_of_the_file_also_outside_the_vocabulary(in_vocabulary):
    counts = {f"{X_GENES[0]}.12": [3, 0, 0, 5], Y_GENES[0]: [0, 1, 0, 5], Y_GENES[1]: [0, 1, 0, 0]}
    adata, ranker = file_of(counts, in_vocabulary)
    assert SexGenes(adata.var, ranker).read(adata.X).tolist() == ["female", "male", None, None]


def test_a_single_count_of_a_y_gene_is_not_enough():
    assert sex_from_counts(np.array([0, 0]), np.array([1, 2])).tolist() == [None, "male"]


def test_xist_alone_needs_more_counts_in_files_without_y_genes():
    adata, ranker = file_of({X_GENES[0]: [1, 2]}, [])
    assert SexGenes(adata.var, ranker).read(adata.X).tolist() == [None, "female"]


def test_a_file_without_any_of_the_genes_shows_no_sex():
    adata, ranker = file_of({"ENSG00000111111": [7, 7]}, [])
    assert SexGenes(adata.var, ranker).read(adata.X).tolist() == [None, None]

"""AUCell: by hand, against its definition on real cells, and independent of other cells and of the number type."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cell2text.signatures.aucell import aucell
from cell2text.signatures.gene_sets import match_columns, read_gmt
from cell2text.signatures.pathways import top_pathways
from ranking_cell2text import CellRanker
from vocabulary_cell2text import GeneVocabulary

from .conftest import shared_path


def reference_aucell(counts: np.ndarray, sets, *, seed: int, top=0.05) -> np.ndarray:
    """AUCell as published: shuffle the genes, rank every cell, area under the recovery curve of the top ranks."""
    frame = pd.DataFrame(counts).sample(frac=1.0, axis=1, random_state=seed)
    ranks = frame.rank(axis=1, ascending=False, method="first") - 1
    cutoff = round(top * counts.shape[1]) - 1
    scores = np.zeros((len(counts), len(sets)))
    for j, members in enumerate(sets):
        for i, row in enumerate(ranks[list(members)].to_numpy()):
            found = np.sort(row[row < cutoff])
            steps = np.diff(np.append(found, cutoff))
            scores[i, j] = (steps * np.arange(1, len(found) + 1)).sum() / ((cutoff + 1) * len(members))
    return scores


def hallmark_sets(name, n_cells):
    adata = ad.read_h5ad(shared_path(f"data/{name}.h5ad"))[:n_cells].to_memory()
    vocabulary = GeneVocabulary.from_pretrained(shared_path("geneformer"))
    ranker = CellRanker(adata.var, vocabulary, max_genes=2048)
    gene_sets = read_gmt(shared_path("genesets/h.all.v7.0.symbols.gmt"))
    return ranker.collapse(adata.X), match_columns(gene_sets, adata.var, ranker), gene_sets


def test_scores_equal_a_hand_computed_example():
    counts = np.zeros((1, 100))
    counts[0, :6] = [9, 8, 7, 6, 5, 4]  # ranks 0 to 5, of which 0 to 3 count
    scores = aucell(sp.csr_matrix(counts), [np.array([0, 3]), np.array([4, 50]), np.array([1])])
    # four steps from rank 0 on, one more from rank 3 on; two genes; the area is divided by (4 + 1) x genes
    assert np.allclose(scores, [[(4 + 1) / 10, 0, 3 / 5]])


def test_tied_genes_contribute_the_mean_over_their_orders():
    counts = np.zeros((1, 60))
    counts[0, :3] = [5, 2, 2]  # cutoff 2: rank 0, then one of the two tied genes at rank 1
    scores = aucell(sp.csr_matrix(counts), [np.array([0]), np.array([1]), np.array([1, 2])])
    assert np.allclose(scores, [[2 / 3, 0.5 / 3, 1 / 6]])


def test_unexpressed_genes_share_the_top_ranks_of_an_almost_empty_cell():
    counts = np.zeros((2, 60))
    counts[1, 7] = 1
    scores = aucell(sp.csr_matrix(counts), [np.array([7]), np.array([8])])
    assert np.allclose(scores[0], (2 + 1) / 60 / 3)  # every gene is tied for ranks 0 and 1
    assert np.allclose(scores[1], [2 / 3, 1 / 59 / 3])


@pytest.mark.parametrize("name", ["pbmc3k", "heart_san", "oligodendroglioma"])
def test_seeded_scores_equal_the_definition_on_real_cells(name):
    counts, columns, _ = hallmark_sets(name, 12)
    expected = reference_aucell(counts.toarray(), columns, seed=42)
    assert np.abs(aucell(counts, columns, ties="seeded", seed=42) - expected).max() < 1e-12


@pytest.mark.parametrize("name", ["pbmc3k", "oligodendroglioma"])
def test_expected_scores_are_the_mean_over_shuffles(name):
    counts, columns, _ = hallmark_sets(name, 20)
    runs = np.stack([aucell(counts, columns, ties="seeded", seed=seed) for seed in range(200)])
    errors = runs.std(axis=0, ddof=1) / np.sqrt(200)
    off = np.abs(aucell(counts, columns) - runs.mean(axis=0)) / np.maximum(errors, 1e-12)
    assert (off[errors > 1e-9] < 3).mean() > 0.995 and off[errors > 1e-9].max() < 5
    assert np.abs(aucell(counts, columns) - runs.mean(axis=0))[errors <= 1e-9].max(initial=0) < 1e-9


@pytest.mark.parametrize("ties", [{}, {"ties": "seeded", "seed": 3}])
def test_a_score_depends_on_the_cell_alone(ties):
    counts, columns, _ = hallmark_sets("pbmc3k", 60)
    whole = aucell(counts, columns, **ties)
    for rows in (slice(0, 1), slice(10, 25), [40, 3]):
        assert np.array_equal(aucell(counts[rows], columns, **ties), whole[rows])


def test_logarithms_score_like_counts_and_float32_like_float64():
    counts, columns, _ = hallmark_sets("pbmc3k", 40)
    assert np.allclose(aucell(counts.log1p(), columns), aucell(counts, columns), atol=1e-12)
    assert np.array_equal(aucell(counts.astype(np.float64), columns), aucell(counts, columns))


@pytest.mark.parametrize("options", [{"ties": "seeded"}, {"seed": 1}, {"ties": "random", "seed": 1}])
def test_ties_and_seed_go_together(options):
    with pytest.raises(ValueError, match="expected ties='expected', or ties='seeded' with a seed"):
        aucell(sp.csr_matrix((1, 40)), [np.array([0])], **options)


def test_too_few_genes_are_refused():
    with pytest.raises(ValueError, match="9 genes are too few: no rank counts among the top 5%"):
        aucell(sp.csr_matrix((1, 9)), [np.array([0])])


def test_a_set_without_genes_in_the_file_scores_nan():
    assert np.isnan(aucell(sp.csr_matrix(np.eye(3, 40)), [np.array([], dtype=int)])).all()


def test_the_two_highest_nameable_sets_are_named():
    scores = np.array([[0.1, 0.5, 0.3, 0.9], [0.2, 0.2, 0.2, 0.9], [0, 0, 0.1, 0.9], [0, 0, 0, 0.9]])
    nameable = np.array([True, True, True, False])
    top, active = top_pathways(scores, ["A", "B", "C", "D"], nameable)
    assert top == [("B", "C"), ("A", "B"), ("C",), ()] and active == top
    assert top_pathways(np.zeros((2, 0)), [], np.zeros(0, bool)) == ([(), ()], [(), ()])
    top, active = top_pathways(np.arange(100.0)[None], [str(i) for i in range(100)], np.ones(100, bool))
    assert top == [("99", "98")] and len(active[0]) == 5
    scores = np.array([[0.2, np.nan, 0.1]])
    assert top_pathways(scores, ["A", "B", "C"], np.array([True, False, True]))[0] == [("A", "C")]

"""Baselines on the same cells."""

import numpy as np
import pytest
import scipy.sparse as sp

from cell2text.evaluation.baselines import baseline_predictions, log_normalise

from .conftest import make_adata


def test_log_normalisation_by_hand():
    found = log_normalise(sp.csr_matrix([[1, 3], [0, 0]])).toarray()
    assert np.allclose(found, [[np.log1p(2500), np.log1p(7500)], [0, 0]])


def test_every_baseline_learns_what_can_be_learned():
    adata = make_adata(60)
    adata.X = adata.X.toarray()
    adata.X[1::2, 10:20] += 30
    train, test = adata[:40].copy(), adata[40:].copy()
    labels = ["high" if index % 2 else "low" for index in range(40)]
    predictions = baseline_predictions(train, [*labels[:38], "high", "high"], test)
    truth = ["high" if index % 2 else "low" for index in range(20)]
    assert set(predictions["majority"]) == {"high"}
    assert predictions["knn"] == truth and predictions["logistic_regression"] == truth


def test_cells_with_other_genes_are_refused():
    with pytest.raises(ValueError, match="different genes: 60 in training, 50 held out"):
        baseline_predictions(make_adata(4), ["a", "a", "b", "b"], make_adata(4, n_genes=50))

"""Copies of cells in several files: recognised by names and counts."""

import logging
import warnings

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from cell2text.preparation.config import PrepareConfig
from cell2text.preparation.duplicates import find_copies, hash_counts, hash_genes
from cell2text.preparation.plan import join_surveys
from cell2text.preparation.survey import survey_sources
from vocabulary_cell2text import GeneVocabulary

from .preparation_runs import make_file, prepare_studies


COPY = "duplicate of a cell in another file"


def find_in_files(studies, folder, *names, vocabulary=True):
    """Return for each file how many cells are dropped as copies, and how many only share a name."""
    config = PrepareConfig(inputs=[str(folder / f"{name}.h5ad") for name in names])
    genes = GeneVocabulary.from_pretrained(str(studies / "vocabulary")) if vocabulary else None
    surveys = survey_sources(config, genes, None, skipped={})
    cells = join_surveys(surveys)
    copies = find_copies(cells, surveys, config, genes)
    dropped = {name: int(copies.dropped[(cells["source"] == name).to_numpy()].sum()) for name in names}
    return dropped, copies.same_name


def write_plates(folder, *seeds):
    """Write files with equal data sets, donors and names of wells, and counts by seed."""
    for i, seed in enumerate(seeds):
        adata = make_file(folder / f"plate{i}.h5ad", 24, seed=seed, dataset_id="plates", donor_id="d1")
        adata.obs_names = [f"A{well}" for well in range(24)]
        adata.write_h5ad(folder / f"plate{i}.h5ad")


def test_wells_of_different_plates_are_different_cells(studies, tmp_path):
    write_plates(tmp_path, 1, 2, 3)
    dropped, same_name = find_in_files(studies, tmp_path, "plate0", "plate1", "plate2")
    assert dropped == {"plate0": 0, "plate1": 0, "plate2": 0}
    assert same_name == {"plate0": 0, "plate1": 24, "plate2": 24}


def test_a_plate_that_is_passed_twice_is_dropped_once_with_a_warning(studies, tmp_path, caplog):
    write_plates(tmp_path, 1, 2, 1)
    adata = ad.read_h5ad(tmp_path / "plate2.h5ad")
    adata.uns["note"] = "files with equal contents are refused before"
    adata.write_h5ad(tmp_path / "plate2.h5ad")
    with caplog.at_level(logging.WARNING, "cell2text"):
        report = prepare_studies(
            studies, tmp_path / "out", inputs=[tmp_path / f"plate{i}.h5ad" for i in range(3)], split="auto",
            gene_sets=None, tasks={"describe": 1.0},
        )  # fmt: skip
    files = report["files"]
    assert files["plate2"]["dropped"] == {COPY: 24} and files["plate0"]["rows"] == files["plate1"]["rows"] == 24
    assert files["plate1"]["same_name_other_counts"] == 24
    assert "plate2: All 24 cells are copies of cells in other files" in caplog.text
    assert report["split"]["method"] == "random"


@pytest.mark.parametrize("vocabulary", [True, False])
def test_copies_with_fewer_or_reordered_genes_are_recognised(studies, tmp_path, vocabulary):
    whole = make_file(tmp_path / "whole.h5ad", 60, seed=4)
    order = np.random.default_rng(0).permutation(whole.n_vars)
    cut = whole[5:25, order[:40]].copy()
    cut.X = sp.csr_matrix(cut.X.astype(np.float64))
    cut.write_h5ad(tmp_path / "cut.h5ad")
    dropped, same_name = find_in_files(studies, tmp_path, "cut", "whole", vocabulary=vocabulary)
    assert dropped == {"cut": 20, "whole": 0} and same_name == {"cut": 0, "whole": 0}


def test_a_copy_by_symbols_is_recognised_with_a_vocabulary_of_both(studies, tmp_path):
    whole = make_file(tmp_path / "whole.h5ad", 60, seed=4)
    part = whole[:20].copy()
    part.var_names = part.var["feature_name"].astype(str)
    part.var = part.var[[]]
    part.write_h5ad(tmp_path / "part.h5ad")
    assert find_in_files(studies, tmp_path, "part", "whole")[0] == {"part": 20, "whole": 0}


def test_a_panel_does_not_make_copies_of_different_plates(studies, tmp_path):
    """The plates are compared on all their genes, although a third file with the names has only two of them."""
    write_plates(tmp_path, 1, 2)
    panel = ad.read_h5ad(tmp_path / "plate0.h5ad")[:20, :2].copy()
    panel.X = sp.csr_matrix(([1.0], ([0], [0])), shape=panel.shape)
    panel.write_h5ad(tmp_path / "panel.h5ad")
    dropped, _ = find_in_files(studies, tmp_path, "plate0", "plate1", "panel")
    assert dropped["plate0"] == dropped["plate1"] == 0


def test_names_decide_if_two_files_share_no_gene(studies, tmp_path):
    whole = make_file(tmp_path / "whole.h5ad", 40, seed=4)
    whole[:, :30].copy().write_h5ad(tmp_path / "left.h5ad")
    whole[:15, 30:].copy().write_h5ad(tmp_path / "right.h5ad")
    assert find_in_files(studies, tmp_path, "left", "right")[0] == {"left": 0, "right": 15}


def test_cells_of_one_file_are_never_copies_of_each_other(studies, tmp_path):
    adata = make_file(tmp_path / "a.h5ad", 30, seed=1)
    adata.X[:] = adata.X[[0] * 30]
    adata.obs_names = ["same"] * 30
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert find_in_files(studies, tmp_path, "a") == ({"a": 0}, {"a": 0})


def test_a_copy_with_some_genes_under_other_ids_is_recognised(studies, tmp_path):
    """Releases of an annotation name single genes differently."""
    whole = make_file(tmp_path / "whole.h5ad", 60, seed=4)
    part = whole[:20].copy()
    part.var_names = [*part.var_names[1::-1], *part.var_names[2:-1], "ENSG00000999999"]
    part.write_h5ad(tmp_path / "part.h5ad")
    assert find_in_files(studies, tmp_path, "part", "whole", vocabulary=False)[0] == {"part": 20, "whole": 0}


def test_repeated_names_in_two_files_are_paired_by_counts(studies, tmp_path):
    adata = make_file(tmp_path / "a.h5ad", 30, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.obs_names = [f"cell{i % 3}" for i in range(30)]
        adata.write_h5ad(tmp_path / "a.h5ad")
        adata[::-1][:12].copy().write_h5ad(tmp_path / "b.h5ad")
    assert find_in_files(studies, tmp_path, "b", "a") == ({"a": 0, "b": 12}, {"a": 0, "b": 0})


def test_hashes_of_counts_depend_on_genes_not_on_their_order_or_type():
    counts = sp.random(50, 30, density=0.3, random_state=0, format="csr")
    counts.data = np.ceil(counts.data * 20)
    genes, order = np.arange(30), np.random.default_rng(1).permutation(30)
    first = hash_counts(counts, hash_genes(genes))
    again = hash_counts(sp.csr_matrix(counts[:, order], dtype=np.int32), hash_genes(genes[order]))
    assert (first == again).all() and len(np.unique(first, axis=0)) == 50
    changed = counts.copy()
    changed.data[0] += 1
    assert (hash_counts(changed, hash_genes(genes)) != first).sum() == 1
    assert (hash_counts(sp.csr_matrix((3, 30)), hash_genes(genes)) == 0).all()


def test_expected_counts_are_equal_in_single_and_double_precision():
    counts = sp.random(20, 30, density=0.5, random_state=0, format="csr")
    counts.data = np.round(counts.data * 50, 2)  # RSEM writes two decimals
    weights = hash_genes(np.arange(30))
    assert (hash_counts(counts, weights) == hash_counts(counts.astype(np.float32), weights)).all()

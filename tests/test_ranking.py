"""Ranking genes: their order, the sources of counts and gene names, and what raises."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import ranking_cell2text
import source_cell2text
from processing_cell2text import rank_encode
from ranking_cell2text import ROUTES, numba, rank_anndata, rank_rows, rank_rows_compiled
from vocabulary_cell2text import GeneVocabulary

from .conftest import shared_path
from .tiny import N_GENES, make_adata, make_vocabulary


DATA_FILES = [
    "baron_pancreas", "breast", "example_cells", "heart_san", "kang_pbmc_sle", "kidney_immune", "oligodendroglioma",
    "pbmc3k", "retina", "zilionis_nsclc",
]  # fmt: skip


def rank(adata, vocabulary=None, **kwargs):
    vocabulary = vocabulary or make_vocabulary()
    return rank_anndata(adata, vocabulary, **{"max_genes": vocabulary.max_genes, **kwargs})


def directly(counts, token_ids, medians, max_genes):
    """Geneformer's published computation, cell by cell in float64 over all tokens: sum the rows of one gene, divide by
    the cell's total, scale to 10,000, divide by the medians, sort; ties by token id."""
    cells = []
    for row in counts:
        per_token = np.zeros(len(medians))
        mapped = token_ids[row.indices] >= 0
        np.add.at(per_token, token_ids[row.indices][mapped], row.data[mapped].astype(np.float64))
        scores = per_token / row.data.sum(dtype=np.float64) * 10_000 / medians
        kept = np.flatnonzero(per_token)
        cells.append(kept[np.lexsort((kept, -scores[kept]))][:max_genes])
    return cells


def test_order_is_by_median_normalised_expression():
    counts = sp.csr_matrix([[4, 3, 0, 8]])
    ranked = rank_encode(counts, np.array([10, 11, 12, 13]), np.array([1.0, 0.5, 1.0, 4.0]), max_genes=10)
    assert [cell.tolist() for cell in ranked] == [[11, 10, 13]]  # 6, 4 and 2 before the common factor


def test_ties_go_to_the_smaller_token():
    ranked = rank_encode(sp.csr_matrix([[2, 2, 2]]), np.array([30, 10, 20]), np.ones(3), max_genes=10)
    assert ranked[0].tolist() == [10, 20, 30]


def test_a_long_cell_is_truncated_to_its_highest_ranks():
    ranked = rank_encode(sp.csr_matrix([[1, 5, 3]]), np.array([7, 8, 9]), np.ones(3), max_genes=2)
    assert ranked[0].tolist() == [8, 9]


def test_special_tokens_open_and_close_every_cell(tiny_adata):
    cells, _ = rank(tiny_adata, max_genes=10)
    assert all(cell[0] == 2 and cell[-1] == 3 and len(cell) <= 10 for cell in cells)


def test_a_vocabulary_without_cls_adds_no_special_tokens(tiny_adata):
    cells, _ = rank(tiny_adata, make_vocabulary(specials=("<pad>", "<mask>")))
    assert all((cell > 1).all() for cell in cells)


@pytest.mark.skipif(numba is None, reason="numba is not installed")
def test_numba_gives_the_tokens_of_numpy():
    rng = np.random.default_rng(0)
    counts = sp.random(300, 400, density=0.3, random_state=0, data_rvs=lambda n: rng.integers(1, 4, n)).tocsr()
    medians = rng.choice([0.5, 1.0, 1.0 + 1e-9, 2.0], size=400)  # ties, and scores that differ beyond float32
    token_ids = rng.permutation(400) - 20
    arguments = (
        counts.indptr,
        counts.indices,
        counts.data.astype(float),
        np.asarray(counts.sum(1)).ravel(),
        token_ids,
        medians,
    )
    for max_genes in (1000, 50):
        for first, last in ((-1, -1), (2, 3)):
            tokens, compiled_tokens = np.full((2, counts.nnz + 2 * 300), -1)
            found = rank_rows(*arguments, max_genes, first, last, tokens)
            compiled = rank_rows_compiled()(*arguments, max_genes, first, last, compiled_tokens)
            assert np.array_equal(tokens, compiled_tokens) and np.array_equal(found, compiled)
            assert found[0].sum() == (tokens >= 0).sum()


@pytest.mark.parametrize("name", DATA_FILES)
def test_real_cells_rank_as_computed_directly(name, monkeypatch):
    adata = ad.read_h5ad(shared_path(f"data/{name}.h5ad"))
    vocabulary = GeneVocabulary.from_pretrained(shared_path("geneformer"))
    options = {"max_genes": 2048, "allow_fractional": True}
    cells, report = rank(adata, vocabulary, **options)
    assert report.genes_by_route["ensembl_id"] > 0.4 * adata.n_vars
    token_ids, _ = vocabulary.map_genes(adata.var_names)
    expected = directly(adata.X.tocsr(), token_ids, vocabulary.medians, 2046)
    assert sum(not np.array_equal(cell[1:-1], direct) for cell, direct in zip(cells, expected, strict=True)) == 0
    monkeypatch.setattr(ranking_cell2text, "numba", None)
    without_numba, _ = rank(adata[:600], vocabulary, **options)
    assert all(map(np.array_equal, cells, without_numba))


@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "backed", "backed_csc", "backed_dense", "view"])
def test_every_kind_of_matrix_gives_the_same_cells(kind, tmp_path):
    adata = make_adata()
    expected, _ = rank(adata)
    if kind.endswith("csc"):
        adata.X = adata.X.tocsc()
    elif kind.endswith("dense"):
        adata.X = adata.X.toarray()
    if kind.startswith("backed"):
        adata.write_h5ad(tmp_path / "cells.h5ad")
        adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    if kind == "view":
        adata = ad.concat([make_adata(), make_adata(seed=1)], index_unique="-", merge="same")[:12]
    found, _ = rank(adata)
    assert all(map(np.array_equal, expected, found))


def test_blocks_do_not_change_the_cells(monkeypatch, tiny_adata):
    expected, _ = rank(tiny_adata)
    monkeypatch.setattr(source_cell2text, "MEMORY_BLOCK_CELLS", 5)
    found, report = rank(tiny_adata)
    assert all(map(np.array_equal, expected, found)) and len(report.n_genes) == tiny_adata.n_obs


def test_counts_are_read_from_a_layer_or_raw(tiny_adata):
    expected, _ = rank(tiny_adata)
    normalised = tiny_adata.copy()
    normalised.layers["counts"] = tiny_adata.X.copy()
    normalised.raw = tiny_adata
    normalised.X = normalised.X.log1p()
    for layer, source in (("counts", "layers['counts']"), ("raw", "raw.X")):
        found, report = rank(normalised, layer=layer)
        assert all(map(np.array_equal, expected, found)) and report.reading["counts"] == source


def test_gene_names_are_found_in_any_column(tiny_adata):
    expected, _ = rank(tiny_adata)
    symbols = tiny_adata.copy()
    symbols.var["ensembl"] = pd.Categorical([f"{name}.7" for name in symbols.var_names])
    symbols.var_names = [f"row{index}" for index in range(N_GENES)]
    found, report = rank(symbols)
    assert report.reading["gene_column"] == "feature_name" and report.genes_by_route["symbol"] == N_GENES
    assert all(map(np.array_equal, expected, found))
    versioned, report = rank(symbols, gene_key="ensembl")
    assert report.genes_by_route["ensembl_id"] == N_GENES and all(map(np.array_equal, expected, versioned))


def test_aliases_and_retired_ids_are_mapped_and_reported(tiny_adata):
    renamed = tiny_adata.copy()
    renamed.var_names = ["OLDNAME", "ENSG99999999999.2", "C1orf1", "nobody", *tiny_adata.var_names[4:]]
    _, report = rank(renamed, gene_key="index")
    assert report.genes_by_route == {
        "ensembl_id": 56, "symbol": 0, "retired_id": 1, "alias": 2, "ortholog": 0, "other_species": 0, "unmapped": 1,
    }  # fmt: skip
    lost = tiny_adata.X[:, 3].sum() / tiny_adata.X.sum()
    assert report.counts_by_route["unmapped"] == pytest.approx(lost) and set(report.counts_by_route) == set(ROUTES)


def test_the_share_of_counts_used_is_reported_per_cell(tiny_adata):
    renamed = tiny_adata.copy()
    renamed.var_names = ["nobody", *tiny_adata.var_names[1:]]
    _, report = rank(renamed, gene_key="index")
    dense = tiny_adata.X.toarray()
    assert np.allclose(report.counts_used, dense[:, 1:].sum(1) / dense.sum(1))
    assert report.n_genes.tolist() == (dense[:, 1:] > 0).sum(1).tolist()


def test_rows_of_one_gene_are_summed(tiny_adata):
    expected, _ = rank(tiny_adata)
    dense = tiny_adata.X.toarray()
    first = np.minimum(dense[:, :1], 1)
    split = ad.AnnData(np.hstack([first, dense[:, :1] - first, dense[:, 1:]]), obs=tiny_adata.obs)
    split.var_names = [tiny_adata.var_names[0], "GENE0", *tiny_adata.var_names[1:]]
    found, report = rank(split)
    assert all(map(np.array_equal, expected, found)) and report.merged_genes == 1


def test_cell_without_counts_is_kept_and_reported(tiny_adata):
    tiny_adata.X[3] = 0
    cells, report = rank(tiny_adata)
    assert len(cells) == 12 and cells[3].tolist() == [2, 3]
    assert report.empty_cells == ["cell3"] and report.counts_used[3] == 0 and "1 cells without counts" in str(report)


def test_truncated_cells_are_reported(tiny_adata):
    _, report = rank(tiny_adata, max_genes=6)
    assert report.truncated_cells == (tiny_adata.X.getnnz(1) > 4).sum()


def test_an_empty_file_has_no_cells(tiny_adata):
    cells, report = rank(tiny_adata[:0])
    assert cells == [] and len(report.n_genes) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda x: np.log1p(x), r"adata.X holds log-normalised values \(cell 'cell\d+': .*\).*raw counts", id="log1p"
        ),
        pytest.param(
            lambda x: x - x.mean(0), r"adata.X holds negative values \(cell 'cell0': -.*raw counts", id="scaled"
        ),
        pytest.param(
            lambda x: np.where(x == x.max(), np.nan, x), r"NaN or infinite values \(cell 'cell\d+': nan\)", id="nan"
        ),
        pytest.param(
            lambda x: np.where(x == x.max(), np.inf, x), r"NaN or infinite values \(cell 'cell\d+': inf\)", id="inf"
        ),
    ],
)
def test_values_that_are_not_counts_raise(tiny_adata, change, message):
    expected, _ = rank(tiny_adata)
    tiny_adata.layers["counts"] = tiny_adata.X.copy()
    tiny_adata.X = change(tiny_adata.X.toarray())
    found, report = rank(tiny_adata)
    assert all(map(np.array_equal, expected, found)) and "Counts were found in layers['counts']" in str(report.reading)
    with pytest.raises(ValueError, match=f"{message}.*Found integers in layers.*layer='counts'"):
        rank(tiny_adata, layer="X")
    del tiny_adata.layers["counts"]
    with pytest.raises(ValueError, match=message):
        rank(tiny_adata)


def test_the_message_says_that_no_layer_holds_counts(tiny_adata):
    tiny_adata.X = tiny_adata.X.log1p()
    tiny_adata.layers["scaled"] = tiny_adata.X.toarray() - 1
    with pytest.raises(ValueError, match=r"layers\['scaled'\] holds negative values. Pass a file with the raw counts"):
        rank(tiny_adata, allow_fractional=True)


def test_counts_in_raw_are_found(tiny_adata):
    expected, _ = rank(tiny_adata)
    tiny_adata.raw = tiny_adata
    tiny_adata.X = tiny_adata.X.log1p()
    found, report = rank(tiny_adata)
    assert all(map(np.array_equal, expected, found)) and report.reading["counts"] == "raw.X"


def test_raw_counts_of_more_genes_replace_those_of_selected_genes(tiny_adata):
    expected, _ = rank(tiny_adata)
    selected = tiny_adata[:, :20].copy()
    selected.raw = tiny_adata
    found, report = rank(selected)
    assert all(map(np.array_equal, expected, found)) and report.reading["counts"] == "raw.X"


def test_several_matrices_of_counts_are_an_error_that_lists_them(tiny_adata):
    tiny_adata.layers["corrected"] = tiny_adata.X * 2
    with pytest.raises(
        ValueError, match=r"X and layers\['corrected'\] hold different integers.*layer='X', layer='corr"
    ):
        rank(tiny_adata)
    expected, _ = rank(make_adata())
    assert all(map(np.array_equal, expected, rank(tiny_adata, layer="corrected")[0]))


def test_copies_of_counts_and_layers_of_velocity_are_not_ambiguous(tiny_adata):
    expected, _ = rank(tiny_adata)
    tiny_adata.layers["counts"] = tiny_adata.X.copy()
    tiny_adata.layers["spliced"] = tiny_adata.X.minimum(2)
    tiny_adata.layers["detected"] = tiny_adata.X.sign()
    found, report = rank(tiny_adata)
    assert all(map(np.array_equal, expected, found)) and report.reading["counts"] == "X"


def test_the_message_names_counts_in_x(tiny_adata):
    tiny_adata.layers["log"] = tiny_adata.X.log1p()
    with pytest.raises(ValueError, match=r"layers\['log'\] holds log-normalised.*Found integers in X: pass layer='X'"):
        rank(tiny_adata, layer="log")


def test_non_integer_counts_are_ranked_with_allow_fractional(tiny_adata):
    tiny_adata.X = tiny_adata.X * 1.5
    with pytest.raises(ValueError, match="(fractional|normalised) values .*allow_fractional=True"):
        rank(tiny_adata)
    cells, _ = rank(tiny_adata, allow_fractional=True)
    expected, _ = rank(make_adata())
    assert all(map(np.array_equal, expected, cells))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param(
            [f"g{i}" for i in range(N_GENES)], "0 of 60 genes are in the vocabulary .first: 'g0'", id="unknown"
        ),
        pytest.param(["Actb", "Gapdh", "Cd4"] * 20, "0 of 60 genes.*mouse genes.*species=.mouse.", id="mouse_symbols"),
        pytest.param([f"ENSMUSG{i:011d}" for i in range(N_GENES)], "These are mouse genes", id="mouse_ids"),
    ],
)
def test_genes_of_another_species_or_kind_raise(names, message):
    adata = make_adata()
    adata.var = pd.DataFrame(index=names)
    with pytest.raises(ValueError, match=message):
        rank(adata)


def test_mouse_symbols_are_not_mapped_as_human_ones_in_capitals():
    vocabulary = GeneVocabulary.from_pretrained(shared_path("geneformer"))
    adata = make_adata(n_genes=6)
    adata.var = pd.DataFrame(index=["Actb", "Gapdh", "Cd4", "Ptprc", "Ins1", "Malat1"])
    with pytest.raises(ValueError, match="These are mouse genes"):
        rank(adata, vocabulary)


def test_a_missing_layer_raises_with_the_existing_ones(tiny_adata):
    tiny_adata.layers["counts"] = tiny_adata.X
    with pytest.raises(KeyError, match=r"layer='spliced': there is no such matrix. There are X, layers\['counts'\]"):
        rank(tiny_adata, layer="spliced")


def test_a_missing_column_raises_with_the_existing_ones(tiny_adata):
    with pytest.raises(KeyError, match=r"gene_key='symbol'.*\['feature_name'\]"):
        rank(tiny_adata, gene_key="symbol")


def test_a_missing_matrix_raises(tiny_adata):
    with pytest.raises(ValueError, match="The AnnData holds no matrix"):
        rank(ad.AnnData(obs=tiny_adata.obs, var=tiny_adata.var))


def test_anything_but_an_anndata_raises(tiny_adata):
    with pytest.raises(TypeError, match="Expected an AnnData, found DataFrame"):
        rank(tiny_adata.to_df())

"""Gene vocabularies: loading, saving, fitting, and what raises."""

import doctest
import importlib
import pickle

import numpy as np
import pytest

from cell2text.preparation.medians import MedianAccumulator, fit_vocabulary
from vocabulary_cell2text import ROUTES, GeneVocabulary

from .conftest import shared_path
from .tiny import make_adata, make_vocabulary


@pytest.mark.parametrize(
    ("generation", "size", "cls", "eos", "max_genes"),
    [("V1", 25_426, None, None, 2048), ("V2", 20_275, 2, 3, 4096), (None, 20_275, 2, 3, 4096)],
)
def test_geneformer_generations(generation, size, cls, eos, max_genes):
    vocabulary = GeneVocabulary.from_pretrained(shared_path("geneformer"), generation=generation)
    assert (len(vocabulary), vocabulary.cls_token_id, vocabulary.eos_token_id) == (size, cls, eos)
    assert vocabulary.max_genes == max_genes and vocabulary.dtype == np.uint16


def test_geneformer_names_are_mapped_by_every_route():
    vocabulary = GeneVocabulary.from_pretrained(shared_path("geneformer"))
    names = ["ENSG00000141510", "ENSG00000141510.18", "TP53", "GAB", "ENSG00000283323", "Trp53", "<cls>"]
    token_ids, routes = vocabulary.map_genes(names)
    assert [ROUTES[route] for route in routes] == [
        "ensembl_id", "ensembl_id", "symbol", "alias", "unmapped", "unmapped", "unmapped",
    ]  # fmt: skip
    assert token_ids[0] == token_ids[1] == token_ids[2] == vocabulary.token_ids["ENSG00000141510"]
    assert vocabulary.tokens[token_ids[3]] == "ENSG00000121410"  # A1BG's former symbol


def test_retired_ids_of_geneformer_map_to_current_ones():
    vocabulary = GeneVocabulary.from_pretrained(shared_path("geneformer"))
    retired = [name for name in vocabulary.aliases if name.startswith("ENSG")]
    token_ids, routes = vocabulary.map_genes(retired[:50])
    assert len(retired) > 1000 and (routes == ROUTES.index("retired_id")).all() and (token_ids > 3).all()


@pytest.mark.parametrize("source", ["tiny", "geneformer"])
def test_a_vocabulary_is_saved_as_text_and_loads_unchanged(source, tmp_path):
    vocabulary = make_vocabulary() if source == "tiny" else GeneVocabulary.from_pretrained(shared_path("geneformer"))
    vocabulary.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".tsv"}
    loaded = GeneVocabulary.from_pretrained(tmp_path)
    assert loaded.tokens == vocabulary.tokens and loaded.symbols == vocabulary.symbols
    assert loaded.aliases == vocabulary.aliases and loaded.max_genes == vocabulary.max_genes
    assert np.array_equal(loaded.medians, vocabulary.medians, equal_nan=True)
    assert loaded.fingerprint == vocabulary.fingerprint


def test_a_pickle_with_code_raises_and_does_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (tmp_path.joinpath("run").write_text, ("x",))

    for stem in ("token_dictionary", "gene_median_dictionary", "gene_name_id_dict", "ensembl_mapping_dict"):
        (tmp_path / f"{stem}_gc95M.pkl").write_bytes(pickle.dumps({"<pad>": Attack()}))
    with pytest.raises(ValueError, match="not a plain dictionary of genes .* refused, and none of its code was run"):
        GeneVocabulary.from_pretrained(tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(["a", "list"]), pickle.dumps({"gene": [1]})])
def test_a_damaged_dictionary_raises(tmp_path, content):
    (tmp_path / "token_dictionary_gc30M.pkl").write_bytes(content)
    with pytest.raises(ValueError, match="not a plain dictionary of genes"):
        GeneVocabulary.from_pretrained(tmp_path)


def test_an_incomplete_geneformer_folder_raises(tmp_path):
    (tmp_path / "token_dictionary_gc30M.pkl").write_bytes(pickle.dumps({"<pad>": 0, "<mask>": 1}))
    with pytest.raises(ValueError, match="lacks a dictionary"):
        GeneVocabulary.from_pretrained(tmp_path)


def test_a_folder_without_a_vocabulary_raises(tmp_path):
    with pytest.raises(ValueError, match="No gene vocabulary in .*gene_vocabulary.tsv"):
        GeneVocabulary.from_pretrained(tmp_path)


def test_an_unknown_generation_raises(tmp_path):
    with pytest.raises(ValueError, match="generation='V3': Geneformer has 'V2' and 'V1'"):
        GeneVocabulary.from_pretrained(tmp_path, generation="V3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda text: text.replace("median", "mean", 1), "not a gene vocabulary", id="columns"),
        pytest.param(
            lambda text: "\n".join(text.splitlines()[:9] + text.splitlines()[10:]),
            "is damaged: line 10",
            id="lost_line",
        ),
        pytest.param(lambda text: "", "not a gene vocabulary", id="empty"),
    ],
)
def test_a_damaged_table_raises(tmp_path, change, message):
    make_vocabulary().save_pretrained(tmp_path)
    path = tmp_path / "gene_vocabulary.tsv"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        GeneVocabulary.from_pretrained(tmp_path)


def test_a_vocabulary_without_padding_or_medians_raises():
    with pytest.raises(ValueError, match="lacks .'<mask>'"):
        GeneVocabulary(["<pad>", "ENSG1"], np.array([np.nan, 1.0]), ["", ""])
    with pytest.raises(ValueError, match="no positive median"):
        GeneVocabulary(["<pad>", "<mask>", "ENSG1"], np.array([np.nan, np.nan, 0.0]), ["", "", ""])


def test_streamed_medians_equal_exact_ones_in_any_order():
    rng = np.random.default_rng(0)
    genes, values = rng.integers(0, 20, 5000), rng.lognormal(1, 2, 5000)
    one, parts = MedianAccumulator(), [MedianAccumulator(), MedianAccumulator()]
    one.add(genes, values)
    parts[0].add(genes[3000:], values[3000:])
    parts[1].add(genes[:3000], values[:3000])
    parts[0].merge(parts[1])
    found, medians, seen = one.medians()
    assert all(map(np.array_equal, one.medians(), parts[0].medians()))
    assert seen.tolist() == np.bincount(genes).tolist()
    assert np.allclose(medians, [np.median(values[genes == gene]) for gene in found], rtol=1e-3)


def test_a_fitted_vocabulary_holds_non_zero_medians():
    adata = make_adata(n_cells=40)
    vocabulary = fit_vocabulary([adata[:15], adata[15:]], max_genes=64, min_cells=5)
    normalised = adata.X.toarray() / adata.X.sum(1) * 10_000
    for name, values in zip(adata.var_names, np.asarray(normalised).T):
        expressed = values[values > 0]
        if len(expressed) < 5:
            assert name not in vocabulary.token_ids
        else:
            assert vocabulary.medians[vocabulary.token_ids[name]] == pytest.approx(np.median(expressed), rel=1e-3)
    assert vocabulary.max_genes == 64 and vocabulary.symbols[4] == "GENE0"
    assert (
        fit_vocabulary(adata, max_genes=64, min_cells=5).fingerprint == vocabulary.fingerprint
    )  # not its single cells


def test_fitting_to_symbols_or_to_too_few_cells_raises():
    symbols = make_adata()
    symbols.var_names = symbols.var["feature_name"]
    with pytest.raises(ValueError, match="0 of 60 genes are in the vocabulary .first: 'GENE0'"):
        fit_vocabulary([symbols])
    with pytest.raises(ValueError, match="No gene is expressed in at least 100 cells"):
        fit_vocabulary([make_adata()], min_cells=100)


@pytest.mark.parametrize("name", ["counts_cell2text", "ranking_cell2text", "vocabulary_cell2text", "prompts_cell2text"])
def test_examples_in_docstrings_run(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted and not results.failed


def test_of_genes_that_share_a_symbol_the_first_one_keeps_it():
    tokens = ["<pad>", "<mask>", "ENSG00000015479", "ENSG00000280987"]
    vocabulary = GeneVocabulary(tokens, np.array([np.nan, np.nan, 1.0, 1.0]), ["", "", "MATR3", "MATR3"])
    assert vocabulary.map_genes(["MATR3", "ENSG00000280987"])[0].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("before", "after"),
    [("\t", "x\t"), ("1.", "1.inf"), ("max_genes=", "max_genes=" + "9" * 5000), ("\t", "\xff\t")],
)
def test_a_damaged_file_of_a_vocabulary_is_refused_in_one_line(tmp_path, before, after):
    make_vocabulary().save_pretrained(tmp_path)
    path = tmp_path / "gene_vocabulary.tsv"
    text = path.read_text()
    place = text.rindex(before)
    path.write_bytes((text[:place] + after + text[place + len(before) :]).encode("latin-1"))
    with pytest.raises(ValueError, match="damaged|positive median") as caught:
        GeneVocabulary.from_pretrained(tmp_path)
    assert len(str(caught.value)) < 800 and type(caught.value).__name__ == "UserError"

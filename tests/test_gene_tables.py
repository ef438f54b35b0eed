"""Names of human genes, orthologs of mouse genes, and the aliases of vocabularies."""

import gzip
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cell2text.models import MINI
from cell2text.preparation.medians import MedianAccumulator, build_vocabulary, fill_symbols
from cell2text.sources import gene_tables
from cell2text.sources.gene_tables import (
    TABLES,
    aliases_for,
    approved_symbols,
    ensembl_ids,
    mouse_genes_without_one_ortholog,
    mouse_to_human,
)
from vocabulary_cell2text import ROUTES, GeneVocabulary

from .conftest import shared_path


PROJECT = Path(__file__).resolve().parents[1]
RENAMED = {
    "GNB2L1": "RACK1", "SEPT9": "SEPTIN9", "GBA": "GBA1", "MARCH1": "MARCHF1", "MLL": "KMT2A", "H2AFZ": "H2AZ1",
    "HIST1H4C": "H4C3", "ATP5B": "ATP5F1B", "TMEM173": "STING1", "WARS": "WARS1", "CYR61": "CCN1", "C10orf54": "VSIR",
    "PVRL2": "NECTIN2", "SEPP1": "SELENOP", "GPR56": "ADGRG1", "FAM129A": "NIBAN1", "SELM": "SELENOM",
}  # fmt: skip


@pytest.fixture(scope="module")
def build():
    """Load recipes/gene_tables/build.py, which is not a package."""
    spec = importlib.util.spec_from_file_location("build", PROJECT / "recipes" / "gene_tables" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def mini():
    return GeneVocabulary.from_pretrained(MINI)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_renamed_genes_have_the_id_of_their_current_symbol(old, new):
    (former, current), routes = ensembl_ids([old, new])
    assert former == current != ""
    assert routes == ["alias" if old == "SELM" else "previous_symbol", "symbol"]
    assert approved_symbols()[current] == new


@pytest.mark.parametrize(
    ("name", "expected", "route"),
    [
        ("ENSG00000141510", "ENSG00000141510", "ensembl_id"),
        ("ENSG00000141510.18", "ENSG00000141510", "ensembl_id"),
        ("ENSG00000999999", "ENSG00000999999", "ensembl_id"),
        ("ENSGR0000182378.12", "ENSGR0000182378", "ensembl_id"),
        ("ENSMUSG00000059552", "", "unmapped"),
        ("ENSG0000", "", "unmapped"),
        ("Trp53", "", "unmapped"),
        ("tp53", "", "unmapped"),
        ("", "", "unmapped"),
    ],
)
def test_names_are_looked_up_as_they_are_written(name, expected, route):
    assert ensembl_ids([name]) == ([expected], [route])


def test_no_names_give_no_ids():
    assert ensembl_ids([]) == ([], [])


def test_a_previous_symbol_outranks_the_alias_of_another_gene():
    """SEPT2 is a previous symbol of SEPTIN2 and an alias of SEPTIN6."""
    assert ensembl_ids(["SEPT2"])[0] == ensembl_ids(["SEPTIN2"])[0] != ensembl_ids(["SEPTIN6"])[0]


def test_aliases_of_several_genes_are_not_mapped():
    assert ensembl_ids(["CD3", "p40"]) == (["", ""], ["unmapped"] * 2)


def test_ambiguous_names_are_left_out_of_the_human_table(build):
    hgnc = pd.DataFrame(
        [
            ("A", "ENSG00000000001", "OLD|SHARED|C", "a1|TWICE|OLDB"),
            ("B", "ENSG00000000002", "OLDB|SHARED", "TWICE|A|Trp1"),
            ("C", None, None, "a1"),
            ("D", "ENSG00000000004", None, "OLD | d1"),
        ],
        columns=["symbol", "ensembl_gene_id", "prev_symbol", "alias_symbol"],
    )
    table = build.human_table(hgnc, ["Trp1", "D1"]).set_index("symbol")
    assert table["previous_symbols"].to_dict() == {"A": "OLD", "B": "OLDB", "D": ""}
    assert table["alias_symbols"].to_dict() == {"A": "", "B": "", "D": "d1"}


def test_no_name_of_the_human_table_is_ambiguous():
    names = [set(found) for found in gene_tables._human_names().values()]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
    assert [len(found) > least for found, least in zip(names, (40_000, 14_000, 40_000))] == [True] * 3


@pytest.mark.parametrize(
    ("mouse", "gene_id", "human"),
    [
        ("Actb", "ENSMUSG00000029580", "ACTB"),
        ("Cd3e", "ENSMUSG00000032093", "CD3E"),
        ("Ptprc", "ENSMUSG00000026395", "PTPRC"),
        ("Gapdh", "ENSMUSG00000057666", "GAPDH"),
        ("Trp53", "ENSMUSG00000059552", "TP53"),
        ("mt-Co1", "ENSMUSG00000064351", "MT-CO1"),
        ("Tmsb4x", "ENSMUSG00000049775", "TMSB4X"),
        ("H2-Ab1", "ENSMUSG00000073421", "HLA-DQB1"),
        ("Malat1", "ENSMUSG00000092341", "MALAT1"),
    ],
)
def test_mouse_symbols_and_ids_map_to_the_human_gene(mouse, gene_id, human):
    assert mouse_to_human()[mouse] == mouse_to_human()[gene_id] == ensembl_ids([human])[0][0]


@pytest.mark.parametrize(
    ("current", "former"), [("Rack1", "Gnb2l1"), ("Atp5f1b", "Atp5b"), ("Septin9", "Sept9"), ("Jchain", "Igj")]
)
def test_former_mouse_symbols_map_like_the_current_ones(current, former):
    assert mouse_to_human()[former] == mouse_to_human()[current]


@pytest.mark.parametrize("name", ["Klrc1", "Klrc2", "Hbb-bs", "Hbb-bt", "Lyz1", "Lyz2", "Ins1", "Ins2", "Klrb1a"])
def test_mouse_genes_with_several_orthologs_are_named_and_not_mapped(name):
    assert name not in mouse_to_human() and name in mouse_genes_without_one_ortholog()


def test_orthologs_are_one_to_one():
    rows = list(gene_tables._read("mouse_orthologs.tsv.gz"))
    pairs = [(gene, target) for gene, _, target, _ in rows if target]
    assert len(pairs) == len({gene for gene, _ in pairs}) == len({target for _, target in pairs}) > 18_000
    names = [name for gene, symbols, _, _ in rows for name in (gene, *symbols.split("|")) if name]
    assert len(names) == len(set(names))


def test_the_first_source_with_either_gene_decides(build):
    pairs = build.unique_pairs([("ENSMUSG1", "ENSG1"), ("ENSMUSG2", "ENSG2"), ("ENSMUSG2", "ENSG3"), ("x", "ENSG4")])
    assert pairs == [("ENSMUSG1", "ENSG1")]
    later = [("ENSMUSG1", "ENSG9"), ("ENSMUSG8", "ENSG1"), ("ENSMUSG7", "ENSG7")]
    assert build.first_of_each(pairs, later) == {"ENSMUSG1": "ENSG1", "ENSMUSG7": "ENSG7"}


def test_a_former_mouse_symbol_never_replaces_a_current_one(build):
    human = pd.DataFrame({"ensembl_id": ["ENSG1", "ENSG2"], "previous_symbols": ["AA|BB", ""]})
    layers = [{"ENSMUSG1": "New", "ENSMUSG2": "Old"}, {"ENSMUSG1": "Old"}]
    pairs = {"ENSMUSG1": "ENSG1", "ENSMUSG2": "ENSG2"}
    names = build.mouse_names(pairs, set(), layers, [("Bb", "ENSG2"), ("Older", "ENSG1")], human)
    assert dict(names) == {"ENSMUSG1": ["New", "Older", "Aa"], "ENSMUSG2": ["Old", "Bb"]}


def test_the_human_table_is_rebuilt_byte_for_byte(build, tmp_path, monkeypatch):
    hgnc, orthologs = (
        shared_path(f"atlas/knowledge/{name}") for name in ("hgnc_complete_set.parquet", "human_mouse_orthologs.tsv.gz")
    )
    monkeypatch.setattr(sys, "argv", ["build.py", f"--hgnc={hgnc}", f"--ensembl-105={orthologs}", f"--out={tmp_path}"])
    build.main()
    assert (tmp_path / "human_genes.tsv.gz").read_bytes() == (TABLES / "human_genes.tsv.gz").read_bytes()


def test_table_bytes_depend_on_their_content_alone(build, tmp_path):
    table = pd.DataFrame({"a": ["x"], "b": [""]})
    for name in ("one.gz", "two.gz"):
        build.write_table(table, tmp_path / name)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.gz").read_bytes()) == b"a\tb\nx\t\n"


def test_the_tables_are_small():
    assert sum(path.stat().st_size for path in TABLES.iterdir()) < 1_000_000


def test_the_packaged_vocabulary_knows_former_symbols(mini):
    token_ids, routes = mini.map_genes([*RENAMED, "Trp53"])
    expected, _ = mini.map_genes(list(RENAMED.values()))
    assert token_ids[:-1].tolist() == expected.tolist() and token_ids[-1] == -1
    assert (expected >= 0).all() and {ROUTES[route] for route in routes[:-1]} == {"alias"}


def test_the_packaged_aliases_are_those_of_the_tables(mini):
    assert mini.aliases == aliases_for(mini.tokens, mini.symbols) and len(mini.aliases) > 40_000
    assert not set(mini.aliases) & set(mini.symbols) and set(mini.aliases.values()) <= set(mini.tokens)
    unnamed = [token for token, symbol in zip(mini.tokens, mini.symbols) if token.startswith("ENSG") and not symbol]
    assert len(unnamed) == 29  # no study that fitted the vocabulary names them


def test_aliases_are_approved_symbols_that_a_vocabulary_lacks_and_further_names():
    genes = ["<pad>", "ENSG00000204628", "ENSG00000141510"]
    assert aliases_for(genes, ["", "GNB2L1", "TP53"])["RACK1"] == "ENSG00000204628"
    found = aliases_for(genes, ["", "RACK1", "GNB2L1"])
    assert "GNB2L1" not in found and found["TP53"] == "ENSG00000141510"


def test_missing_symbols_are_filled_without_repeating_one():
    genes = ["ENSG00000141510", "ENSG00000204628", "ENSG00000184640", "ENSG00000999999"]
    symbols = {genes[0]: genes[0], genes[1]: "SEPTIN9", genes[3]: genes[3]}
    assert fill_symbols(genes, symbols) == ["TP53", "SEPTIN9", "", genes[3]]


def test_fitted_vocabularies_get_symbols_and_aliases():
    accumulator = MedianAccumulator()
    accumulator.add(np.full(3, 204628), np.array([1.0, 2.0, 3.0]))
    accumulator.add(np.full(3, 141510), np.array([1.0, 2.0, 3.0]))
    vocabulary = build_vocabulary(accumulator, {"ENSG00000141510": "TP53"}, max_genes=8, min_cells=1)
    assert vocabulary.symbols[4:] == ["TP53", "RACK1"]
    assert vocabulary.map_genes(["TP53", "RACK1", "GNB2L1"])[0].tolist() == [4, 5, 5]

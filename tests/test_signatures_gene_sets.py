"""Gene sets: GMT files, and their genes in a file of counts."""

import pytest

from cell2text.signatures.gene_sets import HALLMARK_FILE, load_gene_sets, match_columns, read_gmt
from ranking_cell2text import CellRanker

from .conftest import shared_path
from .tiny import make_adata, make_vocabulary


def test_genes_are_matched_by_alias_symbol_and_merged_row():
    vocabulary, adata = make_vocabulary(), make_adata(3)
    adata.var_names = [*adata.var_names[:-1], f"{adata.var_names[0]}.7"]  # a second row of the first gene
    ranker = CellRanker(adata.var, vocabulary, max_genes=32)
    sets = read_gmt_text("SET\tx\tOLDNAME\tGENE5\tENSG00000000007\tNOBODY\tGENE5\n")
    (columns,) = match_columns(sets, adata.var, ranker)
    assert columns.tolist() == sorted(ranker.columns[[0, 5, 7]])
    assert (
        ranker.collapse(adata.X)[:, ranker.columns[0]].toarray().ravel().tolist()
        == (adata.X[:, 0] + adata.X[:, 59]).toarray().ravel().tolist()
    )


def read_gmt_text(text):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sets.gmt")
        path.write_text(text)
        return read_gmt(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no gene set"),
        ("HYPOXIA,x,A,B\n", "line 1: expected name, description and genes separated by tabs, found 'HYPOXIA,x,A,B'"),
        ("A\tx\tG1\nA\tx\tG2\n", "several gene sets of the same name: \\['A'\\]"),
    ],
)
def test_an_invalid_gmt_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_gmt_text(text)


def test_an_unreadable_gmt_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Cannot read gene sets from .*nothing.gmt"):
        read_gmt(tmp_path / "nothing.gmt")
    (tmp_path / "binary.gmt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="Cannot read gene sets from .*binary.gmt.*Expected a GMT file"):
        read_gmt(tmp_path / "binary.gmt")


def test_hallmark_sets_ship_with_the_package():
    sets = load_gene_sets("hallmark")
    assert len(sets) == 50 and len({gene for genes in sets.genes for gene in genes}) == 4384
    text = HALLMARK_FILE.with_name("README.md").read_text()
    assert "Creative Commons Attribution 4.0" in text and "Liberzon et al. 2015" in text


def test_the_packaged_hallmark_file_is_unchanged():
    assert HALLMARK_FILE.read_bytes() == shared_path("genesets/h.all.v7.0.symbols.gmt").read_bytes()

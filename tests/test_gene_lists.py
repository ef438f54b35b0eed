"""Ranked gene lists as cells: in the processor, the pipeline, Python and files."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import pipeline

import cell2text
from cell2text.describe import DescribeOptions, describe_file
from cell2text.describe.gene_list_files import is_gene_list_file, read_gene_lists
from cell2text.describe.gene_lists import MIN_RANKED_GENES, GeneListReader, describe_gene_lists
from cell2text.signatures.gene_sets import hallmark_gene_sets
from concepts_cell2text import ConceptNames
from gene_lists_cell2text import rank_gene_lists

from .tiny import make_processor, make_vocabulary


GENES = [f"GENE{i}" for i in range(9, 0, -1)]
SEXES = ["female", "male", "unknown"]


@pytest.fixture(scope="module")
def loaded():
    return cell2text.load()


@pytest.fixture(scope="module")
def ranked(loaded):
    """Token ids of four cells, and the symbols of the same genes."""
    vocabulary = loaded[1].gene_vocabulary
    cells = loaded[1].rank_encode(cell2text.example_cells(unseen=True)[:4])
    genes = [[t for t in cell if not vocabulary.tokens[t].startswith("<")] for cell in cells]
    return cells, [[vocabulary.symbols[t] or vocabulary.tokens[t] for t in cell] for cell in genes]


def test_names_are_mapped_like_those_of_files_and_unknown_and_repeated_ones_are_skipped():
    vocabulary = make_vocabulary()
    names = ["GENE5", "ENSG00000000003.7", "OLDNAME", "nobody", "GENE5", " GENE0 "]
    found = rank_gene_lists([names, []], vocabulary, max_genes=32)
    first = len(vocabulary) - 60
    frame = [[vocabulary.cls_token_id], [vocabulary.eos_token_id]]
    assert found.genes[0].tolist() == [first + 5, first + 3, first]  # GENE0 is OLDNAME
    assert [cell.tolist() for cell in found.cells] == [[*frame[0], *found.genes[0], *frame[1]], frame[0] + frame[1]]
    assert found.n_genes.tolist() == [3, 0] and found.known.tolist() == [5 / 6, 0]
    assert found.note == "1 of 5 names are not genes of the model and are skipped: nobody."


def test_long_lists_keep_their_highest_genes_in_the_cell():
    vocabulary = make_vocabulary()
    found = rank_gene_lists([GENES], vocabulary, max_genes=6)
    assert len(found.cells[0]) == 6 and found.cells[0][1:-1].tolist() == found.genes[0][:4].tolist()
    assert found.n_genes.tolist() == [9]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            ["GENE1 GENE2 GENE3"],
            "List 0 is the text 'GENE1 GENE2 GENE3': expected a list of gene names. Split it first",
        ),
        ([GENES, ["GENE1 GENE2"]], "List 1 holds the text 'GENE1 GENE2' as one gene: expected one gene per entry"),
        ([["GENE1,GENE2"]], "holds the text 'GENE1,GENE2' as one gene"),
        ([["GENE1", 5]], "List 0 holds 5: expected names of genes, as text"),
        (
            [["GENE1", "foo", "bar"]],
            r"1 of 3 names in the gene lists are genes of the model \(first unknown: 'foo', 'bar'",
        ),
        ([["Cd3d", "Cd3e", "Ptprc"]], 'These are mouse genes.*Pass species="mouse"'),
        ([["ENSMUSG00000026395"]], "These are mouse genes"),
        ([["7157", "1.5"]], "These are numbers. Convert Entrez ids"),
        ([["ENSDARG00000026395"]], "These are Ensembl ids of another species"),
    ],
)
def test_other_things_than_gene_lists_are_refused(lists, message):
    with pytest.raises(ValueError, match=message):
        rank_gene_lists(lists, make_vocabulary(), max_genes=32)


def test_mouse_genes_are_mapped_to_human_orthologs(loaded):
    human, mouse = (
        loaded[1].rank_gene_lists([genes], species=species)[0].tolist()
        for genes, species in ((["CD3D", "PTPRC"], "human"), (["Cd3d", "Ptprc"], "mouse"))
    )
    assert human == mouse


@pytest.mark.parametrize(
    ("cells", "n_texts"),
    [
        pytest.param(GENES, 0, id="one_list_for_one_text"),
        pytest.param([GENES, GENES], 2, id="one_list_per_text"),
        pytest.param([[GENES], [GENES]], 2, id="lists_of_lists"),
        pytest.param([GENES, np.array([5, 6])], 2, id="beside_tokens"),
        pytest.param([np.array(GENES), pd.Series(GENES)], 2, id="arrays_and_series"),
        pytest.param(np.array([GENES, GENES]), 2, id="matrix"),
    ],
)
def test_the_processor_accepts_gene_lists_wherever_it_accepts_tokens(cells, n_texts):
    processor = make_processor()
    tokens = processor.rank_gene_lists([GENES])[0]
    inputs = processor(text=["<cell>"] * n_texts or "<cell>", cells=cells, return_tensors="pt")
    assert inputs["cell_input_ids"][0, 0].tolist() == tokens.tolist()


def test_tokens_and_chats_are_unchanged_and_texts_are_refused():
    processor = make_processor()
    for cells in ([[5, 6], [7]], [torch.tensor([5, 6])], [[[5, 6]], [[7]]], []):
        assert processor.encode_gene_lists(cells) is cells
    with pytest.raises(
        ValueError, match="A cell is the text 'GENE1 GENE2': expected a list of gene names, highest first"
    ):
        processor(text="<cell>", cells="GENE1 GENE2")
    chat = [{"role": "user", "content": [{"type": "cell", "cell": GENES}, {"type": "text", "text": "Which cell?"}]}]
    inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    assert inputs["cell_input_ids"].shape == (1, 1, 11)


def test_lists_get_the_texts_of_their_tokens_in_the_pipeline_and_in_python(loaded, ranked):
    cells, lists = ranked
    pipe = pipeline("cell-to-text", model=loaded[0], processor=loaded[1])
    expected = pipe(cells[:2])
    assert pipe(lists[:2]) == expected and pipe(lists[0]) == expected[0]
    frame = describe_gene_lists({"a": lists[0], "b": lists[1]}, loaded, pathways="model", sex="model")
    assert frame.index.tolist() == ["a", "b"] and frame["text"].tolist() == [one["generated_text"] for one in expected]
    assert frame["n_genes"].tolist() == [len(genes) for genes in lists[:2]] and frame["coverage"].isna().all()
    assert (frame["counts_used"] == 1).all() and "embedding" not in frame


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ("CD3D CD3E", "lists is a str: expected one list of gene names per cell"),
        (["CD3D", "CD3E"], "lists starts with the gene 'CD3D': expected a list of lists, one per cell"),
        (["CD3D CD3E", "CD79A"], "List 0 is the text 'CD3D CD3E'"),
        ([], "lists holds 0 cells"),
        (pd.DataFrame({"genes": [["CD3D"]]}), "lists is a DataFrame"),
    ],
)
def test_other_input_than_lists_of_lists_is_refused(loaded, lists, message):
    with pytest.raises(ValueError, match=message):
        describe_gene_lists(lists, loaded)


def test_an_anndata_function_names_the_function_for_lists(loaded):
    with pytest.raises(ValueError, match="cell2text.describe_gene_lists"):
        cell2text.tl.describe([["CD3D"]], loaded)


NAMES = ConceptNames({"sex": SEXES}, {"pathways": hallmark_gene_sets().names})


def overrides_of(lists, processor, **options):
    reader = GeneListReader([str(i) for i in range(len(lists))], lists, processor, DescribeOptions(**options), NAMES)
    return reader.read(0, len(lists)).concept_overrides, reader.reading()["notes"]


def test_long_lists_state_the_pathways_of_their_order_and_short_ones_none(loaded, ranked):
    hypoxia = next(genes for name, genes in zip(*vars(hallmark_gene_sets()).values()) if name == "HALLMARK_HYPOXIA")
    rest = [gene for gene in ranked[1][0] if gene not in hypoxia]
    long, short = [*hypoxia, *rest][:700], [*hypoxia, *rest][: MIN_RANKED_GENES - 1]
    values, notes = overrides_of([long, short], loaded[1])
    assert NAMES.groups["pathways"][values[0, :50].argmax()] == "HALLMARK_HYPOXIA" and not values[1, :50].any()
    assert "1 of 2 lists have fewer than 500 genes of the model; pathways are not stated for them." in notes
    assert np.isnan(overrides_of([long], loaded[1], pathways="model")[0][:, :50]).all()


def test_sex_is_read_from_xist_and_y_genes_in_the_list_also_beyond_the_cell(loaded, ranked):
    sex_genes = {"XIST", "RPS4Y1", "DDX3Y", "EIF1AY", "KDM5D", "UTY", "USP9Y", "ZFY"}
    long = [gene for gene in dict.fromkeys(ranked[1][0] + ranked[1][1]) if gene not in sex_genes]
    assert len(long) > loaded[1].max_genes
    lists = [[*long, "DDX3Y", "RPS4Y1"], [*long, "XIST"], [*long, "XIST", "DDX3Y"], [*long, "RPS4Y1"], long]
    values, _ = overrides_of(lists, loaded[1])
    assert [SEXES[i] for i in values[:, 50:].argmax(1)] == ["male", "female", "unknown", "unknown", "unknown"]


def write(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("a.txt", "CD3D CD3E TRAC\nCD79A MS4A1\n", ["cell_1", "cell_2"]),
        ("a.csv", "CD3D,CD3E,TRAC\n\nCD79A,MS4A1\n", ["cell_1", "cell_3"]),
        ("a.tsv", "CD3D\tCD3E\tTRAC\nCD79A\tMS4A1\n", ["cell_1", "cell_2"]),
        ("a.txt", "T cell: CD3D CD3E TRAC\nB cell: CD79A MS4A1\n", ["T cell", "B cell"]),
        ("a.tsv", "T cell\tCD3D CD3E TRAC\nB cell\tCD79A,MS4A1\n", ["T cell", "B cell"]),
        ("a.csv", "cell_id,cell_sentence\nT cell,CD3D CD3E TRAC\nB cell,CD79A MS4A1\n", ["T cell", "B cell"]),
        ("a.TXT.gz", "CD3D; CD3E; TRAC\nCD79A; MS4A1\n", ["cell_1", "cell_2"]),
        ("a.gmt", "T cell\tmarkers\tCD3D\tCD3E\tTRAC\nB cell\tx\tCD79A\tMS4A1\n", ["T cell", "B cell"]),
        (
            "a.jsonl",
            '{"cell_id": "T cell", "genes": ["CD3D", "CD3E", "TRAC"]}\n{"cell_sentence": "CD79A MS4A1"}\n',
            ["T cell", "cell_2"],
        ),
    ],
)
def test_files_of_gene_lists_are_recognised_and_read(tmp_path, name, text, names):
    path = write(tmp_path / name, text)
    assert is_gene_list_file(path)
    assert read_gene_lists(path) == (names, [["CD3D", "CD3E", "TRAC"], ["CD79A", "MS4A1"]])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", ",CD3D,CD3E\ncell1,0,3\ncell2,1,2\n"),
        ("a.txt", "CD3D CD3E\ncell1 0 3\n"),
        ("a.tsv", "gene\tcell1\tcell2\nCD3D\t1.5\tNA\n"),
        ("a.csv", ""),
        ("a.h5ad", "CD3D CD3E"),
    ],
)
def test_other_files_are_not_taken_for_gene_lists(tmp_path, name, text):
    assert not is_gene_list_file(write(tmp_path / name, text))
    assert not is_gene_list_file(tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"tokens": [1]}\n', "a.jsonl, line 1: expected an object with the key genes or cell_sentence"),
        ("a.jsonl", "CD3D CD3E\n", "line 1: expected an object"),
        ("a.gmt", "T cell CD3D CD3E\n", "a.gmt, line 1: expected name, description and genes separated by tabs"),
        ("a.gmt", "\n", "holds no gene list"),
    ],
)
def test_damaged_files_of_gene_lists_are_refused_with_the_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        read_gene_lists(write(tmp_path / name, text))


def test_a_file_of_gene_lists_is_described_as_a_table(tmp_path, monkeypatch, ranked):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "lists.jsonl"
    rows = [{"cell_id": f"c{i}", "genes": genes} for i, genes in enumerate(ranked[1])]
    path.write_text("\n".join(map(json.dumps, rows)))
    written = describe_file(path, progress=False, options=DescribeOptions(max_new_tokens=12), shard_rows=3)
    frame = pd.read_csv(written)
    assert written.name == "lists.described.csv" and frame["cell_id"].tolist() == ["c0", "c1", "c2", "c3"]
    assert frame["text"].str.startswith("This cell is a").all()
    with pytest.raises(
        ValueError, match="holds ranked gene lists without counts. Write a table: .csv, .jsonl or .parquet"
    ):
        describe_file(path, tmp_path / "out.h5ad", progress=False)
    with pytest.raises(
        ValueError, match="layer='counts' applies to counts, but the cells are ranked gene lists. Omit it."
    ):
        describe_file(path, tmp_path / "out.csv", progress=False, options=DescribeOptions(layer="counts"))

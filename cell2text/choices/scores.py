"""Accuracy of choices per kind of question and data set, with bootstrap intervals. Depends on `evaluation`."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from cell2text.choices.answering import ChoiceAnswer
from cell2text.evaluation.bootstrap import Resampler, interval
from cell2text.evaluation.classification import classification_metrics


F1_SCORES = ("macro_f1", "weighted_f1")


def score_choices(answers: Sequence[ChoiceAnswer], *, n_resamples: int = 1000, seed: int = 0) -> dict:
    """Score choices by exact agreement with the right answers.

    Parameters
    ----------
    answers
        The answers, at least one.
    n_resamples
        Number of bootstrap replicates. They resample donors if several are known, otherwise questions.
    seed
        Random seed of the bootstrap.

    Returns
    -------
    `total`, and the same figures in `kinds` and `datasets` for each of their values:

    - `n`, `answered`: number of questions, and of those with a choice.
    - `accuracy`: share of all questions with the right choice. Questions without a choice count as wrong.
    - `accuracy_answered`: the same among the questions with a choice; None without any.
    - `macro_f1`, `weighted_f1`: F1 over the right answers of all questions.
    - `chance`: expected accuracy of a random choice.
    - `probability`: mean probability of the choices; None without any.
    - `intervals`, `resampled`: 95 % intervals of these figures, and what was resampled.

    `mean_over_kinds` is the unweighted mean of the kinds' accuracies, and `unanswered` counts questions by kind and
    reason.

    Examples
    --------
    >>> from cell2text.choices.question import ChoiceQuestion
    >>> question = ChoiceQuestion("1", "cell_type", ("B cell", "T cell"), "T cell", ("CD3D",))
    >>> answers = [ChoiceAnswer(question, "T cell", (0.1, 0.9), 0.9), ChoiceAnswer(question, reason="no genes")]
    >>> scores = score_choices(answers, n_resamples=10)["total"]
    >>> scores["accuracy"], scores["accuracy_answered"], scores["chance"]
    (0.5, 1.0, 0.5)
    """
    parts: dict[str, dict[str, list[ChoiceAnswer]]] = {"kinds": {}, "datasets": {}}
    for one in answers:
        parts["kinds"].setdefault(one.question.kind, []).append(one)
        if one.question.dataset is not None:
            parts["datasets"].setdefault(one.question.dataset, []).append(one)
    scored = {
        part: {name: _score(found, n_resamples, seed) for name, found in sorted(groups.items())}
        for part, groups in parts.items()
    }
    unanswered: dict[str, dict[str, int]] = {}
    for (kind, reason), n in sorted(Counter((a.question.kind, a.reason) for a in answers if a.reason).items()):
        unanswered.setdefault(kind, {})[str(reason)] = n
    return {
        "total": _score(answers, n_resamples, seed),
        "mean_over_kinds": float(np.mean([found["accuracy"] for found in scored["kinds"].values()])),
        **scored,
        "unanswered": unanswered,
    }


def _score(answers: Sequence[ChoiceAnswer], n_resamples: int, seed: int) -> dict:
    resampler = Resampler([one.question.donor for one in answers], n_resamples=n_resamples, seed=seed)
    rows = np.arange(len(answers))
    right = np.array([one.is_right for one in answers], dtype=float)
    answered = np.array([one.choice is not None for one in answers])
    values = {
        "accuracy": right,
        "accuracy_answered": np.where(answered, right, np.nan),
        "chance": np.array([1 / max(1, len(one.question.candidates)) for one in answers]),
        "probability": np.array([np.nan if one.probability is None else one.probability for one in answers]),
    }
    figures = resampler.all_means(values, rows) | _f1_scores(answers, resampler, rows)
    return {
        "n": len(answers),
        "answered": int(answered.sum()),
        **{name: None if np.isnan(found[0]) else float(found[0]) for name, found in figures.items()},
        "intervals": {name: interval(found) for name, found in figures.items() if name != "chance"},
        "resampled": resampler.groups(rows)[0].replace("cell", "question"),
    }


def _f1_scores(answers: Sequence[ChoiceAnswer], resampler: Resampler, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return macro and weighted F1 with their replicates, each of shape (1 + n_resamples,)."""
    labels = sorted({one.question.answer for one in answers} | {one.choice for one in answers if one.choice})
    number = {label: i for i, label in enumerate(labels)} | {None: -1}
    codes = np.array([(number[one.question.answer], number[one.choice]) for one in answers])
    pairs, pair_of_row = np.unique(codes, axis=0, return_inverse=True)
    membership = sp.csr_matrix((np.ones(len(rows)), (rows, pair_of_row.ravel())), shape=(len(rows), len(pairs)))
    counts = resampler.sums(membership, rows)
    found = classification_metrics(counts, pairs[:, 0], pairs[:, 1], len(labels))
    return {name: found[name] for name in F1_SCORES}

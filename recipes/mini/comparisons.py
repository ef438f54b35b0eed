"""How often the types of two cells are named rightly where they are compared."""

import re

import numpy as np
from datasets import Dataset

from cell2text.language.tasks import default_instruction
from generation_cell2text import CellTextGenerator


PAIRS, BATCH = 400, 64
TWO = re.compile(r"The first cell is an? (?P<first>.+?) and the second cell is an? (?P<second>.+?)\.")
ONE = re.compile(r"Both cells are of the type (?P<type>.+?)\.")


def score_comparisons(model, processor, rows: Dataset, instruction: str | None = None) -> dict[str, float]:
    """Pairs of cells of one study, drawn by a fixed seed: the share whose first, second and both types are right.

    `of_one_type` is the share of pairs that are, `said_rightly_if_one` how often it is said rightly whether they are.
    Asked by the task's fixed instruction, unless there is another.
    """
    pairs = draw_pairs(rows)
    chat = processor.conversation(2, instruction or default_instruction("compare"))
    answer = CellTextGenerator(model, processor, chat, max_new_tokens=80)
    cells, types = [listed[0] for listed in rows["cells"]], np.array(rows["cell_type"])
    texts = []
    for start in range(0, len(pairs), BATCH):
        texts += answer([[cells[i], cells[j]] for i, j in pairs[start : start + BATCH]]).texts
    named = np.array([types_named(text) for text in texts], dtype=object)
    true = types[pairs]
    right = named == true
    alike = true[:, 0] == true[:, 1]
    answered = np.array([first is not None for first, _ in named])
    found = {
        "first": right[:, 0],
        "second": right[:, 1],
        "both": right.all(1),
        "of_one_type": alike,
        "said_rightly_if_one": answered & ((named[:, 0] == named[:, 1]) == alike),
    }
    return {"pairs": len(pairs), **{name: round(float(values.mean()), 4) for name, values in found.items()}}


def draw_pairs(rows: Dataset) -> np.ndarray:
    """Positions of two different cells of one study, shape (n_pairs, 2)."""
    generator, studies = np.random.default_rng(0), np.array(rows["dataset_id"])
    of_study = {name: np.flatnonzero(studies == name) for name in dict.fromkeys(studies)}
    first = generator.integers(len(rows), size=PAIRS)
    return np.array([(i, generator.choice(of_study[studies[i]][of_study[studies[i]] != i])) for i in first])


def types_named(text: str) -> tuple[str | None, str | None]:
    """The types that a comparison gives its two cells; None where it gives none."""
    if found := TWO.match(text):
        return found["first"], found["second"]
    found = ONE.match(text)
    return (found["type"], found["type"]) if found else (None, None)

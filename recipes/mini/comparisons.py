"""Score the cell types in comparisons of two cells."""

import re

import numpy as np
from datasets import Dataset

from cell2text.language.tasks import default_instruction
from generation_cell2text import CellTextGenerator


N_PAIRS, BATCH_SIZE = 400, 64
_TWO_TYPES = re.compile(r"The first cell is an? (?P<first>.+?) and the second cell is an? (?P<second>.+?)\.")
_ONE_TYPE = re.compile(r"Both cells are of the type (?P<type>.+?)\.")


def score_comparisons(model, processor, rows: Dataset, instruction: str | None = None) -> dict[str, float]:
    """Compare random pairs of cells from one study each, sampled with a fixed seed.

    Parameters
    ----------
    rows
        Rows with `cells`, `cell_type` and `dataset_id`.
    instruction
        Instruction of the prompt. Defaults to the default instruction of the task `compare`.

    Returns
    -------
    Number of pairs; shares of pairs with the correct type of the first, the second and both cells; `of_one_type`, the
    share of pairs that have one type; `said_rightly_if_one`, the share of texts that state correctly whether they do.
    """
    pairs = sample_pairs(rows)
    prompt = processor.conversation(2, instruction or default_instruction("compare"))
    generate = CellTextGenerator(model, processor, prompt, max_new_tokens=80)
    cells, types = [listed[0] for listed in rows["cells"]], np.array(rows["cell_type"])
    texts = []
    for start in range(0, len(pairs), BATCH_SIZE):
        texts += generate([[cells[i], cells[j]] for i, j in pairs[start : start + BATCH_SIZE]]).texts
    predicted = np.array([stated_types(text) for text in texts], dtype=object)
    true = types[pairs]
    correct = predicted == true
    of_one_type = true[:, 0] == true[:, 1]
    parsed = np.array([first is not None for first, _ in predicted])
    scores = {
        "first": correct[:, 0],
        "second": correct[:, 1],
        "both": correct.all(1),
        "of_one_type": of_one_type,
        "said_rightly_if_one": parsed & ((predicted[:, 0] == predicted[:, 1]) == of_one_type),
    }
    return {"pairs": len(pairs), **{name: round(float(values.mean()), 4) for name, values in scores.items()}}


def sample_pairs(rows: Dataset) -> np.ndarray:
    """Sample positions of two different cells of one study, shape (n_pairs, 2)."""
    generator, studies = np.random.default_rng(0), np.array(rows["dataset_id"])
    members = {name: np.flatnonzero(studies == name) for name in dict.fromkeys(studies)}
    first = generator.integers(len(rows), size=N_PAIRS)
    return np.array([(i, generator.choice(members[studies[i]][members[studies[i]] != i])) for i in first])


def stated_types(text: str) -> tuple[str | None, str | None]:
    """Return the cell types that a comparison states; None for a text of another form."""
    if match := _TWO_TYPES.match(text):
        return match["first"], match["second"]
    match = _ONE_TYPE.match(text)
    return (match["type"], match["type"]) if match else (None, None)

"""Score cells by a user's own labels: zero-shot classification with any list of labels.

Labels that name a cell type get its calibrated probability; others get the likelihood of their words. Depends on
`model_types`, `likelihood` and `reading`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from cell2text.describe.inputs import CellReader
from cell2text.describe.ranked_cells import RankedCells
from cell2text.describe.run import ROWS_PER_SHARD
from cell2text.errors import UserError
from cell2text.inference.concepts import predict_concepts
from cell2text.questions.likelihood import StatementScorer, as_probability, statement_of
from cell2text.questions.model_types import BROADER, NARROWER, ROUTES, TEXT, MappedLabel, ModelTypes, nested_labels
from cell2text.questions.words import check_text
from statements_cell2text import TYPES


MAX_LABELS = 1_000
NONE_OF_THEM = "none of them"
NONE_BELOW = 0.5  # sum of the labels' probabilities below which a cell has none of them
NARROWER_SHARE = 0.5  # share of a label's probability from which on a label below it is chosen instead


@dataclass(frozen=True)
class LabelScores:
    """Probabilities of labels.

    Parameters
    ----------
    labels
        The labels, mapped to types of the model.
    probabilities
        Probability of each label, float32, shape (n_cells, n_labels); NaN for cells that cannot be described.
    best
        Chosen label per cell, `"none of them"`, or None for cells that cannot be described.
    best_probabilities
        Probability of the choice, normalised over the labels, float32, shape (n_cells,).
    """

    labels: list[MappedLabel]
    probabilities: np.ndarray
    best: list[str | None]
    best_probabilities: np.ndarray

    def mapping(self) -> pd.DataFrame:
        """Return one row per label: how it was mapped, its term and the model's types that it was read from."""
        rows = [
            {**asdict(label), "term": label.name if label.term_id else None, "types": "; ".join(label.types)}
            for label in self.labels
        ]
        frame = pd.DataFrame(rows)[["label", "route", "term_id", "term", "types", "ignored"]]
        frame["ignored"] = ["; ".join(words) for words in frame["ignored"]]
        return frame.fillna("").set_index("label")


class LabelScorer:
    """Score ranked cells by labels.

    Parameters
    ----------
    model, processor
        A Cell2Text model on its device, and its processor.
    labels
        Labels of cell types, or statements that end with a full stop.

    Raises
    ------
    UserError
        If there are no labels, more than `MAX_LABELS`, the same label twice, or one that is not a text.

    Examples
    --------
    >>> import cell2text
    >>> from cell2text.questions.reading import rank_cells
    >>> model, processor = cell2text.load()
    >>> cells = rank_cells(cell2text.example_cells(unseen=True)[:1], model, processor)
    >>> LabelScorer(model, processor, ["pancreatic alpha cell", "T cell"])(cells).best
    ['pancreatic alpha cell']
    """

    def __init__(self, model, processor, labels: Sequence[str]):
        self.model, self.processor = model, processor
        self.types = ModelTypes(model.config)
        cleaned = check_labels(labels)
        self.labels = [
            self.types.map_label(label) if self.types.names else MappedLabel(label, TEXT) for label in cleaned
        ]
        self._text_columns = [column for column, label in enumerate(self.labels) if label.route == TEXT]
        self._statements = None
        if self._text_columns:
            texts = [statement_of(self.labels[column].label) for column in self._text_columns]
            self._statements = StatementScorer(model, processor, texts)
        self._nested = nested_labels(self.labels)

    def notes(self) -> list[str]:
        """Return what a user should know about the labels."""
        return [*_route_notes(self.labels), *_twin_notes(self.labels)]

    def __call__(self, cells: RankedCells) -> LabelScores:
        """Return the scores of ranked cells; they do not depend on the other cells."""
        return self.choose(self.probabilities(cells))

    def probabilities(self, cells: RankedCells) -> np.ndarray:
        """Return the probability of each label, float32, shape (n_cells, n_labels); NaN for cells without a result."""
        found = np.full((len(cells.cells), len(self.labels)), np.nan)
        if len(self._text_columns) < len(self.labels):
            concepts = predict_concepts(self.model, self.processor, cells.cells, cells.concept_overrides)
            types = self.types.at_or_below(concepts[TYPES])
            for column, label in enumerate(self.labels):
                if label.route != TEXT:
                    found[:, column] = self.types.probability(label, types)
        if self._statements is not None:
            information = self._statements(cells.cells, cells.concept_overrides)
            found[:, self._text_columns] = as_probability(information)
        return found.astype(np.float32)

    def choose(self, probabilities: np.ndarray) -> LabelScores:
        """Choose a label per cell; see :func:`choose_labels`."""
        routes = np.array([label.route for label in self.labels])
        best, chosen = choose_labels(
            probabilities, self._nested, twins(self.labels), bounds=routes == BROADER, texts=routes == TEXT
        )
        names = [*(label.label for label in self.labels), NONE_OF_THEM]  # -1 is the last one
        words = [None if missing else names[i] for missing, i in zip(np.isnan(chosen), best)]
        return LabelScores(self.labels, probabilities, words, chosen)


def choose_labels(
    probabilities: np.ndarray, nested: np.ndarray, same: Sequence[int] | None = None,
    bounds: np.ndarray | None = None, texts: np.ndarray | None = None, none_below: float = NONE_BELOW,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Choose one label per cell, with care for labels that are kinds of each other.

    Labels below no other label of the list exclude each other. Their probabilities are divided by their sum if it
    exceeds 1; the rest to 1 is the probability of none of them. If the sum is below `none_below`, none is chosen,
    otherwise the most probable label. A label below the chosen one takes its place if it has at least
    `NARROWER_SHARE` of its probability.

    Parameters
    ----------
    probabilities
        Probability of each label, shape (n_cells, n_labels).
    nested
        Whether the second label is a kind of the first, boolean, shape (n_labels, n_labels).
    same
        Column of the first label that is read from the same types as each label; only that one is chosen.
    bounds
        Labels whose probability is an upper bound, boolean, shape (n_labels,). They take no place of a label above.
    texts
        Labels whose probability is not calibrated, boolean, shape (n_labels,). They share what the others leave.
    none_below
        Sum of the labels' probabilities below which none is chosen; 0 to choose a label for every cell.

    Returns
    -------
    Column of the chosen label per cell, -1 for none, shape (n_cells,); and its normalised probability, float32.

    Examples
    --------
    T cell, CD8-positive T cell (a kind of it), and B cell:

    >>> nested = np.array([[False, True, False], [False, False, False], [False, False, False]])
    >>> best, chosen = choose_labels(np.array([[0.9, 0.6, 0.05], [0.9, 0.3, 0.05], [0.1, 0.05, 0.2]]), nested)
    >>> best.tolist(), [f"{value:.2f}" for value in chosen]
    ([1, 0, -1], ['0.60', '0.90', '0.70'])
    """
    n_labels = probabilities.shape[1]
    places = np.arange(n_labels)
    distinct = np.ones(n_labels, dtype=bool) if same is None else np.asarray(same) == places
    is_root = distinct & ~nested[distinct].any(axis=0)
    values = np.nan_to_num(probabilities, nan=0.0)
    if texts is not None:
        left = 1 - np.minimum(values[:, is_root & ~texts].sum(axis=1), 1.0)
        values = np.where(texts, values * left[:, None], values)
    sums = values[:, is_root].sum(axis=1)
    values = values / np.maximum(sums, 1.0)[:, None]
    best, chosen = np.full(len(values), -1), 1 - np.minimum(sums, 1.0)
    below = nested & distinct & (True if bounds is None else ~bounds)
    for row in np.flatnonzero(sums >= none_below):
        best[row] = _walk_down(values[row], is_root, below)
        chosen[row] = values[row, best[row]]
    chosen[np.isnan(probabilities).any(axis=1)] = np.nan
    return best, chosen.astype(np.float32)


def _walk_down(values: np.ndarray, allowed: np.ndarray, nested: np.ndarray) -> int:
    """Return the label to choose: the most probable allowed one, then further down while labels below it share it."""
    place = int(np.where(allowed, values, -1.0).argmax())
    while nested[place].any():
        below = int(np.where(nested[place], values, -1.0).argmax())
        if values[below] < NARROWER_SHARE * values[place]:
            break
        place = below
    return place


def twins(labels: Sequence[MappedLabel]) -> list[int]:
    """Return for each label the column that stands for all labels that are read from the same types.

    It is the label whose probability is the most direct one, in the order of `ROUTES`; the first of equal ones.
    """
    order = sorted(range(len(labels)), key=lambda column: (ROUTES.index(labels[column].route), column))
    chosen: dict[tuple, int] = {}
    for column in order:
        chosen.setdefault(_key(labels[column]), column)
    return [chosen[_key(label)] for label in labels]


def _key(label: MappedLabel) -> tuple[str, ...]:
    return label.types or (label.label,)


def check_labels(labels: Sequence[str]) -> list[str]:
    """Return labels in one normal form.

    Raises
    ------
    UserError
        If there are no labels, too many, the same one twice, or one that is not a text.
    """
    if isinstance(labels, str) or not isinstance(labels, Sequence | np.ndarray | pd.Index):
        raise UserError(f"labels={labels!r}: expected a list of labels, such as ['T cell', 'B cell'].")
    if not 0 < len(labels) <= MAX_LABELS:
        raise UserError(f"labels: {len(labels):,} labels, expected 1 to {MAX_LABELS:,}.")
    cleaned = [check_text("labels", label) for label in labels]
    repeated = sorted({label for label in cleaned if cleaned.count(label) > 1 or label == NONE_OF_THEM})
    if repeated:
        raise UserError(
            f"labels: {repeated[:3]} occur more than once or mean that no label applies. Name each label once."
        )
    return cleaned


def score_reader(reader: CellReader, scorer: LabelScorer) -> LabelScores:
    """Score all cells of a reader, a part at a time."""
    return scorer.choose(np.concatenate([scorer.probabilities(cells) for cells in parts_of(reader)]))


def parts_of(reader: CellReader) -> Iterator[RankedCells]:
    """Yield the cells of a reader, a part at a time."""
    for start in range(0, reader.n_cells, ROWS_PER_SHARD):
        yield reader.read(start, min(start + ROWS_PER_SHARD, reader.n_cells))


def _route_notes(labels: Sequence[MappedLabel]) -> list[str]:
    words = {
        BROADER: "the probability is that of a broader type, an upper bound",
        NARROWER: "the probability is that of narrower types",
        TEXT: "no cell type of the model; the likelihood of the words is used, which is not calibrated",
    }
    notes = []
    for route, meaning in words.items():
        names = [label.label for label in labels if label.route == route]
        if names:
            notes.append(
                f"{len(names):,} of {len(labels):,} labels: {meaning}: {json.dumps(names[:5], ensure_ascii=False)}."
            )
    return notes


def _twin_notes(labels: Sequence[MappedLabel]) -> list[str]:
    first = twins(labels)
    pairs = [(labels[one].label, labels[i].label) for i, one in enumerate(first) if one != i]
    if not pairs:
        return []
    shown = "; ".join(f"{one!r} and {other!r}" for one, other in pairs[:5])
    return [f"The model cannot distinguish some labels, and the first of them is chosen: {shown}."]

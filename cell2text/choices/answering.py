"""Choose answers by the calibrated probability of each candidate.

Candidates are mapped to the model's cell types as `tl.score` maps labels; candidates that name none are scored by the
likelihood of their words. A question whose candidates are the answers of an own task of the model is answered by this
task. Questions that no task of the model answers get no choice. Depends on `questions`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from cell2text.choices.expression_order import rank_by_expression
from cell2text.choices.question import CELL_TYPE, OTHER, ChoiceQuestion
from cell2text.inference.concepts import predict_concepts
from cell2text.inference.own_tasks import OwnTaskScorer
from cell2text.language.own_tasks import OwnTask, task_with_values, tasks_of
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import resolve
from cell2text.questions.likelihood import StatementScorer, as_probability, statement_of
from cell2text.questions.model_types import BROADER, EXACT, SYNONYM, TEXT, MappedLabel, ModelTypes, nested_labels
from cell2text.questions.scoring import choose_labels, twins
from statements_cell2text import TYPES


_NUMBERED = re.compile(r"[ _-]+(?:[A-Z]|\d+)$")  # "oligodendrocyte A", "microglia 2"
# Why a question has no choice.
NO_TASK = "no task of the model answers this kind of question"
NO_CELL = "the question has no genes and names no cell"
NO_CANDIDATES = "the question lists fewer than two candidates"
NO_TYPES = "no candidate is a cell type of the model"
TOO_FEW_GENES = "the cell has too few genes of the model"


@dataclass(frozen=True)
class ChoiceAnswer:
    """The answer to one question.

    Parameters
    ----------
    question
        The question.
    choice
        The chosen candidate; None if the question is not answered.
    probabilities
        Calibrated probability of each candidate; empty if the question is not answered. Candidates that are kinds of
        each other share it, so the values need not add up to 1.
    probability
        Probability of the choice among the candidates; None if the question is not answered.
    reason
        Why the question is not answered, None if it is.
    task
        Own task of the model that answered it; None if the candidates were compared as cell types.
    """

    question: ChoiceQuestion
    choice: str | None = None
    probabilities: tuple[float, ...] = ()
    probability: float | None = None
    reason: str | None = None
    task: str | None = None

    @property
    def is_right(self) -> bool:
        """Whether the choice is the right answer."""
        return self.choice is not None and self.choice == self.question.answer


class ChoiceAnswerer:
    """Answer multiple-choice questions with a model.

    Parameters
    ----------
    model, processor
        A Cell2Text model on its device, and its processor.
    gene_order
        Order of the genes in the questions: `"expression"`, which benchmarks use, or `"relative"` to the usual
        expression of each gene, as the model ranks them.
    species
        `"mouse"` maps mouse genes to human genes.

    Examples
    --------
    >>> import cell2text
    >>> model, processor = cell2text.load()
    >>> genes = "INS IAPP PCSK1 G6PC2 DLK1 ADCYAP1 HADH MAFA NPTX2 SCGN CPE TTR CHGA SCG5 PCSK1N SCG2 SCG3 GNAS "
    >>> genes += "PCSK2 CHGB UCN3 SLC30A8 ABCC8"
    >>> question = ChoiceQuestion("1", "cell_type", ("T cell", "pancreatic beta cell"), "T cell", tuple(genes.split()))
    >>> ChoiceAnswerer(model, processor)([question])[0].choice
    'pancreatic beta cell'
    """

    def __init__(self, model, processor, *, gene_order: str = "expression", species: str = "human"):
        self.model, self.processor, self.gene_order, self.species = model, processor, gene_order, species
        self.types = ModelTypes(model.config)
        self.map_label = cache(self._map_label)
        self._own = tasks_of(model.config)

    def __call__(
        self, questions: Sequence[ChoiceQuestion], cells: Mapping[str, np.ndarray] | None = None
    ) -> list[ChoiceAnswer]:
        """Answer questions, in their order.

        Parameters
        ----------
        questions
            The questions.
        cells
            Ranked cells by name, for questions that name a cell in place of its genes.

        Raises
        ------
        UserError
            If fewer than half of the genes in the questions are genes of the model.
        """
        found = {i: ChoiceAnswer(one, reason=self._reason(one)) for i, one in enumerate(questions)}
        asked = [i for i, one in found.items() if one.reason is None]
        ranked = self._rank([questions[i] for i in asked], cells or {})
        few = {i for i, cell in zip(asked, ranked) if self.processor.reason_not_described(cell) is not None}
        found |= {i: ChoiceAnswer(questions[i], reason=TOO_FEW_GENES) for i in few}
        kept = [(i, cell) for i, cell in zip(asked, ranked) if i not in few]
        by_task: dict[OwnTask | None, list[tuple[int, np.ndarray]]] = {}
        for i, cell in kept:
            by_task.setdefault(self._own_task(questions[i]), []).append((i, cell))
        for task, of_task in by_task.items():
            asked_of, of_cells = [questions[i] for i, _ in of_task], [cell for _, cell in of_task]
            answers = self._choose(asked_of, of_cells) if task is None else self._answer_own(task, asked_of, of_cells)
            found |= {i: one for (i, _), one in zip(of_task, answers)}
        return [found[i] for i in range(len(questions))]

    def labels(self, questions: Sequence[ChoiceQuestion]) -> list[MappedLabel]:
        """Return how the different candidates of questions about cell types are mapped to the model."""
        names = dict.fromkeys(name for one in questions if one.kind == CELL_TYPE for name in one.candidates)
        return [self.map_label(name) for name in names]

    def _map_label(self, label: str) -> MappedLabel:
        """Map a candidate as `tl.score` does, also short names ("B") and numbered groups ("oligodendrocyte A")."""
        if not self.types.names:
            return MappedLabel(label, TEXT)
        found = self.types.map_label(label)
        if found.route == TEXT:
            cell = self.types.map_label(f"{label} cell")
            found = replace(cell, label=label, route=SYNONYM if cell.route == EXACT else cell.route)
        if found.route == TEXT and _NUMBERED.search(label):
            group = self.types.map_label(_NUMBERED.sub("", label))
            found = group if group.route == TEXT else replace(group, label=label, route=BROADER, term_id=None)
        return found if found.route != TEXT else MappedLabel(label, TEXT)

    def _reason(self, question: ChoiceQuestion) -> str | None:
        """Return why a question cannot be answered, before its cell is read."""
        own = self._own_task(question)
        if own is None and question.kind not in (CELL_TYPE, OTHER):
            return NO_TASK
        if not question.genes and question.cell is None:
            return NO_CELL
        if len(question.candidates) < 2:
            return NO_CANDIDATES
        if own is not None:
            return None
        mapped = [self.map_label(name).route != TEXT for name in question.candidates]
        if question.kind == OTHER:
            return None if all(mapped) else NO_TASK
        return None if any(mapped) or not self.types.names else NO_TYPES

    def _rank(self, questions: Sequence[ChoiceQuestion], cells: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the gene tokens of each question's cell."""
        lists = [question.genes for question in questions if question.genes]
        ranked = iter(
            rank_by_expression(lists, self.processor, gene_order=self.gene_order, species=self.species) if lists else ()
        )
        empty = np.zeros(0, dtype=np.int64)
        return [next(ranked) if one.genes else cells.get(str(one.cell), empty) for one in questions]

    def _own_task(self, question: ChoiceQuestion) -> OwnTask | None:
        return task_with_values(question.candidates, self._own)

    def _answer_own(
        self, task: OwnTask, questions: Sequence[ChoiceQuestion], cells: list[np.ndarray]
    ) -> list[ChoiceAnswer]:
        """Answer questions whose candidates are the answers of an own task."""
        place = {value.casefold(): column for column, value in enumerate(task.values)}
        answers = []
        for question, values in zip(questions, OwnTaskScorer(self.model, self.processor, task)(cells)):
            ordered = tuple(float(values[place[name.casefold()]]) for name in question.candidates)
            best = int(np.argmax(ordered))
            answers.append(ChoiceAnswer(question, question.candidates[best], ordered, ordered[best], task=task.name))
        return answers

    def _choose(self, questions: Sequence[ChoiceQuestion], cells: list[np.ndarray]) -> list[ChoiceAnswer]:
        types = None
        if self.types.names:
            types = self.types.at_or_below(predict_concepts(self.model, self.processor, cells)[TYPES])
        texts = self._text_probabilities(questions, cells)
        answers = []
        for row, question in enumerate(questions):
            mapped = [self.map_label(name) for name in question.candidates]
            values = [
                texts[row, one.label] if types is None or one.route == TEXT
                else float(self.types.probability(one, types[row : row + 1])[0])
                for one in mapped
            ]  # fmt: skip
            if types is not None:
                values = self._with_upper_bounds(mapped, values, types[row : row + 1])
            answers.append(_choice(question, mapped, values))
        return answers

    def _with_upper_bounds(self, mapped: Sequence[MappedLabel], values: list[float], types: np.ndarray) -> list[float]:
        """Lower the probability of candidates that broader types stand in for by that of others below these types.

        The probability of "CD4-positive T cell", which stands in for "T-helper 17 cell", includes that of a candidate
        "naive CD4 T cell".
        """
        if all(one.route != BROADER for one in mapped):
            return values
        nested, bounded = nested_labels(mapped), list(values)
        for place, one in enumerate(mapped):
            for name in one.types if one.route == BROADER else ():
                below = _highest_below(mapped, nested, place, resolve(TYPES, name).term_id)
                whole = float(self.types.probability(replace(one, types=(name,)), types)[0])
                bounded[place] = min(bounded[place], max(whole - sum(values[other] for other in below), 0.0))
        return bounded

    def _text_probabilities(
        self, questions: Sequence[ChoiceQuestion], cells: list[np.ndarray]
    ) -> dict[tuple[int, str], float]:
        """Return the probability of each candidate that is no cell type, by row and candidate."""
        rows_of: dict[str, list[int]] = {}
        for row, question in enumerate(questions):
            for name in question.candidates:
                if self.map_label(name).route == TEXT:
                    rows_of.setdefault(name, []).append(row)
        found: dict[tuple[int, str], float] = {}
        for name, rows in rows_of.items():
            scorer = StatementScorer(self.model, self.processor, [statement_of(name)])
            values = as_probability(scorer([cells[row] for row in rows])[:, 0])
            found |= {(row, name): float(value) for row, value in zip(rows, values)}
        return found


def _choice(question: ChoiceQuestion, mapped: list[MappedLabel], values: Sequence[float]) -> ChoiceAnswer:
    """Choose one candidate. Nested ones are chosen as `tl.score` does, but one of them is always chosen."""
    routes = np.array([one.route for one in mapped])
    best, chosen = choose_labels(
        np.array([values]), nested_labels(mapped), twins(mapped), bounds=routes == BROADER, texts=routes == TEXT,
        none_below=0.0,
    )  # fmt: skip
    return ChoiceAnswer(question, question.candidates[int(best[0])], tuple(values), float(chosen[0]))


def _highest_below(mapped: Sequence[MappedLabel], nested: np.ndarray, place: int, term_id: str | None) -> list[int]:
    """Return the candidates below a term that are neither kinds of the candidate at `place` nor of each other."""
    graph = load_graph("CL")
    below = [
        other
        for other, one in enumerate(mapped)
        if one.route not in (BROADER, TEXT) and not nested[place, other] and one.term_id in graph
        and one.term_id != term_id and term_id in graph.ancestors(str(one.term_id))
    ]  # fmt: skip
    return [other for other in below if not any(nested[above, other] for above in below)]

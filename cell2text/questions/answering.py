"""Answer questions about one cell, a group of cells, or two of them. Nothing is read from files here.

Depends on `understanding` for what a question asks, on `predictions`, and on `wording`.
"""

from collections.abc import Callable
from dataclasses import replace

from cell2text.describe.ranked_cells import RankedCells
from cell2text.errors import UserError
from cell2text.inference.own_tasks import OwnTaskScorer
from cell2text.language.own_tasks import OwnTask, task_asked, tasks_of
from cell2text.questions import answer as tasks
from cell2text.questions import (
    comparison_answers,
    evidence_answers,
    group_answers,
    own_answers,
    property_answers,
    type_answers,
    wording,
)
from cell2text.questions.answer import Answer, AnswerValue, Wording
from cell2text.questions.model_types import MappedLabel
from cell2text.questions.predictions import PATHWAYS_GROUP, CellPredictions, CellPredictor
from cell2text.questions.understanding import Understood, understand
from cell2text.questions.words import check_text
from cell2text.signatures.gene_sets import hallmark_gene_sets
from declining_cell2text import is_description
from statements_cell2text import PROFILE_GROUP


ORIGIN_TASKS = (tasks.TISSUE, tasks.DISEASE, tasks.LIFE_STAGE)


class QuestionAnswerer:
    """Answer questions about ranked cells in free words.

    The same cells and the same question always get the same answer. No part of a question reaches the language model:
    it only chooses among the prompts that the model was trained on.

    Parameters
    ----------
    model, processor
        A Cell2Text model on its device, and its processor.
    batch_size, max_new_tokens
        See :class:`cell2text.inference.generation.BatchedTextGenerator`.

    Examples
    --------
    >>> import cell2text
    >>> from cell2text.questions.reading import rank_cells
    >>> model, processor = cell2text.load()
    >>> cells = rank_cells(cell2text.example_cells(unseen=True)[:1], model, processor)
    >>> answer = QuestionAnswerer(model, processor)(cells, "Is this an alpha cell or a T cell?")
    >>> answer.task, answer.values[0].name
    ('is_type', 'pancreatic A cell')
    """

    def __init__(self, model, processor, *, batch_size: int | None = None, max_new_tokens: int = 160):
        self.model = model
        self.predictor = CellPredictor(model, processor, batch_size=batch_size, max_new_tokens=max_new_tokens)
        self.types = self.predictor.types
        self.groups = model.config.concept_groups
        self._pathway_names = self.groups.get(PATHWAYS_GROUP) or hallmark_gene_sets().names

    def __call__(self, cells: RankedCells, question: str, second: RankedCells | None = None) -> Answer:
        """Answer a question.

        Parameters
        ----------
        cells
            The cells that the question is about.
        question
            The question, in English, of at most `cell2text.questions.words.MAX_LETTERS` characters.
        second
            Cells to compare with. Two cells in `cells` are compared as well, if the question asks for it.

        Returns
        -------
        The answer. A question that the model cannot answer gets the task `"outside"` and the questions that are
        answered.

        Raises
        ------
        UserError
            If there are no cells, or the question is not a text, is empty or is too long.
        """
        n = len(cells.cells)
        if not n or (second is not None and not len(second.cells)):
            raise UserError("There are no cells to ask about: select at least one.")
        text = check_text("question", question)
        own = task_asked(text, tasks_of(self.model.config))
        if own is not None and second is not None:
            raise UserError(
                f"compare_to cannot be used with {text!r}, the question of the task {own.name!r}. Ask it "
                "about each cell or group in turn."
            )
        asked = understand(text, self._pathway_names, n_cells=n, has_second=second is not None)
        if own is not None:
            asked = replace(asked, task=tasks.OWN)
        found = self._answer(cells, asked, second) if own is None else self._own(cells, own)
        names = tuple(map(str, (*cells.names, *(() if second is None else second.names))))
        return Answer(text, found.text, asked.task, names, tuple(found.values), found.verdict, tuple(found.notes))

    def _answer(self, cells: RankedCells, asked: Understood, second: RankedCells | None) -> Wording:
        if asked.task == tasks.HELP:
            return Wording(wording.help_text())
        if asked.task == tasks.OUTSIDE:
            return wording.outside(asked)
        if asked.task == tasks.EVIDENCE:
            return self._evidence(cells)
        if asked.task == tasks.COMPARE:
            return self._compare(cells, second)
        if asked.task in ORIGIN_TASKS:
            return self._origin(cells, asked.task)
        predictions = self.predictor(cells)
        if len(predictions) == 1:
            return self._about_one(cells, predictions, asked)
        return self._about_group(predictions, asked)

    def _own(self, cells: RankedCells, task: OwnTask) -> Wording:
        """Answer the question of an own task."""
        scorer = OwnTaskScorer(self.model, self.predictor.processor, task)
        return own_answers.own_task(task, scorer(cells.cells, cells.concept_overrides))

    def _about_one(self, cells: RankedCells, found: CellPredictions, asked: Understood) -> Wording:
        answers: dict[str, Callable[[], Wording]] = {
            tasks.DESCRIBE: lambda: self._generated(cells, found, None),
            tasks.CELL_TYPE: lambda: self._generated(cells, found, "ask:cell_type"),
            tasks.COMPOSITION: lambda: self._generated(cells, found, "ask:cell_type"),
            tasks.IS_TYPE: lambda: type_answers.is_type(found, self.types, self._labels(asked), asked),
            tasks.COUNT_TYPE: lambda: type_answers.is_type(found, self.types, self._labels(asked), asked),
            tasks.CONFIDENCE: lambda: type_answers.confidence(
                found, is_calibrated=self.model.config.type_calibration is not None
            ),
            tasks.CANDIDATES: lambda: type_answers.candidates(found, self.types, next(iter(self._labels(asked)), None)),
        }
        return answers.get(asked.task, lambda: self._about_any(found, asked))()

    def _about_group(self, found: CellPredictions, asked: Understood) -> Wording:
        answers: dict[str, Callable[[], Wording]] = {
            tasks.IS_TYPE: lambda: group_answers.are_type(found, self.types, self._labels(asked), asked),
            tasks.COUNT_TYPE: lambda: group_answers.count_type(found, self.types, self._labels(asked), asked),
            tasks.CONFIDENCE: lambda: group_answers.group_confidence(found),
            tasks.CANDIDATES: lambda: group_answers.group_candidates(found, self.types),
        }
        if asked.task in (tasks.DESCRIBE, tasks.CELL_TYPE, tasks.COMPOSITION):
            return group_answers.composition(found, self.model.config)
        return answers.get(asked.task, lambda: self._about_any(found, asked))()

    def _about_any(self, found: CellPredictions, asked: Understood) -> Wording:
        """Answer a question that one cell and groups share."""
        if asked.task == tasks.SEX:
            return property_answers.sex(found, asked.sex)
        if asked.task == tasks.PROFILE:
            return property_answers.profile(found, self.groups.get(PROFILE_GROUP, []))
        return property_answers.pathways(found, [name for mention in asked.pathways for name in mention.names])

    def _labels(self, asked: Understood) -> list[MappedLabel]:
        return [self.types.map_term(mention.term_id) for mention in asked.types]

    def _generated(self, cells: RankedCells, found: CellPredictions, prompt: str | None) -> Wording:
        """Return the model's own text with the probability of the type."""
        if found.reasons[0] is not None:
            return Wording(str(found.reasons[0]))
        (text,) = self.predictor.generate(cells, prompt)
        if found.types[0] is None:
            return Wording(text)
        value = wording.named_type(found)
        if value.probability is not None:
            text += f" The probability of the type is {value.probability:.2f}."
        pathways = [AnswerValue("pathway", name) for name in found.pathways[0]] if prompt is None else []
        return Wording(text, [value, *pathways])

    def _evidence(self, cells: RankedCells) -> Wording:
        """Return the genes that the named type of one cell rests on."""
        if len(cells.cells) > 1:
            return evidence_answers.for_one_cell_only()
        found = self.predictor(cells)
        if found.reasons[0] is not None:
            return Wording(str(found.reasons[0]))
        (text,) = self.predictor.generate(cells)
        return evidence_answers.type_evidence(self.model, self.predictor.processor, cells, text)

    def _origin(self, cells: RankedCells, field: str) -> Wording:
        """Answer a question on tissue, disease or life stage, if the model states them."""
        if self.groups and field not in self.groups:
            return wording.not_stated(field)
        texts = self.predictor.generate(cells, f"ask:{field}")
        return property_answers.origin(texts, field)

    def _compare(self, cells: RankedCells, second: RankedCells | None) -> Wording:
        first = cells if second is not None else cells[:1]
        other = cells[1:] if second is None else second
        found, found_other = self.predictor(first), self.predictor(other)
        if len(first.cells) > 1 or len(other.cells) > 1:
            return comparison_answers.compare_groups(found, found_other)
        reason = found.reasons[0] or found_other.reasons[0]
        text = ""
        if reason is None:
            (text,) = self.predictor.generate(first, "compare", other)
        return comparison_answers.compare_cells(text if is_description(text) else "", found, found_other)


__all__ = ["QuestionAnswerer"]

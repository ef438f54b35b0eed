"""Predict what questions are about: type, probabilities, sex and pathways of each cell.

Models with hierarchical cell types need the encoder only; of other models, the generated texts are read. Depends on
`inference` and on `statements_cell2text.py`, which decides what a text states.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cell2text.describe.ranked_cells import RankedCells
from cell2text.describe.summary import is_of_other_species
from cell2text.inference.concepts import predict_concepts
from cell2text.inference.generation import BatchedTextGenerator
from cell2text.inference.probabilities import type_probabilities
from cell2text.inference.prompts import build_conversation
from cell2text.language.fields import Claim, Fields
from cell2text.language.parsing import read_fields
from cell2text.ontology.terms import resolve
from cell2text.questions.model_types import ModelTypes
from declining_cell2text import FOREIGN_CELL_TEXT, is_description
from statements_cell2text import MIN_PATHWAY_ACTIVITY, N_PATHWAYS, PROFILE_GROUP, TYPES, CellStatements


PATHWAYS_GROUP, UNKNOWN_SEX = "pathways", "unknown"


@dataclass(frozen=True)
class CellPredictions:
    """What a model predicts for cells, in their order.

    Parameters
    ----------
    names
        Names of the cells.
    reasons
        Why a cell has no type, as a sentence; None for a cell with a type.
    types
        The named type of each cell; None without one.
    named_probabilities
        Calibrated probability of the named type, shape (n_cells,); NaN without one.
    probabilities
        Probability of each type of the model or of one below it, shape (n_cells, n_types); NaN for cells that cannot
        be described. None for a model without concepts of cell types.
    sexes
        Sex of each donor; None if it is unknown.
    pathways
        The most active gene sets of each cell, at most two.
    profiles
        Probability of each name of the model's group `profile`; None for a model without it.
    """

    names: tuple[str, ...]
    reasons: list[str | None]
    types: list[Claim | None]
    named_probabilities: np.ndarray
    probabilities: np.ndarray | None
    sexes: list[str | None]
    pathways: list[tuple[str, ...]]
    profiles: np.ndarray | None

    def __len__(self) -> int:
        return len(self.names)


class CellPredictor:
    """Predict types, sex and pathways of ranked cells.

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
    >>> CellPredictor(model, processor)(cells).types[0].name
    'pancreatic A cell'
    """

    def __init__(self, model, processor, *, batch_size: int | None = None, max_new_tokens: int = 160):
        self.model, self.processor = model, processor
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self.types, self.statements = ModelTypes(model.config), CellStatements(model.config)

    def __call__(self, cells: RankedCells) -> CellPredictions:
        """Return the predictions of ranked cells."""
        concepts = predict_concepts(self.model, self.processor, cells.cells, cells.concept_overrides)
        probabilities = self.types.at_or_below(concepts[TYPES]) if TYPES in concepts else None
        reasons = self._reasons(cells)
        if self.statements.hierarchy is not None:
            fields = self._decided(concepts, reasons)
        else:
            fields = self._of_texts(self.generate(cells), reasons)
        types = [one.cell_type for one in fields]
        named = np.full((len(cells.cells), 0), np.nan) if probabilities is None else probabilities
        return CellPredictions(
            names=tuple(map(str, cells.names)), reasons=reasons, types=types, probabilities=probabilities,
            named_probabilities=type_probabilities(types, self.types.names, named),
            sexes=[None if one.sex is None else one.sex.name for one in fields],
            pathways=[one.pathways for one in fields], profiles=concepts.get(PROFILE_GROUP),
        )  # fmt: skip

    def generate(
        self, cells: RankedCells, prompt: str | None = None, comparison: RankedCells | None = None
    ) -> list[str]:
        """Generate one text per cell.

        Parameters
        ----------
        cells
            The cells.
        prompt
            A task of :func:`cell2text.inference.prompts.build_conversation`. Defaults to the model's own prompt.
        comparison
            The cell to compare each cell with. None for texts about one cell.
        """
        overrides = None if comparison is None else comparison.concept_overrides
        conversation = build_conversation(
            self.processor, prompt, compare_to=None if comparison is None else str(comparison.names[0])
        )
        generator = BatchedTextGenerator(
            self.model, self.processor, conversation, batch_size=self.batch_size, max_new_tokens=self.max_new_tokens,
            comparison_cell=None if comparison is None else comparison.cells[0],
            comparison_overrides=None if overrides is None else overrides[0],
        )  # fmt: skip
        return generator(cells.cells, cells.concept_overrides).texts

    def _reasons(self, cells: RankedCells) -> list[str | None]:
        """Return why cells cannot be described at all."""
        foreign = is_of_other_species(cells.n_genes, cells.counts_used)
        return [
            FOREIGN_CELL_TEXT if other else self.processor.reason_not_described(cell)
            for cell, other in zip(cells.cells, foreign)
        ]

    def _decided(self, concepts: dict[str, np.ndarray], reasons: list[str | None]) -> list[Fields]:
        """Return what concepts state, and add the reasons for which cells have no type."""
        rows = [row for row, reason in enumerate(reasons) if reason is None]
        fields = [Fields() for _ in reasons]
        if not rows:
            return fields
        joined = np.concatenate(list(concepts.values()), axis=1)[rows]
        groups = self.model.config.concept_groups
        for row, (stated,) in zip(rows, self.statements(torch.from_numpy(joined)[:, None])):
            pathways = _leading(concepts, groups, row)
            if isinstance(stated, str):
                reasons[row] = stated
            else:
                fields[row] = Fields(
                    cell_type=Claim(stated.named, resolve(TYPES, stated.named).term_id), pathways=pathways,
                    sex=Claim(stated.sex) if stated.sex not in (None, UNKNOWN_SEX) else None,
                )  # fmt: skip
        return fields

    def _of_texts(self, texts: Sequence[str], reasons: list[str | None]) -> list[Fields]:
        """Return what texts state, and add the texts that are the reason for which cells have none."""
        fields = []
        for row, text in enumerate(texts):
            described = reasons[row] is None and is_description(text)
            fields.append(read_fields(text) if described else Fields())
            if not described:
                reasons[row] = reasons[row] or text
            elif fields[row].cell_type is None:
                reasons[row] = "The text of the model names no cell type."
        return fields


def _leading(concepts: dict[str, np.ndarray], groups: dict[str, list[str]], row: int) -> tuple[str, ...]:
    """Return the most active pathways of a cell, which a text names."""
    values = concepts.get(PATHWAYS_GROUP)
    if values is None:
        return ()
    order = np.argsort(-values[row], kind="stable")[:N_PATHWAYS]
    return tuple(groups[PATHWAYS_GROUP][place] for place in order if values[row, place] > MIN_PATHWAY_ACTIVITY)

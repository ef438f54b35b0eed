"""Turn the rows of a data set into prompts with the labels that verify a text: one prompt per cell."""

import logging
from collections.abc import Mapping

import numpy as np
from datasets import Dataset

from cell2text.errors import UserError
from cell2text.ontology.graph import load_graph
from cell2text.training.concept_targets import true_type_claims
from cell2text.training.rewards import LABEL_COLUMN, PATHWAYS_COLUMN
from cell2text.training.row_columns import column_values
from cell2text.training.rows import TrainingRows
from processing_cell2text import Cell2TextProcessor


logger = logging.getLogger(__name__)

TYPE_COLUMNS = {"cell_type", "cell_type_ontology_term_id"}
TYPE_REWARDS = {"type", "calibration"}


def rewarded_rows(rows: Dataset, processor: Cell2TextProcessor, weights: Mapping[str, float]) -> Dataset:
    """Return one row per cell that at least one reward can verify.

    Rows without a label for any of the rewards, and cells that get a reason instead of a description, are left out and
    logged with their numbers.

    Parameters
    ----------
    rows
        Rows of a prepared data set. The first cell of each is used, with the processor's prompt, whatever the task.
    weights
        Weights of the rewards above 0, see :attr:`cell2text.training.arguments.RewardArguments.reward_weights`.

    Returns
    -------
    Rows with `cell_id`, `cells` (one ranked cell), `prompt` (chat messages), `label_term` (a Cell Ontology term, or
    None) and `pathways_active` (gene sets, empty if they are not known), computed when they are read.

    Raises
    ------
    UserError
        If no row has the labels of one of the rewards.
    """
    labels: dict[str, list] = {LABEL_COLUMN: [None] * len(rows), PATHWAYS_COLUMN: [[]] * len(rows)}
    if TYPE_REWARDS & set(weights):
        labels[LABEL_COLUMN] = _label_terms(rows)
    if "pathways" in weights:
        labels[PATHWAYS_COLUMN] = _active_pathways(rows)
    verifiable = np.array([any(values) for values in zip(*labels.values())], dtype=bool)
    cells = (cells[0] for cells in column_values(rows, "cells"))
    described = np.array([processor.reason_not_described(cell) is None for cell in cells], dtype=bool)
    kept = np.flatnonzero(verifiable & described)
    if len(kept) < len(rows):
        logger.warning(
            "%d of %d rows train: %d have no label that a reward needs, and %d more have too few genes.",
            len(kept), len(rows), (~verifiable).sum(), (verifiable & ~described).sum(),
        )  # fmt: skip
    if not len(kept):
        raise UserError("No row has both a label and enough genes for a description: pass another dataset.")
    prompt = processor.conversation()
    selected = rows.select_columns(["cell_id", "cells"]).select(kept)
    for name, values in labels.items():
        selected = selected.add_column(name, [values[row] for row in kept])

    def as_prompts(batch: dict[str, list]) -> dict[str, list]:
        return {**batch, "cells": [cells[:1] for cells in batch["cells"]], "prompt": [prompt] * len(batch["cells"])}

    return selected.with_transform(as_prompts)


def _label_terms(rows: Dataset) -> list[str | None]:
    """Return the Cell Ontology term of each row's label; None without one."""
    graph = load_graph("CL")
    claims = true_type_claims(rows) if set(rows.column_names) >= TYPE_COLUMNS else []
    terms = [claim.term_id if claim.term_id in graph else None for claim in claims]
    if not any(terms):
        raise UserError(
            "No row has a cell type that is a Cell Ontology term, which the rewards of type and calibration need: "
            "label the cells, or set type_reward_weight=0 and calibration_reward_weight=0."
        )
    return terms


def _active_pathways(rows: Dataset) -> list[list[str]]:
    """Return the active gene sets of each row; empty where they are not known."""
    known = PATHWAYS_COLUMN in rows.column_names
    active = [list(names or ()) for names in column_values(rows, PATHWAYS_COLUMN)] if known else []
    if not any(active):
        raise UserError(
            "No row has active pathways, which the reward of pathways needs: prepare the data with "
            "gene_sets='hallmark', or set pathway_reward_weight=0."
        )
    return active


def pathway_names(rows: TrainingRows) -> list[str]:
    """Return the names of all gene sets that the training and held-out rows name, sorted."""
    parts = [part for part in (rows.train, rows.held_out) if PATHWAYS_COLUMN in part.column_names]
    return sorted({name for part in parts for names in column_values(part, PATHWAYS_COLUMN) for name in names or ()})

"""Concept labels of the training cells: types, broader types, pathways and origin, by name.

Concept pretraining learns all of them. The language model reads all but the broader types from a `concepts` projector.
It trains on the labels of the training cells rather than on the projector's predictions (independent training of a
concept bottleneck: Koh et al. 2020, arXiv 2007.04612).
"""

import logging
from collections.abc import Collection
from functools import lru_cache

import torch
from datasets import Dataset

from cell2text.evaluation.classification import label_claim
from cell2text.language.fields import ORIGIN_FIELDS, Claim
from cell2text.ontology.terms import ancestors, clean_label, label_of


logger = logging.getLogger(__name__)

BROADER_TYPES = "broader_cell_type"  # helps the encoder, but no text names them
UNKNOWN = "unknown"  # a concept like any other: texts omit what is unknown about such cells
NAN = float("nan")
BATCH_ROWS = 10_000


class CellConcepts:
    """Names of concepts by group, and the targets of rows.

    Parameters
    ----------
    names
        Names as in `cell_concepts` of a model's configuration: under `multiclass`, `cell_type` and the groups of
        `ORIGIN_FIELDS`; under `multilabel`, `pathways` and `BROADER_TYPES` (labels of the Cell Ontology).
    """

    def __init__(self, names: dict[str, dict[str, list[str]]]):
        self.names = names
        groups = {group: members for kind in names.values() for group, members in kind.items()}
        self.groups = {group: groups[group] for group in sorted(groups)}

    @classmethod
    def from_rows(cls, rows: Dataset) -> "CellConcepts":
        """Collect the concepts of rows with a `cell_type` and, optionally, `pathways` and columns of origin."""
        labelled = rows.select([index for index, name in enumerate(rows["cell_type"]) if clean_label(name)])
        claims = claims_by_type_name(labelled)
        multiclass = {"cell_type": sorted(claims)}
        for field in ORIGIN_FIELDS:
            if field in rows.column_names:
                multiclass[field] = sorted({clean_label(value) or UNKNOWN for value in labelled[field]})
        pathways = rows["pathways"] if "pathways" in rows.column_names else ()
        multilabel = {
            BROADER_TYPES: broader_types(list(claims.values())),
            "pathways": sorted({name for active in pathways for name in active or ()}),
        }
        return cls(
            {
                "multiclass": {field: names for field, names in multiclass.items() if names != [UNKNOWN]},
                "multilabel": {group: names for group, names in multilabel.items() if names},
            }
        )

    def predicted_groups(self) -> dict[str, dict[str, list[str]]]:
        """Return the names that a projector predicts and a text can use, for `cell_concepts` of a configuration."""
        return {
            kind: {group: names for group, names in groups.items() if group != BROADER_TYPES}
            for kind, groups in self.names.items()
        }

    def targets(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Return 1 or 0 per name, NaN if unknown, for every group: tensors of shape (n_rows, n_names)."""
        return {group: torch.tensor([self._target(row, group) for row in rows]) for group in self.groups}

    def _target(self, row: dict, group: str) -> list[float]:
        names = self.groups[group]
        true: Collection[str]
        if group == BROADER_TYPES:
            true = _labels_above(row["cell_type"], row["cell_type_ontology_term_id"])
        elif group == "pathways":
            true = row.get(group) or ()
        else:  # a missing column carries no label, not the label `unknown`
            true = {clean_label(row[group]) or UNKNOWN} & set(names) if group in row else ()
        return [float(name in true) for name in names] if true else [NAN] * len(names)


class TrainingConceptOverrides:
    """Concept labels of a run's training cells, which replace the projector's predictions in training batches.

    Parameters
    ----------
    concepts
        Concepts of the model.
    rows
        Training rows with a `cell_id`. Their columns label the first cell of each row.
    """

    def __init__(self, concepts: CellConcepts, rows: Dataset):
        needed = ("cell_type", "cell_type_ontology_term_id", *ORIGIN_FIELDS, "pathways")
        columns = [name for name in needed if name in rows.column_names]
        profiles: dict[tuple, int] = {}  # far fewer than cells
        self.profile_of_cell: dict[str, int] = {}
        for part in rows.select_columns(["cell_id", *columns]).iter(BATCH_ROWS):
            values = zip(*(part[name] for name in columns))
            for cell_id, labels in zip(part["cell_id"], values):
                key = tuple(tuple(value) if isinstance(value, list) else value for value in labels)
                self.profile_of_cell[cell_id] = profiles.setdefault(key, len(profiles))
        distinct = [dict(zip(columns, labels)) for labels in profiles]
        named = {name for row in distinct if (name := clean_label(row["cell_type"]))}
        others = sorted(named - set(concepts.groups["cell_type"]))
        if others:
            logger.warning(
                "%d cell types of these rows are not concepts of the model, so it cannot learn when to name them: %s. "
                "Train a new model to include them.", len(others), ", ".join(others),
            )  # fmt: skip
        self.profiles = torch.cat(list(concepts.targets(distinct).values()), dim=-1)

    def batch(self, examples: list[dict], n_cells: int) -> torch.Tensor:
        """Return the labels of the examples' cells, shape (n_examples, n_cells, n_concepts).

        A cell that is not one of the training cells gets NaN.
        """
        overrides = self.profiles.new_full((len(examples), n_cells, self.profiles.shape[-1]), NAN)
        for index, example in enumerate(examples):
            ids = (example.get("cell_id"), example.get("second_cell_id"))
            for slot, cell_id in enumerate(ids[: len(example["cells"])]):
                if cell_id in self.profile_of_cell:
                    overrides[index, slot] = self.profiles[self.profile_of_cell[cell_id]]
        return overrides


class ConceptAugmentation:
    """Soften and recombine concept vectors, so that the text follows each group independently of the others.

    Each group is a mixture of the cell's own labels (at least half) and another cell's: the text learns to name the
    most probable concept. Some cells get another cell's origin altogether, while their text keeps their own: the text
    learns not to infer the type from the tissue that cells of a study come from.

    Parameters
    ----------
    groups
        Names by group, in the order of the columns.
    swapped_origin
        Share of cells that get another cell's origin.
    """

    def __init__(self, groups: dict[str, list[str]], swapped_origin: float = 0.5):
        self.sizes = [len(names) for names in groups.values()]
        is_origin = torch.tensor([group in ORIGIN_FIELDS for group in groups])
        self.is_origin = is_origin.repeat_interleave(torch.tensor(self.sizes))
        self.swapped_origin = swapped_origin

    def __call__(self, concepts: torch.Tensor) -> torch.Tensor:
        """Return augmented concepts of shape (n_cells, n_concepts).

        A value stays as it is where it is NaN, or the value to mix in is.
        """

        def uniform(n_columns):
            return torch.rand(len(concepts), n_columns, device=concepts.device)

        def of_other_cells():
            return concepts[torch.randperm(len(concepts), device=concepts.device)]

        swapped = (uniform(1) < self.swapped_origin) & self.is_origin.to(concepts.device)
        share = 1 - uniform(len(self.sizes)) / 2
        share = share.repeat_interleave(torch.tensor(self.sizes, device=concepts.device), dim=1)
        own = torch.where(swapped, of_other_cells(), concepts)
        mixed = share * own + (1 - share) * of_other_cells()
        return torch.where(mixed.isnan() | concepts.isnan(), concepts, mixed)


def true_type_claims(rows: Dataset) -> list[Claim]:
    """Return the annotated cell type of each row as a claim."""
    return [label_claim("cell_type", *row) for row in zip(rows["cell_type"], rows["cell_type_ontology_term_id"])]


def claims_by_type_name(rows: Dataset) -> dict[str, Claim]:
    """Return the claim behind each annotated type name of the rows."""
    claims = zip(map(clean_label, rows["cell_type"]), true_type_claims(rows))
    return {name: claim for name, claim in claims if name}


def broader_types(types: list[Claim]) -> list[str]:
    """Return the labels of the Cell Ontology terms above the types, the types included.

    Terms above every type do not distinguish them and are omitted.
    """
    above = [ancestors(claim.term_id) if claim.term_id else frozenset() for claim in types]
    located = [terms for terms in above if terms]
    found = frozenset().union(*located) - frozenset.intersection(*located) if located else frozenset()
    return [label_of(term) for term in sorted(found)]


@lru_cache(maxsize=10_000)
def _labels_above(name: str, term_id: str | None) -> frozenset[str]:
    """Return the labels of a type's ancestors and its own; empty if the ontology lacks the type."""
    term = label_claim("cell_type", name, term_id).term_id if clean_label(name) else None
    return frozenset(label_of(above) for above in ancestors(term)) if term else frozenset()

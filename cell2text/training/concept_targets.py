"""Concept labels of the training cells: types at every level of the ontology, pathways, origin and kind of profile.

Concept pretraining learns all of them. The language model trains on the labels of the training cells rather than on the
projector's predictions (independent training of a concept bottleneck: Koh et al. 2020, arXiv 2007.04612).
"""

import logging
from collections.abc import Collection, Iterable, Mapping

import torch
from datasets import Dataset

from cell2text.evaluation.classification import label_claim
from cell2text.language.fields import ORIGIN_FIELDS, Claim
from cell2text.ontology.broader_terms import is_informative
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import clean_label, is_term, label_of
from cell2text.training.row_columns import column_values
from concepts_cell2text import ConceptNames
from statements_cell2text import ONE_CELL, PROFILE_GROUP, TYPES


logger = logging.getLogger(__name__)

ROOT = "CL:0000000"  # the type of a profile that shows no cell type
UNKNOWN = "unknown"  # a concept like any other: texts omit what is unknown about such cells
NAN = float("nan")
BATCH_ROWS = 10_000
PATHWAY_ACTIVITY = (1.0, 0.5)
# Columns that label the type of a row, and those that say which type its text states.
LABEL_COLUMNS = (
    TYPES, f"{TYPES}_ontology_term_id", f"second_{TYPES}", PROFILE_GROUP, f"stated_{TYPES}",
    f"stated_{TYPES}_ontology_term_id", "likely_subtype", "likely_subtype_probability",
)  # fmt: skip


class CellConcepts:
    """Names of concepts by group, and the targets of rows.

    Parameters
    ----------
    names
        Names as in `cell_concepts` of a model's configuration: `cell_type` under `hierarchical`; the groups of
        `ORIGIN_FIELDS` and `profile` under `multiclass`; `pathways` under `multilabel`. Models saved before types
        formed a hierarchy have `cell_type` under `multiclass`.
    """

    def __init__(self, names: dict[str, dict]):
        self.names = ConceptNames.from_dict(names)
        self.groups = self.names.groups
        self._above: dict[str, list[float]] = {}
        for group in self.names.hierarchical:
            above = self.names.ancestors(group).float().T.tolist()
            self._above |= dict(zip(self.groups[group], above))

    @classmethod
    def from_rows(cls, rows: Dataset) -> "CellConcepts":
        """Collect the concepts of rows with a `cell_type` and, optionally, `profile`, `pathways` and origin."""
        labelled = rows.select([index for index, name in enumerate(column_values(rows, TYPES)) if clean_label(name)])
        multiclass = {}
        for field in ORIGIN_FIELDS:
            if field in rows.column_names:
                multiclass[field] = sorted({clean_label(value) or UNKNOWN for value in column_values(labelled, field)})
        has_profiles = PROFILE_GROUP in rows.column_names
        kinds = {value or ONE_CELL for value in column_values(rows, PROFILE_GROUP)} if has_profiles else set()
        if len(kinds) > 1:
            multiclass[PROFILE_GROUP] = sorted({*kinds, ONE_CELL})
        pathways = column_values(rows, "pathways") if "pathways" in rows.column_names else ()
        active = sorted({name for names in pathways for name in names or ()})
        return cls(
            {
                "multiclass": {field: names for field, names in multiclass.items() if names != [UNKNOWN]},
                "multilabel": {"pathways": active} if active else {},
                "hierarchical": {TYPES: type_hierarchy([*claims_by_type_name(labelled).values()])},
            }
        )

    def to_dict(self) -> dict[str, dict]:
        """Return the names in the form of a configuration's `cell_concepts`."""
        return self.names.to_dict()

    def targets(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Return what the heads learn about rows.

        Returns
        -------
        By group a tensor of shape (n_rows, n_names). For cell types, the share of each name that labels the row: 1 for
        the type of one cell, a half for each of two cells in one profile, 1 for the root if the profile shows no type.
        For other groups, 1 or 0 per name. NaN if unknown.
        """
        return {group: torch.tensor([self._target(row, group) for row in rows]) for group in self.groups}

    def overrides(self, rows: list[dict]) -> torch.Tensor:
        """Return the concept probabilities behind the texts of rows, shape (n_rows, n_concepts); NaN if unknown.

        A stated cell type and all types above it have the probability 1. The types between it and a likely subtype have
        the probability that the text states. The first pathway has the value 1 and the second 0.5, so that the text
        states them in this order.
        """
        return torch.cat([torch.tensor([self._override(row, group) for row in rows]) for group in self.groups], dim=-1)

    def _override(self, row: Mapping, group: str) -> list[float]:
        if group in self.names.hierarchical:
            return self._stated_types(row, group)
        if group == "pathways" and self.names.hierarchical and row.get(group) is not None:
            activity = dict(zip(row[group], PATHWAY_ACTIVITY))
            return [activity.get(name, 0.0) for name in self.groups[group]]
        return self._target(row, group)

    def _target(self, row: Mapping, group: str) -> list[float]:
        names = self.groups[group]
        true: Collection[str]
        if group in self.names.hierarchical:
            labels = [name for name in self._type_labels(row) if name in names]
            return [labels.count(name) / len(labels) for name in names] if labels else [NAN] * len(names)
        if group == "pathways":
            true = row.get(group) or ()
        elif group == PROFILE_GROUP:
            true = {row.get(group) or ONE_CELL} & set(names)
        else:  # a missing column carries no label, not the label `unknown`
            true = {clean_label(row[group]) or UNKNOWN} & set(names) if group in row else ()
        return [float(name in true) for name in names] if true else [NAN] * len(names)

    def _type_labels(self, row: Mapping) -> list[str]:
        """Return the names that label the type of a row: one, two for two cells, the root for a profile without one."""
        own = type_name(row.get(TYPES), row.get(f"{TYPES}_ontology_term_id"))
        second = type_name(row.get(f"second_{TYPES}"), None)
        if own is None:
            return [] if (row.get(PROFILE_GROUP) or ONE_CELL) == ONE_CELL else [label_of(ROOT)]
        return [own] if second is None else [own, second]

    def _stated_types(self, row: Mapping, group: str) -> list[float]:
        named = type_name(
            row.get(f"stated_{TYPES}") or row.get(TYPES),
            row.get(f"stated_{TYPES}_ontology_term_id") or row.get(f"{TYPES}_ontology_term_id"),
        )
        names = self.groups[group]
        if named is None:
            no_type = (row.get(PROFILE_GROUP) or ONE_CELL) != ONE_CELL
            return self._above[label_of(ROOT)] if no_type and label_of(ROOT) in names else [0.0] * len(names)
        if named not in names:
            return [NAN] * len(names)
        certain = self._above[named]
        subtype = type_name(row.get("likely_subtype"), None)
        if subtype is None or subtype not in names:
            return certain
        share, place = float(row["likely_subtype_probability"]), names.index(named)
        above_subtype = dict(zip(names, self._above[subtype]))
        between = [share if above_subtype[name] and self._above[name][place] else 0.0 for name in names]
        return [max(pair) for pair in zip(certain, between)]


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
        needed = (*LABEL_COLUMNS, *ORIGIN_FIELDS, "pathways")
        columns = [name for name in needed if name in rows.column_names]
        profiles: dict[tuple, int] = {}  # far fewer than cells
        self.profile_of_cell: dict[str, int] = {}
        for part in rows.select_columns(["cell_id", *columns]).iter(BATCH_ROWS):
            values = zip(*(part[name] for name in columns))
            for cell_id, labels in zip(part["cell_id"], values):
                key = tuple(tuple(value) if isinstance(value, list) else value for value in labels)
                self.profile_of_cell[cell_id] = profiles.setdefault(key, len(profiles))
        distinct = [dict(zip(columns, labels)) for labels in profiles]
        types = set(concepts.groups[TYPES])
        named = {type_name(row[TYPES], row.get(f"{TYPES}_ontology_term_id")) for row in distinct}
        others = sorted(name for name in named if name and name not in types)
        if others:
            logger.warning(
                "%d cell types of these rows are not concepts of the model, so it cannot learn when to name them: %s. "
                "Train a new model to include them.", len(others), ", ".join(others),
            )  # fmt: skip
        self.profiles = concepts.overrides(distinct)

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
    columns = (column_values(rows, name) for name in (TYPES, f"{TYPES}_ontology_term_id"))
    return [label_claim(TYPES, *row) for row in zip(*columns)]


def claims_by_type_name(rows: Dataset) -> dict[str, Claim]:
    """Return the claim behind each annotated type name of the rows."""
    claims = zip(map(clean_label, column_values(rows, TYPES)), true_type_claims(rows))
    return {name: claim for name, claim in claims if name}


def type_name(name: str | None, term_id: str | None) -> str | None:
    """Return the name of the concept for a labelled type: the ontology's label, or the label itself without a term."""
    if not clean_label(name):
        return None
    return label_claim(TYPES, str(name), term_id).name


def type_hierarchy(types: list[Claim]) -> dict[str, list[str]]:
    """Return the labels of the Cell Ontology terms of the types and of all terms above them, each with its parents.

    The root comes first. A type without a term is directly below the root.

    Examples
    --------
    >>> hierarchy = type_hierarchy([Claim("T cell", "CL:0000084")])
    >>> hierarchy["T cell"], hierarchy["cell"]
    (['lymphocyte'], [])
    """
    graph = load_graph("CL")
    located = {claim.term_id for claim in types if is_term(TYPES, claim.term_id) and claim.term_id in graph}
    terms = {ROOT, *(above for term in located for above in graph.ancestors(str(term)))}
    order = sorted(terms, key=lambda term: (graph.depth(term), term))
    hierarchy = {label_of(term): [label_of(parent) for parent in graph.parents[term]] for term in order}
    others = sorted({claim.name for claim in types} - set(hierarchy))
    return hierarchy | {name: [label_of(ROOT)] for name in others}


def uninformative_types(names: Iterable[str]) -> list[str]:
    """Return the names that a text never states, because they hold for cells of nearly every kind."""
    graph = load_graph("CL")
    by_label = {label_of(term): term for term in graph.terms}
    return [name for name in names if name in by_label and not is_informative(by_label[name])]

"""What there is to tell of a run's cells, by name: types and the broader ones above them, pathways, and their origin.

The warm start learns these. Of a projector of `concepts` all but the broader types are what the language model reads,
and it learns to say them from what is true of the training cells (Koh et al. 2020, arXiv 2007.04612, call that
independent training of a concept bottleneck).
"""

from collections.abc import Collection
from functools import lru_cache

import torch
from datasets import Dataset
from transformers.utils import logging

from cell2text.evaluation.classification import label_claim
from cell2text.language.fields import ORIGIN_FIELDS, Claim
from cell2text.ontology.terms import ancestors, clean_label, label_of


logger = logging.get_logger(__name__)

BROADER_TYPES = "broader_cell_type"  # helps the encoder, but no text names them
UNKNOWN = "unknown"  # a name like any other: texts leave out what is not known of cells like these
NAN = float("nan")


class CellConcepts:
    """Names that rows give cells, and which of them are true of a row.

    Parameters
    ----------
    names
        As `cell_concepts` of a model's configuration. Under `multiclass` the `cell_type` and each field of
        `ORIGIN_FIELDS`; under `multilabel` the `pathways`, and `BROADER_TYPES`, labels of the Cell Ontology that types
        fall under.
    """

    def __init__(self, names: dict[str, dict[str, list[str]]]):
        self.names = names
        groups = {group: found for kind in names.values() for group, found in kind.items()}
        self.groups = {group: groups[group] for group in sorted(groups)}

    @classmethod
    def of(cls, rows: Dataset) -> "CellConcepts":
        """The concepts of rows with a `cell_type`, and of their `pathways` and origin where they have them."""
        labelled = rows.select([index for index, name in enumerate(rows["cell_type"]) if clean_label(name)])
        claim_of = claims_by_name(labelled)
        multiclass = {"cell_type": sorted(claim_of)}
        for field in ORIGIN_FIELDS:
            if field in rows.column_names:
                multiclass[field] = sorted({clean_label(value) or UNKNOWN for value in labelled[field]})
        scored = rows["pathways"] if "pathways" in rows.column_names else ()
        multilabel = {
            BROADER_TYPES: broader_types(list(claim_of.values())),
            "pathways": sorted({name for named in scored for name in named or ()}),
        }
        return cls(
            {
                "multiclass": {field: names for field, names in multiclass.items() if names != [UNKNOWN]},
                "multilabel": {group: names for group, names in multilabel.items() if names},
            }
        )

    def told(self) -> dict[str, dict[str, list[str]]]:
        """Names of what a text can tell, for the configuration of a model."""
        return {
            kind: {g: names for g, names in groups.items() if g != BROADER_TYPES} for kind, groups in self.names.items()
        }

    def truths(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """What is true of rows, by group: 1 or 0 for each name, NaN where that is unknown, shape (n_rows, n_names)."""
        return {group: torch.tensor([self._truth(row, group) for row in rows]) for group in self.groups}

    def _truth(self, row: dict, group: str) -> list[float]:
        names = self.groups[group]
        true: Collection[str]
        if group == BROADER_TYPES:
            true = labels_above(row["cell_type"], row["cell_type_ontology_term_id"])
        elif group == "pathways":
            true = row.get(group) or ()
        else:  # rows without this column tell nothing, not that it is unknown
            true = {clean_label(row[group]) or UNKNOWN} & set(names) if group in row else ()
        return [float(name in true) for name in names] if true else [NAN] * len(names)


class TrainingConceptOverrides:
    """What is true of a run's training cells, for the batches of a language model that learns to say it.

    Parameters
    ----------
    concepts
        Of the model.
    rows
        Rows with a `cell_id`; the first cell of each is what its columns tell of.
    """

    def __init__(self, concepts: CellConcepts, rows: Dataset):
        wanted = ("cell_type", "cell_type_ontology_term_id", *ORIGIN_FIELDS, "pathways")
        columns = [name for name in wanted if name in rows.column_names]
        kinds: dict[tuple, int] = {}  # far fewer than cells
        self.kind_of: dict[str, int] = {}
        for part in rows.select_columns(["cell_id", *columns]).iter(10_000):
            values = zip(*(part[name] for name in columns))
            for cell_id, kind in zip(part["cell_id"], values):
                key = tuple(tuple(value) if isinstance(value, list) else value for value in kind)
                self.kind_of[cell_id] = kinds.setdefault(key, len(kinds))
        one_of_each = [dict(zip(columns, kind)) for kind in kinds]
        named = {name for row in one_of_each if (name := clean_label(row["cell_type"]))}
        others = sorted(named - set(concepts.groups["cell_type"]))
        if others:
            logger.warning(
                "%d cell types of these rows are none of the model's concepts, so that nothing tells it when to say "
                "them: %s. To teach them, train a new model.", len(others), ", ".join(others),
            )  # fmt: skip
        truths = concepts.truths(one_of_each)
        self.kinds = torch.cat(list(truths.values()), dim=-1)

    def batch(self, examples: list[dict], n_cells: int) -> torch.Tensor:
        """Of the cells of examples, NaN for one that is none of the rows', shape (n_examples, n_cells, n_concepts)."""
        found = self.kinds.new_full((len(examples), n_cells, self.kinds.shape[-1]), NAN)
        for index, example in enumerate(examples):
            ids = (example.get("cell_id"), example.get("second_cell_id"))
            for slot, cell_id in enumerate(ids[: len(example["cells"])]):
                if cell_id in self.kind_of:
                    found[index, slot] = self.kinds[self.kind_of[cell_id]]
        return found


class ConceptAugmentation:
    """What is known of cells, made less sure and put together anew, so that a text says one group whatever the others.

    Of every group at least half is the cell's own and the rest another cell's: the text learns to say what is most
    probable. The origin of some cells is wholly that of another cell, which the text contradicts: it learns not to
    conclude the type from where cells of a study come from.

    Parameters
    ----------
    groups
        Names by group, in the order of the columns.
    swapped_origin
        Share of the cells that are given another cell's origin.
    """

    def __init__(self, groups: dict[str, list[str]], swapped_origin: float = 0.5):
        self.sizes = [len(names) for names in groups.values()]
        is_origin = torch.tensor([group in ORIGIN_FIELDS for group in groups])
        self.is_origin = is_origin.repeat_interleave(torch.tensor(self.sizes))
        self.swapped_origin = swapped_origin

    def __call__(self, known: torch.Tensor) -> torch.Tensor:
        """Concepts of shape (n_cells, n_concepts); what is NaN, or of another cell would be, stays as it was."""

        def drawn(n_columns):
            return torch.rand(len(known), n_columns, device=known.device)

        def another():
            return known[torch.randperm(len(known), device=known.device)]

        swapped = (drawn(1) < self.swapped_origin) & self.is_origin.to(known.device)
        share = 1 - drawn(len(self.sizes)) / 2
        share = share.repeat_interleave(torch.tensor(self.sizes, device=known.device), dim=1)
        own = torch.where(swapped, another(), known)
        mixed = share * own + (1 - share) * another()
        return torch.where(mixed.isnan() | known.isnan(), known, mixed)


def type_claims(rows: Dataset) -> list[Claim]:
    return [label_claim("cell_type", *row) for row in zip(rows["cell_type"], rows["cell_type_ontology_term_id"])]


def claims_by_name(rows: Dataset) -> dict[str, Claim]:
    """What the names of the rows' known types stand for."""
    claims = zip(map(clean_label, rows["cell_type"]), type_claims(rows))
    return {name: claim for name, claim in claims if name}


def broader_types(types: list[Claim]) -> list[str]:
    """Labels of the terms of the Cell Ontology above types, their own among them.

    Terms above all of the types tell nothing and are left out.
    """
    above = [ancestors(claim.term_id) if claim.term_id else frozenset() for claim in types]
    located = [terms for terms in above if terms]
    found = frozenset().union(*located) - frozenset.intersection(*located) if located else frozenset()
    return [label_of(term) for term in sorted(found)]


@lru_cache(maxsize=10_000)
def labels_above(name: str, term_id: str | None) -> frozenset[str]:
    """Labels of the terms that a type is a kind of, its own among them; none where the ontology does not know it."""
    term = label_claim("cell_type", name, term_id).term_id if clean_label(name) else None
    return frozenset(label_of(above) for above in ancestors(term)) if term else frozenset()

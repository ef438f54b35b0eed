"""Consensus of a group's descriptions: one value per field, and how far the cells agree.

The cell type follows from the probabilities of all types if the model's types form a hierarchy; see `group_types`. The
other fields, and the types of other models, are the values that most cells name. A second description, of the group's
summed counts (the pseudobulk), stands beside the consensus. Depends on `table` for column names, on `language` for
fields and sentences, and on the ontology graphs.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

import pandas as pd
import pyarrow as pa

from cell2text.describe.evidence import EVIDENCE
from cell2text.describe.group_types import GroupType, GroupTypes
from cell2text.describe.groups import Groups
from cell2text.describe.table import (
    EMBEDDING,
    ID,
    TEXT,
    TYPE_PROBABILITIES,
    candidates_text,
    described_columns,
    output_names,
    type_probability_matrix,
)
from cell2text.evidence.statements import type_evidence
from cell2text.language.described import CANDIDATES, EVIDENCE_GENES, has_description
from cell2text.language.fields import FIELD_GRAPHS, FIELDS, TERM_FIELDS
from cell2text.language.writing import describe_row
from cell2text.ontology.graph import load_graph


FLOAT_COLUMNS = ("_probability", "_agreement", "_disagree")
CELL_TYPE = "cell_type"
N_EVIDENCE_GENES = 5  # of a group
MIN_PATHWAY_SHARE = 0.5  # of the described cells that name a pathway


@dataclass
class GroupDescriptions:
    """Counts of the fields that the descriptions of one group's cells name."""

    n_described: int = 0
    n_with_probability: int = 0  # described cells with a type probability
    probability_sum: float = 0.0
    values: dict[str, Counter] = field(default_factory=lambda: {name: Counter() for name in FIELDS})
    pathways: Counter = field(default_factory=Counter)
    evidence: dict[str, Counter] = field(default_factory=dict)  # cells by gene, for each named cell type

    def add(self, row: dict) -> None:
        """Count one cell that has a description."""
        self.n_described += 1
        if row.get("type_probability") is not None:
            self.n_with_probability += 1
            self.probability_sum += row["type_probability"]
        for name in FIELDS:
            if row[name] is not None:
                self.values[name][row[name], row.get(f"{name}_ontology_term_id")] += 1
        if row.get(EVIDENCE) and row[CELL_TYPE] is not None:
            key = row.get(f"{CELL_TYPE}_ontology_term_id") or row[CELL_TYPE].casefold()
            genes = type_evidence(row[EVIDENCE], row[CELL_TYPE])
            self.evidence.setdefault(key, Counter()).update(genes)
        self.pathways.update((row["pathways"] or "").split("; ") if row["pathways"] else ())

    def consensus(self, group_type: GroupType | None = None) -> dict:
        """Return one value per field, and how far the cells agree.

        Parameters
        ----------
        group_type
            Cell type of the group from the probabilities of all types. By default, the type that most cells name.

        Returns
        -------
        `n_described` and `mean_type_probability`; per field its value and ontology term; `_n`, the number of cells that
        name the field; `_agreement`, the fraction of pairs of these cells that name the same value; `_disagree`, the
        fraction of these cells that name neither this value nor a broader or narrower term; and `pathways`, those that
        at least half of the described cells name. With a `group_type` also `majority_cell_type`, which most cells name,
        `type_probability`, `cell_type_candidates`, `heterogeneous` and `heterogeneity`. With evidence also
        `evidence_genes`: the genes that are evidence for this type, or for one above or below it, in most cells.
        """
        row: dict = {"n_described": self.n_described}
        row["mean_type_probability"] = (
            self.probability_sum / self.n_with_probability if self.n_with_probability else None
        )
        for name in FIELDS:
            of_probabilities = group_type if name == CELL_TYPE else None
            row |= {f"{name}{suffix}": value for suffix, value in self._field_consensus(name, of_probabilities).items()}
        if group_type is not None:
            counts, spellings, _ = self._counts(CELL_TYPE)
            row |= {
                "majority_cell_type": _most_common(spellings[_most_common(counts)]) if counts else None,
                "type_probability": group_type.probability,
                CANDIDATES: candidates_text(group_type.candidates),
                "heterogeneous": group_type.heterogeneity is not None,
                "heterogeneity": group_type.heterogeneity,
            }
        if self.evidence:
            row[EVIDENCE_GENES] = self._evidence_genes(row)
        least = MIN_PATHWAY_SHARE * self.n_described
        row["pathways"] = [pathway for pathway, n in sorted(self.pathways.items()) if n >= least]
        return row

    def _evidence_genes(self, row: dict) -> str | None:
        """Return the most frequent evidence genes of the group's type and related ones, None without a type."""
        if row[CELL_TYPE] is None:
            return None
        own = row[f"{CELL_TYPE}_ontology_term_id"] or row[CELL_TYPE].casefold()
        related = [genes for key, genes in self.evidence.items() if key == own or _related(CELL_TYPE, key, own)]
        counts: Counter = sum(related, Counter())
        return "; ".join(sorted(counts, key=lambda gene: (-counts[gene], gene))[:N_EVIDENCE_GENES]) or None

    def _counts(self, name: str) -> tuple[Counter, dict[str, Counter], set]:
        """Return the number of cells per value, its spellings, and the terms; a value is its term if it has one."""
        counts: Counter = Counter()
        spellings: dict[str, Counter] = {}
        for (value, term), n in self.values[name].items():
            key = term or value.casefold()
            counts[key] += n
            spellings.setdefault(key, Counter())[value] += n
        return counts, spellings, {term for _, term in self.values[name]}

    def _field_consensus(self, name: str, group_type: GroupType | None) -> dict:
        counts, spellings, terms = self._counts(name)
        total, winner = counts.total(), _most_common(counts) if counts else None
        value = None if winner is None else _most_common(spellings[winner])
        term = winner if winner in terms else None
        if group_type is not None:
            value, term = group_type.name, group_type.term_id
            winner = term or (value and value.casefold())
        found: dict = {"": value} | ({"_ontology_term_id": term} if name in TERM_FIELDS else {}) | {"_n": total}
        equal_pairs = sum(n * (n - 1) for n in counts.values())
        against = sum(n for other, n in counts.items() if other != winner and not _related(name, other, winner))
        found["_agreement"] = equal_pairs / (total * (total - 1)) if total > 1 else None
        found["_disagree"] = against / total if total and winner is not None else None
        return found


def describe_groups(
    groups: Groups, tables: Iterable[pa.Table], pseudobulk: pa.Table, types: GroupTypes | None = None
) -> pd.DataFrame:
    """Return one row per group.

    Parameters
    ----------
    groups
        The groups of all cells.
    tables
        Rows of all cells, in their order, in any number of tables; see :mod:`cell2text.describe.table`.
    pseudobulk
        One row per group: the description of its summed counts.
    types
        Sums of the cells' type probabilities; tables with a column of them are added. None for models without
        hierarchical cell types, whose groups get the type that most cells name.

    Returns
    -------
    Columns `group` and `n_cells`; `text`, the consensus as sentences; the columns of
    :meth:`GroupDescriptions.consensus`, `pathways` joined with `; `; and the columns of `pseudobulk` with the prefix
    `pseudobulk_`. Texts are left out if the tables have none.
    """
    descriptions, start = [GroupDescriptions() for _ in groups.names], 0
    for table in tables:
        codes, described = groups.codes[start : start + table.num_rows], has_description(described_columns(table))
        rows_of_table = table.select(output_names(table.schema)).to_pylist()
        for code, is_described, row in zip(codes, described, rows_of_table):
            if code >= 0 and is_described:
                descriptions[code].add(row)
        if types is not None and TYPE_PROBABILITIES in table.column_names:
            types.add(codes, type_probability_matrix(table))
        start += table.num_rows
    group_types = [None] * len(groups.names) if types is None else types.decide()
    bulks, rows = pseudobulk.select(output_names(pseudobulk.schema)).to_pylist(), []
    for name, size, of_group, group_type, bulk in zip(groups.names, groups.sizes, descriptions, group_types, bulks):
        consensus = of_group.consensus(group_type)
        text = {TEXT: describe_row(consensus) or ""} if TEXT in bulk else {}
        consensus["pathways"] = "; ".join(consensus["pathways"]) or None
        bulk = {f"pseudobulk_{column}": value for column, value in bulk.items() if column not in (ID, EMBEDDING)}
        rows.append({"group": name, "n_cells": int(size), **text, **consensus, **bulk})
    frame = pd.DataFrame(rows)
    return frame.astype({name: float for name in frame if name.endswith(FLOAT_COLUMNS)})  # also all-missing columns


def _most_common(counts: Counter) -> str:
    """Return the most frequent key; ties go to the first in alphabetical order."""
    return min(counts, key=lambda value: (-counts[value], value))


@cache
def _related(name: str, term: str, other: str) -> bool:
    """Return whether one term is an ancestor of the other; False for fields without an ontology."""
    return name in FIELD_GRAPHS and load_graph(FIELD_GRAPHS[name]).related(term, other)

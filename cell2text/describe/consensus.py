"""Consensus of a group's descriptions: the value that most cells name per field, and how far the cells agree.

A second description, of the group's summed counts (the pseudobulk), stands beside the consensus. Depends on `table` for
column names, on `language` for fields and sentences, and on the ontology graphs.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

import pandas as pd
import pyarrow as pa

from cell2text.describe.groups import Groups
from cell2text.describe.table import EMBEDDING, ID, TEXT, described_columns
from cell2text.language.described import has_description
from cell2text.language.fields import FIELD_GRAPHS, FIELDS, TERM_FIELDS
from cell2text.language.writing import describe_row
from cell2text.ontology.graph import load_graph


FLOAT_COLUMNS = ("_probability", "_agreement", "_disagree")
MIN_PATHWAY_SHARE = 0.5  # of the described cells that name a pathway


@dataclass
class GroupDescriptions:
    """Counts of the fields that the descriptions of one group's cells name."""

    n_described: int = 0
    n_with_probability: int = 0  # described cells with a type probability
    probability_sum: float = 0.0
    values: dict[str, Counter] = field(default_factory=lambda: {name: Counter() for name in FIELDS})
    pathways: Counter = field(default_factory=Counter)

    def add(self, row: dict) -> None:
        """Count one cell that has a description."""
        self.n_described += 1
        if row.get("type_probability") is not None:
            self.n_with_probability += 1
            self.probability_sum += row["type_probability"]
        for name in FIELDS:
            if row[name] is not None:
                self.values[name][row[name], row.get(f"{name}_ontology_term_id")] += 1
        self.pathways.update((row["pathways"] or "").split("; ") if row["pathways"] else ())

    def consensus(self) -> dict:
        """Return the most frequent value per field, and how far the cells agree.

        Returns
        -------
        `n_described` and `mean_type_probability`; per field its value and ontology term; `_n`, the number of cells that
        name the field; `_agreement`, the fraction of pairs of these cells that name the same value; `_disagree`, the
        fraction of these cells that name neither this value nor a broader or narrower term; and `pathways`, those that
        at least half of the described cells name.
        """
        row: dict = {"n_described": self.n_described}
        row["mean_type_probability"] = (
            self.probability_sum / self.n_with_probability if self.n_with_probability else None
        )
        for name in FIELDS:
            row |= {f"{name}{suffix}": value for suffix, value in self._field_consensus(name).items()}
        least = MIN_PATHWAY_SHARE * self.n_described
        row["pathways"] = [pathway for pathway, n in sorted(self.pathways.items()) if n >= least]
        return row

    def _field_consensus(self, name: str) -> dict:
        counts: Counter = Counter()
        spellings: dict[str, Counter] = {}
        for (value, term), n in self.values[name].items():
            key = term or value.casefold()
            counts[key] += n
            spellings.setdefault(key, Counter())[value] += n
        terms = {term for _, term in self.values[name]}
        term_column: dict = {"_ontology_term_id": None} if name in TERM_FIELDS else {}
        if not counts:
            return {"": None, **term_column, "_n": 0, "_agreement": None, "_disagree": None}
        total, winner = counts.total(), _most_common(counts)
        equal_pairs = sum(n * (n - 1) for n in counts.values())
        against = sum(n for other, n in counts.items() if other != winner and not _related(name, other, winner))
        if term_column and winner in terms:
            term_column["_ontology_term_id"] = winner
        return {
            "": _most_common(spellings[winner]),
            **term_column,
            "_n": total,
            "_agreement": equal_pairs / (total * (total - 1)) if total > 1 else None,
            "_disagree": against / total,
        }


def describe_groups(groups: Groups, tables: Iterable[pa.Table], pseudobulk: pa.Table) -> pd.DataFrame:
    """Return one row per group.

    Parameters
    ----------
    groups
        The groups of all cells.
    tables
        Rows of all cells, in their order, in any number of tables; see :mod:`cell2text.describe.table`.
    pseudobulk
        One row per group: the description of its summed counts.

    Returns
    -------
    Columns `group` and `n_cells`; `text`, the consensus as sentences; the columns of
    :meth:`GroupDescriptions.consensus`, `pathways` joined with `; `; and the columns of `pseudobulk` with the prefix
    `pseudobulk_`. Texts are left out if the tables have none.
    """
    descriptions, start = [GroupDescriptions() for _ in groups.names], 0
    for table in tables:
        codes, described = groups.codes[start : start + table.num_rows], has_description(described_columns(table))
        for code, is_described, row in zip(codes, described, table.to_pylist()):
            if code >= 0 and is_described:
                descriptions[code].add(row)
        start += table.num_rows
    rows = []
    for name, size, of_group, bulk in zip(groups.names, groups.sizes, descriptions, pseudobulk.to_pylist()):
        consensus = of_group.consensus()
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

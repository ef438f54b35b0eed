"""Groups of cells, such as clusters: what most cells say, how far they agree, and what their counts say as one.

texts of a group's cells, or of some of them -> the value that most name, per field -> one text
counts of all its cells, summed (the pseudobulk) -> one more description, of the group as if it were a cell
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp

from cell2text.describe.engine import EMBEDDING, ID, TEXT
from cell2text.errors import UserError
from cell2text.language.fields import FIELD_GRAPHS, FIELDS
from cell2text.language.writing import describe_row
from cell2text.ontology.graph import load_graph


MOST_GROUPS = 1_000
NUMBERS = ("_confidence", "_probability", "_agreement", "_disagree")
PATHWAY_SHARE = 0.5  # of the cells that must name a pathway for the group to have it


@dataclass(frozen=True)
class Groups:
    """Which group each cell of an experiment is in.

    Parameters
    ----------
    column
        Column of `obs`.
    names
        The groups, in their order.
    codes
        Number of each cell's group, -1 for a cell without one, shape (n_cells,).
    drawn
        Which cells get a text, shape (n_cells,).
    """

    column: str
    names: list[str]
    codes: np.ndarray
    drawn: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Cells of each group, shape (n_groups,)."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))

    def summary(self) -> dict[str, int | str]:
        return {
            "column": self.column,
            "groups": len(self.names),
            "cells_without_group": int((self.codes < 0).sum()),
            "cells_without_text": int((~self.drawn).sum()),
        }

    def add_counts(self, sums: np.ndarray, start: int, block: sp.csr_matrix) -> None:
        """Add the counts of a range of cells to those of their groups, `sums` of shape (n_groups, n_genes)."""
        codes = self.codes[start : start + block.shape[0]]
        rows = np.flatnonzero(codes >= 0)
        there, places = np.unique(codes[rows], return_inverse=True)
        members = sp.csr_matrix((np.ones(len(rows)), (places, rows)), shape=(len(there), block.shape[0]))
        sums[there] += (members @ block.astype(np.float64)).toarray()


def find_groups(values: pd.Series, column: str, cells_per_group: int | None, seed: int) -> Groups:
    """The groups of a column, and the cells of each that get a text.

    Parameters
    ----------
    values
        The column, one value a cell.
    cells_per_group
        Cells that are drawn from each group; all, and those without a group, if None.

    Raises
    ------
    ValueError
        If the column names no group, or so many that it is no grouping.
    """
    present = values.notna().to_numpy()
    texts = values.astype(str).to_numpy(dtype=object)
    names = sorted({text for text, there in zip(texts, present) if there}, key=natural)
    if not names:
        raise UserError(f"groupby={column!r}: none of the {len(values):,} cells has a value.")
    if len(names) > MOST_GROUPS:
        raise UserError(
            f"groupby={column!r}: {len(names):,} values for {len(values):,} cells, expected at most {MOST_GROUPS:,} "
            "groups: choose a column of clusters or labels."
        )
    numbers = {name: number for number, name in enumerate(names)}
    codes = np.array([numbers[text] if there else -1 for text, there in zip(texts, present)], dtype=np.int32)
    if cells_per_group is None:
        return Groups(column, names, codes, np.ones(len(codes), dtype=bool))
    drawn, random = np.zeros(len(codes), dtype=bool), np.random.default_rng(seed)
    for number in range(len(names)):
        members = np.flatnonzero(codes == number)
        drawn[random.choice(members, min(cells_per_group, len(members)), replace=False)] = True
    return Groups(column, names, codes, drawn)


def natural(name: str) -> tuple:
    """Numbers by size, before words by letters."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


@dataclass
class Tally:
    """What the cells of one group said."""

    described: int = 0
    confidence: float = 0.0
    type_told: int = 0  # of them those whose type's probability the model tells
    type_probability: float = 0.0
    values: dict[str, Counter] = field(default_factory=lambda: {name: Counter() for name in FIELDS})
    pathways: Counter = field(default_factory=Counter)

    def add(self, row: dict) -> None:
        if row["confidence"] is None:  # not asked, or without counts
            return
        self.described += 1
        self.confidence += row["confidence"]
        if row.get("type_probability") is not None:
            self.type_told += 1
            self.type_probability += row["type_probability"]
        for name in FIELDS:
            if row[name] is not None:
                self.values[name][row[name], row.get(f"{name}_ontology_term_id")] += 1
        self.pathways.update((row["pathways"] or "").split("; ") if row["pathways"] else ())

    def consensus(self) -> dict:
        """What most say of each field, and how far they agree.

        Returns
        -------
        Of each field its value and term; `_n`, cells that name it; `_agreement`, the share of pairs of these that say
        the same; `_disagree`, the share of these that say something else, where in an ontology a broader or a narrower
        term is nothing else.
        """
        row: dict = {"n_described": self.described}
        row["mean_confidence"] = self.confidence / self.described if self.described else None
        row["mean_type_probability"] = self.type_probability / self.type_told if self.type_told else None
        for name in FIELDS:
            row |= {f"{name}{ending}": value for ending, value in self._field(name).items()}
        row["pathways"] = [
            pathway for pathway, n in sorted(self.pathways.items()) if n >= PATHWAY_SHARE * self.described
        ]
        return row

    def _field(self, name: str) -> dict:
        counts: Counter = Counter()
        names: dict[str, Counter] = {}
        for (value, term), n in self.values[name].items():
            key = term or value.casefold()
            counts[key] += n
            names.setdefault(key, Counter())[value] += n
        terms = {term for _, term in self.values[name]}
        with_terms: dict = {} if name == "life_stage" else {"_ontology_term_id": None}
        if not counts:
            return {"": None, **with_terms, "_n": 0, "_agreement": None, "_disagree": None}
        total, most = counts.total(), most_common(counts)
        pairs = sum(n * (n - 1) for n in counts.values())
        against = sum(n for other, n in counts.items() if other != most and not related(name, other, most))
        if with_terms and most in terms:
            with_terms["_ontology_term_id"] = most
        return {
            "": most_common(names[most]),
            **with_terms,
            "_n": total,
            "_agreement": pairs / (total * (total - 1)) if total > 1 else None,
            "_disagree": against / total,
        }


def most_common(counts: Counter) -> str:
    """The most frequent; of several the first, terms by their ids and names by letters."""
    return min(counts, key=lambda value: (-counts[value], value))


@cache
def related(name: str, value: str, other: str) -> bool:
    """Whether one term is broader than the other; never without an ontology."""
    return name in FIELD_GRAPHS and load_graph(FIELD_GRAPHS[name]).related(value, other)


def describe_groups(groups: Groups, tables: Iterable[pa.Table], pseudobulk: pa.Table) -> pd.DataFrame:
    """One row a group.

    Parameters
    ----------
    tables
        Rows of all cells, a range at a time, in their order.
    pseudobulk
        Rows of the groups' summed counts.

    Returns
    -------
    Columns: `group`, `n_cells`, `n_described`, `mean_confidence`, `mean_type_probability`; `text`, the consensus in
    words; what :meth:`Tally.consensus` gives; `pathways` that at least half of the described cells name; and what was
    said of the pseudobulk, as `pseudobulk_text` and so on. Texts are left out where the run leaves them out.
    """
    tallies, start = [Tally() for _ in groups.names], 0
    for table in tables:
        codes = groups.codes[start : start + table.num_rows]
        for code, row in zip(codes, table.to_pylist()):
            if code >= 0:
                tallies[code].add(row)
        start += table.num_rows
    rows = []
    for name, size, tally, whole in zip(groups.names, groups.sizes, tallies, pseudobulk.to_pylist()):
        said = tally.consensus()
        text = {TEXT: describe_row(said) or ""} if TEXT in whole else {}
        said["pathways"] = "; ".join(said["pathways"]) or None
        kept = {key: value for key, value in whole.items() if key not in (ID, EMBEDDING)}
        rows.append(
            {"group": name, "n_cells": int(size), **text, **said} | {f"pseudobulk_{k}": v for k, v in kept.items()}
        )
    table = pd.DataFrame(rows)
    return table.astype({name: float for name in table if name.endswith(NUMBERS)})  # where all are missing, too

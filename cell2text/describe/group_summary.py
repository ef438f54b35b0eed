"""Summarise each group in one paragraph: consensus, candidates, agreement, pathways and marker genes.

Depends on the columns of `consensus` and on the controlled language's articles and pathway names.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from cell2text.describe.consensus import describe_groups
from cell2text.describe.engine import Describer
from cell2text.describe.group_markers import group_markers
from cell2text.describe.group_types import GroupTypes
from cell2text.describe.inputs import CellReader
from cell2text.errors import UserError
from cell2text.language.described import CANDIDATES, EVIDENCE_GENES, MARKERS, SUMMARY
from cell2text.ontology.graph import load_graph
from grammar_cell2text import enumeration, with_article


def group_table(describer: Describer, cells: CellReader, tables, types: GroupTypes | None = None) -> pd.DataFrame:
    """Return the table of groups of an experiment, with marker genes and summaries.

    Parameters
    ----------
    describer
        Describes the summed counts of the groups.
    cells
        Reader of all cells, whose `groups` are described.
    tables
        Rows of all cells in their order; see :func:`cell2text.describe.consensus.describe_groups`.
    types
        Sums of the cells' type probabilities if `tables` lack them.

    Raises
    ------
    UserError
        If the reader has no groups.
    """
    groups = cells.groups
    if groups is None:
        raise UserError("The cells are not grouped. Pass groupby='COLUMN'.")
    types = types or GroupTypes.of_model(describer.model.config, len(groups.names))
    frame = describe_groups(groups, tables, describer(cells.pseudobulk(groups)), types)
    markers = group_markers(cells, groups, seed=cells.options.seed)
    if markers is not None:
        frame[MARKERS] = ["; ".join(genes) or None for genes in markers]
    frame[SUMMARY] = summarise_groups(frame, groups.column)
    return frame


def summarise_groups(
    frame: pd.DataFrame, column: str, *, evidence: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """Return one paragraph per group.

    Parameters
    ----------
    frame
        Table of groups, as :func:`cell2text.describe.consensus.describe_groups` returns it, with an optional column
        `marker_genes`.
    column
        Name of the column of `obs` that defines the groups.
    evidence
        Genes that carry the named type of a group, by group name. Defaults to the column `evidence_genes`, which the
        table has if the cells were described with evidence.

    Examples
    --------
    >>> row = {"group": "3", "n_cells": 40, "n_described": 38, "cell_type": "T cell", "cell_type_n": 36}
    >>> frame = pd.DataFrame([row | {"cell_type_disagree": 0.0, "marker_genes": "CD3D; IL32"}])
    >>> summarise_groups(frame, "leiden")[0]  # doctest: +NORMALIZE_WHITESPACE
    'Group 3 of leiden (40 cells) is most likely a T cell. 36 of 38 described cells name a type, and all of these agree
    with it. It expresses CD3D and IL32 more than the other groups.'
    """
    evidence = evidence or {}
    return [
        _summary(row, column, evidence.get(row["group"]) or str(_value(row, EVIDENCE_GENES) or "").split("; "))
        for row in frame.astype(object).to_dict(orient="records")
    ]


def _summary(row: Mapping, column: str, evidence: Sequence[str]) -> str:
    sentences = (
        _type_sentence(row, column),
        _candidate_sentence(row),
        _agreement_sentence(row),
        _value(row, "heterogeneity"),
        _pseudobulk_sentence(row),
        _pathway_sentence(row),
        f"The model's evidence for it is {enumeration(evidence)}."
        if any(evidence) and _value(row, "cell_type")
        else None,
        _marker_sentence(row),
    )
    return " ".join(sentence for sentence in sentences if sentence)


def _type_sentence(row: Mapping, column: str) -> str:
    group = f"Group {row['group']} of {column} ({_count(row['n_cells'])})"
    cell_type, probability = _value(row, "cell_type"), _value(row, "type_probability")
    if cell_type is None:
        return f"{group} has no cell type."
    stated = "" if probability is None else f", with a probability of {probability:.2f}"
    return f"{group} is most likely {with_article(cell_type)}{stated}."


def _candidate_sentence(row: Mapping) -> str | None:
    candidates = _value(row, CANDIDATES)
    if candidates is None:
        return None
    where = "below it" if _value(row, "cell_type") else "overall"
    names = candidates.split("; ")
    nouns = "type {} is" if len(names) == 1 else "types {} are"
    return f"The most probable {nouns.format(where)} {enumeration(names)}."


def _agreement_sentence(row: Mapping) -> str | None:
    n, described = row["cell_type_n"], row["n_described"]
    if not described:
        return "None of its cells has a description."
    start = f"{n:,} of {_count(described, 'described cell')} {'names' if described == 1 else 'name'} a type"
    against = _value(row, "cell_type_disagree")
    if against is None:
        return f"{start}."
    share = "all of these agree with it" if not against else f"{against:.0%} of these contradict it".replace("%", " %")
    return f"{start}, and {share}."


def _pseudobulk_sentence(row: Mapping) -> str | None:
    """State what the summed counts are described as, if that contradicts the consensus."""
    named, term = _value(row, "pseudobulk_cell_type"), _value(row, "pseudobulk_cell_type_ontology_term_id")
    own = _value(row, "cell_type_ontology_term_id")
    if own is None or term is None or load_graph("CL").related(own, term):
        return None
    return f"Its summed counts are described as {with_article(named)} instead."


def _pathway_sentence(row: Mapping) -> str | None:
    pathways = _value(row, "pathways")
    return pathways and f"At least half of its described cells name {enumeration(pathways.split('; '))} as most active."


def _marker_sentence(row: Mapping) -> str | None:
    markers = _value(row, MARKERS)
    return markers and f"It expresses {enumeration(markers.split('; '))} more than the other groups."


def _value(row: Mapping, name: str):
    """Return a value of a row, None if it is missing."""
    value = row.get(name)
    return None if value is None or pd.isna(value) or value == "" else value


def _count(n: int, noun: str = "cell") -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"

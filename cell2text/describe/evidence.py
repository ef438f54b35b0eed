"""Add evidence to described cells: a column of genes per statement, missing markers, and sentences in the text.

Depends on `cell2text.evidence`, which finds the genes, and on `table` for column names.
"""

from collections.abc import Iterable, Sequence

import pandas as pd
import pyarrow as pa

from cell2text.describe.ranked_cells import RankedCells
from cell2text.describe.table import TEXT
from cell2text.evidence.explainer import Explainer
from cell2text.evidence.statements import (
    StatementEvidence,
    evidence_sentences,
    format_evidence,
    read_evidence,
    statements_of,
)
from cell2text.language.parsing import read_fields
from declining_cell2text import is_description


EVIDENCE, ABSENT_MARKERS = "evidence", "absent_markers"
EVIDENCE_COLUMNS = (EVIDENCE, ABSENT_MARKERS)
FRAME_COLUMNS = (
    "cell_id", "field", "value", "ontology_term_id", "role", "gene", "contribution", "measure", "rank", "is_marker",
)  # fmt: skip
SUMMARY_COLUMNS = ("statement", "gene", "n_cells", "mean_contribution", "is_marker")


class EvidenceFinder:
    """Find the evidence for described cells.

    Parameters
    ----------
    model, processor
        A Cell2Text model on its device, and its processor.
    conversation
        The prompt of the texts.
    n_genes
        Number of genes per statement.
    in_text
        Add sentences that name the genes to the texts.
    """

    def __init__(self, model, processor, conversation: list[dict], n_genes: int, *, in_text: bool = False):
        self.explainer, self.in_text = Explainer(model, processor, conversation, n_genes=n_genes), in_text

    def __call__(self, cells: RankedCells, texts: Sequence[str | None]) -> list[list[StatementEvidence]]:
        """Return the evidence of each cell; none for cells without a description."""
        rows = [row for row, text in enumerate(texts) if text is not None and is_description(text)]
        described = [str(texts[row]) for row in rows]
        own = cells.own_evidence
        found = self.explainer(
            [cells.cells[row] for row in rows], described, [statements_of(read_fields(text)) for text in described],
            None if own is None else [own[row] for row in rows], cells.measured,
            None if cells.expressed is None else [cells.expressed[row] for row in rows],
        )  # fmt: skip
        by_row = dict(zip(rows, found))
        return [by_row.get(row, []) for row in range(len(texts))]

    def add(self, table: pa.Table, cells: RankedCells, texts: Sequence[str | None]) -> pa.Table:
        """Return a table of described cells with the columns `EVIDENCE_COLUMNS`, and with sentences in its texts."""
        found = self(cells, texts)
        absent = [
            next((", ".join(one.absent_markers) for one in of_cell if one.absent_markers), None) for of_cell in found
        ]
        if self.in_text and TEXT in table.column_names:
            extended = [
                f"{text} {sentences}" if (sentences := evidence_sentences(of_cell)) and text.endswith(".") else text
                for text, of_cell in zip(table[TEXT].to_pylist(), found)
            ]
            table = table.set_column(table.column_names.index(TEXT), TEXT, pa.array(extended, pa.string()))
        table = table.append_column(EVIDENCE, pa.array(map(format_evidence, found), pa.string()))
        return table.append_column(ABSENT_MARKERS, pa.array(absent, pa.string()))


def evidence_frame(names: Sequence[str], evidence: Sequence[Sequence[StatementEvidence]]) -> pd.DataFrame:
    """Return the evidence of cells as a long table.

    Parameters
    ----------
    names
        Name of each cell.
    evidence
        Evidence of each cell, as :class:`EvidenceFinder` returns it.

    Returns
    -------
    Columns of :func:`cell2text.tl.explain`.
    """
    rows: list[tuple] = []
    for name, of_cell in zip(names, evidence):
        for one in of_cell:
            statement = (str(name), one.statement.field, one.statement.value, one.statement.term_id)
            rows += [
                (*statement, "evidence", gene.gene, gene.contribution, one.measure, gene.rank or None, gene.is_marker)
                for gene in one.genes
            ]
            for role, genes in (("present marker", one.present_markers), ("absent marker", one.absent_markers)):
                rows += [(*statement, role, gene, None, None, None, True) for gene in genes]
    frame = pd.DataFrame(rows, columns=list(FRAME_COLUMNS))
    return frame.astype({"contribution": float, "rank": "Int64", "is_marker": bool})


def summarise_evidence(tables: Iterable[pa.Table]) -> pd.DataFrame | None:
    """Return how often each gene is evidence for each stated value, None for tables without evidence.

    Returns
    -------
    One row per stated value and gene, the most frequent gene first: `statement`, `gene`, `n_cells`,
    `mean_contribution` over these cells, and `is_marker`.
    """
    found: dict[tuple[str, str], list] = {}
    known = False
    for table in tables:
        if EVIDENCE not in table.column_names:
            continue
        known = True
        for line in table[EVIDENCE].drop_null().to_pylist():
            for value, genes in read_evidence(line):
                for gene in genes:
                    entry = found.setdefault((value, gene.gene), [0, 0.0, gene.is_marker])
                    entry[0], entry[1] = entry[0] + 1, entry[1] + gene.contribution
    if not known:
        return None
    rows = [(value, gene, n, round(total / n, 4), marker) for (value, gene), (n, total, marker) in found.items()]
    rows.sort(key=lambda row: (row[0], -row[2], -row[3], row[1]))
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))

"""AnnData to dataset rows: ranked cells, a chat, and the metadata columns."""

from dataclasses import dataclass

from datasets import Dataset, Features, List, Value

from cell2text.data.descriptions import describe_row, known
from processing_cell2text import Cell2TextProcessor
from ranking_cell2text import RankingReport


METADATA_COLUMNS = (
    "cell_type",
    "cell_type_ontology_term_id",
    "tissue",
    "disease",
    "sex",
    "development_stage",
    "donor_id",
    "dataset_id",
)


@dataclass
class RowsReport:
    """What became of a file's cells on the way to rows.

    Parameters
    ----------
    ranking
        What became of the genes and counts.
    n_rows
        Rows built.
    dropped
        Cells without a row, by the reason.
    """

    ranking: RankingReport
    n_rows: int
    dropped: dict[str, int]

    def __str__(self) -> str:
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count)
        return f"{self.n_rows:,} rows{f' (dropped: {dropped})' if dropped else ''}. {self.ranking}"


def row_features(processor: Cell2TextProcessor) -> Features:
    """Types of the rows' columns."""
    message = {"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})}
    return Features(
        {
            "cell_id": Value("string"),
            "cells": List(List(Value(str(processor.gene_vocabulary.dtype)))),
            "prompt": List(message),
            "completion": List(message),
            **{name: Value("string") for name in METADATA_COLUMNS},
        }
    )


def build_rows(
    adata,
    processor: Cell2TextProcessor,
    *,
    layer: str | None = None,
    gene_key: str | None = None,
    allow_fractional=False,
) -> tuple[Dataset, RowsReport]:
    """Build one training row for every cell that has counts and something known about it.

    Parameters
    ----------
    adata
        Raw counts with CELLxGENE columns in `obs`; a column that is missing counts as unknown.
    processor
        Ranks the cells and gives the prompt.
    layer, gene_key, allow_fractional
        See :meth:`Cell2TextProcessor.rank_encode`.

    Returns
    -------
    The rows, in the order of the cells, and what was dropped.

    Raises
    ------
    ValueError
        If the values are no counts, the genes are not the vocabulary's, or no cell is left.
    KeyError
        If `layer` or `gene_key` does not exist, or `obs` holds none of the metadata columns.
    """
    present = [name for name in METADATA_COLUMNS if name in adata.obs.columns]
    if not {"cell_type", "tissue", "disease"} & set(present):
        raise KeyError(
            "adata.obs has no cell_type, tissue or disease column to describe a cell by; it has "
            f"{list(adata.obs.columns)}."
        )
    options = {"layer": layer, "gene_key": gene_key, "allow_fractional": allow_fractional}
    cells, ranking = processor.rank_encode_with_report(adata, **options)
    metadata = adata.obs[present].astype(str).to_dict(orient="records")
    dropped = {"without counts": 0, "about which nothing is known": 0}
    rows = []
    for cell_id, cell, values in zip(adata.obs_names, cells, metadata):
        text = describe_row(values)
        if processor.is_empty(cell):
            dropped["without counts"] += 1
        elif text is None:
            dropped["about which nothing is known"] += 1
        else:
            rows.append(
                {
                    "cell_id": str(cell_id),
                    "cells": [cell],
                    "prompt": [with_text(message) for message in processor.conversation()],
                    "completion": [{"role": "assistant", "content": [{"type": "text", "text": text}]}],
                    **{name: known(values.get(name)) or "unknown" for name in METADATA_COLUMNS},
                }
            )
    if not rows:
        raise ValueError(f"None of {adata.n_obs:,} cells gives a row: {dropped}.")
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return Dataset.from_dict(columns, features=row_features(processor)), RowsReport(ranking, len(rows), dropped)


def with_text(message: dict) -> dict:
    """Arrow wants every block of one shape: a cell block carries an empty text."""
    return {**message, "content": [{"type": block["type"], "text": block.get("text")} for block in message["content"]]}

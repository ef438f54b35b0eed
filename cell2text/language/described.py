"""Which rows of a table hold a description. Depends on the texts of `declining_cell2text.py` and on pandas."""

import numpy as np
import pandas as pd

from cell2text.language.fields import FIELDS
from declining_cell2text import is_description


TEXT, CANDIDATES = "text", "cell_type_candidates"
MARKERS, EVIDENCE_GENES, SUMMARY = "marker_genes", "evidence_genes", "summary"  # of groups


def has_description(rows: pd.DataFrame) -> np.ndarray:
    """Return whether each row holds a description, not a missing text or the reason for one.

    Parameters
    ----------
    rows
        Columns of :func:`cell2text.describe.table.table_schema`. Without the column `text`, a row that names any field
        holds a description.

    Returns
    -------
    Booleans, shape (n_rows,).

    Examples
    --------
    >>> texts = ["This cell is a B cell.", None, "", "Too few counts to assign a cell type: 1 gene of the model is ..."]
    >>> has_description(pd.DataFrame({"text": texts})).tolist()
    [True, False, False, False]
    """
    if TEXT not in rows:
        return rows[[name for name in FIELDS if name in rows]].notna().any(axis=1).to_numpy()
    texts = rows[TEXT].astype(object)
    texts = texts.where(texts.notna(), "")
    known = {text: bool(text) and is_description(text) for text in texts.unique()}
    return texts.map(known).to_numpy(dtype=bool)


def has_result(rows: pd.DataFrame) -> np.ndarray:
    """Return whether the model saw the cell of each row: it holds a description, or the reason for having none.

    Without the column `text`, candidates for the cell type show that the model saw a cell that it does not name.
    """
    if TEXT not in rows:
        return has_description(rows) | (rows[CANDIDATES].notna().to_numpy() if CANDIDATES in rows else False)
    return (rows[TEXT].notna() & (rows[TEXT].astype(object) != "")).to_numpy()

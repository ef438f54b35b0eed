"""Columns of `obs` that CELLxGENE accepts, from the descriptions of an experiment.

CELLxGENE reads cell types from `cell_type_ontology_term_id`, and adds their names itself: it reserves columns such as
`cell_type`. Depends on the Cell Ontology's terms in the descriptions.
"""

import numpy as np
import pandas as pd

from cell2text.errors import UserError


CELL_TYPE, SEX = "cell_type_ontology_term_id", "sex_ontology_term_id"
UNKNOWN = "unknown"
# Columns that CELLxGENE fills from the ontology terms; files with them are refused.
RESERVED = (
    "assay", "cell_type", "development_stage", "disease", "organism", "self_reported_ethnicity", "sex", "tissue",
)  # fmt: skip
# Columns that the portal requires and that a description cannot give.
REQUIRED = (
    "assay_ontology_term_id", "development_stage_ontology_term_id", "disease_ontology_term_id", "donor_id",
    "is_primary_data", "self_reported_ethnicity_ontology_term_id", "suspension_type", "tissue_ontology_term_id",
    "tissue_type",
)  # fmt: skip


def cellxgene_columns(cells: pd.DataFrame, *, min_probability: float = 0.0) -> pd.DataFrame:
    """Return the columns `cell_type_ontology_term_id` and `sex_ontology_term_id` of described cells.

    Parameters
    ----------
    cells
        One row per cell, with the columns of :func:`cell2text.describe.table.table_schema`.
    min_probability
        Least type probability; cells below it are `unknown`. Cells without a probability are kept only at 0.

    Returns
    -------
    Categories, `unknown` where the description names nothing.

    Raises
    ------
    UserError
        If `min_probability` is not from 0 to 1.

    Examples
    --------
    >>> cells = pd.DataFrame({"cell_type_ontology_term_id": ["CL:0000084", None], "type_probability": [0.9, None]})
    >>> cellxgene_columns(cells)["cell_type_ontology_term_id"].tolist()
    ['CL:0000084', 'unknown']
    """
    if not 0 <= min_probability <= 1:
        raise UserError(f"min_probability={min_probability}: expected a probability from 0 to 1.")
    found = {name: _terms(cells, name) for name in (CELL_TYPE, SEX)}
    found[CELL_TYPE] = found[CELL_TYPE].where(found[CELL_TYPE].str.startswith("CL:"), UNKNOWN)
    if min_probability > 0:
        stated = cells.get("type_probability", pd.Series(np.nan, index=cells.index))
        sure = stated.astype(float) >= min_probability
        found[CELL_TYPE] = found[CELL_TYPE].where(sure, UNKNOWN)
    return pd.DataFrame(found, index=cells.index).astype("category")


def _terms(cells: pd.DataFrame, name: str) -> pd.Series:
    values = cells[name].astype(object) if name in cells else pd.Series(None, index=cells.index, dtype=object)
    return values.where(values.notna(), UNKNOWN).astype(str)

"""Export described experiments to formats of other tools: Cell Annotation Schema JSON, and columns for CELLxGENE.

Depends on `describe`, which reads described files; no model is loaded.
"""

from cell2text.exchange.cas import cell_annotations
from cell2text.exchange.cellxgene import cellxgene_columns
from cell2text.exchange.export import export


__all__ = ["cell_annotations", "cellxgene_columns", "export"]

"""Names that options and rows of a prepared data set share: splits, their groups and metadata columns.

Depends on nothing, so that the command line can check options before any library loads.
"""

SPLITS = ("train", "validation", "test")
GROUPED = {"donor": "donor", "dataset": "dataset_id", "tissue": "tissue", "cell_type": "cell_type"}
NAMED = "named"

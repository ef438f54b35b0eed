"""Names that options and rows of a prepared data set share: splits, their groups and metadata columns.

Depends on nothing, so that the command line can check options before any library loads.
"""

SPLITS = ("train", "validation", "test")
GROUP_COLUMNS = {"donor": "donor", "dataset": "dataset_id", "tissue": "tissue", "cell_type": "cell_type"}
NAMED = "named"
AUTO = "auto"  # donor or random; see `splits.choose_method`
# Columns of a file that rows carry, null where unknown.
METADATA_COLUMNS = (
    "cell_type",
    "cell_type_ontology_term_id",
    "tissue",
    "tissue_ontology_term_id",
    "disease",
    "disease_ontology_term_id",
    "sex",
    "development_stage",
    "development_stage_ontology_term_id",
    "life_stage",
    "assay",
    "donor_id",
    "dataset_id",
    "profile",
    "second_cell_type",
)
# What a profile can be, in the column `profile`. Null and all other values are profiles of one cell.
PROFILES = ("one cell", "two cells", "ambient RNA", "no cell")
PROFILES_WITHOUT_TYPE = ("ambient RNA", "no cell")  # cells of these are kept although they have no label
OMITTABLE = ("tissue", "disease", "sex", "life_stage")

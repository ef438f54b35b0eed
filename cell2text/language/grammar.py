"""Words of the controlled language, shared by the writer and the parser.

A description has up to three sentences; after the first one, pronouns replace "This cell" and "This cell's":

    This cell is a TYPE: DEFINITION. It comes from the TISSUE of a healthy SEX donor in STAGE.
    Its most active pathways are NAME and NAME.
"""

SUBJECT, PRONOUN = "This cell", "It"
POSSESSIVE, POSSESSIVE_PRONOUN = "This cell's", "Its"
TYPE_VERB = "is"
ORIGIN_VERB = "comes from"
ACTIVE_PATHWAY = "most active pathway"  # "most active pathway is", "most active pathways are"

DONOR = "donor"
HEALTHY = "healthy"  # a donor whose disease is "normal"
TISSUE_LINK = "of"  # the lung of a donor
DISEASE_LINK = "with"  # a donor with asthma
STAGE_LINK = "in"  # a donor in adulthood
LIST_COMMA, LIST_AND = ", ", " and "

"""Words of the controlled language, shared by the writer and the parser.

A description has up to four sentences; after the first one, pronouns replace "This cell" and "This cell's":

    This cell is a TYPE: DEFINITION. It is most likely a SUBTYPE (0.62).
    It comes from the TISSUE of a healthy SEX donor in STAGE. Its most active pathways are NAME and NAME.

The second sentence names a type below TYPE, with its probability. :mod:`declining_cell2text` has the texts of cells
without a type.
"""

SUBJECT, PRONOUN = "This cell", "It"
POSSESSIVE, POSSESSIVE_PRONOUN = "This cell's", "Its"
TYPE_VERB = "is"
SUBTYPE_VERB = "is most likely"
ORIGIN_VERB = "comes from"
ACTIVE_PATHWAY = "most active pathway"  # "most active pathway is", "most active pathways are"

DONOR = "donor"
HEALTHY = "healthy"  # a donor whose disease is "normal"
TISSUE_LINK = "of"  # the lung of a donor
DISEASE_LINK = "with"  # a donor with asthma
STAGE_LINK = "in"  # a donor in adulthood
LIST_COMMA, LIST_AND = ", ", " and "

"""Evidence for statements: the genes of a cell that each statement of its text rests on.

Depends on the model, on `signatures` for statements from counts, and on known markers of `ontology`.
"""

"""The controlled language of cell descriptions: write it from metadata, parse it back, and the tasks that use it.

Depends on `cell2text.ontology`, not on the model.
"""

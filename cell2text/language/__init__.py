"""The controlled language of cell descriptions: write it from metadata, parse it back, and the tasks that use it.

Depends on `cell2text.ontology` and on the words in `declining_cell2text.py` and `grammar_cell2text.py`, not on the
model.
"""

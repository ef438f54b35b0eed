"""Ontology terms, their definitions and graphs, and the words that name them."""

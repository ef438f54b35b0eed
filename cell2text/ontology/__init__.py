"""Ontology terms: labels and ids, definitions, life stages, similarity, and mentions of terms in text.

Uses the ontologies bundled with `cellxgene-ontology-guide`, offline and in one release. Depends on `cell2text.errors`
and `cell2text.files` only.
"""

"""Predict a property of donors, such as their disease, from all of their cells.

    AnnData or file -> samples -> features of cells -> folds of donors -> attention mixed model -> tables

Embeddings and concept probabilities of a sample's cells are pooled by attention into one prediction, tested on donors
that no part of the fit has seen.
"""

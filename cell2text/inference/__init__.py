"""Generate texts and embeddings for many cells; shared by describe, training and evaluation."""

"""Generate texts and embeddings for many cells. Used by `describe`, `tl` and training alike."""

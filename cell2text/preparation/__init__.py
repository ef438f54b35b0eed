"""Prepare data sets for training from raw counts, one step per module; `run.prepare` runs all of them."""

"""Counts to training rows, one step per module; `run.prepare` runs them."""

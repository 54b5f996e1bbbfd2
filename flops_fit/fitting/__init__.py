"""Scaling laws from finished runs: one file per approach."""

"""Figures of a report, one file per subject."""

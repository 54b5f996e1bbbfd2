"""Thresholds above which a fit adds a warning; importing them does not load numpy."""

MAX_RATIO = 1.5  # largest ratio of two methods' optimal params, if intervals are not known
MAX_MAD = 0.015  # largest median deviation of log loss for which the law describes the runs

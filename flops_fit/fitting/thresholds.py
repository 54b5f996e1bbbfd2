"""Thresholds beyond which a fit notes a doubt; plain numbers, so that no reader loads numpy."""

MAX_RATIO = 1.5  # of two methods' optimal params, where intervals are not known
MAX_MAD = 0.015  # median residual of log loss; above it the law does not describe the runs

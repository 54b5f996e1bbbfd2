"""Measure time, memory, energy and utilisation of training."""

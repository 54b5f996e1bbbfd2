"""Which trials to run, and what they will cost."""

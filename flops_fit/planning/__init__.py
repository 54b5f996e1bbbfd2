"""Plans: the trials to run and their cost."""

"""Choose the next trials from the results so far."""

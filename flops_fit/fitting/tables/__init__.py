"""Tables of finished runs, from any file or from memory, as Observations."""

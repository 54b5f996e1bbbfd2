"""Training and held-out sets: streams of batches that resume exactly."""

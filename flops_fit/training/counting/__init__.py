"""Count params and FLOPs of a model."""

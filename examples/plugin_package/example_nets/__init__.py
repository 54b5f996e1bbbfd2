"""A model, data and a loss that flops-fit finds by the entry points of this package."""

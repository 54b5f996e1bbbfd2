"""The checks of `flops-fit check`: model, data and loss fit together."""

"""Example plugins; they import nothing else of flops_fit."""

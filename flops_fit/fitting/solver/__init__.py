"""The optimizer behind the surface fit: objective, damped Newton steps, multistart search."""

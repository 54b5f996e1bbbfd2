"""experiment.toml: its sections, their rules and what is derived from them."""

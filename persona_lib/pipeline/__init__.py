"""A run: what each stage is keyed by, costs and does, and their order."""

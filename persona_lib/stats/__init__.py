"""Statistics: arrays in, `Estimate` out. No torch, no SciPy, nothing slow to import."""

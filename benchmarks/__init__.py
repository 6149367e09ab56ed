"""Benchmarks: is it right, and how much faster than the plain way? See docs/usage.md."""

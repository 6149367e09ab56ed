"""The cache of finished stages: content-keyed entries, locks, the graph that fills it."""

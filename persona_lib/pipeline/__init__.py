"""Where a stage's key, version, estimate and work are made; `run.py` lists their order."""

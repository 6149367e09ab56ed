"""Loads the experiment's pytest plugin; everything is there."""

pytest_plugins = ["persona_lib.plugin"]
